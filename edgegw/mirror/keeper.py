"""One box's journal at the mirror: judged, kept, cosigned, given back.

Owns the box's ledger file, its sessions and what is known of its forks. Everything here runs in the one
thread of its box. A fork is never resolved here: what is held stays, both signed heads are kept as evidence,
and only the hub decides. Leaves out HTTP (`mirror.app`) and what records mean.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core.exchange import (
    MirrorView,
    Session,
    choose_version,
    frontier_at,
    judge_message,
    judge_mirror_open,
)
from edgegw.core.journal import Checkpoint, NoteError, journal_origin
from edgegw.core.key_policy import KeyPolicy, open_revoked
from edgegw.core.messages import (
    VERSION,
    Beat,
    Beaten,
    ExchangeError,
    LogHead,
    Open,
    Opened,
    Package,
    PackageVerdict,
    Verdict,
)
from edgegw.ledger.boot import LEDGER_NAME, LedgerLock
from edgegw.ledger.received import link_of, package_from, policy_of, take_package
from edgegw.ledger.store import Store

BOOTS_MAX: Final = 1_024
"""Boots that were superseded and are remembered: more starts than a box has in years."""
BOOT_CHARACTERS_MAX: Final = 64
TALKS_MAX: Final = 8
"""Boots of one box that may speak at a time; with more the one that opened longest ago opens again."""
COSIGNATURE_KEPT_EACH_NS: Final = 1_000_000_000
"""The newest cosignature is kept for exports so often at most: each costs a COMMIT."""
_FORK: Final = "fork/"
"""Begins the key in `meta` of an epoch's `Fork`."""


class Keys(NamedTuple):
    """Whose word counts at the mirror."""

    mirror: SigningKey
    box: VerifyingKey
    hub: VerifyingKey


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence that a box has two histories of an epoch: both heads, signed where they were shown so."""

    seen_ns: int
    reason: str
    held: str
    """The signed checkpoint that covers what is held here."""
    other: str
    """The other history's signed checkpoint; "" where the box has only named its head, in a signed
    message."""


class BoxStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A box as an operator of the mirror sees it."""

    box: str
    epoch: int
    records: int
    """Of that epoch."""
    verdict: str
    """What the box was told last; "" before it was heard."""
    reason: str
    waiting: int
    """Records that the box has and the mirror has not."""
    heard_ns: int
    forked: dict[int, str]
    """Epoch to what was seen of its second history."""


class _Talk:
    """The sessions of one boot: the one in use and the one that was opened after it."""

    def __init__(self) -> None:
        self.session = Session()
        self.epoch = 0
        """The boot's own, at its last opening."""
        self.said: dict[bytes, tuple[Verdict, str]] = {}

    def offer(self, candidate: bytes, *, epoch: int, verdict: Verdict, reason: str) -> None:
        """A session was opened; it takes over with its first beat."""
        self.epoch = epoch
        live = self.session.session
        self.session = Session(live, self.session.counter, candidate)
        self.said = {key: value for key, value in self.said.items() if key == live}
        self.said[candidate] = (verdict, reason)


