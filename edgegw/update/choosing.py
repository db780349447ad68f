"""Which release a box takes: from signed metadata and what the box is to one release, or to why none.

Pure. A release that is refused for being older, known to fail or of another content under the same number is
said, so that a replay is seen. Leaves out who signed the metadata (`update.trusted`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple

import msgspec

from edgegw.update.state import Release, State
from edgegw.update.versions import PATTERN, version_of

BOXES_MAX: Final = 10_000
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """Which boxes take a release by themselves: those named, and so many of a hundred of the others."""

    percent: Percent = 100
    boxes: Annotated[tuple[str, ...], msgspec.Meta(max_length=BOXES_MAX)] = ()

    def includes(self, version: str, *, box: str) -> bool:
        """Whether this box is among them. Each version draws anew, and a higher share keeps all of a lower
        one."""
        if box in self.boxes:
            return True
        drawn = int.from_bytes(hashlib.sha256(f"{version}\n{box}".encode()).digest()[:8], "big") % 100
        return drawn < self.percent


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What the signed metadata says of a bundle beside its length and hash."""

    version: Annotated[str, msgspec.Meta(pattern=PATTERN)]
    compatible: str
    security_epoch: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    schema: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    """Of the ledger that its program writes."""
    readable_from: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    """The oldest schema whose programs open that ledger."""
    rollout: Rollout = Rollout()


class Target(NamedTuple):
    """A bundle of the signed metadata."""

    path: str
    length: int
    sha256: str
    offer: Offer

    @property
    def release(self) -> Release:
        """It, as it is remembered."""
        return Release(
            version=self.offer.version,
            sha256=self.sha256,
            security_epoch=self.offer.security_epoch,
            length=self.length,
        )


class Machine(NamedTuple):
    """What the box is now."""

    version: str
    compatible: str
    security_epoch: int
    """The highest that this machine knows of, wherever that is kept."""
    schema: int
    """The newest schema of a ledger that the running program reads."""
    box: str = ""


class Chosen(NamedTuple):
    """The release to take, or none; `alarms` are what somebody should look at."""

    target: Target | None
    alarms: tuple[str, ...] = ()


def choose(targets: Iterable[Target], machine: Machine, state: State, *, by_hand: bool) -> Chosen:
    """The newest release that this machine may take. by_hand: whoever asks stands for the rollout."""
    alarms: list[str] = []
    best: Target | None = None
    for target in targets:
        if target.offer.compatible != machine.compatible:
            continue
        refusal = why_not(target, machine, state)
        if refusal:
            alarms.append(f"{target.offer.version}: {refusal}")
            continue
        if version_of(target.offer.version) <= _floor(machine, state) and not _mends(target, machine, state):
            continue
        if not by_hand and not target.offer.rollout.includes(target.offer.version, box=machine.box):
            continue
        if best is None or version_of(target.offer.version) > version_of(best.offer.version):
            best = target
    return Chosen(best, tuple(alarms))


def why_not(target: Target, machine: Machine, state: State) -> str:
    """Why this release is refused though it is newer, or claims to be what runs; "" where it is not. An older
    one is no fault: repositories keep them."""
    offer, version = target.offer, version_of(target.offer.version)
    same = state.committed is not None and state.committed.version == offer.version == machine.version
    if same and state.committed is not None and state.committed.sha256 not in ("", target.sha256):
        return "it has another content than the release of this number that runs here; give it a new number"
    if version <= _floor(machine, state) and not _mends(target, machine, state):
        return ""
    failed = state.has_failed(version=offer.version, sha256=target.sha256)
    if failed is not None:
        return f"it has failed here: {failed.why}; a mended release needs a new number"
    floor_epoch = max(machine.security_epoch, state.floor_epoch)
    if offer.security_epoch < floor_epoch:
        return f"its security epoch is {offer.security_epoch}, this box takes none below {floor_epoch}"
    if offer.readable_from > machine.schema:
        return (
            f"its ledger could not be opened again by {machine.version} (it needs schema"
            f" {offer.readable_from}, this one reads {machine.schema}); take a release in between first"
        )
    return ""


def _mends(target: Target, machine: Machine, state: State) -> bool:
    """Whether this is what was committed here, and the machine had to start from the slot before: it is put
    back where it was."""
    committed = state.committed
    return (
        committed is not None
        and committed.sha256 == target.sha256
        and committed.version == state.floor_version == target.offer.version
        and version_of(machine.version) < version_of(committed.version)
    )


def _floor(machine: Machine, state: State) -> tuple[int, ...]:
    running = version_of(machine.version)
    return max(running, version_of(state.floor_version)) if state.floor_version else running
