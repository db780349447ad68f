"""Getting a ledger back from litestream's copies, and proving by drills that this would work."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click
import msgspec

from edgegw.commands import ExitCode, json_option, print_json, progress_bar, settings_argument
from edgegw.commands.ledger import full_check
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from edgegw.access.keys import VerifyingKey
    from edgegw.config.box import Box
    from edgegw.ledger.store import Head, Store
    from edgegw.replica.generations import Generations
    from edgegw.replica.status import Drill

RESTORED: Final = "restored"
"""The lineage of a ledger that came from a copy: no box's, so that the next start finds it behind."""
_SIDECARS: Final = ("", "-wal", "-shm")
NEXT: Final = (
    "Start the box with `edgegw run`. It finds itself behind and clears nothing; what the mirror and the hub"
    " hold beyond this copy comes back by itself. When nothing more is lacking, give it a new epoch at the"
    " hub with `edgegw order new-epoch BOX`; only then it clears."
)

target_option = click.option(
    "--target", default="", help="This target of the settings alone; all are tried when it is not given."
)


class Sound(NamedTuple):
    """A copy that came back and has passed the full check."""

    path: Path
    target: str
    place: str
    txid: str
    heads: list[Head]

    @property
    def length(self) -> tuple[int, int]:
        """How far it goes: the newest epoch and its records."""
        return (self.heads[-1].epoch, self.heads[-1].size) if self.heads else (0, 0)


class Restored(msgspec.Struct, kw_only=True):
    """What `edgegw restore` did."""

    restored: bool
    target: str = ""
    place: str = ""
    """Where the copy stands at the target."""
    txid: str = ""
    epoch: int = 0
    size: int = 0
    """Records of the newest epoch in the copy."""
    set_aside: str = ""
    """Where the ledger lies that was there before; "" when there was none."""
    tried: list[str] = []
    """States that were not sound, or not to be had, and why."""
    next: str = NEXT


@click.command()
@settings_argument
@target_option
@json_option
def restore(settings: Path, target: str, as_json: bool) -> None:
    """Put the best copy of the ledger in place of what is there; the box must not run.

    Every target's copies are restored, newest first, and checked whole: bytes, chain, tree, signatures and
    balances. The longest that is sound is taken, so an older one where the newest is malformed. What was
    there is set aside, never deleted. Without any sound copy an empty ledger is left, which the mirror and
    the hub fill. The restored box clears nothing before the hub gives it a new epoch.

    Example: edgegw restore box.toml
    """
    from edgegw.ledger.boot import LedgerLock

    box = _box_with_targets(settings, target)
    data = Path(box.settings.data_dir)
    data.mkdir(parents=True, exist_ok=True)
    lock = LedgerLock(data)
    try:
        result = _restore(box, data, target)
    finally:
        lock.release()
    if as_json:
        print_json(result)
    else:
        _show(result, data)


def _restore(box: Box, data: Path, wanted: str) -> Restored:
    """Try all targets, set aside what is there, put the best in its place."""
    tried: list[str] = []
    with _scratch(data, "restore-") as scratch:
        best = _best(box, wanted, scratch, tried)
        if best is not None:
            _disown(best.path)
        aside = _set_aside(data)
        result = Restored(
            restored=best is not None, set_aside="" if aside is None else str(aside), tried=tried
        )
        if best is not None:
            _put_in_place(best.path, data)
            result.target, result.place, result.txid = best.target, best.place, best.txid
            result.epoch, result.size = best.length
    return result


def _best(box: Box, wanted: str, scratch: Path, tried: list[str]) -> Sound | None:
    """The longest sound copy of all targets and their generations; None if there is none."""
    from edgegw.replica.copies import CopyError

    best: Sound | None = None
    for generations in _targets(box, wanted):
        try:
            held = generations.held()
        except CopyError as problem:
            tried.append(str(problem))
            continue
        for number in held:
            sound = _newest(box, generations, number, scratch, tried)
            if sound is None:
                continue
            if best is None or sound.length > best.length:
                best, sound = sound, best
            if sound is not None:
                _remove(sound.path)
    return best


def _newest(box: Box, generations: Generations, number: int, scratch: Path, tried: list[str]) -> Sound | None:
    """The newest sound state of a generation; None if there is none."""
    from edgegw.pinned import hub_key
    from edgegw.replica.copies import CopyError, newest_sound
    from edgegw.replica.litestream import place_of

    hub, copies = hub_key(box.settings), generations.copies(number)
    name, place = copies.target.name, place_of(copies.target)
    kept: list[Path] = []

    def examine(txid: str) -> Sound | None:
        path = scratch / f"{name}-{txid}.db"
        try:
            copies.restore(txid, path)
        except CopyError as problem:
            tried.append(f"{name} {txid}: {problem}")
            _remove(path)
            return None
        sound, problem_text = _examined(path, hub, bank=box.settings.bank, box=box.settings.box)
        if sound is None:
            tried.append(f"{name} {txid}: {problem_text}")
            _remove(path)
            return None
        for older in kept:
            _remove(older)
        kept[:] = [path]
        return Sound(path, generations.name, place, txid, sound)

    try:
        return newest_sound(copies.txids(), examine)
    except CopyError as problem:
        tried.append(str(problem))
        return None


