"""Loading the sides into a workspace: epoch by epoch, the journals first, then the hub's records beside them.

Both come in the order of their places, so a hub's record that is the journal's, byte for byte, is known at
once and is not read a second time. Leaves out every judgement (`matching_*`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgegw.access.keys import VerifyingKey
from edgegw.core.journal import FIRST_PREVIOUS, Frontier, leaf_hash
from edgegw.core.key_policy import KeyPolicy, read_change
from edgegw.reconcile.beside import Beside
from edgegw.reconcile.centre import Centre, HubEpoch, HubRecord
from edgegw.reconcile.chain import Chain
from edgegw.reconcile.core_file import extra_lines, read_core_files
from edgegw.reconcile.journals import Journal
from edgegw.reconcile.records import Ledger, identity_of
from edgegw.reconcile.workspace import SEQ_BITS, Row, Workspace

Progress = Callable[[int, int], None]
ALIKE: Final = 16_384
"""Records of the hub that are taken at once where all of them are a journal's."""
UNCHAINED_MAX: Final = 10_000
"""Changed records of one journal whose bytes are remembered until the hub's are known."""


class Changed(NamedTuple):
    """A journal's record whose bytes are not what was chained."""

    place: int
    seq: int
    body: bytes


class Blind(NamedTuple):
    """A journal's record behind a missing one: only the hub can tell whether it is what was chained."""

    place: int
    leaf: bytes
    body: bytes


class Loader:
    """Fills one workspace."""

    def __init__(
        self, workspace: Workspace, centre: Centre, beside: Beside | None, *, progress: Progress
    ) -> None:
        """beside: what a second process reads of the hub meanwhile."""
        self._workspace = workspace
        self._centre = centre
        self._beside = beside
        self._has_beside = False
        self._progress = progress
        self._logs = 0
        self._done = 0
        self._total = 0

    def load(self, epochs: Mapping[tuple[str, int], HubEpoch], journals: Sequence[Journal]) -> None:
        """All epochs of the hub and of the journals."""
        by_key: dict[tuple[str, int], list[Journal]] = {}
        for journal in journals:
            by_key.setdefault((journal.box, journal.epoch), []).append(journal)
        self._total = sum(one.size for one in epochs.values()) + sum(one.size for one in journals)
        for key in sorted({*epochs, *by_key}):
            _Epoch(self, key, epochs.get(key), by_key.get(key, [])).load()
        self.beside()
        self._workspace.flush()

    def beside(self) -> Beside | None:
        """What a second process has read of the hub, once it is whole. Raises CoreFileError and
        OperatingError."""
        if self._beside is not None and not self._has_beside:
            self._beside.wait()
            self._workspace.attach_beside()
            self._workspace.run("INSERT INTO core SELECT * FROM beside.core")
            self._workspace.run("CREATE TABLE extra AS SELECT * FROM beside.extra")
            self._workspace.index("extra", "line")
            self._has_beside = True
        return self._beside

    def load_core(self, files: Sequence[Path], *, channel: str) -> None:
        """The bank core's lines. Raises CoreFileError."""
        self._workspace.add_all("core", read_core_files(files, channel=channel))
        for statement in extra_lines():
            self._workspace.run(statement)

    @property
    def workspace(self) -> Workspace:
        """What is filled."""
        return self._workspace

    @property
    def centre(self) -> Centre:
        """The hub's side."""
        return self._centre

    def new_log(self) -> int:
        """The number of one more log."""
        self._logs += 1
        return self._logs

    def step(self, records: int) -> None:
        """So many records more are loaded."""
        self._done += records
        self._progress(self._done, max(self._total, self._done))


