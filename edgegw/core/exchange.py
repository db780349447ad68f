"""What each side makes of what the other says: one set of tables that box and hub both run (DESIGN §4).

Owns the pure functions that judge an opening, a replayed message and a package of records, and the table of
the line's modes. The messages themselves are in `core.messages`; sockets, clocks, random numbers and SQL are
for `uplink` and `hub`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from edgegw.core import journal
from edgegw.core.key_policy import KeyPolicy
from edgegw.core.messages import (
    VERSION,
    VERSION_OLDEST,
    ExchangeError,
    LogHead,
    Open,
    Package,
    PackageVerdict,
    Verdict,
    VerifyingKey,
)
from edgegw.core.packages import place_fault, shape_fault
from edgegw.core.records import Mode
from edgegw.core.site import Site

# --- sessions (the hub) ---


class Session(msgspec.Struct, frozen=True):
    """What the hub remembers of a box's session, in the box's row."""

    session: bytes = b""
    counter: int = 0
    candidate: bytes = b""
    """Opened, but not used yet. It takes over with its first beat, so that a replayed Open displaces
    nobody."""


def judge_message(held: Session, *, session: bytes, counter: int) -> Session | None:
    """The session to remember for an authentic beat with this session and counter, or None: replayed, or not
    known (REOPEN).

    Within a session the counter must rise; gaps are messages that were lost.
    """
    if not session or counter < 1:
        return None
    if session == held.session:
        return Session(session, counter, held.candidate) if counter > held.counter else None
    if session == held.candidate:
        return Session(session, counter)
    return None


def choose_version(*, oldest: int, newest: int) -> int:
    """The newest wire version that both sides speak; 0 when there is none."""
    shared = min(newest, VERSION)
    return shared if shared >= max(oldest, VERSION_OLDEST) else 0


# --- judging an opening (the hub) ---------------------------------------------------------------------------


class HeldEpoch(NamedTuple):
    """An epoch before the newest, as the hub holds it."""

    head: LogHead
    root_at: Callable[[int], bytes | None]
    """Its root at a smaller size."""
    forked: bool = False


class HubView(NamedTuple):
    """What the hub holds about a box when it opens."""

    epoch: int
    """The newest that was issued; 0 for none."""
    key: str
    """That epoch's checkpoint key."""
    journal: LogHead
    """What is held of that epoch."""
    journal_root_at: Callable[[int], bytes | None]
    """Its root at a smaller size; None where it is not kept."""
    directives: LogHead
    directives_root_at: Callable[[int], bytes | None]
    forked: bool = False
    """Quarantined: two histories of this epoch are kept."""
    forked_before: bool = False
    """Quarantined for a fork of an earlier epoch, seen on the way to the next one."""
    superseded: bool = False
    """This boot had its place in this epoch and another boot took it since."""
    release: bool = False
    """An operator has released a new epoch for this box."""
    others: tuple[HeldEpoch, ...] = ()
    """Every epoch before the newest, oldest first."""
    taking_back: bool = False
    """The hub has lost something of this box's and does not hold all of it again yet."""

    @property
    def epochs(self) -> tuple[HeldEpoch, ...]:
        """All epochs that were issued, oldest first."""
        newest = HeldEpoch(self.journal, self.journal_root_at, self.forked)
        return (*self.others, newest) if self.epoch else self.others


class Judgement(NamedTuple):
    """A verdict and, unless it is OK, why, in words for an operator."""

    verdict: Verdict
    reason: str = ""


