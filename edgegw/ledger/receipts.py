"""Proofs that leave a box: that a record is in the journal, that a newer head only continues an older one.

Made from what is committed, for whoever asks: an API's client, an operator, an auditor. `edgegw/verifier.py`
tells the formats and checks them. Leaves out exports of everything (`ledger.export`, `audit`).
"""

from __future__ import annotations

import msgspec

from edgegw.core.exchange import frontier_at
from edgegw.core.journal import FIRST_PREVIOUS, ProofError, consistency_proof, inclusion_proof
from edgegw.errors import LedgerForeign
from edgegw.ledger.received import proven_head
from edgegw.ledger.rows import position_of
from edgegw.ledger.store import Head, Store


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Proof that a record is in the journal; verified offline with the box's public key."""

    type: str
    record: str
    """The record's bytes, verbatim (they are UTF-8)."""
    previous_leaf: str
    """Hex; the leaf is SM3(0x00 || previous leaf || record)."""
    index: int
    size: int
    proof: tuple[str, ...]
    """Hex; the inclusion proof of the leaf at `index` in the tree of `size` leaves, RFC 6962 section
    2.1.1."""
    checkpoint: str
    """The signed note that holds the root."""
    cosignature: str
    """The centre's cosigned note, when it covers the record; before that "": the box alone vouches for it."""
    cosignature_proof: tuple[str, ...]
    """Hex; the consistency proof from the cosigned size to `size`."""
    keys: tuple[str, ...] = ()
    """The statements, each signed by two keys, by which other keys took over before the checkpoint; none
    where the epoch's first key has signed it."""


def receipt_of(store: Store, *, epoch: int, seq: int) -> Receipt | None:
    """The receipt of a record, proven against the newest checkpoint of its epoch; None where there is none.

    Raises RecordPruned where the record is not here any more.
    """
    head = proven_head(store, epoch)
    if head is None or not 0 <= seq < head.size:
        return None
    body = store.at(position_of(epoch=epoch, seq=seq))
    if body is None:
        return None
    node = store.node(epoch, head.size)
    previous = node(0, seq - 1) if seq else FIRST_PREVIOUS
    proof = inclusion_proof(seq, head.size, node)
    cosigned, note = store.cosignature(epoch) or (0, "")
    covered = seq < cosigned <= head.size
    consistency = consistency_proof(cosigned, head.size, node) if covered else []
    return Receipt(
        type="edgegw-receipt-v1",
        record=body.decode(),
        previous_leaf=previous.hex(),
        index=seq,
        size=head.size,
        proof=tuple(step.hex() for step in proof),
        checkpoint=head.checkpoint,
        cosignature=note if covered else "",
        cosignature_proof=tuple(step.hex() for step in consistency),
        keys=tuple(one.note for one in store.keys.notes(epoch) if one.seq < head.size),
    )


def newest_head(store: Store, epoch: int) -> Head:
    """The newest head of an epoch (0: the newest epoch) that can be proven; LedgerForeign where none is."""
    known = [head.epoch for head in store.heads()]
    head = proven_head(store, epoch or max(known, default=0))
    if head is None:
        raise LedgerForeign(
            f"there is no epoch {epoch} in this ledger" if epoch else "there is no journal in this ledger",
            hint=f"It has {', '.join(map(str, known)) or 'none yet'}.",
        )
    return head


def consistency_of(store: Store, head: Head, *, old_size: int, old_root: bytes | None = None) -> bytes:
    """The proof, as a file, that a head only continues the log as it was at an older size.

    With the older root known it is checked. Raises ProofError where nothing can be proven, or the older root
    is not this log's.
    """
    if not 0 <= old_size <= head.size:
        raise ProofError(f"size {old_size} is not within 0 to {head.size}: it is newer than the newest head")
    node = store.node(head.epoch, head.size)
    root = frontier_at(old_size, node).root()
    if old_root is not None and old_root != root:
        raise ProofError(f"at size {old_size} this log has root {root.hex()}, not {old_root.hex()}: a fork")
    steps = consistency_proof(old_size, head.size, node) if old_size else []
    proof = {"edgegw_consistency": 1, "proof": [step.hex() for step in steps]}
    return msgspec.json.encode(proof) + b"\n"
