"""The files that leave a box for an auditor, line by line; `edgegw/verifier.py` tells the format.

Pure: the caller reads the ledger and writes the file. The verifier shares no code with this.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from edgegw.core.journal import FIRST_PREVIOUS, HASH_BYTES, Frontier

BLOCK_RECORDS: Final = 256
"""A line of leaves follows so many records at most: a tenth of the file, and it locates every edit."""

_SIZE_BYTES: Final = 8
"""Of a frontier's bytes; its peaks follow."""
_encode = msgspec.json.Encoder().encode


def journal_lines(
    origin: str,
    entries: Iterable[tuple[bytes, bytes]],
    *,
    checkpoint: str,
    cosignatures: Sequence[str],
    keys: Sequence[str] = (),
    before: Frontier | None = None,
    previous: bytes = FIRST_PREVIOUS,
) -> Iterator[bytes]:
    """The lines of an exported journal, newlines included.

    entries are the (record, leaf) pairs of the log in order, checkpoint the signed note that covers just them
    and what came before, cosignatures notes with the other side's cosignature (the newest is enough, none is
    allowed), keys all statements by which another key took over (`core.key_policy`). before and previous are
    the tree's edge and the last leaf of what was pruned.
    """
    header: dict[str, object] = {"edgegw_journal": 1, "origin": origin, "from": before.size if before else 0}
    if before is not None and before.size:
        edge = before.to_bytes()
        peaks = [edge[at : at + HASH_BYTES].hex() for at in range(_SIZE_BYTES, len(edge), HASH_BYTES)]
        header |= {"previous_leaf": previous.hex(), "peaks": peaks}
    yield _encode(header) + b"\n"
    remaining = iter(entries)
    while block := list(itertools.islice(remaining, BLOCK_RECORDS)):
        for record, _ in block:
            yield record + b"\n"
        leaves = base64.b64encode(b"".join(leaf for _, leaf in block)).decode()
        yield _encode({"leaves": leaves}) + b"\n"
    trailer = {"checkpoint": checkpoint, "cosignatures": list(cosignatures)}
    yield _encode(trailer | ({"keys": list(keys)} if keys else {})) + b"\n"
