"""Fuzz targets of what lies in files: records, directives, images, settings, journals, anchors, postings."""

from __future__ import annotations

import atexit
import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from unittest import mock

import msgspec

from edgegw import verifier
from edgegw.access.key_files import KeyFileError, load_private_key
from edgegw.commands.hub import _postings
from edgegw.commands.running import read_running
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.config.hub import load_hub
from edgegw.config.mirror import load_mirror
from edgegw.config.options import SettingsError
from edgegw.config.site import load_site_bundle, site_faults
from edgegw.core import export, journal, snapshot
from edgegw.core.apply import apply_directive
from edgegw.core.journal import Checkpoint
from edgegw.core.records import (
    CloseDirective,
    ConfirmDirective,
    DeclineDirective,
    DirectiveHead,
    FreezeDirective,
    GrantDirective,
    Mode,
    RecallDirective,
    Record,
    RefuseDirective,
    SiteDirective,
    Transfer,
    decode_directive,
    decode_record,
    encode,
)
from edgegw.core.site import decode_site
from edgegw.errors import Behind, LedgerForeign
from edgegw.hub.items import read_items
from edgegw.ledger.anchor import FILE_NAME, Anchor, Past
from edgegw.ledger.rows import position_of, row_of
from edgegw.running import RUNNING_NAME
from tests.core.box import DOWN, SITE, Box
from tests.fuzz.peers import KEY, LOG, SIZE
from tests.fuzz.target import Target

_HOME: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - thousands of files are written
PLACE: Final = Path(tempfile.mkdtemp(prefix="edgegw-fuzz-", dir=_HOME))
atexit.register(shutil.rmtree, PLACE, ignore_errors=True)
SHAPES: Final = protocol_shapes()


def file(name: str, data: bytes) -> Path:
    """A file with these bytes."""
    path = PLACE / name
    path.write_bytes(data)
    return path


# --- records and directives ---------------------------------------------------------------------------------


class Places:
    """A ledger's history, as far as places go: nothing is there, and some places cannot be."""

    def at(self, epoch: int, seq: int) -> None:
        """No record; raises ValueError for no place, as the ledger file does."""
        position_of(epoch=epoch, seq=seq)

    def by_identity(self, _client: str, _id: str) -> None:
        """No record."""

    def about(self, _place: str) -> list[Record]:
        """No records."""
        return []


def box() -> Box:
    """A branch with a payment, a hold and a stand-in that waits."""
    made = Box()
    made.book._history = Places()
    made.grant("anna", 5_000)
    made.grant("risk:box-1:CNY", 2_000)
    made.mode(Mode.ACTIVE)
    made.pay("anna", "shop", 100)
    made.hold("anna", "shop", 50)
    made.pay("bert", "shop", 40, DOWN)
    made.close_window()
    return made


BRANCH: Final = box()
STANDS_IN: Final = next(
    one.seq for one in BRANCH.records if isinstance(one, Transfer) and one.cleared_by == "stand_in"
)
HEAD: Final[dict[str, Any]] = {
    "v": 1,
    "bank": "demo",
    "box": "box-1",
    "incarnation": 1,
    "seq": 3,
    "wall_ns": 1,
}
MONEY: Final[dict[str, Any]] = {"currency": "CNY", "amount_minor": 40}


def directives() -> list[bytes]:
    """One of each kind, about things that are there."""
    late = {**HEAD, **MONEY, "epoch": 1, "at_seq": STANDS_IN, "payer_account_id": "bert"}
    made: list[DirectiveHead] = [
        SiteDirective(**HEAD, version=2, digest="11" * 32, bytes=9),
        GrantDirective(**HEAD, **MONEY, account_id="anna"),
        GrantDirective(**HEAD, **MONEY, account_id="anna", request_id="1-b-1"),
        RefuseDirective(**HEAD, request_id="1-b-1", account_id="anna", currency="CNY", reason="no"),
        ConfirmDirective(**late),
        DeclineDirective(**late, liable="merchant", reason="no"),
        FreezeDirective(**HEAD, account_id="anna", frozen=True, reason="court"),
        RecallDirective(**HEAD, **MONEY, account_id="anna", reason="idle"),
        CloseDirective(**HEAD, account_id="anna", currency="CNY", closed=True, reason="moved away"),
    ]
    return [msgspec.json.encode(one) for one in made]


def records() -> list[bytes]:
    """What the branch wrote."""
    return [encode(record) for record in BRANCH.records]


