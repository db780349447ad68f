"""The hub's tables, in SQL that SQLite and PostgreSQL both speak: no type, default or clause of one engine
alone.

Money is `BigInteger` minor units. At every COMMIT, for every account, `available_minor` plus the sum of its
`outstanding` equals `balance_minor`, and the balances of a currency sum to zero (`books.violations`). Leaves
out the connection (`hub.database`).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

BRANCH_SEQS: Final = 1 << 48
"""Where a box has signed two histories of an epoch, a record of branch b is kept at b * BRANCH_SEQS + seq,
and so is what refers to it; the history that came first is branch 0."""


def is_other_branch(one_seq: int, other_seq: int) -> bool:
    """Whether two kept records of one epoch stand in two histories of it."""
    return one_seq // BRANCH_SEQS != other_seq // BRANCH_SEQS


schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)

account = Table(
    "account",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("currency", String(3), nullable=False),
    Column("home", String(64), nullable=False),
    Column("participant", String(64), nullable=False),
    Column("floor", Boolean, nullable=False),
    Column("frozen", Boolean, nullable=False),  # pays nothing out
    Column("closed", Boolean, nullable=False),  # takes and pays nothing at any box
    Column("balance_minor", BigInteger, nullable=False),
    Column("available_minor", BigInteger, nullable=False),
    Index("account_home", "home"),
)

box = Table(
    "box",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("device_key", Text, nullable=False),  # of the device that speaks for it now; "": none does
    Column("epoch", Integer, nullable=False),  # 0 until the first link is issued
    Column("incarnation", Integer, nullable=False),  # of the directive log that the current epoch reads
    Column("state", String(16), nullable=False),  # active, behind, forked, fenced, quarantined
    Column("reason", Text, nullable=False),
    Column("boot", String(64), nullable=False),  # the one that lives in this epoch
    Column(
        "release", Boolean, nullable=False
    ),  # an operator ordered a new epoch; a box that is whole gets it
    Column("taking_back", Boolean, nullable=False),  # we lost something of it and do not hold all again yet
    Column("site_version", BigInteger, nullable=False),  # that its present log of directives names last
    Column("site_digest", String(64), nullable=False),
    Column("site_word", Text, nullable=False),  # what it made of that one, "" while it has not said
    Column("site_word_ns", BigInteger, nullable=False),  # when that came here
    Column("site_format", Integer, nullable=False),  # the newest that its program reads
    Column("allot_due", Boolean, nullable=False),  # all allotments are to be looked at with the next beat
    Column("stand_ins_due", Boolean, nullable=False),  # some wait for what other boxes were asked for
    Column("waiting", BigInteger, nullable=False),  # records that the box says it has and we lack
    Column("beat_at_ns", BigInteger, nullable=False),
    Column("program", String(64), nullable=False),  # the version that it runs, "" while it has not said
    Column("program_word", Text, nullable=False),  # what of an update is under way there
    Column("program_problem", Text, nullable=False),  # what of updates waits for a person there
)

identity = Table(
    "identity",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),  # the how-manieth device of it
    Column("device_key", Text, nullable=False),
    Column("key_digest", String(64), nullable=False),  # of the key under any name
    Column("branch", String(64), nullable=False),  # the place where it stands, in the bank's words
    Column("origin", String(16), nullable=False),  # pinned, enrolled, replacement
    Column("state", String(16), nullable=False),  # live (one a box at most), revoked, replaced, dropped
    Column("reason", Text, nullable=False),
    Column("claim", String(32), nullable=False),  # by which it was enrolled; "" for a pinned one
    Column("hosts", Text, nullable=False),  # what its certificates may name, a JSON array
    Column("epoch", Integer, nullable=False),  # the newest when it was bound; later ones were given to it
    Column("bound_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, nullable=False),
    Column("heard_ns", BigInteger, nullable=False),  # when it first spoke after its end; 0: never
    ForeignKeyConstraint(["box"], ["box.box"]),
    Index("identity_key", "key_digest"),
)

claim = Table(
    "claim",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("box", String(64), nullable=False),
    Column("branch", String(64), nullable=False),
    Column("public_key", String(64), nullable=False),  # Ed25519, hex: whoever has the seed may use it
    Column("hosts", Text, nullable=False),  # a JSON array
    Column("replaces", Boolean, nullable=False),  # the device before it ends with its use
    Column("state", String(16), nullable=False),  # open, used, withdrawn, dead
    Column("attempts", Integer, nullable=False),  # uses that were refused for what they said
    Column("expires_s", BigInteger, nullable=False),
    Column("made_ns", BigInteger, nullable=False),
    Column("by", String(160), nullable=False),
    Column("used_ns", BigInteger, nullable=False),
    Column("used_by", String(64), nullable=False),  # digest of the keys that were bound by it
    ForeignKeyConstraint(["box"], ["box.box"]),
    Index("claim_box", "box"),
)

certificate = Table(
    "certificate",
    metadata,
    Column("digest", String(64), primary_key=True),  # SM3 of its DER
    Column("serial", String(40), nullable=False, unique=True),  # hex
    Column("kind", String(8), nullable=False),
    Column("box", String(64), nullable=False),  # "" for a server's
    Column("generation", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("key_digest", String(64), nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("issued_ns", BigInteger, nullable=False),
    Column("ends_s", BigInteger, nullable=False),
    Column("renews", String(64), nullable=False),  # the digest of the one before it; "" for the first
    Column("is_newest", Boolean, nullable=False),  # of its kind, of this device
    Column("revoked_s", BigInteger, nullable=False),  # 0: it is not
    Column("reason", Text, nullable=False),
    Index("certificate_box", "box", "generation", "kind"),
    Index("certificate_key", "key_digest"),
    Index("certificate_revoked", "kind", "revoked_s"),
)

crl = Table(
    "crl",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("made_s", BigInteger, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("der", LargeBinary, nullable=False),
)
"""The newest list of revoked certificates of each CA."""

identity_event = Table(
    "identity_event",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("alarm", Boolean, nullable=False),
    Column("box", String(64), nullable=False),
    Column("claim", String(32), nullable=False),
    Column("remote", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("refers", BigInteger, nullable=False),  # of `seen`: alarms up to here were looked at
    Index("identity_event_alarm", "alarm", "number"),
    Index("identity_event_box", "box", "event", "at_ns"),
)
"""What happened to claims, devices and certificates; nothing changes or deletes a row."""

session = Table(
    "session",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("boot", String(64), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("session", LargeBinary, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("candidate", LargeBinary, nullable=False),  # opened, not used yet
    Column("candidate_verdict", String(16), nullable=False),
    Column("lived", Boolean, nullable=False),  # it had the box's place in its epoch
)

journal_head = Table(
    "journal_head",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("key", Text, nullable=False),  # the epoch's first checkpoint key, as its one-line text
    Column("key_changes", Text, nullable=False),  # JSON: the statements by which others took over, in order
    Column("link", Text, nullable=False),  # the hub's signed word that this epoch is the box's
    Column("checkpoint", Text, nullable=False),  # the newest that the box signed; "" before the first push
    Column("proof", LargeBinary, nullable=False),  # from `size` to that checkpoint, which may cover more
    Column("cosignature", Text, nullable=False),
    Column("told", BigInteger, nullable=False),  # the most records of it that the box has said to hold
    Column("sealed", Boolean, nullable=False),  # an operator settled it: nothing more is taken
    Column("forked", Boolean, nullable=False),  # the box has signed two histories of it
)

revoked_key = Table(
    "revoked_key",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),  # 1, 2, ... in an epoch
    Column("note", Text, nullable=False),  # our signed word: which key, and above which size
    Column(
        "ends", Boolean, nullable=False
    ),  # it signs now, or introduced the one that does and is void there
)

tile = Table(
    "tile",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("level", Integer, primary_key=True, autoincrement=False),  # 8, 16, ...: `core.tiles`
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)

branch = Table(
    "branch",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),  # the history that came first has none
    Column("parent", Integer, nullable=False),  # the branch that it leaves; 0 for the first history
    Column("fork_size", BigInteger, nullable=False),  # records that both have
    Column("size", BigInteger, nullable=False),  # up to here it is taken in
    Column("checkpoint", Text, nullable=False),  # the box's newest signed head of it
    ForeignKeyConstraint(["box", "epoch"], ["journal_head.box", "journal_head.epoch"]),
)

record = Table(
    "record",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(16), nullable=False),
    Column("client", Text),
    Column("request_id", String(32)),
    Column("leaf", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    ForeignKeyConstraint(["box", "epoch"], ["journal_head.box", "journal_head.epoch"]),
    # Request ids come time-ordered and first, so that the index grows at its end.
    UniqueConstraint("request_id", "client", name="record_identity"),
)

kept_reversal = Table(
    "kept_reversal",
    metadata,
    Column("original_id", String(32), primary_key=True),
    Column("original_client", Text, primary_key=True),
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
)

outstanding = Table(
    "outstanding",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("account_id", String(64), primary_key=True),
    Column("amount_minor", BigInteger, nullable=False),
    Column("in_doubt", Boolean, nullable=False),
    ForeignKeyConstraint(["account_id"], ["account.account_id"]),
    Index("outstanding_account", "account_id"),
)

box_balance = Table(
    "box_balance",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("account_id", String(64), primary_key=True),
    Column("debits_pending", BigInteger, nullable=False),
    Column("debits_posted", BigInteger, nullable=False),
    Column("credits_pending", BigInteger, nullable=False),
    Column("credits_posted", BigInteger, nullable=False),
)

box_hold = Table(
    "box_hold",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("transfer_id", String(32), primary_key=True),
    Column("debit_account_id", String(64), nullable=False),
    Column("credit_account_id", String(64), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("timeout_s", BigInteger, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)

directive = Table(
    "directive",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("incarnation", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(16), nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # "" until the box's journal says what it did there; "withdrawn" where no box ever heard of it
    Column("outcome", String(16), nullable=False),
)

directive_head = Table(
    "directive_head",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("incarnation", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),  # whose money its grants move
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("last_leaf", LargeBinary, nullable=False),
    Column("checkpoint", Text, nullable=False),
    Column("cosigned", Text, nullable=False),  # the box's newest word that it holds them
)

grant_request = Table(
    "grant_request",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("request_id", String(64), primary_key=True),
    Column("incarnation", Integer, nullable=False),
    Column("directive_seq", BigInteger, nullable=False),
    Column("account_id", String(64), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Index("grant_request_account", "box", "account_id", "incarnation", "directive_seq"),
)

recall = Table(
    "recall",
    metadata,
    Column("box", String(64), primary_key=True),  # which is to give money back
    Column("for_box", String(64), primary_key=True),  # where it is wanted
    Column("key", String(64), primary_key=True),  # the ask's id there, or the stand-in's place
    Column("account_id", String(64), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("asked_ns", BigInteger, nullable=False),
    Column("incarnation", Integer, nullable=False),  # of the directive that tells the box; 0: none yet
    Column("seq", BigInteger, nullable=False),
    Column("done", Boolean, nullable=False),  # the box's journal has that directive
    Index("recall_for", "for_box", "key"),
)
"""Added by the beat of for_box, changed and deleted by the beats of box: neither waits for the other."""

box_account = Table(
    "box_account",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("account_id", String(64), primary_key=True),
    Column("seen_ns", BigInteger, nullable=False),  # it paid there last, to within ten minutes
    Column("recalled_ns", BigInteger, nullable=False),  # what lay idle of it was asked back last
)

stand_in = Table(
    "stand_in",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("payer", Text, nullable=False),
    Column("payee", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # waiting, confirmed, declined, voided
    Column("liable", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("settled", Boolean, nullable=False),  # the box's journal has the directive
    Column("client", Text, nullable=False),  # whose payment it is; "" while its record is not here
    Column("word_epoch", Integer, nullable=False),  # of the box's record of the directive; 0: none
    Column("word_seq", BigInteger, nullable=False),
    Column("told_ns", BigInteger, nullable=False),  # when the client's acknowledgement came; 0: not yet
    Index("stand_in_told", "box", "state", "told_ns"),
)

site = Table(
    "site",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("bundle", LargeBinary),  # null: a box has it by our directive, and we have lost it
    Column("published_ns", BigInteger, nullable=False),
    Column("note", Text, nullable=False),  # our signature over the bundle
    Column("format", Integer, nullable=False),  # the oldest that has all it uses
    Column("restores", String(64), nullable=False),  # the digest whose content this is again, "" for new
    # fleet (every box has it or gets it), staged (the chosen boxes), failed (one of them said so), halted
    Column("stage", String(16), nullable=False),
    Column("stage_ns", BigInteger, nullable=False),  # since when
    Column("canaries", Text, nullable=False),  # boxes chosen by name, a JSON array
    Column("share_percent", Integer, nullable=False),  # of the fleet, chosen by a stable hash
    Column("bake_seconds", Integer, nullable=False),  # healthy for so long, it goes to all; 0: a person says
    Column("reason", Text, nullable=False),  # why it failed or was halted
)

id_list = Table(
    "id_list",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("entries", Integer, nullable=False),
    Column("block", LargeBinary, nullable=False),
    Column("kept_ns", BigInteger, nullable=False),
)

block = Table(
    "block",
    metadata,
    Column("of", String(16), primary_key=True),  # account, card, terminal or merchant
    Column("whose", String(64), primary_key=True),
    Column("reason", Text, nullable=False),
)

limit_change = Table(
    "limit_change",
    metadata,
    Column("name", String(32), primary_key=True),  # of the site's limit
    Column("whose", String(64), primary_key=True),  # "" for all that have none of their own
    Column("payment_minor", BigInteger),  # null: as the site says
    Column("amount_minor", BigInteger),
    Column("count", BigInteger),
    Column("reason", Text, nullable=False),
)

site_rendering = Table(
    "site_rendering",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("format", Integer, nullable=False),
    Column("bundle", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    UniqueConstraint("version", "format", name="site_rendering_once"),
)
"""A bundle as a box of an older release can read it: without what it does not need."""

core_posting = Table(
    "core_posting",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("debit_account_id", String(64), nullable=False),
    Column("credit_account_id", String(64), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    ForeignKeyConstraint(["debit_account_id"], ["account.account_id"]),
    ForeignKeyConstraint(["credit_account_id"], ["account.account_id"]),
)

suspense_item = Table(
    "suspense_item",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("owner", String(80), nullable=False),  # who must act: bank, branch:<box>, merchant:<account>
    Column("reason", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),  # that is still to be settled; 0 where none is known
    Column("state", String(16), nullable=False),  # open, parked, closed; a row is never deleted
    Column("reference", String(160), nullable=False),  # what has closed it
    Column("at_ns", BigInteger, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("raised_ns", BigInteger, nullable=False),  # when its age was last told
    Index("suspense_item_state", "state", "at_ns"),
)

suspense_step = Table(
    "suspense_step",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("by", String(64), nullable=False),
    Column("action", String(16), nullable=False),  # retry, park, posting, reversal, accept
    Column("detail", Text, nullable=False),
    ForeignKeyConstraint(
        ["box", "epoch", "seq"], ["suspense_item.box", "suspense_item.epoch", "suspense_item.seq"]
    ),
)

receivable = Table(
    "receivable",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # the stand-in's, or the reversal's
    Column("owner", String(80), nullable=False),  # who must act: branch:<box>, merchant:<account>
    Column("reason", String(64), nullable=False),
    Column("original", Text, nullable=False),  # client and id of the payment
    Column("debtor", Text, nullable=False),  # the account that owes it
    Column("funded_by", String(64), nullable=False),  # made whole when it is paid; "": it is whole already
    Column("currency", String(3), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("paid_minor", BigInteger, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("raised_ns", BigInteger, nullable=False),
    Index("receivable_box", "box", "at_ns"),
)

loss = Table(
    "loss",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("log", String(32), primary_key=True),  # whose seq: "journal", "branch 1", "directives 1"
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("leg", Integer, primary_key=True, autoincrement=False),
    Column("account_id", String(64), nullable=False),  # who was short of it; the risk account bore it
    Column("amount_minor", BigInteger, nullable=False),
)

declaration = Table(
    "declaration",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("declared_ns", BigInteger, nullable=False),
    Column("records_lost", BigInteger, nullable=False),  # known to have been written, and gone for good
    Column("box_lost", Boolean, nullable=False),  # the box itself: what it wrote last is not known
    Column("reason", Text, nullable=False),
)
"""An operator's word that ends an epoch: by it alone money comes back that no journal record returned."""