class _Epoch:
    """One (box, epoch): its journals, and the hub's histories of it."""

    def __init__(
        self, loader: Loader, key: tuple[str, int], hub: HubEpoch | None, journals: list[Journal]
    ) -> None:
        self._loader = loader
        self._workspace = loader.workspace
        self._box, self._epoch = key
        self._hub = hub
        self._journals = journals
        self._ledger = Ledger(self._workspace, box=self._box, epoch=self._epoch)
        self._is_forked = hub is not None and bool(hub.branches)
        self._hub_size = 0 if hub is None else hub.size
        self.journal_logs: list[int] = []
        self._hub_logs: dict[int, int] = {}
        self._changed: list[Changed] = []
        self.blind: dict[int, list[Blind]] = {}
        self.root_at_hub: bytes | None = None
        """Of a journal's first records, as many as the hub has."""
        self._replaced: list[Row] = []

    def load(self) -> None:
        """Read both sides; write down what each lacks."""
        first = min((journal.first_seq for journal in self._journals), default=self._hub_size)
        main = None if self._hub is None else _HubLog(self, self._hub, branch=0)
        if main is not None:
            main.read(end=min(first, self._hub_size))
        for journal in self._journals:
            self._load_journal(journal)
        if main is not None and self._hub is not None:
            main.read(end=self._hub_size)
            main.close()
            for branch in self._hub.branches:
                one = _HubLog(self, self._hub, branch=branch.number, start=branch.fork_size, size=branch.size)
                one.read(end=branch.size)
                one.close()
        self._settle_changed()
        self._ledger.close()
        self._pair()

    # -- one journal -------------------------------------------------------------------------------------

    def _load_journal(self, journal: Journal) -> None:
        log, ledger = self._loader.new_log(), self._ledger
        chain = Chain(previous=journal.previous, edge=journal.edge)
        sums_end = 0 if self._is_forked else self._hub_size
        missing, hole, end = 0, _Holes(self._workspace, log), journal.first_seq
        for block in journal.blocks():
            if not block:
                continue
            end = block[-1][0] + 1
            beside = self.held_beside(block[0][0], end) if self.journal_logs else {}
            rows: list[Row] = []
            for seq, named, body in block:
                if body is None:
                    chain.skip(named)
                    hole.add(seq)
                    missing += 1
                    continue
                leaf = leaf_hash(chain.expected, body) if named is None else named
                place, is_blind = log << SEQ_BITS | seq, chain.is_blind
                is_chained = chain.take(leaf, body) and not is_blind
                counts = is_chained and (not beside or (leaf, True) not in beside.get(seq, ()))
                meaning = ledger.take(
                    body, place=place, seq=seq, counts=counts, sums=counts and seq < sums_end
                )
                rows.append((place, log, seq, leaf, is_chained, *meaning))
                if is_blind:
                    self.blind.setdefault(seq, []).append(Blind(place, leaf, body))
                if not is_chained and len(self._changed) < UNCHAINED_MAX:
                    self._changed.append(Changed(place, seq, body))
                if seq + 1 == self._hub_size:
                    self.root_at_hub = chain.root()
            self._workspace.insert("journal", rows)
            self._loader.step(len(block))
        hole.close()
        self.journal_logs.append(log)
        self._write_log(log, journal, chain, missing=missing, end=end, note_fault=self._note_fault(journal))

    def _note_fault(self, journal: Journal) -> str:
        if journal.fault or self._hub is None:
            return journal.fault or "the hub has not issued this epoch"
        try:
            head = policy_of(self._hub, journal.keys).open(journal.checkpoint)
        except ValueError as problem:
            return f"its head is not signed by the key of epoch {self._epoch} of {self._box}: {problem}"
        if head.origin.rpartition("/")[0].rpartition("/")[2] != self._box:
            return f"its head is of {head.origin}"
        if head.size == journal.size and head.root != journal.root:
            return "its head is not the one that is signed"
        return ""

    def _write_log(
        self, log: int, journal: Journal, chain: Chain, *, missing: int, end: int, note_fault: str
    ) -> None:
        fault = ""
        if end > journal.size:
            note_fault = note_fault or f"it has {end - journal.size} records more than are signed"
        root = chain.root()
        if journal.size and root is not None and root != journal.root:
            fault = f"its records give the root {root.hex()}, its head says {journal.root.hex()}"
        row = (log, "journal", self._box, self._epoch, 0, journal.source, journal.first_seq, journal.size)
        hub_size = None if self._hub is None else self._hub_size
        self._workspace.add(
            "log", (*row, int(journal.ends), hub_size, chain.unchained, missing, fault, note_fault)
        )

    # -- both sides --------------------------------------------------------------------------------------

    def held_beside(self, first: int, end: int) -> dict[int, list[tuple[bytes, bool]]]:
        """(leaf, whether it is chained) of the journals' records from one seq to another."""
        held: dict[int, list[tuple[bytes, bool]]] = {}
        for log in self.journal_logs:
            rows = self._workspace.rows(
                "SELECT seq, leaf, chained FROM journal WHERE place >= ? AND place < ?",
                log << SEQ_BITS | first,
                log << SEQ_BITS | end,
            )
            for seq, leaf, chained in rows:
                held.setdefault(seq, []).append((leaf, bool(chained)))
        return held

    def take_hub(
        self, log: int, record: HubRecord, beside: list[tuple[bytes, bool]], *, chained: bool
    ) -> None:
        """Keep one record of the hub that is not the journal's own, and what it says."""
        place = log << SEQ_BITS | record.seq
        head = (place, log, record.seq, record.leaf, int(chained))
        # A chained row beside another chained one is of another history: what that did has happened too.
        counts = all(leaf != record.leaf and chained for leaf, is_chained in beside if is_chained)
        meaning = self._ledger.take(
            record.body, place=place, seq=record.seq, counts=counts, sums=counts and not self._is_forked
        )
        if counts and beside:
            self._replaced.append((record.seq,))
        self._workspace.add("hub", (*head, *meaning, int(record.identified), 0))

    def judge_blind(
        self, record: HubRecord, previous: bytes | None, beside: list[tuple[bytes, bool]]
    ) -> None:
        """Judge what a journal has behind a missing record by the leaf before it at the hub, else by the
        hub's own bytes; `beside` is brought up to date."""
        for one in self.blind.pop(record.seq, []):
            if previous is None:
                is_sound = (one.leaf, one.body) == (record.leaf, record.body)
            else:
                is_sound = leaf_hash(previous, one.body) == one.leaf
            if is_sound:
                self._workspace.run("UPDATE journal SET chained = 1 WHERE place = ?", one.place)
                beside[beside.index((one.leaf, False))] = (one.leaf, True)

    def _settle_changed(self) -> None:
        """A changed record of a journal stands for its payment only where the hub has none."""
        unjudged = [(one.place,) for blind in self.blind.values() for one in blind]
        self._workspace.run_many("UPDATE journal SET chained = 1 WHERE place = ?", unjudged)
        replaced = {seq for (seq,) in self._replaced}
        for one in self._changed:
            if one.seq not in replaced:
                sums = not self._is_forked and one.seq < self._hub_size
                self._ledger.take(one.body, place=one.place, seq=one.seq, counts=True, sums=sums)
                self._workspace.run(
                    "UPDATE journal SET counted = client IS NOT NULL WHERE place = ?", one.place
                )

    @property
    def loader(self) -> Loader:
        """What this is part of."""
        return self._loader

    def hub_log(self, branch: int, log: int) -> None:
        """Remember which log a history of the hub is."""
        self._hub_logs[branch] = log

    # -- which history of the hub a journal is -----------------------------------------------------------

    def _pair(self) -> None:
        if self._hub is None:
            return
        for log in self.journal_logs:
            path = self._path_of(log)
            for branch, first, end in path:
                self._workspace.add("pair", (log, self._hub_logs[branch], first, end))
            self._workspace.run("UPDATE log SET hub_size = ? WHERE log = ?", path[-1][2], log)

    def _path_of(self, log: int) -> list[tuple[int, int, int]]:
        """The history of which the journal has most; the first one where it has none's end."""
        hub = self._hub
        assert hub is not None  # noqa: S101 - the caller has asked
        best, shared = hub.path(0), 0
        ((size,),) = self._workspace.rows("SELECT size FROM log WHERE log = ?", log)
        for number in (0, *(branch.number for branch in hub.branches)):
            path = hub.path(number)
            end = min(size, path[-1][2])
            if end > shared and self._has_leaf(log, path, end - 1):
                best, shared = path, end
        return best

    def _has_leaf(self, log: int, path: list[tuple[int, int, int]], seq: int) -> bool:
        branch = next(number for number, first, end in path if first <= seq < end)
        rows = self._workspace.rows(
            "SELECT 1 FROM journal JOIN hub USING (leaf) WHERE journal.place = ? AND hub.place = ?",
            log << SEQ_BITS | seq,
            self._hub_logs[branch] << SEQ_BITS | seq,
        )
        return next(rows, None) is not None