def judge_open(message: Open, view: HubView, *, hub_key: VerifyingKey) -> Judgement:
    """What the hub answers to an authentic Open; the first that holds, in this order:

    version; hub_behind by an epoch that is not known here; then, for a box whose next epoch is ordered (or
    was given and its answer lost, `same_link`): hub_behind by directives or while the hub takes back, forked
    by any epoch's root, behind as long as it lacks something of an epoch that is not forked, link;
    for a box without an epoch: link where the hub holds no record of it, else behind;
    forked; fenced by a later epoch or another boot; forked or behind by the newest epoch's journal;
    hub_behind by a cosignature or directives that the hub itself has signed, or while it takes back; behind
    because the box says so (its lineage token did not fit); ok.

    On LINK the hub issues view.epoch + 1, unless `same_link` says that the one already issued is to be
    repeated. Epochs before the newest bind a box only on its way to the next one: what it lacks of them it
    may pull meanwhile.
    """
    if not choose_version(oldest=message.version_oldest, newest=message.version):
        return Judgement(Verdict.VERSION, f"the hub speaks wire versions {VERSION_OLDEST} to {VERSION}")
    if message.epoch > view.epoch:
        return Judgement(Verdict.HUB_BEHIND, f"epoch {message.epoch} is not known here, only {view.epoch}")
    if view.release or same_link(message, view):
        return _judge_next_epoch(message, view, hub_key)
    if message.epoch == 0:
        return _judge_without_epoch(message, view)
    if view.forked:
        return Judgement(Verdict.FORKED, f"two histories of epoch {view.epoch} are kept")
    if view.forked_before:
        return Judgement(Verdict.FORKED, "two histories of an earlier epoch are kept")
    if message.epoch < view.epoch:
        return Judgement(Verdict.FENCED, f"epoch {view.epoch} has followed epoch {message.epoch}")
    if view.superseded:
        return Judgement(Verdict.FENCED, f"another boot has taken the place of boot {message.boot}")
    return _judge_journal(message, view) or _judge_hub(message, view, hub_key) or _judge_lineage(message)


def same_link(message: Open, view: HubView) -> bool:
    """Whether the epoch already issued is this opening's own: the box comes from before it, nothing of it was
    held yet and the key is the same."""
    return (
        not view.release and message.epoch < view.epoch and view.journal.size == 0 and message.key == view.key
    )


def other_histories(message: Open, view: HubView) -> dict[int, LogHead]:
    """The epochs of which the box has another history than the hub, and what the hub holds of each up to the
    box's own size.

    Epochs whose two histories are kept already do not count, nor what one side holds beyond the other.
    """
    found = {}
    for epoch in view.epochs:
        held, mine = epoch.head, _head_of(message, epoch.head.number)
        if epoch.forked or not 0 < mine.size <= held.size:
            continue
        root = held.root if mine.size == held.size else epoch.root_at(mine.size)
        if root is not None and root != mine.root:
            found[held.number] = LogHead(held.number, mine.size, root)
    return found


def _head_of(message: Open, epoch: int) -> LogHead:
    return next((head for head in message.journals if head.number == epoch), LogHead(epoch))


def _judge_next_epoch(message: Open, view: HubView, hub_key: VerifyingKey) -> Judgement:
    """A new epoch starts behind the whole past: whoever gets it has rehydrated first."""
    behind = _judge_directives(message, view, hub_key) or _judge_taking_back(view)
    if behind is not None:
        return behind
    forked = other_histories(message, view)
    if forked:
        places = (f"size {_head_of(message, epoch).size} of epoch {epoch}" for epoch in forked)
        return Judgement(Verdict.FORKED, f"another root at {', and at '.join(places)}")
    lacking = _lacking(message, view)
    if lacking:
        return Judgement(Verdict.BEHIND, f"a new epoch is ordered; first the box must hold {lacking}")
    if view.release:
        return Judgement(Verdict.LINK, "an operator has released a new epoch")
    return Judgement(Verdict.LINK, f"the link of epoch {view.epoch} again: nothing of it was held yet")


def _lacking(message: Open, view: HubView) -> str:
    """What the hub holds and the box does not, by epoch; of a forked one it need only know what was
    decided."""
    lacking = []
    for epoch in view.epochs:
        head, mine = epoch.head, _head_of(message, epoch.head.number)
        if not epoch.forked and mine.size < head.size:
            lacking.append(f"{head.size} records of epoch {head.number} (it has {mine.size})")
        elif epoch.forked and head.size and head not in (mine, *message.others):
            lacking.append(f"what the {head.size} records of epoch {head.number} decided that are here")
    return ", ".join(lacking)


