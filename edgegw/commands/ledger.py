"""Reading a box's ledger from outside: the full check, exports, the verifier. Nothing here writes to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from edgegw.commands import ExitCode, json_option, print_json, progress_bar, settings_argument
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from edgegw.access.keys import VerifyingKey
    from edgegw.core.book import Book
    from edgegw.core.journal import Checkpoint
    from edgegw.core.key_policy import KeyPolicy
    from edgegw.ledger.batch import Tip
    from edgegw.ledger.check import Report
    from edgegw.ledger.store import Head, Store


@contextmanager
def open_reader(directory: Path) -> Iterator[Store]:
    """The ledger of a data directory, read-only, beside a running box or not; raises OperatingError."""
    from edgegw.ledger.boot import LEDGER_NAME
    from edgegw.ledger.store import Store

    path = directory / LEDGER_NAME
    if not path.exists():
        raise OperatingError(
            f"there is no ledger at {path}",
            hint="Give the data directory of a box that has run, or start the box with `edgegw run`.",
        )
    store = Store.open_reader(path)
    try:
        yield store
    finally:
        store.close()


def read_book(store: Store, *, bank: str, box: str) -> tuple[Book, Tip]:
    """The book as the ledger has it, signatures unchecked: what is well is `edgegw ledger check`'s to say."""
    from edgegw.core.journal import parse_checkpoint
    from edgegw.ledger.start import load

    def open_note(_: int, note: str) -> Checkpoint:
        return parse_checkpoint(note)[0]

    book, tip, _ = load(store, bank=bank, box=box, open_note=open_note, behind=True)
    return book, tip


# --- the full check -----------------------------------------------------------------------------------------


@click.group()
def ledger() -> None:
    """The box's ledger file.

    Example: edgegw ledger check box.toml
    """


@ledger.command("check")
@click.argument("place", default="box.toml", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--hub-key",
    default="",
    help="The hub's public key, one line or its file; the settings name it otherwise.",
)
@json_option
@click.pass_context
def ledger_check(ctx: click.Context, place: Path, hub_key: str, as_json: bool) -> None:
    """Read a whole ledger and say what is wrong: bytes, chain, tree, signatures, balances, snapshots.

    PLACE is the box's settings, or a data directory (then give --hub-key). A box may run meanwhile. Every
    record is replayed, and each snapshot must equal the replay at its place. Exit code 1 when something is
    wrong.

    Example: edgegw ledger check data --hub-key hub.pub
    """
    directory, pinned = _place(place, hub_key)
    with open_reader(directory) as store, progress_bar("checking") as progress:
        report = full_check(store, pinned, progress)
    if as_json:
        print_json(report)
    else:
        _show(directory, report)
    if not report.well:
        ctx.exit(ExitCode.FOUND)


def full_check(store: Store, hub: VerifyingKey, progress: Callable[[int, int], None]) -> Report:
    """What is wrong with a ledger of a box of this hub: every byte, signature and balance."""
    from edgegw.ledger.check import check
    from edgegw.ledger.replay import Replay

    return check(
        store,
        verify_checkpoint=_Notes(store, hub).checkpoint,
        verify_cosignature=hub.check_cosignature,
        progress=progress,
        replay=Replay(store, bank=store.meta("bank") or "", box=store.meta("box") or "").take,
    )


def _show(directory: Path, report: Report) -> None:
    what = f"{report.records} records in {report.epochs} epochs, {report.directives} directives"
    if report.pruned:
        what += f", from behind {report.pruned} pruned records on"
    click.echo(f"{directory}: {what}: {'well' if report.well else f'{report.problems} problems'}")
    for finding in report.findings:
        click.echo(str(finding))
    if report.first_bad_record:
        click.echo(f"the first bad record is {report.first_bad_record}; the hub or a backup has the rest")


def _place(place: Path, hub_key: str) -> tuple[Path, VerifyingKey]:
    """The data directory and the hub's pinned key."""
    if place.is_dir():
        if not hub_key:
            raise SettingsError(
                str(place), ["--hub-key is missing: whose word the ledger is cannot be taken from itself"]
            )
        return place, _key(hub_key)
    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box
    from edgegw.pinned import hub_key as pinned_key

    settings = load_box(place, protocol_shapes()).settings
    return Path(settings.data_dir), _key(hub_key) if hub_key else pinned_key(settings)


def _key(text: str) -> VerifyingKey:
    from edgegw.access.keys import VerifyingKey, load_verifying_key

    if "+" not in text:
        return load_verifying_key(Path(text))
    try:
        return VerifyingKey.parse(text)
    except ValueError as problem:
        raise SettingsError("--hub-key", [str(problem)]) from None


