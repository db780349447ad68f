"""`edgegw factory-reset`: a technician takes a box's identity and data away, so that it can be enrolled
anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegw.commands.enroll import config_option
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import Box, load_box
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from edgegw.access.keystore import KeyFile
    from edgegw.factory_reset import Lacking
    from edgegw.ledger.store import Store


@click.command("factory-reset")
@config_option
@click.option(
    "--exported",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `edgegw journal export` wrote of an epoch that the centre does not have; once for each.",
)
@click.option(
    "--export",
    "export_to",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder on another medium, as a stick's: what the centre does not have is written there first.",
)
@click.option(
    "--statement",
    "statement_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the box's signed statement of this reset; the centre checks it: edgegw hub ca destroyed.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def factory_reset(
    settings: Path, exported: tuple[Path, ...], export_to: Path | None, statement_file: Path | None, yes: bool
) -> None:
    """Destroy a box's keys, ledger, card vault, anchor and certificates, and tell the centre; settings stay.

    Refused while the box runs, and while its ledger has what the centre does not: records without its
    cosignature, payments that wait for its word. Bring the line up first, or name a folder on another medium
    with --export; what `edgegw journal export` wrote before counts with --exported. The files are verified,
    and the centre takes them with `edgegw order take-journal`.

    On an appliance the settings go as well, and its TPM is cleared: it comes up as it was flashed.

    \b
    Example: edgegw factory-reset --config box.toml --exported /media/usb/box-1.journal
             edgegw factory-reset --config /var/lib/edgegw/box.toml --export /run/edgegw-stick
    """
    from edgegw.factory_reset import clear_tpm, destroy_keys, forget, forget_settings, is_appliance
    from edgegw.key_places import keystore_of
    from edgegw.ledger.boot import LedgerLock

    box = load_box(settings, protocol_shapes())
    data = Path(box.settings.data_dir)
    data.mkdir(parents=True, exist_ok=True)
    lock = LedgerLock(data)
    try:
        _check(box, settings, exported, export_to)
        if not yes:
            click.confirm(f"Destroy keys and data of {box.settings.bank}/{box.settings.box}?", abort=True)
        # On its medium before the key goes: nobody could sign another one.
        draft = None if statement_file is None else _drafted(statement_file, _statement(box), data)
        click.echo(_left(box))
        destroyed = destroy_keys(box.settings, keystore_of(box.settings), _keys(box))
        forget(box.settings)
        cleared = clear_tpm(box.settings) if is_appliance(settings) else ""
    finally:
        lock.release()
    if statement_file is not None and draft is not None:
        draft.replace(statement_file)
        click.echo(f"{statement_file} says so, signed by the key that is gone: bring it to the centre.")
    click.echo(f"{len(destroyed)} files of keys are overwritten and removed.")
    click.echo("Ledger, anchor and certificates are gone.")
    for target in box.settings.replica.targets:
        click.echo(f"The copy at the replica's target {target.name} stays: take it away there.")
    if is_appliance(settings):
        forget_settings(box.settings, settings)
        for line in filter(None, (cleared, "The settings are gone.")):
            click.echo(line)
        click.echo("Tick `reset`. Next: switch the machine off and on; it waits for a claim then.")
        return
    click.echo(f"Tick `reset`. {settings} stays; for another box's claim, remove it. Next: edgegw enroll.")


def _drafted(file: Path, statement: str, data: Path) -> Path:
    """The statement on the disk, under a name that is not yet its own; raises KeyFileError and
    SettingsError."""
    from edgegw.access.key_files import replace_key_file

    if file.exists():
        raise SettingsError("--statement", [f"{file} is there already: give another name"])
    if data.resolve() in file.resolve().parents:
        raise SettingsError("--statement", [f"{file} lies in what is destroyed: give another folder"])
    draft = file.with_name(f".{file.name}.draft")
    replace_key_file(draft, statement.encode(), mode=0o644)
    return draft


def _statement(box: Box) -> str:
    """What the box says of its end; raises KeyFileError and PlaceAway."""
    from edgegw import __version__
    from edgegw.access.keys import open_signing_key
    from edgegw.commands.ledger import open_reader
    from edgegw.factory_reset import lacking
    from edgegw.key_places import device_key_file, keystore_of
    from edgegw.ledger.boot import LEDGER_NAME
    from edgegw.reset_statement import FORMAT, EndOfJournal, Statement, sign

    settings, journals = box.settings, []
    if (Path(settings.data_dir) / LEDGER_NAME).exists():
        with open_reader(Path(settings.data_dir)) as store:
            exported = {one.head.epoch for one in lacking(store, stand_ins=0)}
            for head in store.heads():
                kept = store.cosignature(head.epoch)
                end = EndOfJournal(
                    epoch=head.epoch,
                    size=head.size,
                    root=head.root.hex(),
                    centre_size=0 if kept is None else kept[0],
                    exported=head.epoch in exported,
                )
                journals.append(end)
    key = open_signing_key(keystore_of(settings), device_key_file(settings))
    statement = Statement(
        format=FORMAT,
        bank=settings.bank,
        box=settings.box,
        device_key=key.public.text(),
        version=__version__,
        at_s=int(time.time()),
        journals=tuple(journals),
    )
    return sign(statement, key)


def _check(box: Box, source: Path, exported: Sequence[Path], export_to: Path | None) -> None:
    """Raise OperatingError where something would be lost that nobody else has; export_to: where that may be
    written."""
    from edgegw.commands.ledger import open_reader, read_book
    from edgegw.factory_reset import lacking
    from edgegw.ledger.boot import LEDGER_NAME

    settings = box.settings
    if not (Path(settings.data_dir) / LEDGER_NAME).exists():
        return
    with open_reader(Path(settings.data_dir)) as store:
        book, _ = read_book(store, bank=settings.bank, box=settings.box)
        found = lacking(store, stand_ins=len(list(book.stand_ins.items())))
        left = _unproven(box, store, found, exported)
        if left and export_to is not None:
            left = _unproven(box, store, left, [_exported(box, store, one, export_to) for one in left])
    if left:
        raise OperatingError(
            "only this box has it: " + "; ".join(map(str, left)),
            hint="Let it reach the centre (`edgegw status` counts down). Where that cannot be:"
            f" edgegw factory-reset --config {source} --export FOLDER on another medium.",
        )


def _unproven(
    box: Box, store: Store, found: Sequence[Lacking], exported: Sequence[Path]
) -> Sequence[Lacking]:
    proven = set(_proven(box, store, exported))
    return [one for one in found if (one.head.epoch, one.head.size, one.head.root) not in proven]


def _exported(box: Box, store: Store, one: Lacking, folder: Path) -> Path:
    """An epoch's journal, written to the folder for good."""
    from edgegw.commands import progress_bar
    from edgegw.commands.ledger import write_journal

    output = folder / f"{box.settings.box}-epoch-{one.head.epoch}.journal"
    with progress_bar("exporting") as progress:
        write_journal(store, output, epoch=one.head.epoch, progress=progress)
    click.echo(f"{output}: {one.head.size} records of epoch {one.head.epoch}; bring it to the centre")
    return output


