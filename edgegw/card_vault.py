"""A box's card vault as its process opens it, watches it and tells of it.

A vault that cannot be opened stops no start: payments with a card are refused a decision, all others go on.
Leaves out tokens (`payments.cards`) and the file (`payments.vault_file`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from edgegw.access.keystore import Keystore, stay_out_of_core_dumps
from edgegw.config.box import BoxSettings
from edgegw.core.book import Book
from edgegw.payments.cards import LOST_HINT, Cards, NoCards
from edgegw.payments.vault_file import VAULT_NAME, VaultFailed, VaultFile
from edgegw.payments.vault_keys import KeyFolder

_log: Final = structlog.get_logger("edgegw.vault")


def vault_path(settings: BoxSettings) -> Path:
    """The vault's file."""
    return Path(settings.data_dir) / VAULT_NAME


def vault_keys(settings: BoxSettings, keystore: Keystore) -> KeyFolder:
    """The vault's own key versions."""
    owner = f"{settings.bank}/{settings.box}/vault"
    return KeyFolder(keystore, Path(settings.vault_keys_dir), owner=owner)


class CardVault:
    """The vault of a running box, over all its epochs."""

    def __init__(self, settings: BoxSettings, keystore: Keystore) -> None:
        # Card numbers pass through this process: a dump of it would be a copy of them.
        stay_out_of_core_dumps()
        self.cards = _opened(settings, keystore)
        self._told = ""

    @property
    def is_open(self) -> bool:
        """Whether payments with a card are decided."""
        return not self.cards.trouble

    def use(self, book: Book) -> None:
        """Give this book's cards their names from now on."""
        self.cards.use(book)
        self.look(book)

    def look(self, book: Book) -> None:
        """Tell what persons did with the vault, and what is wrong with it."""
        try:
            acts = self.cards.news(book)
        except VaultFailed as problem:
            _log.error("vault_unreadable", problem=str(problem), hint=problem.hint)
            return
        for act in acts:
            _log.warning("vault_act", what=act.what, card=act.token, by=act.by, reason=act.reason)
        trouble = self.cards.trouble
        if trouble and trouble != self._told:
            _log.error("vault_unavailable", problem=trouble, hint=LOST_HINT)
        self._told = trouble

    def close(self) -> None:
        """End its connections."""
        self.cards.close()


def _opened(settings: BoxSettings, keystore: Keystore) -> Cards | NoCards:
    path, keys = vault_path(settings), vault_keys(settings, keystore)
    try:
        return Cards(VaultFile.open(path, keys, create=True), VaultFile.open(path, keys))
    except VaultFailed as problem:
        return NoCards(str(problem))