def _judge_without_epoch(message: Open, view: HubView) -> Judgement:
    """Nothing was directed at an epoch before its link record is held, so where none is held the first one is
    given, again or passed over."""
    if not any(epoch.head.size for epoch in view.epochs):
        return Judgement(Verdict.LINK, "its link was never used" if view.epoch else "the first contact")
    return Judgement(
        Verdict.BEHIND,
        f"boot {message.boot} has no journal; here are {_lacking(message, view) or 'two histories'}",
    )


def _judge_journal(message: Open, view: HubView) -> Judgement | None:
    """Compare the box's head of the live epoch with what is held: shorter or different is the box's fault."""
    held, mine = view.journal, _head_of(message, message.epoch)
    if mine.size > held.size:
        return None
    root = held.root if mine.size == held.size else view.journal_root_at(mine.size) if mine.size else b""
    if root is not None and root != mine.root:
        return Judgement(Verdict.FORKED, f"another root at size {mine.size} of epoch {message.epoch}")
    if mine.size < held.size:
        return Judgement(
            Verdict.BEHIND,
            f"{held.size} records of epoch {message.epoch} are held here; the box has {mine.size}",
        )
    return None


def _judge_hub(message: Open, view: HubView, hub_key: VerifyingKey) -> Judgement | None:
    """Has the hub itself signed for more than it holds? A note that it did not sign counts for nothing."""
    cosigned = _cosigned(message, hub_key)
    if cosigned is not None and cosigned.size > view.journal.size:
        return Judgement(
            Verdict.HUB_BEHIND, f"the hub cosigned {cosigned.size} records and holds {view.journal.size}"
        )
    return _judge_directives(message, view, hub_key) or _judge_taking_back(view)


def _judge_directives(message: Open, view: HubView, hub_key: VerifyingKey) -> Judgement | None:
    theirs, own = message.directives, view.directives
    if (theirs.number, theirs.size) > (own.number, own.size):
        signed = _signed_directives(message, hub_key)
        if signed is not None and signed.size >= theirs.size:
            return Judgement(
                Verdict.HUB_BEHIND,
                f"the box holds {theirs.size} directives of the hub's, which has {own.size}",
            )
    if theirs.number == own.number and 0 < theirs.size <= own.size:
        root = own.root if theirs.size == own.size else view.directives_root_at(theirs.size)
        if root is not None and root != theirs.root:
            return Judgement(Verdict.HUB_BEHIND, f"the box holds other directives up to {theirs.size}")
    return None


def _judge_taking_back(view: HubView) -> Judgement | None:
    if view.taking_back:
        return Judgement(Verdict.HUB_BEHIND, "the hub does not hold all again that it has lost of this box")
    return None


def _judge_lineage(message: Open) -> Judgement:
    if message.mode is Mode.BEHIND:
        return Judgement(Verdict.BEHIND, "the box does not trust its own disk and waits for a new epoch")
    return Judgement(Verdict.OK)


def _cosigned(message: Open, key: VerifyingKey) -> journal.Checkpoint | None:
    """What the hub has cosigned of this epoch, by the note that the box shows; None for any other note."""
    origin = journal.journal_origin(bank=message.bank, box=message.box, epoch=message.epoch)
    try:
        checkpoint = journal.check_cosignature(
            message.cosignature, name=key.name, key_id=key.key_id, verify=key.verify
        ).checkpoint
    except journal.NoteError:
        return None
    return checkpoint if checkpoint.origin == origin else None


def _signed_directives(message: Open, key: VerifyingKey) -> journal.Checkpoint | None:
    """The head of the directives that the hub has signed, by the note that the box shows."""
    origin = journal.directives_origin(
        bank=message.bank, box=message.box, incarnation=message.directives.number
    )
    try:
        checkpoint = journal.open_note(
            message.directives_note, name=key.name, key_id=key.key_id, verify=key.verify
        )
    except journal.NoteError:
        return None
    return checkpoint if checkpoint.origin == origin else None


# --- judging an opening (the mirror) ------------------------------------------------------------------------


