"""The agent: from what the centre has published to a box that restarts into it, one step after the other.

Each look begins anew from what is on disk, so that it can be ended at any moment. An image is written into
the other slot only when the box may restart, because from then on every restart is the trial. Leaves out
trials themselves (`update.trial`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec
import structlog

from edgegw.errors import LinkDown, OperatingError
from edgegw.update.bundle import Cut, NoRoom, WrongBundle
from edgegw.update.choosing import Machine, Target, choose
from edgegw.update.files import alone
from edgegw.update.machine import Surroundings
from edgegw.update.rauc import RaucFailed, Slots
from edgegw.update.sources import Source
from edgegw.update.state import Attempt, Failed, Release, State
from edgegw.update.trial import is_trial, is_unkept, raise_epoch, remembered, settle, tell
from edgegw.update.trusted import NoTrust, Untrusted, believed, trusted_root
from edgegw.update.windows import why_wait
from edgegw.zones import UnknownZone, load_zone

UTC_ZONE: Final = "UTC"
STALE_S: Final = 14 * 86_400
"""As long as metadata lives; a shorter outage is the line's business."""
End = Literal["nothing", "trial", "waits", "armed", "restarts", "refused", "away", "busy"]
"""`nothing` newer is there. `trial`: the boot that runs is one. `waits` for its time. `armed`: the next boot
is the trial. `restarts` now. `refused`: something is wrong with what is offered. `away`: not to be had.
`busy`: another process of this machine is at it."""

_log = structlog.get_logger("edgegw.update")


class Outcome(NamedTuple):
    """How a look ended."""

    end: End
    said: str = ""
    hint: str = ""
    version: str = ""


class Order(NamedTuple):
    """Who asks for the look. by_hand: a person, or their tool: neither hours nor rollout hold it up."""

    by_hand: bool = False
    restart: bool = True
    """Whether the agent restarts the machine itself."""
    version: str = ""
    """The one release that is meant; "": the newest."""


