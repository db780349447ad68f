"""A box for the line's tests: its journal and pen in memory, in the ledger's own terms, without payments."""

from collections.abc import Sequence
from typing import Any

import msgspec

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core import journal
from edgegw.core.exchange import Directives, LogEnd, SiteBundle
from edgegw.core.messages import LogHead, Package, Program, open_link
from edgegw.core.records import GrantDirective, Mode, SiteDirective, decode_directive
from edgegw.errors import Behind, NewEpoch, StorageBusy
from edgegw.uplink.line import Line
from edgegw.uplink.ports import Head, HeldDirectives, Identity, LineSettings
from edgegw.uplink.session import Sources
from tests.core.authors import BANK, BOX, Author, new_key

FAST = LineSettings(
    addresses=(),
    heartbeat_ms=20,
    gather_ms=2,
    connect_timeout_ms=20_000,
    answer_timeout_ms=20_000,
    centre_timeout_ms=20_000,
    failback_ms=20,
    backoff_ms_max=40,
)
"""Short pauses; the patience is long, because a busy machine is no silent peer."""


class MemoryKeeper:
    """The box's journal while it is closed: takes back what comes, remembers the mode."""

    def __init__(self, box: "MemoryBox", reason: str) -> None:
        self.box = box
        self.mode = Mode.BEHIND
        self.mode_reason = reason
        self.completed = 0
        self.wants_site = ""

    async def change_mode(self, mode: Mode, reason: str) -> None:
        self.mode, self.mode_reason = mode, reason

    async def apply_directives(self, directives: Directives) -> None:
        raise AssertionError("a closed ledger applies nothing")

    async def keep_cosignature(self, *, epoch: int, size: int, note: str) -> None:
        self.box.cosignatures[epoch] = note

    async def keep_revoked(self, notes: Sequence[str]) -> None:
        raise AssertionError(f"nothing is revoked here: {notes}")

    async def keep_other(self, end: LogEnd, records: Sequence[bytes]) -> None:
        await self.box.keep_other(end, records)

    def held(self, epoch: int) -> LogHead:
        return self.box.epochs[epoch].head() if epoch in self.box.epochs else LogHead(epoch)

    def take(self, package: Package) -> LogHead:
        log = self.box.epochs.setdefault(package.number, Author(self.box.epoch_key, number=package.number))
        assert package.old_size == len(log.bodies)
        for body in package.records:
            log.append_body(body)
            self.box.columns.setdefault(package.number, []).append(msgspec.json.decode(body)["type"])
        return log.head()

    def keep_site(self, bundle: SiteBundle) -> None:
        raise AssertionError("no site was wanted")

    def complete(self) -> None:
        self.completed += 1