def _examined(path: Path, hub: VerifyingKey, *, bank: str, box: str) -> tuple[list[Head] | None, str]:
    """The heads of a restored file, or None and the first thing that is wrong with it."""
    from edgegw.ledger.store import Store

    try:
        # An older program may have made the copy: what is read is brought to this one's schema first.
        Store.open(path).close()
        store = Store.open_reader(path)
    except OperatingError as problem:
        return None, str(problem)
    try:
        with progress_bar("checking") as progress:
            report = full_check(store, hub, progress)
        if not report.well:
            return None, f"{report.problems} problems, the first: {report.findings[0]}"
        whose = (store.meta("bank"), store.meta("box"))
        if whose != (bank, box):
            return None, f"it is the ledger of {whose[0]}/{whose[1]}"
        return store.heads(), ""
    except OperatingError as problem:
        return None, str(problem)
    finally:
        store.close()


def _disown(path: Path) -> None:
    """Give a sound copy a lineage that is no box's, and leave it in one file."""
    from edgegw.ledger.anchor import LINEAGE
    from edgegw.ledger.checkpoints import Checkpoints
    from edgegw.ledger.store import Store

    store = Store.open(path)
    try:
        store.begin()
        store.put_meta(LINEAGE, RESTORED)
        store.commit()
    finally:
        store.close()
    checkpoints = Checkpoints(path)
    try:
        if not checkpoints.truncate():
            raise OperatingError(f"{path} is in use", hint="End what reads it and restore again.")
    finally:
        checkpoints.close()


def _set_aside(data: Path) -> Path | None:
    """Move the ledger that is there, and litestream's state of it, into a folder of its own."""
    from edgegw.ledger.boot import LEDGER_NAME
    from edgegw.replica.litestream import FOLDER

    there = [data / f"{LEDGER_NAME}{suffix}" for suffix in _SIDECARS]
    there = [path for path in (*there, data / FOLDER) if path.exists()]
    if not there:
        return None
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    # Two within a second are two folders.
    aside = Path(tempfile.mkdtemp(prefix=f"set-aside-{now}-", dir=data))
    for path in there:
        path.rename(aside / path.name)
    return aside if (aside / LEDGER_NAME).exists() else None


def _put_in_place(path: Path, data: Path) -> None:
    from edgegw.ledger.boot import LEDGER_NAME
    from edgegw.ledger.schema import fsync_directory

    path.chmod(0o600)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(data / LEDGER_NAME)
    fsync_directory(data)


def _show(result: Restored, data: Path) -> None:
    for line in result.tried:
        click.echo(f"not sound: {line}")
    if result.restored:
        click.echo(
            f"restored from {result.target} at {result.place}, state {result.txid}: epoch {result.epoch},"
            f" {result.size} records"
        )
    else:
        click.echo(f"no sound copy: the ledger in {data} begins empty, and the mirror and the hub fill it")
    if result.set_aside:
        click.echo(f"what was there before is in {result.set_aside}")
    click.echo(f"next: {result.next}")


# --- drills -------------------------------------------------------------------------------------------------


@click.command()
@settings_argument
@target_option
@json_option
def drill(settings: Path, target: str, as_json: bool) -> None:
    """Restore the newest copy beside the box, check it whole and hold it against the live journal.

    The box may run meanwhile, and does this by itself on its schedule. Nothing of it stays on the disk. Exit
    code 1 when the copy is malformed: the running box then leaves it as it is and begins a new one beside it.
    Exit code 3 when it cannot be had or there is no room to restore it.

    Example: edgegw drill box.toml
    """
    from edgegw.replica.status import MALFORMED_HINT

    box = _box_with_targets(settings, target)
    result = _drill(box, next(_targets(box, target)))
    _keep(Path(box.settings.data_dir), result)
    if as_json:
        print_json(result)
    elif result.well:
        click.echo(
            f"{result.target} at {result.place}, state {result.txid}: well; epoch {result.epoch},"
            f" {result.size} records, {result.behind_records} behind the live journal"
        )
    else:
        click.echo(f"{result.target} at {result.place}: {result.problem}")
        if result.malformed:
            click.echo(f"hint: {MALFORMED_HINT}")
    if not result.well:
        raise click.exceptions.Exit(ExitCode.FOUND if result.malformed else ExitCode.CANNOT)


