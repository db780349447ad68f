"""What a machine does until it is a box: it waits for a claim, asks the hub with it, and starts over where
that claim is no good.

A line that is down, a hub that is busy and a disk or TPM that fails are tried again for ever, later and
later, over power cuts too. A claim that the hub refuses leaves nothing behind: no key, no settings. Leaves
out the folder's files (`files`), where claims lie (`sources`) and who shows it (`page`, the command).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from edgegw import __version__, by_claim
from edgegw.access.key_files import KeyFileError, remove_key_file
from edgegw.access.keys import VerifyingKey
from edgegw.access.places import PlaceAway
from edgegw.config.box import BoxSettings
from edgegw.config.options import SettingsError
from edgegw.core.enrolment import Claim, Enrolled, EnrolmentError, Refusal
from edgegw.enrolment import (
    HUB_TIME_NAME,
    EnrolmentRefused,
    Holder,
    certificate_files,
    crl_file,
    enrolled_table,
)
from edgegw.errors import LinkDown, OperatingError
from edgegw.factory_reset import destroy_keys
from edgegw.first_boot.files import Enrolment, Files
from edgegw.first_boot.sources import CREDENTIAL_SOURCE, STICK_CLAIM, STICK_SOURCE, Found, lying_there
from edgegw.key_places import (
    checkpoint_key_file,
    device_key_file,
    keystore_of,
    webhook_key_file,
)
from edgegw.ledger.boot import LEDGER_NAME

LOOK_S: Final = 1.0
"""How often a stick is looked for."""
RETRY_S_MIN: Final = 2.0
RETRY_S_MAX: Final = 60.0
PASSING: Final = frozenset({Refusal.TOO_MANY, Refusal.NO_CA, Refusal.TOO_SOON})
"""Refusals that say nothing of the claim."""

_log = structlog.get_logger("edgegw.first_boot")

Phase = Literal["waiting", "asking", "enrolled", "ready", "stuck"]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is, as the page, the console and `--status` say it."""

    state: Phase
    problem: str = ""
    """Why it does not go on, or why the last claim was no good."""
    hint: str = ""
    source: str = ""
    """Where the claim came from."""
    bank: str = ""
    box: str = ""
    branch: str = ""
    key: str = ""
    """The id of the device's key, as the hub's log of identities has it."""
    device: int = 0
    """The how-manieth machine of this box it is; 0 where the answer came before a power cut."""
    keys_place: str = ""
    tries: int = 0
    clock_ahead_s: int = 0
    """Of the machine's clock, against the centre's; 0 until that was heard."""
    is_brought: bool = False
    """The claim at hand lies on a stick here, or came with the machine: who is only on the branch's network
    neither replaces it nor gives it up."""

    @property
    def whose(self) -> str:
        """The box's name."""
        return f"{self.bank}/{self.box}"


