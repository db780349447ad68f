"""The box's side of TUF: from a repository that nobody trusts to releases that the offline keys have signed.

Owns the workflow (python-tuf's), its time and its bounds, and what each refusal means. Metadata that is older
than what was seen, that has ended, or whose parts do not belong together, is refused whole; what was believed
before stays. Leaves out bundles (`update.bundle`) and where files come from (`update.sources`).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgegw.errors import LinkDown, Next, OperatingError
from edgegw.update.choosing import Offer, Target
from edgegw.update.sources import NotThere, Source, TooLong

METADATA_DIR: Final = "metadata"
ROOT_NAME: Final = "update-root.json"
ROOT_PLACED: Final = "root.json"
CONFIG: Final = UpdaterConfig(
    max_root_rotations=256,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=5_000_000,
)
METADATA_BYTES_MAX: Final = 5_000_000
_ROOT_BYTES_MAX: Final = 512_000


class Untrusted(OperatingError):
    """The repository's metadata is not what the offline keys have signed, or not the newest of it."""

    code = "update_untrusted"
    next = Next.PAUSE
    default_hint = "Tell the centre: somebody changed the repository, or it was published in part."


class NoTrust(OperatingError):
    """This machine has no root of trust for updates."""

    code = "update_no_root"
    next = Next.PAUSE
    default_hint = "Place the centre's root: `edgegw update trust root.json`."


class _Fetcher(FetcherInterface):
    """Reads what the workflow asks for from a source, never more than any metadata may have."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            body = self._source.metadata(url.removeprefix("/"), bytes_max=METADATA_BYTES_MAX)
        except NotThere as problem:
            raise DownloadHTTPError(str(problem), 404) from None
        except TooLong as problem:
            raise DownloadLengthMismatchError(str(problem)) from None
        return iter((body,))


def trusted_root(folder: Path, image_root: Path) -> bytes:
    """The root that everything is believed by: the image's, else the one that was placed; raises NoTrust."""
    for path in (image_root, folder / ROOT_PLACED):
        try:
            with path.open("rb") as file:
                return file.read(_ROOT_BYTES_MAX)
        except FileNotFoundError:
            continue
        except OSError as problem:
            raise NoTrust(f"{path}: {problem.strerror}") from None
    raise NoTrust(f"neither {image_root} nor {folder / ROOT_PLACED} is there")


def believed(folder: Path, source: Source, *, root: bytes, now_s: float) -> tuple[Target, ...]:
    """The releases of a repository, by its newest metadata; what was seen is kept in the folder. Raises
    Untrusted, LinkDown and OSError."""
    cache = folder / METADATA_DIR
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        updater = Updater(str(cache), "", fetcher=_Fetcher(source), config=CONFIG, bootstrap=root)
        # The workflow's one moment is the box's, which no wrong clock has set.
        updater._trusted_set.reference_time = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
        updater.refresh()
        targets = updater._trusted_set.targets
    except DownloadLengthMismatchError as problem:
        raise Untrusted(f"{source.name}: metadata without end ({problem})") from None
    except DownloadError as problem:
        raise LinkDown(f"{source.name}: {_said(problem)}", hint="The agent tries again by itself.") from None
    except RepositoryError as problem:
        raise _refused(source, problem) from None
    except (ValueError, KeyError, TypeError) as problem:
        raise Untrusted(f"{source.name}: metadata that cannot be read ({problem})") from None
    return tuple(_targets(targets))


def _refused(source: Source, problem: RepositoryError) -> Untrusted:
    where = source.name
    if isinstance(problem, ExpiredMetadataError):
        return Untrusted(
            f"{where}: {problem}: the metadata is frozen, nobody has signed it afresh",
            hint="At the centre: `edgegw release refresh`; for a stick copy the repository anew. Where the"
            " box's clock is wrong, set it. Payments go on.",
        )
    if isinstance(problem, BadVersionNumberError):
        return Untrusted(
            f"{where}: {problem}: it is older than what this box has seen",
            hint="Publish the newest metadata; for a stick copy the repository anew. If nobody has set"
            " the repository back, this is a replay.",
        )
    if isinstance(problem, UnsignedMetadataError):
        return Untrusted(
            f"{where}: {problem}",
            hint="It is signed by other keys than this box's root names: publish every root since, in order.",
        )
    if isinstance(problem, LengthOrHashMismatchError):
        return Untrusted(f"{where}: parts that do not belong together ({problem})")
    return Untrusted(f"{where}: {problem}")


def _said(problem: DownloadError) -> str:
    return str(problem.__cause__ or problem)


def _targets(targets: Targets) -> Iterator[Target]:
    for path, file in sorted(targets.targets.items()):
        target = _target(path, file)
        if target is not None:
            yield target


def _target(path: str, file: TargetFile) -> Target | None:
    """A bundle as it is signed; None for what another version of this program will understand."""
    try:
        offer = msgspec.convert(file.custom or {}, Offer)
    except msgspec.ValidationError:
        return None
    sha256 = file.hashes.get("sha256", "")
    if len(sha256) != 64 or "/" in path:
        return None
    return Target(path=path, length=file.length, sha256=sha256, offer=offer)