class _Notes:
    """Opens checkpoints of both logs: a journal's by the key in its epoch's link, which the hub has
    signed."""

    def __init__(self, store: Store, hub: VerifyingKey) -> None:
        self._store = store
        self._hub = hub

    def checkpoint(self, note: str) -> Checkpoint:
        """The checkpoint that its author has signed; raises NoteError."""
        from edgegw.core.journal import parse_checkpoint

        epoch = _epoch_of(parse_checkpoint(note)[0].origin)
        return self._hub.open(note) if epoch is None else self._policy(epoch).open(note)

    def _policy(self, epoch: int) -> KeyPolicy:
        from edgegw.access.keys import VerifyingKey
        from edgegw.core.journal import NoteError
        from edgegw.core.messages import ExchangeError
        from edgegw.ledger.received import policy_of

        try:
            return policy_of(self._store, epoch, None, hub_key=self._hub, parse=VerifyingKey.parse)
        except ExchangeError as problem:
            raise NoteError(str(problem)) from None


def _epoch_of(origin: str) -> int | None:
    """The epoch of a journal's origin; None for the hub's log."""
    parts = origin.split("/")
    return None if len(parts) != 4 or not parts[3].isdigit() else int(parts[3])


# --- exports ------------------------------------------------------------------------------------------------


@click.group()
def journal() -> None:
    """The box's journal, for auditors.

    Example: edgegw journal export box.toml --output branch-1.journal
    """


@journal.command("export")
@settings_argument
@click.option(
    "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write."
)
@click.option("--epoch", default=0, help="The epoch; the newest when it is not given.")
@click.option("--box", default="", help="With a mirror's settings: whose journal; its only box's otherwise.")
@click.option(
    "--directives", is_flag=True, help="The hub's log for this box instead; --epoch is its incarnation."
)
def journal_export(settings: Path, output: Path, epoch: int, box: str, directives: bool) -> None:
    """Write a journal to a file that `edgegw verify` checks without this box and without trust in it.

    SETTINGS is a box's file, or a mirror's, which has the journal of a box that is lost. Records stand there
    verbatim, with the signed checkpoint and the newest cosignature: the hub's, or the mirror's own. A box or
    mirror may run meanwhile.

    Example: edgegw journal export mirror.toml --box branch-1 --output branch-1.journal
    """
    from edgegw.ledger import export

    with open_reader(directory_of(settings, box)) as store, progress_bar("exporting") as progress:
        if directives:
            number = epoch or max((end.incarnation for end in store.directives_ends()), default=0)
            with _output(store, output) as file:
                end = export.export_directives(store, file, incarnation=number, progress=progress)
            what = f"{end.size} directives of incarnation {number}"
        else:
            number = epoch or max((head.epoch for head in store.heads()), default=0)
            head = write_journal(store, output, epoch=number, progress=progress)
            what = f"{head.size} records of epoch {number}"
    click.echo(f"{output}: {what}")


def write_journal(store: Store, output: Path, *, epoch: int, progress: Callable[[int, int], None]) -> Head:
    """Write the journal of an epoch to a file, whole and fsynced or not at all; raises OSError and
    OperatingError."""
    from edgegw.ledger.export import export_journal

    with _output(store, output) as file:
        return export_journal(store, file, epoch=epoch, progress=progress)


@contextmanager
def _output(store: Store, output: Path) -> Iterator[BinaryIO]:
    """A file that gets its name once what was written to it is on the disk: the ledger may be destroyed
    then."""
    from edgegw.access.key_files import sync_folder
    from edgegw.ledger.space import Space

    draft = output.with_name(f".{output.name}.new")
    with draft.open("wb") as file:
        Space(store.path.parent).check_output(output, store.pruned.file_size().size)
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(output)
    sync_folder(output.absolute().parent)


def directory_of(settings: Path, box: str) -> Path:
    """Where the ledger of a box's settings is, or of one box in a mirror's."""
    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box
    from edgegw.config.files import read_toml
    from edgegw.config.mirror import load_mirror

    if not isinstance(read_toml(settings).get("mirror"), str):
        if box:
            raise SettingsError("--box", [f"{settings} is a box's own file; give it without --box"])
        return Path(load_box(settings, protocol_shapes()).settings.data_dir)
    mirror = load_mirror(settings)
    names = sorted(mirror.boxes)
    if not box and len(names) > 1:
        raise SettingsError("--box", [f"the mirror has several; give one of {', '.join(names)}"])
    if box and box not in names:
        raise SettingsError("--box", [f"{box}: the mirror keeps {', '.join(names)}"])
    return Path(mirror.data_dir) / (box or names[0])


@click.command(
    "verify",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="Verify a journal, a receipt, two checkpoints or an audit export with the keys alone.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def verify(ctx: click.Context, arguments: Sequence[str]) -> None:
    """Verify a journal, a receipt, two checkpoints or an audit export with the keys alone, by the stand-alone
    verifier."""
    from edgegw import verifier

    ctx.exit(verifier.main(list(arguments)))