class FirstBoot:
    """One machine's way to being a box."""

    def __init__(
        self,
        files: Files,
        *,
        stick: Path,
        load: Callable[[Path], BoxSettings],
        keys: Callable[[Claim], Mapping[str, object]],
        told: Callable[[State], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """load reads settings; keys says where a new box's keys are to lie; told hears of every change.
        stick: the folder where one is mounted."""
        self._files = files
        self._stick = stick
        self._load = load
        self._keys = keys
        self._told = told
        self._now_s = now_s
        self._wake = asyncio.Event()
        self._offered: Found | None = None
        self._is_given_up = False
        self._passed_over: set[tuple[str, bytes]] = set()
        """What lay there and was looked at."""
        self._claim: Claim | None = None
        self._next_s = 0.0
        self.state = State(state="waiting")

    # --- what a person does -----------------------------------------------------------------------------

    def offer(self, found: Found) -> None:
        """Take up a claim that was typed or scanned."""
        self._offered = found
        self._wake.set()

    def give_up(self) -> None:
        """Try the claim at hand no more."""
        self._is_given_up = True
        self._wake.set()

    # --- what the box does, which this machine is by now --------------------------------------------------

    def starting(self, problem: str, hint: str) -> None:
        """It takes no payments yet, for this reason."""
        self._say(problem=problem, hint=hint)

    def ready(self) -> None:
        """It takes payments."""
        self._say(state="ready", problem="", hint="")

    # --- the way ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Return once the machine is a box; raises KeyFileError where its folder cannot be used."""
        if self._files.is_done:
            return
        if (self._files.folder / "data" / LEDGER_NAME).exists():
            self._say(
                state="stuck",
                problem=f"{self._files.folder} has a ledger, and {self._files.settings.name} is gone",
                hint="This machine was a box. Restore its settings, or bring the machine in: nothing is taken"
                " away by itself.",
            )
            await asyncio.Event().wait()
        try:
            self._resume()
        except SettingsError as problem:
            self._say(
                state="stuck",
                problem=str(problem),
                hint="A newer program began to make this machine a box: bring its release on a stick again."
                f" Nothing is taken away by itself; without {self._files.draft.name} it takes another claim.",
            )
            await asyncio.Event().wait()
        while not self._files.is_done:
            self._look()
            if self._claim is not None and self._now_s() >= self._next_s:
                await self._try(self._claim)
            else:
                await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _resume(self) -> None:
        """Go on where a power cut came."""
        self._claim = claim = self._files.claim()
        if not self._files.draft.exists():
            self._forget()
            return
        box = self._load(self._files.draft)
        if by_claim.is_enrolled(box):
            self._finish(box, claim)
        elif claim is None:
            self._forget()
        else:
            self._say(state="asking", bank=claim.bank, box=claim.box, branch=claim.branch, source="resumed")

    def _look(self) -> None:
        """See whether somebody brings a claim, or takes one away."""
        lying = {(one.source, one.body): one for one in lying_there(self._stick)}
        self._passed_over &= lying.keys()  # what goes and comes again is tried again
        for key, found in lying.items():
            # A stick is plugged in on purpose; a credential is there at every start.
            if key in self._passed_over or (self._claim is not None and found.source == CREDENTIAL_SOURCE):
                continue
            self._passed_over.add(key)
            self._take(found)
        self._say(is_brought=self._lies_among(lying.values()))
        is_given_up, self._is_given_up = self._is_given_up, False
        offered, self._offered = self._offered, None
        if self.state.is_brought:
            return
        if is_given_up and self._claim is not None:
            self._refuse("that claim was given up here", "Bring another one.")
        if offered is not None:
            self._take(offered)

    def _lies_among(self, found: Iterable[Found]) -> bool:
        claim = self._claim
        return claim is not None and any(one.claim is not None and one.claim.id == claim.id for one in found)

    def _take(self, found: Found) -> None:
        """Take a claim up if it is one, in the place of another that led nowhere yet."""
        claim = found.claim
        if claim is None:
            self._say(problem=f"the {found.source}'s claim: {found.problem}", hint="")
        elif self._claim is not None and claim.id == self._claim.id:
            return
        elif claim.id in self._files.spent():
            problem = f"the {found.source}'s claim was used by this machine before"
            self._say(problem=problem, hint="Ask the centre for a new claim.")
        else:
            self._begin(found, claim)

    def _begin(self, found: Found, claim: Claim) -> None:
        if self._claim is not None:
            self._forget()
        try:
            by_claim.write_settings(self._files.draft, claim, keys=self._keys(claim), for_branch=True)
            self._load(self._files.draft)
            self._files.keep_claim(found.body)
        except SettingsError as problem:
            self._files.drop_draft()
            self._say(state="waiting", problem=str(problem), hint="Ask the centre for a new claim.")
            return
        except (KeyFileError, PlaceAway) as problem:
            self._files.drop_draft()
            self._passed_over.discard((found.source, found.body))
            self._say(state="waiting", problem=str(problem), hint=problem.hint)
            return
        self._claim, self._next_s = claim, 0.0
        self.state = State(state="waiting")
        self._say(state="asking", source=found.source, bank=claim.bank, box=claim.box, branch=claim.branch)

    async def _try(self, claim: Claim) -> None:
        """Ask once; what comes of it is said."""
        box = self._load(self._files.draft)
        self._say(tries=self.state.tries + 1, keys_place=box.keys.place)
        try:
            holder, enrolled = await asyncio.to_thread(by_claim.enrol_by, box, claim, branch=claim.branch)
        except EnrolmentRefused as problem:
            if problem.refusal in PASSING:
                self._later(box, problem)
            else:
                self._refuse(str(problem), problem.hint)
        except SettingsError as problem:
            self._refuse(str(problem), "Ask the centre for a new claim.")
        except (EnrolmentError, KeyFileError, PlaceAway, OSError, OperatingError) as problem:
            self._later(box, problem)
        else:
            self._enrolled(box, claim, holder, enrolled)

    def _later(self, box: BoxSettings, problem: Exception) -> None:
        wait_s = min(RETRY_S_MAX, RETRY_S_MIN * 2 ** min(self.state.tries - 1, 10))
        self._next_s = self._now_s() + wait_s
        hint = getattr(problem, "hint", "")
        if isinstance(problem, LinkDown):
            hint = "Check cable and addresses; this machine asks again by itself."
        elif isinstance(problem, EnrolmentError):
            hint = "Tell the centre what stands here; this machine asks again by itself."
        self._say(problem=str(problem), hint=hint, key=key_id(box))
        _log.warning("not_enrolled_yet", problem=str(problem), hint=hint, again_s=wait_s)

    def _refuse(self, problem: str, hint: str) -> None:
        """Be again as before the claim."""
        self._forget()
        self.state = State(state="waiting")
        self._say(problem=problem, hint=hint)
        _log.warning("claim_refused", problem=problem, hint=hint)

    def _forget(self) -> None:
        self._files.destroy_claim()
        self._claim = None
        if self._files.draft.exists():
            self._forget_keys(self._load(self._files.draft))
        self._files.drop_draft()

    def _forget_keys(self, box: BoxSettings) -> None:
        keys = [device_key_file(box), checkpoint_key_file(box), webhook_key_file(box)]
        destroy_keys(box, keystore_of(box), keys)
        tls, own = enrolled_table(box), certificate_files(box)
        own.remove()
        for path in (Path(tls.ca_file), crl_file(box), own.certificate.with_name(HUB_TIME_NAME)):
            remove_key_file(path)

    def _enrolled(self, box: BoxSettings, claim: Claim, holder: Holder, enrolled: Enrolled) -> None:
        ahead_s = round(holder.time.machine_ahead_s)
        _log.info("enrolled", box=enrolled.box, branch=enrolled.branch, generation=enrolled.generation)
        self._finish(box, claim, device=enrolled.generation, clock_ahead_s=ahead_s)

    def _finish(
        self, box: BoxSettings, claim: Claim | None, *, device: int = 0, clock_ahead_s: int = 0
    ) -> None:
        source = self.state.source or "resumed"
        kept = self._empty_stick(claim)
        id = "" if claim is None else claim.id
        self._files.finish(Enrolment(claim=id, source=source, at_s=int(time.time()), edgegw=__version__))
        self._claim = None
        self.state = State(
            state="enrolled",
            problem=kept,
            hint="Destroy the stick." if kept else "",
            source=source,
            bank=box.bank,
            box=box.box,
            branch="" if claim is None else claim.branch,
            key=key_id(box),
            device=device,
            keys_place=box.keys.place,
            clock_ahead_s=clock_ahead_s,
        )
        self._told(self.state)

    def _empty_stick(self, claim: Claim | None) -> str:
        """Destroy the claim on the stick, if it is the one that was used; why it could not be."""
        path = self._stick / STICK_CLAIM
        for found in lying_there(self._stick):
            if found.source == STICK_SOURCE and found.claim is not None and found.claim == claim:
                return by_claim.destroy_claim(path)
        return ""

    def _say(self, **changes: object) -> None:
        said = msgspec.structs.replace(self.state, **changes)
        if said != self.state:
            self.state = said
            self._told(said)


def key_id(box: BoxSettings) -> str:
    """Of the device's key, as the hub tells it; "" while there is none."""
    try:
        text = device_key_file(box).path.with_suffix(".pub").read_text(encoding="ascii").strip()
        return VerifyingKey.parse(text).key_id.hex()
    except (OSError, ValueError):
        return ""