def _proven(box: Box, store: Store, exported: Sequence[Path]) -> Iterator[tuple[int, int, bytes]]:
    """Epoch, size and root of each export, verified by the epoch's own key; raises SettingsError."""
    from edgegw import verifier
    from edgegw.core.journal import journal_origin
    from edgegw.ledger.received import link_of
    from edgegw.pinned import hub_key

    hub, data = hub_key(box.settings), Path(box.settings.data_dir).resolve()
    for file in exported:
        if data in file.resolve().parents:
            raise SettingsError("--exported", [f"{file} lies in {data}, which is emptied: copy it elsewhere"])
        for head in store.heads():
            origin = journal_origin(bank=box.settings.bank, box=box.settings.box, epoch=head.epoch)
            box_key = verifier.key_of(link_of(store, head.epoch, None, hub_key=hub).key)
            try:
                figures, *_ = verifier.verify_journal(str(file), verifier.Keys((box_key,), None))
            except (verifier.Unverified, verifier.Usage):
                continue
            if figures["origin"] == origin and figures["size"] == head.size:
                yield head.epoch, head.size, bytes.fromhex(str(figures["root"]))
                break
        else:
            raise SettingsError(
                "--exported", [f"{file} is no whole export of an epoch of this ledger: export it again"]
            )


def _left(box: Box) -> str:
    """Tell the hub that the identity is given up, if it can be reached; what is to be said of that."""
    import msgspec

    from edgegw.access.key_files import KeyFileError
    from edgegw.access.places import PlaceAway
    from edgegw.core.enrolment import EnrolmentError
    from edgegw.enrolment import EnrolmentRefused, Holder, hub_time_of, leave, where_of
    from edgegw.key_places import keystore_of
    from edgegw.machine import MachineClock
    from edgegw.pinned import hub_key

    settings = box.settings
    ask = f"have the centre revoke it: edgegw hub ca revoke {settings.box}"
    if settings.enrolment is msgspec.UNSET:
        return f"This box was not enrolled; its key is pinned in the hub's settings: {ask}"
    try:
        where, time = where_of(settings), hub_time_of(settings, MachineClock())
        holder = Holder(settings, keystore_of(settings), hub_key(settings), time)
        if where is not None:
            asyncio.run(leave(holder, where=where))
    except EnrolmentRefused as problem:
        return f"This identity counts no more already: {problem}"
    except (OperatingError, KeyFileError, PlaceAway, EnrolmentError, SettingsError) as problem:
        return f"The centre does not know yet that this identity is given up ({problem}): {ask}"
    return "The centre has revoked this identity."


def _keys(box: Box) -> Iterator[KeyFile]:
    """Every private key of the box and its ways in; raises SettingsError."""
    from edgegw import card_vault, key_places
    from edgegw.access.checkpoint_keys import next_file
    from edgegw.payments import protocols
    from edgegw.payments.vault import SecretFileError

    yield key_places.device_key_file(box.settings)
    yield key_places.checkpoint_key_file(box.settings)
    yield next_file(key_places.checkpoint_key_file(box.settings))
    yield key_places.webhook_key_file(box.settings)
    yield key_places.token_key_file(box.settings)
    yield from key_places.tls_key_files(box)
    yield from card_vault.vault_keys(box.settings, key_places.keystore_of(box.settings)).files()
    known = protocols.discover()
    for name, options in box.protocols.items():
        try:
            yield from known[name].key_files(options)
        except SecretFileError as problem:
            raise SettingsError(f"[{name}]", [str(problem)]) from None