class MirrorView(NamedTuple):
    """What a mirror holds about a box when it opens."""

    journals: Mapping[int, LogHead]
    """By epoch."""
    root_at: Callable[[int, int], bytes | None]
    """(epoch, size) to the root at a smaller size."""
    forked: Mapping[int, str]
    """Epochs with two histories, and what was seen of the second one."""
    superseded: bool = False
    """This boot had its place and another boot took it since."""


class MirrorJudgement(NamedTuple):
    """A verdict, why, and for a fork that was not known before its epoch (0: none)."""

    verdict: Verdict
    reason: str = ""
    forked_epoch: int = 0


def judge_mirror_open(message: Open, view: MirrorView) -> MirrorJudgement:
    """What a mirror answers to an authentic Open; the first that holds, in this order:

    version; forked (this epoch's two histories are known); fenced (a later epoch is held, or another boot has
    the place); forked by a root, behind by a size, of any epoch; behind because the box says so; ok.

    A later epoch than any held is natural: its first record will be the hub's link. An old epoch whose fork
    is known bars no later one: the hub has judged it when it gave that epoch.
    """
    if not choose_version(oldest=message.version_oldest, newest=message.version):
        return MirrorJudgement(
            Verdict.VERSION, f"the mirror speaks wire versions {VERSION_OLDEST} to {VERSION}"
        )
    if message.epoch in view.forked:
        return MirrorJudgement(
            Verdict.FORKED, f"two histories of epoch {message.epoch}: {view.forked[message.epoch]}"
        )
    newest = max((epoch for epoch, head in view.journals.items() if head.size), default=0)
    if 0 < message.epoch < newest:
        return MirrorJudgement(Verdict.FENCED, f"epoch {newest} has followed epoch {message.epoch}")
    if view.superseded:
        return MirrorJudgement(Verdict.FENCED, f"another boot has taken the place of boot {message.boot}")
    return _judge_copies(message, view) or MirrorJudgement(*_judge_lineage(message))


def _judge_copies(message: Open, view: MirrorView) -> MirrorJudgement | None:
    """Compare every epoch that is held: with other records the box is forked, with fewer it is behind."""
    mine = {head.number: head for head in message.journals}
    behind: MirrorJudgement | None = None
    for epoch, held in sorted(view.journals.items()):
        if epoch in view.forked or not held.size:
            continue
        head = mine.get(epoch, LogHead(epoch))
        root = held.root if head.size == held.size else None
        if 0 < head.size < held.size:
            root = view.root_at(epoch, head.size)
        if root is not None and root != head.root:
            reason = f"another root at size {head.size} of epoch {epoch}"
            return MirrorJudgement(Verdict.FORKED, reason, epoch)
        if head.size < held.size:
            reason = f"{held.size} records of epoch {epoch} are held here; the box has {head.size}"
            behind = behind or MirrorJudgement(Verdict.BEHIND, reason)
    return behind


# --- judging a package (both sides) -------------------------------------------------------------------------


OpenNote = Callable[[str], journal.Checkpoint]
"""A signed note to its checkpoint; raises journal.NoteError."""


class HeldLog(NamedTuple):
    """What the reader of a log holds of it. An empty frontier and no leaves is a log not begun."""

    number: int
    frontier: journal.Frontier
    leaf_at: Callable[[int], bytes]
    """The leaf of a record that is held; as it chains, it stands for all before it."""
    root_at: Callable[[int], bytes | None] = lambda _size: None
    """The root at a smaller size; None where it is not kept."""

    @property
    def head(self) -> LogHead:
        """Number, size and root."""
        size = self.frontier.size
        return LogHead(self.number, size, self.frontier.root() if size else b"")


class LogEnd(NamedTuple):
    """Where a log ends that is known, but not held: enough to read on from there."""

    number: int
    frontier: journal.Frontier
    leaf: bytes
    """The last one; FIRST_PREVIOUS for none."""