class _Holes:
    """Places without a record, written down as ranges."""

    def __init__(self, workspace: Workspace, log: int) -> None:
        self._workspace = workspace
        self._log = log
        self._first = self._end = 0

    def add(self, seq: int, end: int = 0) -> None:
        """A place without a record; up to end where that is given."""
        if seq != self._end:
            self.close()
            self._first = seq
        self._end = end or seq + 1

    def close(self) -> None:
        """Write the last one."""
        if self._end > self._first:
            self._workspace.add("hole", (self._log, self._first, self._end))
        self._first = self._end = 0


class _HubLog:
    """One history of an epoch at the hub, read in parts."""

    def __init__(
        self, epoch: _Epoch, hub: HubEpoch, *, branch: int, start: int = 0, size: int | None = None
    ) -> None:
        self._epoch, self._hub, self._branch = epoch, hub, branch
        self._log = epoch.loader.new_log()
        self._first = self._seq = start
        self._size = hub.size if size is None else size
        self._chain = Chain(previous=None if branch else FIRST_PREVIOUS, edge=None)
        self._others = 0
        self._holes = _Holes(epoch.loader.workspace, self._log)
        self._missing = 0
        self._previous: bytes | None = None if branch else FIRST_PREVIOUS
        epoch.hub_log(branch, self._log)

    def read(self, *, end: int) -> None:
        """Read on up to this seq."""
        for start in range(self._seq, end, ALIKE):
            stop = min(start + ALIKE, end)
            if self._seq != start or not self._take_alike(stop):
                self._read_each(start, stop)
        if end > self._seq:
            self._skip(end, [])

    def _take_alike(self, stop: int) -> bool:
        """Take the next records all at once where each is a journal's, byte for byte, by what the second
        process has read; False where only reading them can tell."""
        epoch, hub = self._epoch, self._hub
        beside = None if self._branch or not epoch.journal_logs else epoch.loader.beside()
        if beside is None:
            return False
        workspace, first = epoch.loader.workspace, beside.number_of(hub.box, hub.epoch) << SEQ_BITS
        places = (first | self._seq, first | stop)
        for log in epoch.journal_logs:
            if workspace.alike(*places, shift=(log << SEQ_BITS) - first) == stop - self._seq:
                workspace.insert_alike(*places, log=self._log, shift=(self._log << SEQ_BITS) - first)
                ((leaf,),) = workspace.rows("SELECT leaf FROM beside.chained WHERE place = ?", places[1] - 1)
                self._chain.go_on(leaf)
                epoch.loader.step(stop - self._seq)
                self._seq, self._previous = stop, leaf
                return True
        return False

    def _read_each(self, start: int, stop: int) -> None:
        hub, read = self._hub, self._epoch.loader.centre.records
        for records in read(box=hub.box, epoch=hub.epoch, branch=self._branch, start=start, end=stop):
            beside = self._epoch.held_beside(max(0, records[0].seq - 1), records[-1].seq + 1)
            same: list[Row] = []
            for record in records:
                seq, leaf = record.seq, record.leaf
                if seq > self._seq:
                    self._skip(seq, beside.get(seq - 1, []))
                here = beside.get(seq, [])
                if seq in self._epoch.blind:
                    self._epoch.judge_blind(record, self._previous, here)
                if record.identified:
                    self._look_for_its_identity(record)
                chained = self._chain.take(leaf, record.body)
                if chained and (leaf, True) in here:
                    number = self._log << SEQ_BITS | seq
                    same.append((number, self._log, seq, leaf, record.type, record.identified))
                else:
                    self._others += 1
                    self._epoch.take_hub(self._log, record, here, chained=chained)
                self._seq, self._previous = seq + 1, leaf
            self._epoch.loader.workspace.insert_same(same)
            self._epoch.loader.step(len(records))

    def _look_for_its_identity(self, record: HubRecord) -> None:
        """Write down a record that the hub would not find by the identity in its bytes."""
        said = identity_of(record.body)
        if said is not None and said != (record.client, record.request_id):
            found = f"{record.client} {record.request_id}"
            self._epoch.loader.workspace.add("misfiled", (self._log << SEQ_BITS | record.seq, *said, found))

    def _skip(self, seq: int, before: list[tuple[bytes, bool]]) -> None:
        """Records are missing; before are the leaves that the journals have of the last one."""
        self._previous = next((leaf for leaf, is_chained in before if is_chained), None)
        self._holes.add(self._seq, seq)
        self._missing += seq - self._seq
        self._chain.skip(self._previous, count=seq - self._seq)
        self._seq = seq

    def close(self) -> None:
        """Write down what it is as a whole."""
        self._holes.close()
        hub, root = self._hub, self._root()
        root_fault = ""
        if root is not None and root != hub.root:
            root_fault = f"its records give the root {root.hex()}, its head says {hub.root.hex()}"
        row = (
            self._log,
            "hub",
            hub.box,
            hub.epoch,
            self._branch,
            "hub",
            self._first,
            self._size,
            1,
            self._size,
        )
        self._epoch.loader.workspace.add(
            "log", (*row, self._chain.unchained, self._missing, root_fault, self._note_fault())
        )

    def _root(self) -> bytes | None:
        """The root over the hub's leaves; None where one is missing. A journal's that is alike serves."""
        if self._branch or self._missing or not self._size:
            return None
        if not self._others and self._epoch.root_at_hub is not None:
            return self._epoch.root_at_hub
        first = self._log << SEQ_BITS
        tree = Frontier()
        tree.extend(
            leaf
            for (leaf,) in self._epoch.loader.workspace.rows(
                "SELECT leaf FROM hub WHERE place >= ? AND place < ? ORDER BY place",
                first,
                first + self._size,
            )
        )
        return tree.root()

    def _note_fault(self) -> str:
        hub = self._hub
        if self._branch or not hub.checkpoint:
            return ""
        try:
            head = policy_of(hub, hub.key_changes).open(hub.checkpoint)
        except ValueError as problem:
            return f"its head is not signed by the key of epoch {hub.epoch} of {hub.box}: {problem}"
        if head.size == hub.size and head.root != hub.root:
            return "its head is not the one that is signed"
        return ""


def policy_of(hub: HubEpoch, statements: Sequence[str]) -> KeyPolicy:
    """The keys of an epoch's heads: the hub's first one, and what these statements make of it. Raises
    NoteError."""
    bank = read_change(statements[0]).said.bank if statements else ""
    return KeyPolicy(
        bank=bank, box=hub.box, epoch=hub.epoch, first=hub.key, parse=VerifyingKey.parse
    ).extended(statements)
