"""The lists of ids that a box holds: blocks in the ledger, in memory for the settings in force."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgegw.core.book import Book
from edgegw.core.lists import HeldList
from edgegw.core.site import Site, decode_site
from edgegw.ledger.store import Store


def hold_lists(store: Store, book: Book, site: Site) -> str:
    """Bring the lists that these settings name from the ledger into memory; the name of one that is not
    there, else "". Raises LedgerCorrupt where one was changed."""
    for rule in site.lists or ():
        if rule.digest not in book.held_lists:
            block = store.id_list(rule.digest)
            if block is None:
                return rule.name
            book.held_lists[rule.digest] = HeldList(block)
    return ""


def keep_lists(store: Store, book: Book, blocks: Mapping[str, bytes]) -> None:
    """Keep the lists of settings that are about to be in force."""
    for digest, block in blocks.items():
        store.put_id_list(digest, block)
        book.held_lists.setdefault(digest, HeldList(block))


def drop_lists(store: Store, book: Book, *, in_force: Collection[str]) -> None:
    """Let the lists go that the settings of these digests do not name."""
    bundles = [bundle for bundle in map(store.site, in_force) if bundle is not None]
    named = {rule.digest for bundle in bundles for rule in decode_site(bundle.bundle).lists or ()}
    store.drop_id_lists(besides=named)
    for digest in book.held_lists.keys() - named:
        del book.held_lists[digest]
