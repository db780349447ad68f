"""Cards of payments become tokens here, and rules hear by which name the settings know them.

A known card costs a look into memory; new ones wait for one COMMIT of the vault's file, all that came
meanwhile together, before the payment that names them is decided. A vault that does not know a card that the
ledger has counted was lost or is older than the ledger: it would give that card a second token and its limits
anew, so no payment with a card is decided until the vault is back, what was counted is over or a person
accepts the loss. Leaves out the file (`payments.vault_file`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import apsw

from edgegw.core.book import Book
from edgegw.payments.vault_file import Act, VaultFailed, VaultFile

KNOWN_MAX: Final = 65_536
"""Cards in memory, some 20 MB; others cost a read of the file."""
LOST_HINT: Final = (
    "Bring the vault's file and keys back from where they are and start again; where they are gone,"
    " take what is left of vault.db away and start the box: `edgegw vault accept-loss` gives those cards new"
    " tokens and their limits anew."
)


class CardVault(Protocol):
    """Where a gateway has the tokens of cards from."""

    async def keep(self, lookup: str, number: str, /) -> None:
        """Know a card's number from now on; raises VaultFailed."""

    async def tokens(self, lookups: Collection[str], /) -> dict[str, str]:
        """The token of each lookup, on disk when this returns; raises VaultFailed."""

    def lookup(self, token: str, /) -> str | None:
        """The lookup of a token, None where nobody can tell it any more."""


class NoVault:
    """Where there is none, what came in stands for itself, and no number is kept."""

    async def keep(self, _lookup: str, _number: str, /) -> None:
        """Nothing."""

    async def tokens(self, lookups: Collection[str], /) -> dict[str, str]:
        """Each as it is."""
        return {lookup: lookup for lookup in lookups}

    def lookup(self, token: str, /) -> str | None:
        """As it is."""
        return token


class NoCards:
    """A vault that cannot be opened: no payment with a card is decided."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    async def keep(self, _lookup: str, _number: str, /) -> None:
        """Raises VaultFailed."""
        raise VaultFailed(self.trouble)

    async def tokens(self, _lookups: Collection[str], /) -> dict[str, str]:
        """Raises VaultFailed."""
        raise VaultFailed(self.trouble)

    def lookup(self, _token: str, /) -> None:
        """Nobody can tell."""

    def use(self, book: Book) -> None:
        """Name no card of this book."""
        book.cards = self

    def news(self, _book: Book) -> list[Act]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing is open."""


def counted_cards(book: Book) -> set[str]:
    """The cards, as records name them, of which a limit still counts something."""
    tally = book.tally
    of_cards = {measure.key for measure in tally.measures if measure.of == "card"}
    counted = {whose for key, whose, _ in tally.living(book.at_ns) if key in of_cards} if of_cards else set()
    return counted | {one.card for _, one in book.stand_ins.items() if one.card}


class _Gathered:
    """Cards that go into one COMMIT: what is wanted of them, and their tokens."""

    def __init__(self) -> None:
        self.wanted: dict[str, str] = {}
        self.found: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()