class PackageJudgement(NamedTuple):
    """The verdict; with ACCEPTED also what is new, and the log after it. `head` is what the reader
    holds then."""

    verdict: PackageVerdict
    head: LogHead
    reason: str = ""
    records: tuple[bytes, ...] = ()
    """Those not held before, in order; the first is number head.size - len(records)."""
    leaves: tuple[bytes, ...] = ()
    frontier: journal.Frontier | None = None
    checkpoint: journal.Checkpoint | None = None
    """The author's signed head, where its signature held: evidence of a fork too."""
    keys: KeyPolicy | None = None
    """Of a journal: the keys of its checkpoints, as they are known then."""


def judge_push(package: Package, held: HeldLog, *, bank: str, box: str, keys: KeyPolicy) -> PackageJudgement:
    """What the hub makes of a push of a box's journal; held.number is the epoch, keys are those of its
    checkpoints as far as they are known."""
    if package.number != held.number:
        return _refuse(held, PackageVerdict.MALFORMED, f"epoch {package.number} against epoch {held.number}")
    try:
        keys = keys.of_package(package)
    except journal.NoteError as problem:
        return _refuse(held, PackageVerdict.MALFORMED, str(problem))
    origin = journal.journal_origin(bank=bank, box=box, epoch=package.number)
    judged = _judge(
        package, held, origin=origin, number_field="epoch", bank=bank, box=box, open_note=keys.open
    )
    return judged._replace(keys=keys) if judged.verdict is PackageVerdict.ACCEPTED else judged


def judge_package(
    package: Package, held: HeldLog, *, bank: str, box: str, key: VerifyingKey
) -> PackageJudgement:
    """What the box makes of a package of directives; held.number is the incarnation, key the hub's.

    A later incarnation starts a log of its own from 0; an earlier one is a fork of the hub.
    """
    if package.number < held.number:
        return _refuse(held, PackageVerdict.FORK, f"incarnation {package.number} after {held.number}")
    if package.number > journal.SIZE_MAX:
        return _refuse(held, PackageVerdict.MALFORMED, f"incarnation {package.number} is no number of one")
    origin = journal.directives_origin(bank=bank, box=box, incarnation=package.number)
    if package.number > held.number:
        held = HeldLog(package.number, journal.Frontier(), _no_leaf)
    opened = _by(key)
    return _judge(
        package, held, origin=origin, number_field="incarnation", bank=bank, box=box, open_note=opened
    )


def judge_handed_back(
    package: Package, held: HeldLog, *, bank: str, box: str, key: VerifyingKey
) -> PackageJudgement:
    """What the hub makes of directives of its own that a box hands back; held.number is their incarnation,
    key the hub's own."""
    origin = journal.directives_origin(bank=bank, box=box, incarnation=package.number)
    if package.number != held.number:
        reason = f"incarnation {package.number} against incarnation {held.number}"
        return _refuse(held, PackageVerdict.MALFORMED, reason)
    opened = _by(key)
    return _judge(
        package, held, origin=origin, number_field="incarnation", bank=bank, box=box, open_note=opened
    )


def _by(key: VerifyingKey) -> OpenNote:
    """Opens the notes of one key."""
    return lambda note: journal.open_note(note, name=key.name, key_id=key.key_id, verify=key.verify)


def _no_leaf(index: int) -> bytes:
    raise ExchangeError(f"no leaf {index} in an empty log")


def _refuse(
    held: HeldLog,
    verdict: PackageVerdict,
    reason: str,
    checkpoint: journal.Checkpoint | None = None,
) -> PackageJudgement:
    return PackageJudgement(verdict, held.head, reason, checkpoint=checkpoint)


