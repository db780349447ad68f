"""A checkpoint key that changes while the line is down, at a real box with a real hub: what everybody who
reads its checkpoints makes of it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from edgegw import verifier
from edgegw.access.checkpoint_keys import CheckpointKeys, next_file
from edgegw.access.key_files import KeyFileError
from edgegw.access.keys import VerifyingKey, load_signing_key
from edgegw.access.keystore import OPEN_FILES, KeyFile
from edgegw.audit.database import export_database
from edgegw.commands.key_changes import policy_file
from edgegw.commands.ledger import full_check
from edgegw.core.decide import Funding
from edgegw.core.key_policy import KeyPolicy
from edgegw.core.messages import Beat, LogHead, Open, PackageVerdict
from edgegw.core.records import Kind, Mode, Request
from edgegw.hub import schema
from edgegw.hub.key_policies import notes_of, revoked_notes
from edgegw.hub.operate import OrderError, release_epoch
from edgegw.hub.void_keys import revoke_key
from edgegw.ledger.export import export_journal
from edgegw.ledger.receipts import receipt_of
from edgegw.ledger.received import package_from, policy_of, take_package
from edgegw.ledger.store import Store
from edgegw.ledger_source import LedgerSource
from edgegw.mirror.keeper import Keeper
from edgegw.mirror.keeper import Keys as MirrorKeys
from edgegw.own import signer
from edgegw.rotation import Rotation
from edgegw.uplink.outbox import pack
from edgegw.uplink.session import opening
from tests.core.authors import new_key
from tests.hub.simulated_box import BANK
from tests.hub.world import NORTH, World
from tests.uplink.real_box import Port, RealBox, synced
from tests.waiting import until

NAME = f"{BANK}/{NORTH}/checkpoint"


class Changing:
    """A box whose checkpoint key changes, and where its keys lie."""

    def __init__(self, box: RealBox, keys: CheckpointKeys) -> None:
        self.box = box
        self.keys = keys
        self.rotation = Rotation(box.pen, keys, bank=BANK, box=NORTH)

    async def change(self) -> int:
        """Another key takes over; the seq of its record."""
        seq = self.box.size()
        self.keys.prepare()
        await self.rotation.look()
        assert self.box.size() > seq
        return seq

    def policy(self, store: Store | None = None) -> KeyPolicy:
        """The keys as a ledger knows them."""
        hub = self.box.world.hub_key.public
        return policy_of(store or self.box.reader, 1, None, hub_key=hub, parse=VerifyingKey.parse)


def keys_in(folder: Path) -> CheckpointKeys:
    """The keys of the box, as a start finds them."""
    return CheckpointKeys(OPEN_FILES, key_file(folder))


def key_file(folder: Path) -> KeyFile:
    return KeyFile("checkpoint_key_file", folder / "c.pem", "checkpoint", NAME)


@pytest.fixture
async def changing(tmp_path: Path, world: World, port: Port, boxes: list[RealBox]) -> Changing:
    """In step with the hub, with money on A, and then without the line."""
    keys = keys_in(tmp_path)
    box = RealBox(tmp_path, world, port, key=keys.current, boot="one")
    boxes.append(box)
    await synced(box, world)
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=400) == "granted"
    await box.pay(1, 10)
    await synced(box, world)
    await port.close()
    await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
    return Changing(box, keys)


@pytest.fixture
def verified(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """What the stand-alone verifier says; by the hub's key where no other arguments are given."""

    def verify(kind: str, content: bytes | Path, *arguments: str) -> dict[str, Any]:
        path = content if isinstance(content, Path) else tmp_path / f"shown.{kind}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        given = arguments or ("--hub-key", world.hub_key.public.text())
        code = verifier.main([*given, "--json", kind, str(path)])
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["verified"] is (code == 0)
        return found

    return verify


def journal_of(store: Store, path: Path) -> Path:
    """As `edgegw journal export` writes it."""
    with path.open("wb") as file:
        export_journal(store, file, epoch=1, progress=lambda *_: None)
    return path