class Cards:
    """One box's vault, at work."""

    def __init__(self, writer: VaultFile, reader: VaultFile) -> None:
        """Two connections to one file: the writer's is used by a thread of its own."""
        self._writer = writer
        self._reader = reader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vault-commit")
        self._known: OrderedDict[str, str] = OrderedDict()
        """Token by lookup, the one that was asked for last at the end."""
        self._lookups: dict[str, str] = {}
        self._numbered: set[str] = set()
        """Lookups of cards whose number the file has."""
        self._gathering: _Gathered | None = None
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen = reader.changed()
        self._told = max((act.number for act in reader.acts()), default=0)
        self._untold: list[Act] = []
        self.lost: list[str] = []
        """Tokens that the ledger counts by and the vault does not know."""
        self._failed = ""

    def close(self) -> None:
        """End both connections."""
        self._thread.shutdown()
        self._writer.close()
        self._reader.close()

    @property
    def trouble(self) -> str:
        """Why no payment with a card is decided, "" while they are."""
        if self.lost:
            return f"the vault is lost or older than the ledger: it does not know {len(self.lost)} cards"
        return self._failed

    def use(self, book: Book) -> None:
        """Name cards for this book, and hold the vault against what it has counted."""
        book.cards = self
        try:
            self.lost = self._reader.unknown(counted_cards(book))
        except VaultFailed as problem:
            self._failed = str(problem)

    def news(self, book: Book) -> list[Act]:
        """What persons did in other processes since this was asked last. Raises VaultFailed."""
        self._look()
        if self._untold and self.lost:
            self.lost = self._reader.unknown(counted_cards(book))
        told, self._untold = self._untold, []
        return told

    # --- tokens ---------------------------------------------------------------------------------------------

    async def keep(self, lookup: str, number: str) -> None:
        """Know a card's number from now on; raises VaultFailed."""
        self._look()
        if lookup not in self._numbered:
            await self._mint({lookup: number})

    async def tokens(self, lookups: Collection[str]) -> dict[str, str]:
        """The token of each lookup, on disk when this returns; raises VaultFailed."""
        self._look()
        if self.trouble:
            raise VaultFailed(self.trouble, hint=LOST_HINT if self.lost else "")
        known = self._known
        found: dict[str, str] = {}
        missing: dict[str, str] = {}
        for lookup in lookups:
            token = known.get(lookup)
            if token is None:
                missing[lookup] = ""
            else:
                known.move_to_end(lookup)
                found[lookup] = token
        return found | await self._mint(missing) if missing else found

    def lookup(self, token: str) -> str | None:
        """The lookup of a token, None where nobody can tell it any more; raises VaultFailed."""
        lookup = self._lookups.get(token)
        if lookup is not None:
            return lookup
        card = self._reader.card(token)
        if card is None:
            return None
        self._remember({card.lookup: token})
        return card.lookup

    async def _mint(self, wanted: dict[str, str]) -> dict[str, str]:
        """Through the file, in one COMMIT with whoever else waits for the one before."""
        if self.trouble:
            raise VaultFailed(self.trouble, hint=LOST_HINT if self.lost else "")
        gathered = self._gathering
        if gathered is None:
            gathered = self._gathering = _Gathered()
            task = asyncio.ensure_future(self._commit(gathered))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for lookup, number in wanted.items():
            gathered.wanted[lookup] = number or gathered.wanted.get(lookup, "")
        found = await asyncio.shield(gathered.found)
        return {lookup: found[lookup] for lookup in wanted}

    async def _commit(self, gathered: _Gathered) -> None:
        async with self._turn:
            self._gathering = None
            told = self._told
            loop = asyncio.get_running_loop()
            try:
                found = await loop.run_in_executor(self._thread, self._writer.mint, gathered.wanted)
                self._look()
            except VaultFailed as problem:
                if isinstance(problem.__cause__, apsw.IOError):
                    # After a failed fsync neither memory nor the page cache says what is on disk.
                    self._failed = f"{problem}; start the box again when the disk is mended"
                gathered.found.set_exception(problem)
                return
            except Exception as problem:  # noqa: BLE001 - whoever waits must hear of it
                gathered.found.set_exception(problem)
                return
            if told == self._told:  # else one of them may have been shredded meanwhile
                self._remember(found)
                self._numbered.update(lookup for lookup, number in gathered.wanted.items() if number)
            gathered.found.set_result(found)

    def _remember(self, found: dict[str, str]) -> None:
        self._known.update(found)
        self._lookups.update((token, lookup) for lookup, token in found.items())
        self._forget(self._oldest(len(self._known) - KNOWN_MAX))

    def _oldest(self, count: int) -> list[str]:
        return [lookup for lookup, _ in zip(self._known, range(count), strict=False)]

    def _forget(self, lookups: Iterable[str]) -> None:
        for lookup in lookups:
            self._lookups.pop(self._known.pop(lookup), None)
            self._numbered.discard(lookup)

    def _look(self) -> None:
        """Where a person did something since the last look, nothing in memory holds any more."""
        changed = self._reader.changed()
        if changed == self._seen:
            return
        self._seen = changed
        acts = self._reader.acts(self._told)
        if acts:
            self._told = acts[-1].number
            self._untold += acts
            self._forget(list(self._known))
