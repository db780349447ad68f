"""`edgegw enroll`: a technician gives a box its identity, by a claim of the centre's."""

from __future__ import annotations

import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegw.commands import SettingsPath, json_option, print_json
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import BoxSettings, load_box
from edgegw.config.keys import PlaceName
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from edgegw.core.enrolment import Claim, Enrolled
    from edgegw.enrolment import Holder

config_option = click.option(
    "--config",
    "settings",
    default="box.toml",
    show_default=True,
    type=SettingsPath,
    help="The box's settings.",
)
CLOCK_S_MAX = 60
"""What a machine's clock may be off without a word."""
DAY_S = 86_400


@click.command()
@config_option
@click.option(
    "--claim",
    "claim_file",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="The claim's file, or - for the QR code's text, scanned or typed.",
)
@click.option("--branch", default="", help="Where the box stands; a claim for another branch is refused.")
@click.option(
    "--place",
    default="files",
    show_default=True,
    type=click.Choice(typing.get_args(PlaceName)),
    help="Where the keys are to lie, in settings that are written anew.",
)
@json_option
def enroll(settings: Path, claim_file: Path, branch: str, place: str, as_json: bool) -> None:
    """Give a box its identity: it makes its keys, and the hub certifies them for a claim.

    Without settings there yet, they are written from the claim. Killed or without an answer at any moment,
    give the same command again: the keys stay the same, and so does the hub's answer. At the end the claim's
    file is destroyed; it was good once.

    \b
    Example: edgegw enroll --claim /media/usb/claim.json
             edgegw enroll --config box.toml --claim - --branch "Harbour Street"
    """
    from edgegw import by_claim
    from edgegw.core.enrolment import EnrolmentError
    from edgegw.enrolment import NOTHING_BOUND, EnrolmentRefused

    if _is_spent(claim_file) and _is_enrolled(settings):
        claim_file.unlink(missing_ok=True)  # where a kill came between the overwriting and this
        click.echo(f"{claim_file} is used, and the box of {settings} is enrolled: nothing is to be done")
        return
    claim = _claim(claim_file)
    is_new = not settings.exists()
    if is_new:
        by_claim.write_settings(settings, claim, keys={} if place == "files" else {"place": place})
    box = load_box(settings, protocol_shapes()).settings
    made = [path for path in by_claim.made_here(box) if not path.exists()]
    if (claim.bank, claim.box) != (box.bank, box.box):
        said = f"edgegw: the claim is for {claim.bank}/{claim.box}, and this is {box.bank}/{box.box}"
        click.echo(said, err=True)
    try:
        holder, enrolled = by_claim.enrol_by(box, claim, branch=branch or _branch_of(box) or claim.branch)
    except EnrolmentRefused as problem:
        if problem.refusal in NOTHING_BOUND:
            # The right claim is to find the machine as this one did.
            for path in [*made, *([settings] if is_new else [])]:
                path.unlink(missing_ok=True)
        raise
    except EnrolmentError as problem:
        raise OperatingError(
            f"the hub's answer cannot be used: {problem}", hint="Keep the claim, and tell the centre."
        ) from None
    kept = _destroyed(claim_file)
    if as_json:
        print_json(_as_json(holder, enrolled))
        return
    for line in _told(settings, holder, enrolled, is_new=is_new):
        click.echo(line)
    click.echo(kept)


def _claim(file: Path) -> Claim:
    """The claim in a file, or on standard input; raises SettingsError and OperatingError."""
    from edgegw.core.enrolment import CLAIM_BYTES_MAX, EnrolmentError, decode_claim

    try:
        if str(file) != "-":
            with file.open("rb") as opened:
                body = opened.read(CLAIM_BYTES_MAX + 1)
        elif sys.stdin.isatty():
            asked = "Scan the claim's QR code (it is not shown)"
            body = str(click.prompt(asked, hide_input=True)).encode()
        else:
            body = sys.stdin.buffer.readline(CLAIM_BYTES_MAX + 1)
        return decode_claim(body.strip())
    except OSError as problem:
        raise OperatingError(
            f"{file} cannot be read ({problem.strerror})", hint="Give the path of the claim's file."
        ) from None
    except EnrolmentError as problem:
        raise SettingsError(
            str(file), [f"{problem}; copy the claim again, or ask the centre for another"]
        ) from None


def _is_enrolled(settings: Path) -> bool:
    from edgegw import by_claim

    try:
        return settings.exists() and by_claim.is_enrolled(load_box(settings, protocol_shapes()).settings)
    except SettingsError:
        return False


def _destroyed(file: Path) -> str:
    """Overwrite the claim's file and take it away; what is to be said of it."""
    from edgegw import by_claim

    if str(file) == "-":
        return "The claim is used: destroy the paper or the screen that showed it."
    if problem := by_claim.destroy_claim(file):
        return f"The claim is used, but its file could not be destroyed ({problem}): destroy the medium."
    return f"The claim is used; its file {file} was overwritten and removed."


def _branch_of(box: BoxSettings) -> str:
    import msgspec

    return "" if box.enrolment is msgspec.UNSET else box.enrolment.branch


def _is_spent(claim_file: Path) -> bool:
    """Whether a claim's file is gone, or nothing but overwritten."""
    if str(claim_file) == "-":
        return False
    return not claim_file.exists() or not claim_file.read_bytes().strip(b"\0")


def _told(settings: Path, holder: Holder, enrolled: Enrolled, *, is_new: bool) -> Iterator[str]:
    """What a technician reads after an enrolment."""
    ends_s, now_s = holder.files.life().ends_s, holder.time.now_s()
    if is_new:
        yield f"{settings} was written from the claim."
    yield (
        f"{enrolled.bank}/{enrolled.box} is enrolled for branch {enrolled.branch or '-'}, as device"
        f" {enrolled.generation} of this box."
    )
    days = (ends_s - now_s) / DAY_S
    yield f"Its certificate ends at {_date(ends_s)} UTC, in {days:.0f} days; the running box renews it."
    ahead_s = holder.time.machine_ahead_s
    if abs(ahead_s) > CLOCK_S_MAX:
        side = "ahead of" if ahead_s > 0 else "behind"
        yield (
            f"This machine's clock is {_span(abs(ahead_s))} {side} the centre's, which says"
            f" {_date(now_s)} UTC: set it before the box takes payments."
        )
    yield f"Tick `enrolled`. Next: edgegw config check {settings}, then edgegw run {settings}."


def _as_json(holder: Holder, enrolled: Enrolled) -> dict[str, object]:
    return {
        "bank": enrolled.bank,
        "box": enrolled.box,
        "branch": enrolled.branch,
        "generation": enrolled.generation,
        "epoch": enrolled.epoch,
        "certificate_ends_s": int(holder.files.life().ends_s),
        "clock_ahead_s": round(holder.time.machine_ahead_s),
    }


def _date(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_s))


def _span(seconds: float) -> str:
    for name, length in (("years", 365 * DAY_S), ("days", DAY_S), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} seconds"