def record(data: bytes) -> None:
    """A record means the same when it is written again, and the hub's reading of it never fails."""
    items = read_items((data,), (bytes(32),), start=0)
    decoded = decode_record(data)
    assert items[0].record == decoded or items[0].problem
    assert decode_record(encode(decoded)) == decoded


def directive(data: bytes) -> None:
    """Applying is total: the record says what came of it, the sums stay equal, and the layer can be thrown
    away."""
    before = snapshot.dump(BRANCH.book)
    layer = BRANCH.book.overlay()
    site = msgspec.structs.replace(SITE, version=2)
    record = apply_directive(layer, BRANCH.stamp(), data, awaited=lambda _: False, sites=lambda _: site)
    assert record.outcome in ("applied", "returned", "refused")
    assert row_of(record, leaf=bytes(32), body=encode(record)).position
    assert record.outcome != "refused" or not record.legs
    assert sum(leg.amount_minor for leg in record.legs) >= 0
    assert snapshot.dump(BRANCH.book) == before
    decoded = decode_directive(data)
    assert decode_directive(encode(decoded)) == decoded


def image(data: bytes) -> None:
    """An image that is taken is the image of what was read from it."""
    book = snapshot.load(data, history=None)
    again = snapshot.dump(book)
    assert snapshot.dump(snapshot.load(again, history=None)) == again


# --- settings -----------------------------------------------------------------------------------------------

BOX_TOML: Final = b"""bank = "b1"
box = "box-1"
[hub]
key = "k"
[[hub.addresses]]
url = "http://127.0.0.1:8600"
priority = 1
[line]
heartbeat_ms = 1000
[disk]
reserve_bytes = 2_000_000
[http]
port = 1
[iso8583]
bitmap = "hex"
"""
HUB_TOML: Final = b"""bank = "b1"
listen = ["127.0.0.1:8600", "[::1]:8601"]
[boxes]
box-1 = "box-1+01234567+aa"
"""
MIRROR_TOML: Final = b"""bank = "b1"
mirror = "mirror-1"
hub_key = "hub+01234567+aa"
listen = ["127.0.0.1:8610"]
[boxes]
box-1 = "box-1+01234567+aa"
"""


def box_settings(data: bytes) -> None:
    """Every fault is a line."""
    load_box(file("box.toml", data), SHAPES)


def hub_settings(data: bytes) -> None:
    """Every fault is a line."""
    load_hub(file("hub.toml", data))


def mirror_settings(data: bytes) -> None:
    """Every fault is a line."""
    load_mirror(file("mirror.toml", data))


def site_json(data: bytes) -> None:
    """What the hub publishes, a box takes."""
    site, bundle = load_site_bundle(file("site.json", data))
    assert decode_site(bundle) == site


def site_toml(data: bytes) -> None:
    """A site that is written as TOML is the bundle that a box takes."""
    site, bundle = load_site_bundle(file("site.toml", data))
    assert decode_site(bundle) == site


def site_bundle(data: bytes) -> None:
    """A bundle that a box takes can be looked through."""
    assert isinstance(site_faults(decode_site(data)), list)


SITE_TOML: Final = b"""bank = "demo"
version = 1
[[currencies]]
code = "CNY"
numeric = 156
[[accounts]]
id = "anna"
currency = "CNY"
[[limits]]
currency = "CNY"
name = "one"
payment_minor = 10
amount_minor = 100
per = "window"
"""


def postings(data: bytes) -> None:
    """Every row that is taken has whole numbers that the hub can count."""
    for _, row in _postings(file("postings.csv", data)):
        assert int(row["amount_minor"]) < 10**19
        assert all(isinstance(value, str) for value in row.values())


# --- small files of a box -----------------------------------------------------------------------------------


def anchor_file(data: bytes) -> None:
    """A rotted anchor makes the box behind, never a traceback."""
    file(FILE_NAME, data)
    Anchor(PLACE, bank="demo", box="box-1")._load()


def running(data: bytes) -> None:
    """What a box says of itself while it runs."""
    file(RUNNING_NAME, data)
    if read_running(PLACE) is None:
        raise msgspec.DecodeError("not readable")


def key_file(data: bytes) -> None:
    """A key file that rotted has a mend."""
    path = file("key.pem", data)
    path.chmod(0o600)
    load_private_key(path)


# --- what auditors verify -----------------------------------------------------------------------------------