class MemoryBox:
    """Journal and pen of one box; `line` is its line."""

    def __init__(self, hub_key: SigningKey, *addresses: str, boot: str = "boot1", **settings: Any) -> None:
        self.epoch_key = new_key(f"{BOX}/epoch")
        self.identity = Identity(
            bank=BANK,
            box=BOX,
            boot=boot,
            key=new_key(BOX),
            hub_key=hub_key.public,
            parse_key=VerifyingKey.parse,
            epoch_key=self.epoch_key.public.text,
            program=lambda: self.program,
        )
        self.program = Program(version="1.0.0")
        self.epochs: dict[int, Author] = {}
        self.columns: dict[int, list[str]] = {}
        self.modes: list[tuple[Mode, str]] = []
        self.cosignatures: dict[int, str] = {}
        self.kept_sites: dict[str, bytes] = {}
        self.other_ends: dict[int, LogEnd] = {}
        self.other_records: list[bytes] = []
        self.applied: list[tuple[str, str]] = []
        self.granted: dict[str, int] = {}
        self.sites: list[int] = []
        self.mode = Mode.OFFLINE
        self.busy = 0
        """So many more writes fail before they change anything."""
        self.directive_rows: list[tuple[int, bytes, bytes]] = []
        """Of the one incarnation."""
        self.keeper: MemoryKeeper | None = None
        self.addresses, self.settings = addresses, settings
        self._directives = HeldDirectives(0, journal.Frontier(), journal.FIRST_PREVIOUS, "")
        if addresses:
            self.line = self.new_line(*addresses, **settings)

    def new_line(self, *addresses: str, **settings: Any) -> Line:
        self.addresses, self.settings = addresses, settings
        return Line(
            identity=self.identity,
            settings=msgspec.structs.replace(FAST, addresses=tuple(enumerate(addresses)), **settings),
            source=self,
            pen=self if self.keeper is None else self.keeper,
            keeper=self.keeper,
            sources=Sources(chance=lambda: 0.0),
        )

    @property
    def log(self) -> Author:
        """The journal of the newest epoch."""
        return self.epochs[max(self.epochs)]

    def write(self, kind: str, **fields: Any) -> None:
        """Append a record of this type to the journal, as a payment would."""
        self.log.append_body(self.log.body("", type=kind, **fields))
        self.columns[self.log.number].append(kind)
        self.line.head_moved()

    async def run(self) -> None:
        """The line, from one epoch to the next; what a closed ledger is beside it is in `self.keeper`."""
        while True:
            try:
                await self.line.run()
            except NewEpoch as given:
                self.begin(given.note)
            except Behind as found:
                self.keeper = MemoryKeeper(self, str(found))
            self.line = self.new_line(*self.addresses, **self.settings)

    def begin(self, note: str) -> None:
        """The first record of a new epoch."""
        epoch = open_link(note, self.identity.hub_key).epoch
        self.epochs[epoch] = Author(self.epoch_key, number=epoch)
        self.columns[epoch] = []
        self.keeper, self.mode = None, Mode.OFFLINE
        self.write("link", note=note)

    # --- Journal

    def heads(self) -> Sequence[Head]:
        return [
            Head(number, len(log.bodies), log.root(), log.checkpoint()) for number, log in self.epochs.items()
        ]

    def records(
        self, *, epoch: int, start: int, limit: int, bytes_max: int
    ) -> Sequence[tuple[int, bytes, bytes]]:
        log, rows, size = self.epochs[epoch], [], 0
        for seq in range(start, min(start + limit, len(log.bodies))):
            size += len(log.bodies[seq])
            if rows and size > bytes_max:
                break
            rows.append((seq, log.leaves[seq], log.bodies[seq]))
        return rows

    def column_fault(self, *, epoch: int, start: int, count: int) -> tuple[int, str] | None:
        for seq in range(start, start + count):
            says = msgspec.json.decode(self.epochs[epoch].bodies[seq])["type"]
            if says != self.columns[epoch][seq]:
                return seq, f"column type {self.columns[epoch][seq]!r}, but its body says {says!r}"
        return None

    def node(self, *, epoch: int, size: int) -> journal.Node:
        return self.epochs[epoch].node(size)

    def cosignature(self, epoch: int) -> str:
        return self.cosignatures.get(epoch, "")

    def site(self, digest: str) -> bytes | None:
        return self.kept_sites.get(digest)

    def revoked_keys(self) -> Sequence[str]:
        return []

    def key_changes(self, epoch: int) -> Sequence[tuple[int, str]]:
        return []

    def others(self) -> Sequence[LogEnd]:
        return list(self.other_ends.values())

    def directives(self) -> HeldDirectives:
        return self._directives

    def incarnations(self) -> Sequence[HeldDirectives]:
        return [self._directives] if self._directives.incarnation else []

    def directive_records(
        self, *, incarnation: int, start: int, limit: int, bytes_max: int
    ) -> Sequence[tuple[int, bytes, bytes]]:
        return self.directive_rows[start : start + limit]

    # --- Pen

    @property
    def mode_reason(self) -> str:
        return self.modes[-1][1] if self.modes else ""

    def _busy(self) -> None:
        if self.busy:
            self.busy -= 1
            raise StorageBusy("the ledger's write lock is held")

    async def change_mode(self, mode: Mode, reason: str) -> None:
        self._busy()
        self.mode = mode
        self.modes.append((mode, reason))
        self.write("mode", mode=mode, reason=reason)

    async def apply_directives(self, directives: Directives) -> None:
        self._busy()
        for body in directives.bodies:
            outcome = self._apply(body, directives)
            self.applied.append((msgspec.json.decode(body)["type"], outcome))
            self.write("directive", directive=msgspec.Raw(body), outcome=outcome)
        rows = zip(directives.leaves, directives.bodies, strict=True)
        self.directive_rows += [(directives.start + n, leaf, body) for n, (leaf, body) in enumerate(rows)]
        self._directives = HeldDirectives(
            directives.incarnation, directives.frontier, directives.leaves[-1], directives.checkpoint
        )

    def _apply(self, body: bytes, directives: Directives) -> str:
        try:
            directive = decode_directive(body)
        except msgspec.MsgspecError:
            return "refused"
        if isinstance(directive, GrantDirective):
            if directive.request_id and not self.line.awaited(directive.request_id):
                return "returned"
            held = self.granted.get(directive.account_id, 0)
            self.granted[directive.account_id] = held + directive.amount_minor
        if isinstance(directive, SiteDirective):
            if directive.digest not in directives.sites:
                return "refused"
            bundle = directives.sites[directive.digest]
            self.sites.append(bundle.site.version)
            self.kept_sites[directive.digest] = bundle.body
        return "applied"

    async def keep_cosignature(self, *, epoch: int, size: int, note: str) -> None:
        self.cosignatures[epoch] = note

    async def keep_revoked(self, notes: Sequence[str]) -> None:
        raise AssertionError(f"nothing is revoked here: {notes}")

    async def keep_other(self, end: LogEnd, records: Sequence[bytes]) -> None:
        self._busy()
        self.other_ends[end.number] = end
        self.other_records += records