declared_return = Table(
    "declared_return",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("account_id", String(64), primary_key=True),
    Column("amount_minor", BigInteger, nullable=False),  # was outstanding there, and is available again
    ForeignKeyConstraint(["box", "epoch"], ["declaration.box", "declaration.epoch"]),
    ForeignKeyConstraint(["account_id"], ["account.account_id"]),
)

evidence = Table(
    "evidence",
    metadata,
    Column("box", String(64), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("held_checkpoint", Text, nullable=False),
    Column("other_checkpoint", Text, nullable=False),
)

participant_since = Table(
    "participant_since",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),  # of the site that says so
    Column("participant", String(64), nullable=False),
)
"""Whom an account is netted under, from a site's version on; accounts that were always the bank's have no
row. A box counts by the site that its journal has in force, which may be an older one than the hub's."""


def _window_key() -> list[Column[Any]]:
    """The columns by which a window is named."""
    return [
        Column("box", String(64), primary_key=True),
        Column("epoch", Integer, primary_key=True, autoincrement=False),
        Column("branch", Integer, primary_key=True, autoincrement=False),
        Column("number", BigInteger, primary_key=True, autoincrement=False),
    ]


clearing_window = Table(
    "clearing_window",
    metadata,
    *_window_key(),
    # open, closed (not comparable), compared, differs, accepted (a person took the hub's figures)
    Column("state", String(16), nullable=False),
    Column("business_date", Text, nullable=False),  # "" while it is open, and where a seal has ended it
    Column("closed_by", Text, nullable=False),
    Column("transfers", BigInteger, nullable=False),  # legs, as the hub counts them
    Column("site_version", BigInteger, nullable=False),  # in force at the box at the newest record
    Column("difference", Text, nullable=False),  # the first one between the record and the hub's figures
    Column("cycle", Integer, nullable=False),  # that settles it; 0: none yet
    Index("clearing_window_cycle", "cycle", "state"),
)

