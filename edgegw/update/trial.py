"""Trials: the one boot in which a new image must show that it is well, and what is made of how it ended.

What decides is written before it is done, so that each step may be the last one before a power cut: the
slot that was committed stays the first of the boot order until the new one is well. A committed slot is
never restarted for being unwell: there is nothing better to go to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec
import structlog

from edgegw.update.health import why_unwell
from edgegw.update.machine import Surroundings
from edgegw.update.rauc import Slots
from edgegw.update.state import (
    TRIALS_MAX,
    Attempt,
    Failed,
    Release,
    State,
    StateUnreadable,
    Word,
    set_aside,
)
from edgegw.update.versions import version_of

POLL_S: Final = 2.0
Verdict = Literal["none", "kept", "left", "stays"]
"""`none`: this boot is no trial. `kept`: it is committed. `left`: the machine restarts into the slot before.
`stays`: unwell, and nowhere better to go."""

_log = structlog.get_logger("edgegw.update")


def is_trial(attempt: Attempt | None, slots: Slots, *, boot_id: str) -> bool:
    """Whether the boot that runs is the trial of this attempt."""
    return attempt is not None and attempt.boot_id != boot_id and attempt.slot == slots.booted


def remembered(here: Surroundings) -> State:
    """What is remembered; where that cannot be read, only image and firmware know floors. Raises OSError."""
    try:
        return here.store.read()
    except StateUnreadable as problem:
        _log.error("state_unreadable", problem=str(problem))
        set_aside(here.store.folder)
        return here.store.write(State())


def is_unkept(here: Surroundings, state: State, slots: Slots) -> bool:
    """Whether the boot that runs waits for a verdict of which nothing is written down: another slot is first
    in the order, and this one is not what the machine came back to. With an attempt of this boot the other
    slot is first because it is to be tried."""
    is_older = bool(state.floor_version) and version_of(here.image.version) < version_of(state.floor_version)
    return state.attempt is None and slots.first not in ("", slots.booted) and not is_older


def settle(here: Surroundings, state: State, slots: Slots) -> State:
    """The state after what an earlier boot left of an attempt: a trial that fell back, or an installation
    that the power cut. What runs as a trial is left to `judge`; raises OSError."""
    attempt = state.attempt
    boot_id = here.boot_id()
    if attempt is None or attempt.boot_id == boot_id or attempt.slot == slots.booted:
        return state
    state = msgspec.structs.replace(state, attempt=None)
    release = attempt.release
    if attempt.phase != "trial":
        _log.warning("installation_cut", version=release.version)
        return here.store.write(state)
    trials = state.interrupted.get(release.sha256, 0) + 1
    interrupted = {**state.interrupted, release.sha256: trials}
    state = msgspec.structs.replace(state, interrupted=interrupted)
    _log.warning("trial_without_verdict", version=release.version, trials=trials)
    if trials >= TRIALS_MAX:
        why = f"{trials} trials ended without a word of it, and the machine came up in the slot before"
        state = _failed(here, state, attempt, why)
    return here.store.write(state)


def judge(here: Surroundings, *, pause: Callable[[float], None] = time.sleep) -> Verdict:
    """Keep the image of a boot on trial once it is well on this machine, else go back, once. Raises
    RaucFailed and OSError."""
    state, slots = remembered(here), here.rauc.slots()
    attempt = state.attempt
    if attempt is None or not is_trial(attempt, slots, boot_id=here.boot_id()):
        return _unrecorded(here, settle(here, state, slots), slots, pause)
    why = _wait_until_well(here, attempt, pause)
    if not why:
        _keep(here, state, attempt, slots)
        return "kept"
    is_committed = slots.first == slots.booted
    state = _failed(here, msgspec.structs.replace(state, attempt=None), attempt, why)
    tell(here, here.store.write(state), slots)
    _log.error("trial_failed", version=attempt.release.version, problem=why, stays=is_committed)
    if is_committed:
        return "stays"
    here.restart()
    return "left"


def _unrecorded(here: Surroundings, state: State, slots: Slots, pause: Callable[[float], None]) -> Verdict:
    """A boot of which nothing was written down. Where it is not the first of the order all the same (the
    state was lost, or RAUC was used by hand), it is kept once it is well, unless it is older than what was
    committed here; it is never restarted."""
    tell(here, state, slots)
    image = here.image
    if not is_unkept(here, state, slots) or image.security_epoch < state.floor_epoch:
        return "none"
    release = Release(version=image.version, sha256="", security_epoch=image.security_epoch)
    attempt = Attempt(release=release, phase="trial", slot=slots.booted)
    if why := _wait_until_well(here, attempt, pause):
        _log.error("not_kept", version=image.version, problem=why)
        return "stays"
    _keep(here, state, attempt, slots)
    return "kept"


def _wait_until_well(here: Surroundings, attempt: Attempt, pause: Callable[[float], None]) -> str:
    """Ask until the box is well, or for as long as the settings say; why it is not, "" where it is."""
    began_s, paused_s = time.monotonic(), 0.0
    while True:
        why = why_unwell(here.ask(), here.box(), attempt)
        # A box that hangs takes its time over each question, too.
        if not why or max(paused_s, time.monotonic() - began_s) >= here.table.commit_seconds:
            return why
        pause(POLL_S)
        paused_s += POLL_S


def _keep(here: Surroundings, state: State, attempt: Attempt, slots: Slots) -> None:
    """First the boot order, then what is remembered: a power cut in between is another trial of what is
    first already."""
    release = attempt.release
    here.rauc.keep()
    floor = state.floor_version
    if not floor or version_of(release.version) > version_of(floor):
        floor = release.version
    interrupted = {key: count for key, count in state.interrupted.items() if key != release.sha256}
    state = here.store.write(
        msgspec.structs.replace(
            state,
            attempt=None,
            committed=release,
            floor_version=floor,
            floor_epoch=max(state.floor_epoch, release.security_epoch),
            interrupted=interrupted,
            problem="",
            hint="",
        )
    )
    raise_epoch(here, state)
    tell(here, state, slots)
    _log.info("committed", version=release.version, slot=slots.booted)


def raise_epoch(here: Surroundings, state: State) -> None:
    """Let the firmware remember the epoch of what is committed, also after a power cut that came between."""
    try:
        here.variable.raise_to(state.floor_epoch)
    except OSError as problem:
        _log.warning("epoch_not_kept", epoch=state.floor_epoch, problem=str(problem))


def _failed(here: Surroundings, state: State, attempt: Attempt, why: str) -> State:
    release = attempt.release
    failed = Failed(version=release.version, sha256=release.sha256, why=why, at_s=int(here.now_s()))
    _log.error("release_failed", version=release.version, problem=why)
    return state.with_failed(failed)


def tell(here: Surroundings, state: State, slots: Slots | None) -> Word:
    """Put the agent's word where box and operator read it; raises OSError."""
    attempt = state.attempt
    word = Word(
        version=here.image.version,
        slot="" if slots is None else slots.booted,
        security_epoch=here.image.security_epoch,
        floor_version=state.floor_version,
        floor_epoch=max(state.floor_epoch, here.floor_epoch),
        phase="idle" if attempt is None else attempt.phase,
        target="" if attempt is None else attempt.release.version,
        failed=state.failed,
        checked_s=state.checked_s,
        problem=state.problem,
        hint=state.hint,
    )
    here.store.tell(word)
    return word