async def test_payments_before_and_after_are_proved_by_the_key_of_their_size(
    changing: Changing, world: World, port: Port, tmp_path: Path, verified: Callable[..., dict[str, Any]]
) -> None:
    """Two changes, one of them without the line: receipts, exports, the hub, the full check, a mirror."""
    box, first = changing.box, changing.keys.current.public.text()
    before = receipt_of(box.reader, epoch=1, seq=box.size() - 2)
    seq = await changing.change()
    await box.pay(2, 10)
    assert [one.last for one in changing.policy().ranges()] == [seq, None]
    await port.open()
    await synced(box, world)
    await changing.change()
    await box.pay(3, 10)
    await synced(box, world)
    kept = world.row("SELECT key, key_changes FROM journal_head WHERE box = :box", box=NORTH)
    assert (kept[0], tuple(notes_of(kept[1]))) == (first, changing.policy().notes)
    after = receipt_of(box.reader, epoch=1, seq=1)
    assert before is not None
    assert after is not None
    assert (before.keys, after.keys) == ((), changing.policy().notes)
    for shown in (before, after):
        body = msgspec.json.encode(shown)
        assert verified("receipt", body, "--box-key", first)["verified"]
        assert not verified("receipt", body, "--box-key", world.hub_key.public.text())["verified"]
    journal = journal_of(box.reader, tmp_path / "a.journal")
    export_database(box.reader, tmp_path / "a.db", progress=lambda *_: None)
    assert verified("journal", journal)["cosigned_size"] > seq
    assert verified("export", tmp_path / "a.db")["verified"]
    assert verified("journal", journal, "--box-key", changing.policy().newest)["verified"]
    report = full_check(box.reader, world.hub_key.public, lambda *_: None)
    assert report.well, report.findings
    (tmp_path / "mirror").mkdir()
    mirror = Store.open(tmp_path / "mirror" / "ledger.db", create=True)
    mirror.own(bank=BANK, box=NORTH)
    while (package := package_from(box.reader, held(mirror))) is not None:
        keys = policy_of(mirror, 1, package, hub_key=world.hub_key.public, parse=VerifyingKey.parse)
        judged = take_package(mirror, package, bank=BANK, box=NORTH, keys=keys)
        assert judged.verdict is PackageVerdict.ACCEPTED, judged.reason
    assert changing.policy(mirror).ranges() == changing.policy().ranges()
    assert verified("journal", journal_of(mirror, tmp_path / "m.journal"), "--box-key", first)["verified"]
    mirror.close()


def held(store: Store) -> LogHead:
    """How far a ledger has the epoch."""
    head = store.head(1)
    return LogHead(1) if head is None else LogHead(1, head.size, head.root)


async def test_a_change_in_the_middle_of_a_backlog_reaches_the_hub(
    changing: Changing, world: World, port: Port
) -> None:
    """The head is signed by a key whose record comes with a later package than the first."""
    box = changing.box
    await box.pen.decide("till", [payment(number) for number in range(300)], Funding(False))
    assert await changing.change() > 256
    await box.pay(2, 10)
    await port.open()
    await synced(box, world)
    kept = world.row("SELECT key_changes FROM journal_head WHERE box = :box", box=NORTH)
    assert tuple(notes_of(kept[0])) == changing.policy().notes


def payment(number: int) -> Request:
    """One of many."""
    return Request(
        kind=Kind.PAYMENT,
        id=f"{number + 7_000:032x}",
        debit_account_id="A",
        credit_account_id="SHOP",
        amount_minor=1,
        currency="CNY",
    )


async def test_a_box_that_ends_between_any_two_steps_starts_with_the_key_that_its_journal_names(
    changing: Changing, world: World, port: Port, tmp_path: Path, boxes: list[RealBox]
) -> None:
    """The file of the new key, the record, the file in its place, the public line: killed behind each."""
    first = changing.keys.current.public.text()
    changing.keys.prepare()

    def started() -> CheckpointKeys:
        keys = keys_in(tmp_path)
        keys.settle(changing.policy().newest)
        return keys

    assert started().current.public.text() == first, "the record is not there yet"
    changing.rotation = Rotation(
        changing.box.pen, KilledBeforeItSettles(OPEN_FILES, key_file(tmp_path)), bank=BANK, box=NORTH
    )
    with pytest.raises(KeyFileError):
        await changing.rotation.look()
    second = changing.policy().newest
    assert second != first
    assert load_signing_key(tmp_path / "c.pem", NAME).public.text() == first
    keys = started()
    assert keys.current.public.text() == second
    assert load_signing_key(tmp_path / "c.pem", NAME).public.text() == second
    assert not next_file(key_file(tmp_path)).path.exists()
    (tmp_path / "c.pub").write_text(f"{first}\n")
    assert started().current.public.text() == second
    assert (tmp_path / "c.pub").read_text() == f"{second}\n"
    await boxes.pop().stop()
    again = RealBox(tmp_path, world, port, key=keys.current, boot="two")
    boxes.append(again)
    await again.pay(5, 10)
    await port.open()
    await synced(again, world)


class KilledBeforeItSettles(CheckpointKeys):
    """The process ends between the record's COMMIT and the new key's place on disk."""

    def settle(self, text: str) -> None:
        raise KeyFileError(Path("c.pem"), f"killed before {text} took over", hint="start again")


async def test_a_change_that_is_not_written_leaves_the_old_key_in_charge(changing: Changing) -> None:
    """An error before COMMIT takes the record back; a head by the new key would be nobody's."""

    def fails(_old: str, _epoch: int, _seq: int) -> str:
        raise ValueError("no signature")

    box = changing.box
    with pytest.raises(ValueError, match="no signature"):
        await box.pen.change_key(fails, key="other", sign=lambda *_: "never")
    await box.pay(2, 10)
    head = box.reader.head(1)
    assert head is not None
    assert changing.policy().open(head.checkpoint).size == head.size
    assert box.pen.checkpoint_key == changing.keys.current.public.text()


