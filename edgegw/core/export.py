"""The files that leave a box for an auditor, line by line; `edgegw/verifier.py` tells the format.

Pure: the caller reads the ledger and writes the file. The verifier shares no code with this.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

BLOCK_RECORDS: Final = 256
"""A line of leaves follows so many records at most: a tenth of the file, and it locates every edit."""

_encode = msgspec.json.Encoder().encode


def journal_lines(
    origin: str, entries: Iterable[tuple[bytes, bytes]], *, checkpoint: str, cosignatures: Sequence[str]
) -> Iterator[bytes]:
    """The lines of an exported journal, newlines included.

    entries are the (record, leaf) pairs of the whole log in order, checkpoint the signed note that covers
    just them, cosignatures notes with the other side's cosignature (the newest is enough, none is allowed).
    """
    yield _encode({"edgegw_journal": 1, "origin": origin, "from": 0}) + b"\n"
    remaining = iter(entries)
    while block := list(itertools.islice(remaining, BLOCK_RECORDS)):
        for record, _ in block:
            yield record + b"\n"
        leaves = base64.b64encode(b"".join(leaf for _, leaf in block)).decode()
        yield _encode({"leaves": leaves}) + b"\n"
    yield _encode({"checkpoint": checkpoint, "cosignatures": list(cosignatures)}) + b"\n"