verifier.self_test()  # once, before signatures are believed
KEYS: Final = ("--box-key", KEY.public.text(), "--hub-key", KEY.public.text())


def journals() -> list[bytes]:
    """An exported journal, cosigned to its middle."""
    half = KEY.cosign(Checkpoint(LOG.origin, SIZE // 2, LOG.root(SIZE // 2)), time_s=1_800_000_000)
    entries = zip(LOG.bodies, LOG.leaves, strict=True)
    lines = export.journal_lines(LOG.origin, entries, checkpoint=LOG.checkpoint(), cosignatures=[half])
    return [b"".join(lines)]


def receipts() -> list[bytes]:
    """The receipt of one record."""
    index = 3
    proof = journal.inclusion_proof(index, SIZE, journal.nodes_of(LOG.leaves))
    document = {
        "type": "edgegw-receipt-v1",
        "record": LOG.bodies[index].decode(),
        "previous_leaf": LOG.leaves[index - 1].hex(),
        "index": index,
        "size": SIZE,
        "proof": [one.hex() for one in proof],
        "checkpoint": LOG.checkpoint(),
        "cosignature": KEY.cosign(Checkpoint(LOG.origin, SIZE, LOG.root()), time_s=1_800_000_000),
        "cosignature_proof": [],
    }
    return [msgspec.json.encode(document)]


def verified(kind: str) -> Callable[[bytes], None]:
    """The stand-alone verifier ends with 0, 1 or 2, with every signature believed: that is, of a hostile
    author."""

    def play(data: bytes) -> None:
        path = str(file(f"{kind}.json", data))
        more = (str(file("older.note", LOG.checkpoint(4).encode())),) if kind == "checkpoints" else ()
        paths = (*more, path, "--proof", str(PROOF)) if kind == "checkpoints" else (path,)
        said = io.StringIO()
        with (
            mock.patch.object(verifier, "sm2_verify", return_value=True),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            code = verifier.main([*KEYS, kind, *paths])
        assert code in (0, 1, 2)
        assert said.getvalue()
        if code:
            raise verifier.Malformed(said.getvalue())

    return play


PROOF: Final = file(
    "proof.json",
    msgspec.json.encode(
        {
            "edgegw_consistency": 1,
            "proof": [one.hex() for one in journal.consistency_proof(4, SIZE, journal.nodes_of(LOG.leaves))],
        }
    ),
)

_UNREADABLE: Final = (msgspec.DecodeError,)
TARGETS: Final = (
    Target("record", record, _UNREADABLE, records),
    Target("directive", directive, _UNREADABLE, directives),
    Target("snapshot", image, _UNREADABLE, lambda: [snapshot.dump(BRANCH.book)]),
    Target("box-settings", box_settings, (SettingsError,), lambda: [BOX_TOML]),
    Target("hub-settings", hub_settings, (SettingsError,), lambda: [HUB_TOML]),
    Target("mirror-settings", mirror_settings, (SettingsError,), lambda: [MIRROR_TOML]),
    Target("site-json", site_json, (SettingsError,), lambda: [msgspec.json.encode(SITE)]),
    Target("site-toml", site_toml, (SettingsError,), lambda: [SITE_TOML]),
    Target("site-bundle", site_bundle, _UNREADABLE, lambda: [msgspec.json.encode(SITE)]),
    Target(
        "postings",
        postings,
        (SettingsError,),
        lambda: [b"id,debit_account_id,credit_account_id,amount_minor\no-1,core:CNY,alice,250000\n"],
    ),
    Target(
        "anchor",
        anchor_file,
        (Behind, LedgerForeign),
        lambda: [
            msgspec.json.encode(
                Past(bank="demo", box="box-1", lineage=("a", "b"), epoch=1, size=3, root="00" * 32)
            )
        ],
    ),
    Target("running", running, _UNREADABLE, lambda: [b'{"pid":1,"addresses":{"http":["127.0.0.1:8443"]}}']),
    Target("key-file", key_file, (KeyFileError,), lambda: [KEY._private.to_pem()]),
    Target("journal-file", verified("journal"), (verifier.Malformed,), journals, slow=True),
    Target("receipt", verified("receipt"), (verifier.Malformed,), receipts, slow=True),
    Target(
        "checkpoint-pair",
        verified("checkpoints"),
        (verifier.Malformed,),
        lambda: [LOG.checkpoint().encode()],
        slow=True,
    ),
)
