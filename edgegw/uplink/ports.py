"""What the line needs of the rest of the box, as narrow protocols, and its settings.

The ledger and its pen are other people's; the line knows them by these methods alone.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from edgegw.core import journal
from edgegw.core.exchange import Directives, LogEnd
from edgegw.core.messages import Program, SigningKey, VerifyingKey
from edgegw.core.records import Mode


class Head(NamedTuple):
    """The head of a journal as it is on disk, with the checkpoint note that the box has signed for it."""

    epoch: int
    size: int
    root: bytes
    checkpoint: str


class HeldDirectives(NamedTuple):
    """How far the directives are applied: incarnation, frontier, last leaf (FIRST_PREVIOUS for none),
    hub's note."""

    incarnation: int
    frontier: journal.Frontier
    last_leaf: bytes
    checkpoint: str


class Journal(Protocol):
    """The ledger as the line reads it: committed state only. Called from one worker thread at a time."""

    def heads(self) -> Sequence[Head]:
        """One for each epoch that the box holds, oldest first; empty before the first link."""
        ...

    def records(
        self, *, epoch: int, start: int, limit: int, bytes_max: int
    ) -> Sequence[tuple[int, bytes, bytes]]:
        """Consecutive (seq, leaf, body) from `start`; at least one where there is one, however long."""
        ...

    def column_fault(self, *, epoch: int, start: int, count: int) -> tuple[int, str] | None:
        """The first of these records whose other columns do not say what its body says, and what differs."""
        ...

    def node(self, *, epoch: int, size: int) -> journal.Node:
        """The complete subtrees of the first `size` leaves; level 0 is the leaves."""
        ...

    def key_changes(self, epoch: int) -> Sequence[tuple[int, str]]:
        """(seq, statement) of the records by which another key takes over (`core.key_policy`), in order."""
        ...

    def revoked_keys(self) -> Sequence[str]:
        """The hub's words that revoke keys of this box."""
        ...

    def cosignature(self, epoch: int) -> str:
        """The hub's newest cosigned note for an epoch; "" for none."""
        ...

    def site(self, digest: str) -> bytes | None:
        """A bundle of the site's settings that is kept here, or None."""
        ...

    def others(self) -> Sequence[LogEnd]:
        """How far other histories of its epochs are known, one an epoch (`Pen.keep_other`)."""
        ...

    def directives(self) -> HeldDirectives:
        """How far the directives are applied; incarnation 0 and an empty frontier before the first."""
        ...

    def incarnations(self) -> Sequence[HeldDirectives]:
        """The same of every incarnation that the box has applied any of, oldest first."""
        ...

    def directive_records(
        self, *, incarnation: int, start: int, limit: int, bytes_max: int
    ) -> Sequence[tuple[int, bytes, bytes]]:
        """As `records`, of the hub's log."""
        ...


class Pen(Protocol):
    """The ledger's only writer, on the loop. Each call returns once what it wrote is on disk."""

    @property
    def mode(self) -> Mode:
        """The mode that the journal says; OFFLINE before the first link."""
        ...

    @property
    def mode_reason(self) -> str:
        """Why, in its words."""
        ...

    async def change_mode(self, mode: Mode, reason: str) -> None:
        """Journal a mode and obey it. Not called before the first link."""
        ...

    async def apply_directives(self, directives: Directives) -> None:
        """Journal and store each as applied, returned or refused. `Line.awaited` says whether a grant
        still has a taker."""
        ...

    async def keep_cosignature(self, *, epoch: int, size: int, note: str) -> None:
        """Store the hub's word that it holds so much of this epoch."""
        ...

    async def keep_revoked(self, notes: Sequence[str]) -> None:
        """Store the hub's words that revoke keys of this box."""
        ...

    async def keep_other(self, end: LogEnd, records: Sequence[bytes]) -> None:
        """Store what these records of another history decided, and that it is known up to `end`."""
        ...


class Identity(NamedTuple):
    """Who the box is on the line."""

    bank: str
    box: str
    boot: str
    """Minted once per process."""
    key: SigningKey
    """The device's own; it signs what goes over the line and cosigns directives."""
    hub_key: VerifyingKey
    """The hub's, pinned."""
    parse_key: Callable[[str], VerifyingKey]
    """The one-line text of a public key to the key; raises ValueError."""
    epoch_key: Callable[[], str]
    """The text of the checkpoint key with which this boot would sign an epoch given to it now."""
    tls: ssl.SSLContext | None = None
    """How the line is encrypted and by which certificate the box is known there; None where it is plain."""
    program: Callable[[], Program] | None = None
    """What the box says of its program now; None where it says nothing."""


class LineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the line behaves; the addresses are (priority, URL), the lowest priority first."""

    addresses: tuple[tuple[int, str], ...]
    heartbeat_ms: int = 500
    """The longest pause between two messages."""
    gather_ms: int = 25
    """The shortest pause between two messages that only carry new records, so that they travel together."""
    connect_timeout_ms: int = 1_000
    answer_timeout_ms: int = 2_000
    """An address that has not answered a message after this long counts as silent."""
    centre_timeout_ms: int = 800
    """A payment waits this long for a grant."""
    failback_ms: int = 5_000
    """How often a better address is tried while a worse one is in use."""
    backoff_ms_max: int = 5_000
    """The longest pause before all addresses are tried again."""
