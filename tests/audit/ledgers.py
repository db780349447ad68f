"""A ledger file with the logs of `tests.audit.logs` in it, written as a pen writes, many records a COMMIT."""

from __future__ import annotations

import itertools
from pathlib import Path

from edgegw.core import tiles
from edgegw.core.journal import FIRST_PREVIOUS, Checkpoint, Frontier, leaf_hash
from edgegw.ledger.rows import row_of_bytes
from edgegw.ledger.store import Store
from tests.audit.logs import BANK, BOX, TIME_S, Author, records

BATCH = 4_096


def new_ledger(directory: Path) -> Store:
    """An empty ledger of our box."""
    store = Store.open(directory / "ledger.db", create=True)
    store.own(bank=BANK, box=BOX)
    return store


def write_epoch(store: Store, author: Author, size: int, seed: int, *, cosigned: int = 0) -> None:
    """Write an epoch of so many records; the hub cosigns some of them."""
    frontier, leaf, boot = Frontier(), FIRST_PREVIOUS, "b" * 32
    bodies = records(author, size, seed)
    while frontier.size < size:
        old_size, rows = frontier.size, []
        for body in itertools.islice(bodies, BATCH):
            leaf = leaf_hash(leaf, body)
            rows.append(row_of_bytes(body, leaf=leaf, epoch=author.epoch, seq=old_size + len(rows)))
        store.begin()
        if not old_size:
            store.start_epoch(author.epoch, boot=boot, root=frontier.root())
        store.append(rows, tiles.extend(frontier, [row.leaf for row in rows], epoch=author.epoch))
        head = Checkpoint(author.origin, frontier.size, frontier.root())
        place = {"epoch": author.epoch, "old_size": old_size, "size": frontier.size}
        store.seal(**place, root=head.root, checkpoint=author.box.seal(head.body()), boot=boot)
        if old_size < cosigned <= frontier.size:
            part = Frontier.from_bytes(frontier.to_bytes()) if cosigned == frontier.size else None
            if part is None:
                part = Frontier()
                entries = store.records(epoch=author.epoch, start=0, limit=cosigned, bytes_max=2**40)
                part.extend(entry.leaf for entry in entries)
            note = author.hub.cosign(Checkpoint(author.origin, cosigned, part.root()), time_s=TIME_S)
            store.begin()
            store.put_cosignature(epoch=author.epoch, size=cosigned, note=note)
            store.commit()