def _judge(
    package: Package,
    held: HeldLog,
    *,
    origin: str,
    number_field: str,
    bank: str,
    box: str,
    open_note: OpenNote,
) -> PackageJudgement:
    """The one order in which a package is checked: shape, signature, place, sameness of what is held,
    proof."""
    fault = shape_fault(package)
    if fault:
        return _refuse(held, PackageVerdict.MALFORMED, fault)
    try:
        checkpoint = open_note(package.checkpoint)
    except journal.NoteError as problem:
        return _refuse(held, PackageVerdict.BAD_CHECKPOINT, str(problem))
    if checkpoint.origin != origin:
        return _refuse(held, PackageVerdict.BAD_CHECKPOINT, f"origin {checkpoint.origin}, not {origin}")
    if checkpoint.size < package.size:
        return _refuse(
            held, PackageVerdict.BAD_CHECKPOINT, f"signed up to {checkpoint.size}, sent up to {package.size}"
        )
    size = held.frontier.size
    if package.old_size > size:
        return _refuse(held, PackageVerdict.GAP, f"starts at {package.old_size}; {size} are held", checkpoint)
    fault = _overlap_fault(package, held) or _signed_head_fault(checkpoint, held)
    if fault:
        return _refuse(held, PackageVerdict.FORK, fault, checkpoint)
    if package.size < size or (package.size == size and checkpoint.size == size):
        return _refuse(held, PackageVerdict.DUPLICATE, "", checkpoint)
    fresh = package.records[size - package.old_size :]
    fault = place_fault(fresh, start=size, field=number_field, number=package.number, bank=bank, box=box)
    if fault:
        return _refuse(held, PackageVerdict.MALFORMED, fault, checkpoint)
    return _judge_proof(package, held, checkpoint, fresh)


def _overlap_fault(package: Package, held: HeldLog) -> str:
    """Records that are held already must be the same: the last one's leaf says so for all before it."""
    overlap = min(package.size, held.frontier.size) - package.old_size
    if overlap <= 0:
        return ""
    previous = held.leaf_at(package.old_size - 1) if package.old_size else journal.FIRST_PREVIOUS
    leaves = journal.chain(previous, package.records[:overlap])
    last = package.old_size + overlap - 1
    return "" if leaves[-1] == held.leaf_at(last) else f"another record at or before {last}"


def _signed_head_fault(checkpoint: journal.Checkpoint, held: HeldLog) -> str:
    """A signed head no longer than what is held must be one of its roots."""
    size = held.frontier.size
    if checkpoint.size > size or not checkpoint.size:
        return ""
    root = held.frontier.root() if checkpoint.size == size else held.root_at(checkpoint.size)
    return "" if root is None or root == checkpoint.root else f"another root signed at size {checkpoint.size}"


def _judge_proof(
    package: Package, held: HeldLog, checkpoint: journal.Checkpoint, fresh: tuple[bytes, ...]
) -> PackageJudgement:
    """The author's own root must lead to its signed head, and must be the one that these records give
    here."""
    try:
        journal.verify_consistency(
            package.size, checkpoint.size, package.root, checkpoint.root, package.proof
        )
    except journal.ProofError as problem:
        return _refuse(held, PackageVerdict.BAD_PROOF, str(problem), checkpoint)
    size = held.frontier.size
    previous = held.leaf_at(size - 1) if size else journal.FIRST_PREVIOUS
    leaves = journal.chain(previous, fresh)
    frontier = held.frontier.copy()
    frontier.extend(leaves)
    root = frontier.root()
    if root != package.root:
        return _refuse(
            held, PackageVerdict.FORK, f"the records give another root at size {package.size}", checkpoint
        )
    return PackageJudgement(
        PackageVerdict.ACCEPTED,
        LogHead(package.number, package.size, root),
        records=fresh,
        leaves=tuple(leaves),
        frontier=frontier,
        checkpoint=checkpoint,
    )


def frontier_at(size: int, node: journal.Node) -> journal.Frontier:
    """The frontier of the first `size` leaves, from the complete subtrees of a tree at least that large."""
    peaks, start = [], 0
    while start < size:
        level = (size - start).bit_length() - 1
        peaks.append(node(level, start >> level))
        start += 1 << level
    return journal.Frontier.from_bytes(size.to_bytes(8, "big") + b"".join(peaks))


class SiteBundle(NamedTuple):
    """A site bundle whose digest is the one that a signed directive names, decoded; `lists` by digest."""

    body: bytes
    site: Site
    note: str = ""
    """The hub's signature over the bundle, where its directive has one."""
    lists: Mapping[str, bytes] = {}


