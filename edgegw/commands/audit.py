"""What an auditor is given: the audit export, receipts, proofs between heads. The ledger is only read.

Checking it is `edgegw verify`, or `edgegw/verifier.py` copied to a machine that trusts nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgegw.commands import progress_bar
from edgegw.commands.ledger import directory_of, open_reader
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from edgegw.ledger.store import Store

_output_option = click.option(
    "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write."
)
_place_argument = click.argument("place", default="box.toml", type=click.Path(exists=True, path_type=Path))
_box_option = click.option("--box", default="", help="With a mirror's settings: which box's journal.")


@contextmanager
def _reader(place: Path, box: str) -> Iterator[Store]:
    """The ledger of a box's settings, of one box in a mirror's, or of a data directory."""
    with open_reader(place if place.is_dir() else directory_of(place, box)) as store:
        yield store


@click.command("export")
@_place_argument
@_box_option
@_output_option
def export(place: Path, box: str, output: Path) -> None:
    """Write the whole ledger to a SQLite file with plain tables in which each record carries its proof.

    PLACE is a box's settings, a mirror's, or a data directory. A box or mirror may run meanwhile. The file
    opens in any SQLite tool; `edgegw verify export` proves every row of it. In the view `receipt` each record
    has its receipt.

    Example: edgegw export box.toml --output audit.db
    """
    from edgegw.audit.database import export_database
    from edgegw.ledger.space import Space

    with _reader(place, box) as store, progress_bar("exporting") as progress:
        # Measured: an export is one and a half times as large as its ledger.
        Space(store.path.parent).check_output(output, 2 * store.pruned.file_size().size)
        written = export_database(store, output, progress=progress)
    size = f"{written.bytes / 1e6:.1f} MB"
    click.echo(f"{output}: {written.records} records of {written.epochs} epochs, {size}")


@click.command("receipt")
@_place_argument
@_box_option
@click.option("--record", required=True, help="The record's place, EPOCH/SEQ, as answers name it.")
@_output_option
def journal_receipt(place: Path, box: str, record: str, output: Path) -> None:
    """Write the receipt of one record: `edgegw verify receipt` checks it without this box.

    Example: edgegw journal receipt box.toml --record 1/17 --output receipt.json
    """
    from edgegw.core.records import parse_place
    from edgegw.ledger.receipts import receipt_of

    try:
        epoch, seq = parse_place(record)
    except ValueError:
        raise SettingsError("--record", [f"{record!r} is no place: EPOCH/SEQ, as 1/17"]) from None
    with _reader(place, box) as store:
        receipt = receipt_of(store, epoch=epoch, seq=seq)
    if receipt is None:
        raise SettingsError("--record", [f"there is no record {record} in this ledger"])
    output.write_bytes(msgspec.json.encode(receipt) + b"\n")
    click.echo(f"{output}: record {record} among {receipt.size}")


@click.command("checkpoint")
@_place_argument
@_box_option
@click.option("--epoch", default=0, help="The epoch; the newest when it is not given.")
@_output_option
def journal_checkpoint(place: Path, box: str, epoch: int, output: Path) -> None:
    """Write the newest signed checkpoint, to be kept elsewhere: later nobody can deny what it covers.

    Example: edgegw journal checkpoint box.toml --output today.note
    """
    from edgegw.ledger.receipts import newest_head

    with _reader(place, box) as store:
        head = newest_head(store, epoch)
    output.write_text(head.checkpoint, encoding="utf-8")
    click.echo(f"{output}: {head.size} records of epoch {head.epoch}")


@click.command("proof")
@_place_argument
@_box_option
@click.option("--from", "old", required=True, help="The older size, or the file of its checkpoint.")
@click.option("--epoch", default=0, help="With a size: its epoch; the newest when it is not given.")
@click.option(
    "--checkpoint",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write the newest checkpoint to, to which the proof leads.",
)
@_output_option
def journal_proof(place: Path, box: str, old: str, epoch: int, checkpoint: Path, output: Path) -> None:
    """Write the newest checkpoint, and the proof that it only continues an older one.

    `edgegw verify checkpoints OLD NEW --proof FILE` checks both without this box.

    Example: edgegw journal proof box.toml --from old.note --checkpoint new.note --output proof.json
    """
    from edgegw.core.journal import ProofError
    from edgegw.ledger.receipts import consistency_of, newest_head

    epoch, old_size, old_root = _older(old, epoch)
    with _reader(place, box) as store:
        head = newest_head(store, epoch)
        try:
            proof = consistency_of(store, head, old_size=old_size, old_root=old_root)
        except ProofError as problem:
            raise SettingsError("--from", [str(problem)]) from None
    checkpoint.write_text(head.checkpoint, encoding="utf-8")
    output.write_bytes(proof)
    click.echo(
        f"{output}: epoch {head.epoch} from {old_size} to {head.size} records; {checkpoint}: the newer"
    )


def _older(old: str, epoch: int) -> tuple[int, int, bytes | None]:
    """Epoch, size and root (None: not said) of `--from`; raises SettingsError."""
    from edgegw.core.journal import NoteError, parse_checkpoint

    if old.isdecimal():
        return epoch, int(old), None
    try:
        head = parse_checkpoint(Path(old).read_bytes())[0]
        return int(head.origin.rpartition("/")[2]), head.size, head.root
    except (OSError, NoteError, ValueError) as problem:
        raise SettingsError("--from", [f"{old!r} is no size and no checkpoint: {problem}"]) from None