window_position = Table(
    "window_position",
    metadata,
    *_window_key(),
    Column("participant", String(64), primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("net_minor", BigInteger, nullable=False),  # counted from the box's records
    Column("said_minor", BigInteger),  # by the box's own record of the window
    # What the centre moved between participants meanwhile because of this box: stand-ins that it confirmed,
    # what exceeded an allowance. No record of the box has it; it is settled with the window.
    Column("centre_minor", BigInteger, nullable=False),
)

settlement_cycle = Table(
    "settlement_cycle",
    metadata,
    Column("cycle", Integer, primary_key=True, autoincrement=False),
    Column("settlement_date", String(10), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("windows", Integer, nullable=False),
)

settlement_transfer = Table(
    "settlement_transfer",
    metadata,
    Column("cycle", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("currency", String(3), nullable=False),
    Column("debtor", String(64), nullable=False),
    Column("creditor", String(64), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("posted_in", Integer, nullable=False),  # the cycle that posted it; 0: it waits for cover
    ForeignKeyConstraint(["cycle"], ["settlement_cycle.cycle"]),
    Index("settlement_transfer_posted", "posted_in"),
)

settlement_entry = Table(
    "settlement_entry",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("cycle", Integer, nullable=False),  # on whose statement it stands
    Column("kind", String(16), nullable=False),  # transfer; cover: a posting of the bank core's
    Column("reference", String(128), nullable=False),  # cycle/number of the transfer, or the posting's id
    Column("amount_minor", BigInteger, nullable=False),  # above zero: credited
    Column("balance_minor", BigInteger, nullable=False),  # with it
    ForeignKeyConstraint(["account_id"], ["account.account_id"]),
    ForeignKeyConstraint(["cycle"], ["settlement_cycle.cycle"]),
    UniqueConstraint("account_id", "kind", "reference", name="settlement_entry_once"),
    Index("settlement_entry_cycle", "cycle"),
)

order_record = Table(
    "order_record",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),  # the order's, over all its steps
    Column("leaf", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("order_record_number", "number"),
)
"""What people ordered, proposed, approved and rejected; nothing changes or deletes a row."""

order_head = Table(
    "order_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1
    Column("size", BigInteger, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("last_leaf", LargeBinary, nullable=False),
    Column("checkpoint", Text, nullable=False),  # the hub's signed note over all of it
)

order_attachment = Table(
    "order_attachment",
    metadata,
    Column("digest", String(64), primary_key=True),  # SM3, hex; the order's record names it
    Column("body", LargeBinary, nullable=False),
)