class Directives(NamedTuple):
    """Directives that the box has verified, in order, for the pen to journal and store in one go.

    Each is journalled as applied, returned or refused: undecodable ones are refused, and a site directive
    whose digest is not in `sites` is refused with what `unusable` says.
    """

    incarnation: int
    start: int
    """The seq of the first one."""
    bodies: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    frontier: journal.Frontier
    """After the last one."""
    checkpoint: str
    """The hub's signed note; it may cover more directives than are here."""
    sites: Mapping[str, SiteBundle]
    """By digest in hex."""
    unusable: Mapping[str, str] = {}
    """What is wrong with bundles that are named and not in `sites`."""


# --- the line's modes (the box) -----------------------------------------------------------------------------


class Event(enum.StrEnum):
    """What can happen to the line; its value is the reason that the mode's record names."""

    STARTED = "started"
    LINE_LOST = "line_lost"
    OPENED = "opened"
    CAUGHT_UP = "caught_up"
    HUB_BEHIND = "hub_behind"
    FOUND_BEHIND = "found_behind"
    FOUND_FORKED = "found_forked"
    FOUND_FENCED = "found_fenced"
    RECORD_EDITED = "record_edited"


_A, _O, _S = Mode.ACTIVE, Mode.OFFLINE, Mode.SYNCING
_B, _K, _F = Mode.BEHIND, Mode.FORKED, Mode.FENCED

TRANSITIONS: Final[dict[Event, dict[Mode, Mode]]] = {
    #                     ACTIVE   OFFLINE  SYNCING  BEHIND   FORKED   FENCED
    Event.STARTED: {_A: _O, _O: _O, _S: _O, _B: _B, _K: _K, _F: _F},
    Event.LINE_LOST: {_A: _O, _O: _O, _S: _O, _B: _B, _K: _K, _F: _F},
    Event.OPENED: {_A: _A, _O: _S, _S: _S, _B: _B, _K: _K, _F: _F},
    Event.CAUGHT_UP: {_A: _A, _O: _A, _S: _A, _B: _B, _K: _K, _F: _F},
    Event.HUB_BEHIND: {_A: _S, _O: _S, _S: _S, _B: _B, _K: _K, _F: _F},
    Event.FOUND_BEHIND: {_A: _B, _O: _B, _S: _B, _B: _B, _K: _K, _F: _B},
    Event.FOUND_FENCED: {_A: _F, _O: _F, _S: _F, _B: _B, _K: _K, _F: _F},
    Event.FOUND_FORKED: {_A: _K, _O: _K, _S: _K, _B: _K, _K: _K, _F: _K},
    Event.RECORD_EDITED: {_A: _K, _O: _K, _S: _K, _B: _K, _K: _K, _F: _K},
}
"""Out of BEHIND, FORKED and FENCED leads nothing; a new epoch begins with a book and a line of its own
(DESIGN §3.9)."""

VERDICT_EVENT: Final[dict[Verdict, Event]] = {
    Verdict.OK: Event.OPENED,
    Verdict.BEHIND: Event.FOUND_BEHIND,
    Verdict.FORKED: Event.FOUND_FORKED,
    Verdict.FENCED: Event.FOUND_FENCED,
    Verdict.HUB_BEHIND: Event.HUB_BEHIND,
    Verdict.REOPEN: Event.LINE_LOST,
    Verdict.VERSION: Event.LINE_LOST,
}
"""What each of the hub's verdicts does to the box's mode; LINK ends its line."""

CARRIES_ON: Final = frozenset(
    {Verdict.OK, Verdict.FENCED, Verdict.FORKED, Verdict.BEHIND, Verdict.HUB_BEHIND}
)
"""Verdicts after which the session goes on: a box that clears nothing still delivers what it wrote, and
hears of its new epoch."""


def next_mode(mode: Mode, event: Event) -> tuple[Mode, str]:
    """The mode after the event and the reason for its record; the same mode means that no record is
    written."""
    return TRANSITIONS[event][mode], event.value