def _drill(box: Box, generations: Generations) -> Drill:
    from edgegw.ledger.boot import LEDGER_NAME
    from edgegw.pinned import hub_key
    from edgegw.replica.copies import CopyError, MalformedCopy
    from edgegw.replica.litestream import place_of
    from edgegw.replica.status import Drill

    settings = box.settings
    data, payments_bytes_min = Path(settings.data_dir), settings.disk.payments_bytes_min
    began_s, number, place = time.monotonic(), 1, ""

    def result(problem: str = "", *, malformed: bool = False, skipped: bool = False, txid: str = "") -> Drill:
        return Drill(
            at_s=int(time.time()),
            well=not problem,
            problem=problem,
            malformed=malformed,
            skipped=skipped,
            target=generations.name,
            generation=number,
            place=place,
            txid=txid,
            seconds=time.monotonic() - began_s,
        )

    def no_room() -> str:
        lacking = _lacking_bytes(data / LEDGER_NAME, payments_bytes_min)
        return (
            f"no room to restore into: {lacking} bytes more are needed on the ledger's disk"
            if lacking
            else ""
        )

    if problem := no_room():
        return result(problem, skipped=True)
    with _scratch(data, "drill-") as scratch:
        path = scratch / LEDGER_NAME
        try:
            number = generations.current().number
            copies = generations.copies(number)
            place = place_of(copies.target)
            txid = copies.restore_newest(path)
        except MalformedCopy as found:
            if problem := no_room():
                return result(problem, skipped=True)
            problem = f"state {found.txid} is malformed, it cannot be restored: {found}"
            return result(problem, malformed=True, txid=found.txid)
        except CopyError as found:
            return result(str(found))
        if not txid:
            return result("the target holds no copy")
        heads, wrong = _examined(path, hub_key(settings), bank=settings.bank, box=settings.box)
        if heads is None:
            return result(f"state {txid} is malformed: {wrong}", malformed=True, txid=txid)
        behind, wrong = _compared(data, heads)
        if wrong:
            return result(f"state {txid}: {wrong}", malformed=True, txid=txid)
        epoch, size = (heads[-1].epoch, heads[-1].size) if heads else (0, 0)
        return msgspec.structs.replace(result(txid=txid), epoch=epoch, size=size, behind_records=behind)


def _lacking_bytes(ledger: Path, payments_bytes_min: int) -> int:
    """How much more room a drill needs than there is, for the copy and its check."""
    from edgegw.ledger.space import Space, Use

    needed = ledger.stat().st_size * 2 if ledger.exists() else 0
    return Space(ledger.parent, payments_bytes_min=payments_bytes_min).lacking_bytes(Use.COPIES, needed)


def _compared(data: Path, heads: Sequence[Head]) -> tuple[int, str]:
    """How many records the live journal has more than a copy, and what contradicts it."""
    from edgegw.commands.ledger import open_reader

    with open_reader(data) as live:
        behind = 0
        for head in heads:
            here = live.head(head.epoch)
            if here is None or here.size < head.size:
                has = 0 if here is None else here.size
                return 0, f"the copy has {head.size} records of epoch {head.epoch}, the live journal {has}"
            behind = here.size - head.size
            if _root(live, head) != head.root:
                return 0, f"at {head.epoch}/{head.size} the copy's root is not the live journal's"
        return behind, ""


def _root(store: Store, head: Head) -> bytes:
    from edgegw.core.exchange import frontier_at

    return frontier_at(head.size, store.node(head.epoch, head.size)).root()


def _keep(data: Path, result: Drill) -> None:
    """Leave the result for the box's next start and for `edgegw status`."""
    from edgegw.replica.litestream import FOLDER
    from edgegw.replica.status import DRILL_NAME

    path = data / FOLDER / DRILL_NAME
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(msgspec.json.encode(result))
    fresh.replace(path)


# --- both ---------------------------------------------------------------------------------------------------


def _box_with_targets(path: Path, target: str) -> Box:
    """The settings; raises SettingsError where they have no such target."""
    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box

    box = load_box(path, protocol_shapes())
    names = [one.name for one in box.settings.replica.targets]
    if not names:
        raise SettingsError(str(path), ["replica.targets: none; there is no copy to take"])
    if target and target not in names:
        raise SettingsError("--target", [f"{target}: the settings have {', '.join(names)}"])
    return box


def _targets(box: Box, wanted: str) -> Iterator[Generations]:
    """The targets that are to be tried, in the order of the settings."""
    from edgegw.ledger.boot import LEDGER_NAME
    from edgegw.replica.copies import Ledger
    from edgegw.replica.generations import Generations

    table, data = box.settings.replica, Path(box.settings.data_dir)
    for target in table.targets:
        if not wanted or target.name == wanted:
            yield Generations(table, target, Ledger(data, data / LEDGER_NAME))


@contextmanager
def _scratch(data: Path, prefix: str) -> Iterator[Path]:
    """A folder on the ledger's disk that is gone afterwards, as are those of runs that were killed."""
    for left in data.glob(f"{prefix}*"):
        if not _in_use(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=data))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    """Whether the process that made a scratch folder lives."""
    owner = folder.name.split("-")[1]
    return owner.isdigit() and Path(f"/proc/{owner}").exists()


def _remove(path: Path) -> None:
    for suffix in (*_SIDECARS, ".tmp", "-txid"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