async def test_what_a_revoked_key_signs_later_is_void_everywhere(
    changing: Changing, world: World, port: Port, tmp_path: Path, verified: Callable[..., dict[str, Any]]
) -> None:
    """Stolen while the line was down: the hub, the box, its mirror and the verifier; then another epoch."""
    box, stolen = changing.box, changing.keys.current.public.text()
    early = receipt_of(box.reader, epoch=1, seq=1)
    source = LedgerSource(box.reader)
    await box.pay(2, 10)
    late = receipt_of(box.reader, epoch=1, seq=1)
    key_id = stolen.split("+")[1]
    with world.engine.begin() as connection:
        revoke = partial(
            revoke_key, connection, world.keyring, box=NORTH, epoch=0, key=key_id, reason="stolen", now_ns=1
        )
        assert early is not None
        revoked = revoke(size_max=early.size)
        with pytest.raises(OrderError, match="stricter"):
            revoke(size_max=10**6)
    held = world.row("SELECT size FROM journal_head WHERE box = :box", box=NORTH)
    assert revoked.void_above == early.size
    await port.open()
    await until(lambda: box.pen.mode is Mode.FENCED, "the box to hear of it")
    await until(lambda: len(box.reader.keys.revoked()) == 1, "the hub's word at the box")
    assert world.row("SELECT size FROM journal_head WHERE box = :box", box=NORTH) == held
    policy = tmp_path / "keys"
    policy.write_bytes(msgspec.json.encode(policy_file(box.reader, world.hub_key.public)))
    told = ("--policy", str(policy), "--hub-key", world.hub_key.public.text())
    assert verified("receipt", msgspec.json.encode(late), "--box-key", stolen)["verified"]
    found = verified("receipt", msgspec.json.encode(late), *told)
    assert "revoked by the hub above size" in found["problem"]
    early = msgspec.structs.replace(early, cosignature="", cosignature_proof=())
    found = verified("receipt", msgspec.json.encode(early), *told)
    assert "there is none by" in found["problem"], "its key counts; the hub has cosigned less"
    check_mirror(box, world, tmp_path, opening(source, box.line._identity, Mode.FENCED))
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
        connection.execute(update(schema.session).values(candidate_verdict=""))
    opened = "SELECT candidate_verdict FROM session WHERE box = :box"
    await until(lambda: world.row(opened, box=NORTH) != ("",), "the box to ask for its epoch")
    assert world.row(opened, box=NORTH) == ("fenced",), "no epoch begins with that key"
    assert "give the box another one" in box.line.status.reason
    fresh = changing.keys.prepare()
    await changing.rotation.look()
    assert changing.policy().newest == stolen, "a key that is void introduces nobody"
    sign = signer(fresh, bank=BANK, box=NORTH)
    box.own = msgspec.structs.replace(box.own, key_text=fresh.public.text(), sign=sign)
    await until(lambda: box.pen.epoch == 2, "the next epoch")
    await synced(box, world)
    begun = world.row("SELECT key FROM journal_head WHERE box = :box AND epoch = 2", box=NORTH)
    assert begun == (fresh.public.text(),)


async def test_the_key_before_is_revoked_and_the_box_goes_on(
    changing: Changing, world: World, port: Port, tmp_path: Path, verified: Callable[..., dict[str, Any]]
) -> None:
    """Found in an old backup after its time: what it did in its time counts, its successor too."""
    box, first = changing.box, changing.keys.current.public.text()
    seq = await changing.change()
    await port.open()
    await synced(box, world)
    with world.engine.begin() as connection:
        revoked = revoke_key(
            connection,
            world.keyring,
            box=NORTH,
            epoch=0,
            key=first.split("+")[1],
            size_max=-1,
            reason="found in a backup",
            now_ns=1,
        )
        words = tuple(revoked_notes(connection, NORTH))
    assert revoked.void_above == seq + 1
    await box.pay(2, 10)
    await synced(box, world)
    assert world.row("SELECT state FROM box WHERE box = :box", box=NORTH) == ("active",)
    policy = tmp_path / "keys"
    known = policy_file(box.reader, world.hub_key.public)
    policy.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, revoked=words)))
    journal = journal_of(box.reader, tmp_path / "box.journal")
    told = ("--policy", str(policy), "--hub-key", world.hub_key.public.text())
    assert verified("journal", journal, *told)["verified"]


def check_mirror(box: RealBox, world: World, folder: Path, message: Open) -> None:
    """A mirror that hears of the word takes nothing more under that key."""
    mirror = MirrorKeys(new_key("mirror"), world.devices[NORTH].public, world.hub_key.public)
    keeper = Keeper(folder / "mirror", mirror, bank=BANK, box=NORTH)
    candidate = b"c" * 16
    keeper.opened(message, candidate=candidate)
    head = next(one for one in LedgerSource(box.reader).heads())
    push = pack(LedgerSource(box.reader), head, LogHead(1), 1 << 20)
    beaten = keeper.beaten(Beat(directives=LogHead(0), push=push), session=candidate, counter=1)
    assert beaten.push is PackageVerdict.BAD_CHECKPOINT
    assert "is revoked" in beaten.push_reason
    keeper.close()