class Keeper:
    """See the module."""

    def __init__(
        self,
        directory: Path,
        keys: Keys,
        *,
        bank: str,
        box: str,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open, or create, the box's ledger file; raises OperatingError."""
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = LedgerLock(directory)
        try:
            self._store = Store.open(directory / LEDGER_NAME, create=True)
            self._store.own(bank=bank, box=box)
        except BaseException:
            self._lock.release()
            raise
        self._keys = keys
        self._bank = bank
        self._box = box
        self._clock_ns = clock_ns
        self._forks = {epoch: fork for epoch in self._epochs() if (fork := self._fork_of(epoch))}
        self._policies: dict[int, KeyPolicy] = {}
        self._talks: dict[str, _Talk] = {}
        self._boot = ""
        self._past_boots: deque[str] = deque(maxlen=BOOTS_MAX)
        self._said: tuple[Verdict, str] | None = None
        self._waiting = 0
        self._heard_ns = 0
        self._unkept: tuple[int, int, str] | None = None
        self._kept_ns = 0

    def close(self) -> None:
        """Keep the last cosignature and let go of the file."""
        self._keep_cosignature()
        self._store.close()
        self._lock.release()

    def status(self) -> BoxStatus:
        """How it is; reads the file."""
        heads = self._store.heads()
        verdict, reason = self._said or ("", "")
        return BoxStatus(
            box=self._box,
            epoch=heads[-1].epoch if heads else 0,
            records=heads[-1].size if heads else 0,
            verdict=str(verdict),
            reason=reason,
            waiting=self._waiting,
            heard_ns=self._heard_ns,
            forked={epoch: fork.reason for epoch, fork in self._forks.items()},
        )

    # --- openings -----------------------------------------------------------------------------------------

    def opened(self, message: Open, *, candidate: bytes) -> Opened:
        """Answer an authentic Open; candidate is the session (16 random bytes) that it gets. Raises
        ExchangeError."""
        if not 0 < len(message.boot) <= BOOT_CHARACTERS_MAX:
            raise ExchangeError(f"boot has {len(message.boot)} characters, not 1 to {BOOT_CHARACTERS_MAX}")
        heads = {head.epoch: LogHead(head.epoch, head.size, head.root) for head in self._store.heads()}
        self._keep_revoked(message.revoked)
        judged = judge_mirror_open(
            message,
            MirrorView(
                journals=heads,
                root_at=self._root_at,
                forked={epoch: fork.reason for epoch, fork in self._forks.items()},
                superseded=message.boot in self._past_boots,
            ),
        )
        if judged.verdict is Verdict.VERSION:
            return Opened(version=VERSION, verdict=judged.verdict, reason=judged.reason)
        if judged.forked_epoch:
            self._keep_fork(judged.forked_epoch, judged.reason, other="")
        self._heard(judged.verdict, judged.reason)
        talk = self._talks.pop(message.boot, None) or _Talk()
        talk.offer(candidate, epoch=message.epoch, verdict=judged.verdict, reason=judged.reason)
        self._talks[message.boot] = talk
        if len(self._talks) > TALKS_MAX:
            del self._talks[next(iter(self._talks))]
        named = [LogHead(head.number) for head in message.journals if head.number not in heads]
        journals = sorted([*heads.values(), *named], key=lambda head: head.number)
        return Opened(
            version=choose_version(oldest=message.version_oldest, newest=message.version),
            verdict=judged.verdict,
            reason=judged.reason,
            session=candidate,
            journals=tuple(head for head in journals if head.number not in self._forks),
            closed=tuple(head for head in journals if head.number in self._forks),
        )

    def _keep_revoked(self, notes: Sequence[str]) -> None:
        """Keep the hub's words by which keys of this box are void; raises ExchangeError for what is none."""
        known = self._store.keys.revoked()
        fresh = [note for note in notes if note not in known]
        try:
            words = [open_revoked(note, self._keys.hub) for note in fresh]
        except NoteError as problem:
            raise ExchangeError(f"a word that revokes a key: {problem}") from None
        if any((word.bank, word.box) != (self._bank, self._box) for word in words):
            raise ExchangeError("a word that revokes a key is for another box")
        if fresh:
            self._store.begin()
            for note in fresh:
                self._store.keys.put_revoked(note)
            self._store.commit()
            self._policies.clear()

    def _root_at(self, epoch: int, size: int) -> bytes | None:
        return frontier_at(size, self._store.node(epoch, size)).root()

    # --- beats --------------------------------------------------------------------------------------------

    def beaten(self, beat: Beat, *, session: bytes, counter: int) -> Beaten:
        """Answer an authentic Beat, after the COMMIT of what it pushes; raises ExchangeError and
        OperatingError."""
        boot = self._moved(session, counter)
        if boot is None:
            return Beaten(verdict=Verdict.REOPEN, reason="the mirror does not know this session")
        talk = self._talks[boot]
        said = talk.said
        if boot in self._past_boots:
            said[session] = (Verdict.FENCED, f"another boot has taken the place of boot {boot}")
        elif said[session][0] is Verdict.OK:
            self._take_place(boot)
        self._waiting = beat.waiting
        beaten = Beaten(pulled=self._pulled(beat.pull))
        if beat.push is not None:
            beaten = self._pushed(beat.push, beaten)
            if beaten.push is PackageVerdict.FORK and beat.push.number == talk.epoch:
                said[session] = (Verdict.FORKED, beaten.push_reason)
        verdict, reason = said[session]
        self._heard(verdict, reason)
        if beat.push is None or self._clock_ns() - self._kept_ns > COSIGNATURE_KEPT_EACH_NS:
            self._keep_cosignature()
        return msgspec.structs.replace(beaten, verdict=verdict, reason=reason)

    def _moved(self, session: bytes, counter: int) -> str | None:
        """The boot whose session this is, its counter moved on; None for a session that is not known."""
        for boot, talk in self._talks.items():
            moved = judge_message(talk.session, session=session, counter=counter)
            if moved is not None:
                talk.session = moved
                return boot
        return None

    def _take_place(self, boot: str) -> None:
        """This boot speaks for the box; the one that did has lived."""
        if boot != self._boot:
            if self._boot:
                self._past_boots.append(self._boot)
            self._boot = boot

    def _heard(self, verdict: Verdict, reason: str) -> None:
        self._said = (verdict, reason)
        self._heard_ns = self._clock_ns()

    def _pushed(self, package: Package, beaten: Beaten) -> Beaten:
        epoch = package.number
        fork = self._forks.get(epoch)
        head = self._store.head(epoch)
        held = LogHead(epoch) if head is None else LogHead(epoch, head.size, head.root)
        if fork is not None:
            reason = f"two histories of epoch {epoch}: {fork.reason}"
            return msgspec.structs.replace(beaten, push=PackageVerdict.FORK, push_reason=reason, journal=held)
        keys = self._policy_of(package)
        judged = take_package(self._store, package, bank=self._bank, box=self._box, keys=keys)
        cosignature = ""
        if judged.verdict is PackageVerdict.FORK:
            # A fork is only found behind the author's signature: the other head is evidence.
            self._keep_fork(epoch, judged.reason, other=package.checkpoint)
        elif judged.verdict in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE):
            self._policies[epoch] = judged.keys or keys
            cosignature = self._cosign(judged.head)
        return msgspec.structs.replace(
            beaten,
            push=judged.verdict,
            push_reason=judged.reason,
            journal=judged.head,
            cosignature=cosignature,
        )

    def _policy_of(self, package: Package) -> KeyPolicy:
        """The keys that sign the epoch's checkpoints, by its hub-signed link and its records."""
        known = self._policies.get(package.number)
        if known is not None:
            return known
        link = link_of(self._store, package.number, package, hub_key=self._keys.hub)
        if (link.bank, link.box) != (self._bank, self._box):
            raise ExchangeError(f"the link of epoch {link.epoch} is for {link.bank}/{link.box}")
        return policy_of(
            self._store,
            package.number,
            package,
            hub_key=self._keys.hub,
            parse=VerifyingKey.parse,
            heeds_revoked=True,
        )

    def _cosign(self, head: LogHead) -> str:
        """The mirror's word that it holds these records; only ever called after their COMMIT."""
        origin = journal_origin(bank=self._bank, box=self._box, epoch=head.number)
        checkpoint = Checkpoint(origin, head.size, head.root)
        note = self._keys.mirror.cosign(checkpoint, time_s=self._clock_ns() // 1_000_000_000)
        self._unkept = (head.number, head.size, note)
        return note

    def _keep_cosignature(self) -> None:
        """Keep the newest cosignature with the records, so that an export carries it."""
        if self._unkept is None:
            return
        epoch, size, note = self._unkept
        self._store.begin()
        self._store.put_cosignature(epoch=epoch, size=size, note=note)
        self._store.commit()
        self._unkept, self._kept_ns = None, self._clock_ns()

    def _pulled(self, pull: LogHead | None) -> Package | None:
        return None if pull is None else package_from(self._store, pull)

    # --- forks --------------------------------------------------------------------------------------------

    def _epochs(self) -> list[int]:
        return [head.epoch for head in self._store.heads()]

    def _fork_of(self, epoch: int) -> Fork | None:
        kept = self._store.meta(f"{_FORK}{epoch}")
        return None if kept is None else msgspec.json.decode(kept, type=Fork)

    def _keep_fork(self, epoch: int, reason: str, *, other: str) -> None:
        """Keep both signed heads for ever; from here on nothing of this epoch is taken."""
        head = self._store.head(epoch)
        fork = Fork(
            seen_ns=self._clock_ns(), reason=reason, held="" if head is None else head.checkpoint, other=other
        )
        self._store.begin()
        self._store.put_meta(f"{_FORK}{epoch}", msgspec.json.encode(fork).decode())
        self._store.commit()
        self._forks[epoch] = fork