class Agent:
    """The agent of one machine. stopped: asked now and then while it works."""

    def __init__(self, here: Surroundings, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._here = here
        self._stopped = stopped

    def look(self, source: Source, order: Order) -> Outcome:
        """Take the newest release that there is, as far as it may be taken now; raises OSError and RaucFailed
        where the machine itself fails, AtWork where another process is at it."""
        with alone(self._here.store.folder):
            return self._look(source, order)

    def _look(self, source: Source, order: Order) -> Outcome:
        here = self._here
        slots, state = here.rauc.slots(), remembered(here)
        state = settle(here, state, slots)
        raise_epoch(here, state)
        if is_trial(state.attempt, slots, boot_id=here.boot_id()):
            tell(here, state, slots)
            return Outcome("trial", "the image that runs is on trial")
        if is_unkept(here, state, slots):
            # The other slot is all that the machine can come back to.
            tell(here, state, slots)
            return Outcome("trial", "the image that runs is not kept", "Restart the machine.")
        if state.attempt is not None and state.attempt.phase == "trial":
            return self._go(state, slots, state.attempt, order)
        try:
            return self._newer(state, slots, source, order)
        except (Untrusted, NoTrust, WrongBundle) as problem:
            return self._told("refused", problem, slots)
        except (LinkDown, NoRoom, Cut) as problem:
            return self._told("away", problem, slots)

    def _newer(self, state: State, slots: Slots, source: Source, order: Order) -> Outcome:
        here = self._here
        root = trusted_root(here.store.folder, here.root_file)
        now_s = max(here.now_s(), float(here.image.built_s))
        targets = believed(here.store.folder, source, root=root, now_s=now_s)
        if order.version:
            targets = tuple(one for one in targets if one.offer.version == order.version)
        chosen = choose(targets, self._machine(), state, by_hand=order.by_hand)
        problem = "; ".join(chosen.alarms)
        hint = "`edgegw update status` lists what has failed here." if problem else ""
        state = msgspec.structs.replace(state, checked_s=int(now_s), problem=problem, hint=hint)
        here.store.write(state)
        if chosen.target is None:
            tell(here, state, slots)
            if order.version not in ("", here.image.version) and not problem:
                said = (
                    f"{order.version} is not offered to this machine, or is older than {here.image.version}"
                )
                return Outcome("refused", said, "`edgegw release show` at the centre says what is offered.")
            return Outcome("refused" if problem else "nothing", problem, hint)
        return self._take(state, slots, chosen.target, source, order)

    def _machine(self) -> Machine:
        image = self._here.image
        return Machine(
            version=image.version,
            compatible=image.compatible,
            security_epoch=self._here.floor_epoch,
            schema=self._here.schema,
            box=self._here.box_name,
        )

    def _take(self, state: State, slots: Slots, target: Target, source: Source, order: Order) -> Outcome:
        here, release, box = self._here, target.release, self._here.box()
        if box is not None and box.why_spared and not order.by_hand:
            hint = "`edgegw health` at the box says what it lacks; a person's order does not wait."
            return Outcome("waits", f"the machine has nothing left for it: {box.why_spared}", hint)
        if here.bundle.has(release):
            # Until its time it is not read again: that is a hash of all of it, each minute of a day.
            if why := self._why_wait(order):
                return self._waits(state, slots, release, why)
        else:
            self._tell_download(state, slots, release)
        here.bundle.fetch(source, release, path=target.path, cancelled=self._stopped)
        wrong = self._mismatch(target)
        if wrong:
            failed = Failed(version=release.version, sha256=release.sha256, why=wrong, at_s=int(here.now_s()))
            state = msgspec.structs.replace(state.with_failed(failed), problem=wrong)
            tell(here, here.store.write(state), slots)
            return Outcome("refused", wrong, "Tell the centre.", release.version)
        if why := self._why_wait(order):
            return self._waits(state, slots, release, why)
        return self._install(state, slots, release, order)

    def _waits(self, state: State, slots: Slots, release: Release, why: str) -> Outcome:
        tell(self._here, state, slots)
        return Outcome("waits", why, "It is here and restarts when it may.", release.version)

    def _mismatch(self, target: Target) -> str:
        """What RAUC's own signature says otherwise than the metadata; "" where they agree. Raises RaucFailed
        where RAUC said nothing: a busy machine must not take a good release for a failed one for ever."""
        try:
            facts = self._here.rauc.facts(self._here.bundle.path)
        except RaucFailed as problem:
            if not problem.is_answer:
                raise
            return f"RAUC refuses the bundle: {problem}"
        signed = (target.offer.version, target.offer.compatible)
        if (facts.version, facts.compatible) != signed:
            return f"the bundle's own manifest says {facts.version} for {facts.compatible}, not {signed[0]}"
        return ""

    def _install(self, state: State, slots: Slots, release: Release, order: Order) -> Outcome:
        here = self._here
        if not slots.other:
            return self._told("refused", RaucFailed("there is no other slot"), slots)
        if not here.boot_id():
            # Without it nobody could tell the trial from the boot that prepared it.
            return self._told("refused", RaucFailed("the kernel does not say which boot this is"), slots)
        answer, box = here.ask(), here.box()
        attempt = Attempt(
            release=release,
            phase="installing",
            slot=slots.other,
            boot_id=here.boot_id(),
            was_ready=answer.ready,
            mode="" if box is None else box.mode,
        )
        # Before the first byte: from RAUC's last step on the machine may boot the other slot at any moment.
        state = here.store.write(msgspec.structs.replace(state, attempt=attempt))
        tell(here, state, slots)
        try:
            if answer.alive and slots.first not in ("", slots.booted):
                # What came first could not be started: a trial there must have this slot to come back to.
                here.rauc.keep()
            here.rauc.install(here.bundle.path, progress=_logged)
        except RaucFailed as problem:
            # It stays on record: RAUC may go on by itself, and its last step makes the next boot a trial.
            return self._told("refused", problem, slots)
        attempt = msgspec.structs.replace(attempt, phase="trial")
        state = here.store.write(msgspec.structs.replace(state, attempt=attempt))
        tell(here, state, slots)
        _log.info("installed", version=release.version, slot=slots.other)
        return self._go(state, slots, attempt, order)

    def _go(self, state: State, slots: Slots, attempt: Attempt, order: Order) -> Outcome:
        """Restart into the image that is ready, if that may be now."""
        version = attempt.release.version
        if not order.restart:
            return Outcome("armed", f"the next boot tries {version}", "Restart the machine.", version)
        why = self._why_wait(order)
        if why:
            tell(self._here, state, slots)
            return Outcome("waits", why, "It is installed; every restart is its trial.", version)
        self._here.restart()
        return Outcome("restarts", f"into {version} in slot {attempt.slot}", "", version)

    def _why_wait(self, order: Order) -> str:
        here, box = self._here, self._here.box()
        try:
            zone = load_zone(box.zone if box is not None and box.zone else UTC_ZONE)
        except UnknownZone:
            zone = load_zone(UTC_ZONE)
        return why_wait(here.table, box, now_s=here.now_s(), zone=zone, by_hand=order.by_hand)

    def _tell_download(self, state: State, slots: Slots, release: Release) -> None:
        """Of a download alone the word tells, not the state: it goes on by itself from its bytes."""
        attempt = Attempt(release=release, phase="downloading")
        tell(self._here, msgspec.structs.replace(state, attempt=attempt), slots)

    def _told(self, end: End, problem: OperatingError, slots: Slots) -> Outcome:
        here = self._here
        state = here.store.read()
        if not isinstance(problem, LinkDown | Cut) or self._is_stale(state):
            state = here.store.write(msgspec.structs.replace(state, problem=str(problem), hint=problem.hint))
        tell(here, state, slots)
        _log.warning("update_not_taken", problem=str(problem), hint=problem.hint)
        return Outcome(end, str(problem), problem.hint)

    def _is_stale(self, state: State) -> bool:
        """Whether nothing was believed for so long that a line which is down is not the whole story."""
        return bool(state.checked_s) and self._here.now_s() - state.checked_s > STALE_S


def _logged(percent: int, said: str) -> None:
    _log.info("installing", percent=percent, step=said)
