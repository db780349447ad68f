"""The stored part of the journal's Merkle tree: roots of complete subtrees of 256 leaves or of 256 of those.

The rest is computed from at most 256 of these or of the leaves, so a proof costs a bounded number of reads at
any size, and one hash is kept for 256 records. Also the proof for a part of a log whose signed head is not
held itself, only a proof that leads there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from edgegw.core.journal import Frontier, Node, consistency_proof, node_hash

TILE_LEVELS: Final = 8
TILE_WIDTH: Final = 1 << TILE_LEVELS
_HASH_BYTES: Final = 32


class Tile(NamedTuple):
    """The root over leaves [number << level, (number + 1) << level) of an epoch; level is 8, 16, 24 or 32."""

    epoch: int
    level: int
    number: int
    hash: bytes


def extend(frontier: Frontier, leaves: Sequence[bytes], *, epoch: int) -> list[Tile]:
    """Append leaf hashes to the frontier and return the tiles that they complete."""
    tiles: list[Tile] = []
    start = 0
    while (room := TILE_WIDTH - 1 - frontier.size % TILE_WIDTH) < len(leaves) - start:
        frontier.extend(leaves[start : start + room])
        tiles += _completed_by(frontier, leaves[start + room], epoch=epoch)
        frontier.append(leaves[start + room])
        start += room + 1
    frontier.extend(leaves[start:])
    return tiles


def _completed_by(frontier: Frontier, leaf: bytes, *, epoch: int) -> list[Tile]:
    """The tiles that one more leaf completes: of its merges with the right edge every eighth."""
    last = frontier.size
    edge = frontier.to_bytes()
    tiles, node, level = [], leaf, 0
    while last >> level & 1:
        end = len(edge) - level * _HASH_BYTES
        node = node_hash(edge[end - _HASH_BYTES : end], node)
        level += 1
        if level % TILE_LEVELS == 0:
            tiles.append(Tile(epoch, level, last >> level, node))
    return tiles


def node_reader(row: Callable[[int, int, int], list[bytes]]) -> Node:
    """A `Node` for proofs over stored hashes; row(level, start, count) reads them at level 0, 8, 16, ...

    One reader serves one proof: it keeps what it has read.
    """
    levels: dict[tuple[int, int], list[list[bytes]]] = {}

    def node(level: int, index: int) -> bytes:
        base = level - level % TILE_LEVELS
        within = level - base
        if not within:
            return row(base, index, 1)[0]
        group = index >> TILE_LEVELS - within
        known = levels.get((base, group))
        if known is None:
            known = levels[base, group] = _pairwise(row(base, group << TILE_LEVELS, TILE_WIDTH))
        return known[within][index - (group << TILE_LEVELS - within)]

    return node


def _pairwise(hashes: list[bytes]) -> list[list[bytes]]:
    """All complete nodes above a run of hashes, level by level."""
    levels = [hashes]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return levels


def partial_proof(
    old_size: int, *, held_size: int, size: int, held_proof: Sequence[bytes], node: Node
) -> list[bytes]:
    """The consistency proof from old_size to size of a tree of which only held_size leaves are held.

    held_proof is the one from held_size to size. What lies beyond held_size stands in it, the rest in `node`.
    Needs 0 < old_size <= held_size <= size.
    """
    if held_size == size:
        return consistency_proof(old_size, size, node)
    path = _path(held_size, size)
    known = dict(zip(path, reversed(held_proof), strict=True))
    beyond = {part: digest for part, digest in known.items() if part[0] >= held_size}

    def root(start: int, end: int) -> bytes:
        if (start, end) in beyond:
            return beyond[start, end]
        width = end - start
        if width.bit_count() == 1 and end <= held_size:
            level = width.bit_length() - 1
            return node(level, start >> level)
        middle = start + _left_width(width)
        return node_hash(root(start, middle), root(middle, end))

    return [root(start, end) for start, end in reversed(_path(old_size, size))]


def _path(old_size: int, size: int) -> list[tuple[int, int]]:
    """The subtrees of a consistency proof as spans of leaves, from the root down; RFC 6962 section 2.1.2."""
    start, end, is_left_edge = 0, size, True
    path = []
    while end != old_size:
        middle = start + _left_width(end - start)
        if old_size <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start, is_left_edge = middle, False
    return path if is_left_edge else [*path, (start, end)]


def _left_width(width: int) -> int:
    return 1 << (width - 1).bit_length() - 1
