"""Which key signs the checkpoints of an epoch, and for which sizes.

The hub's link names the first key. Each later one is introduced by a record of the journal whose statement
both keys have signed: standing at seq n, it ends the old key with size n and begins the new one with size
n + 1, so the COMMIT that writes it is signed by the new key already, and the statement is of that size.
Readers that do not hold that record yet get its statement beside the checkpoint. A key that the hub has
revoked is void for the sizes above a limit, and so is a statement of such a size that it has signed. Leaves
out where keys lie (`access`) and who keeps the statements (`ledger`, `hub`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from edgegw.core import journal
from edgegw.core.journal import Checkpoint, NoteError, SignatureLine
from edgegw.core.messages import Package, SigningKey, VerifyingKey
from edgegw.core.records import UNREADABLE

CHECKPOINT: Final = "checkpoint"
KEY_CHANGES_MAX: Final = 256
"""In one epoch: a key each week for five years. Then a new epoch brings a new key."""

_LABEL: Final = "edgegw/key/v1\n"
_REVOKED_LABEL: Final = "edgegw/revoked-key/v1\n"
_KEY_RECORD: Final = b'{"type":"key"'
"""How a record of a key begins: the type is written first."""
_UNSIGNED_SEQ: Final = 1
"""An epoch's second record repeats the key that its link names; nobody signs that again."""

ParseKey = Callable[[str], VerifyingKey]
"""The one-line text of a public key to the key; raises ValueError."""


class KeyChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both keys sign: from behind the record at epoch/seq of this box on, `new` signs instead of
    `old`."""

    purpose: str
    """What they sign: `checkpoint`."""
    bank: str
    box: str
    epoch: int
    seq: int
    old: str
    new: str


class Signed(NamedTuple):
    """A change and the note in which both keys have signed it."""

    said: KeyChange
    note: str


class KeyRange(NamedTuple):
    """A key and the sizes of the checkpoints that it signs."""

    key: str
    first: int
    last: int | None
    """None while it is the newest."""
    void_above: int | None = None
    """Revoked by the hub: its checkpoints of larger sizes count for nothing."""


class RevokedKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hub's word that checkpoints of this epoch by this key count for nothing above a size."""

    bank: str
    box: str
    epoch: int
    key: str
    size_max: int
    at_s: int
    """When, Unix seconds."""
    reason: str


_encode: Final = msgspec.json.Encoder().encode
_change_decoder: Final = msgspec.json.Decoder(KeyChange)
_revoked_decoder: Final = msgspec.json.Decoder(RevokedKey)


def sign_change(said: KeyChange, *, old: SigningKey, new: SigningKey) -> str:
    """The statement as a note: the line `edgegw/key/v1`, one line of JSON, a blank line, both signature
    lines, the old key's first."""
    body = _LABEL.encode() + _encode(said) + b"\n"
    note = journal.sign_note(body, name=old.name, key_id=old.key_id, sign=old.sign)
    return journal.add_signature(note, SignatureLine(new.name, new.key_id, new.sign(body)))


def read_change(note: str) -> Signed:
    """What a statement says, its signatures not checked; raises NoteError."""
    body, _ = journal.parse_note(note)
    try:
        said = _change_decoder.decode(body.removeprefix(_LABEL))
    except UNREADABLE as problem:
        raise NoteError(f"no statement about a key: {problem}") from None
    if body.encode() != _LABEL.encode() + _encode(said) + b"\n":
        raise NoteError("a statement about a key is written in one way")
    return Signed(said, note)


def open_change(note: str, parse: ParseKey) -> Signed:
    """A statement that both keys have signed; raises NoteError."""
    signed = read_change(note)
    _, lines = journal.parse_note(note)
    if len(lines) != 2:
        raise NoteError(f"a statement about a key bears two signatures, not {len(lines)}")
    try:
        keys = parse(signed.said.old), parse(signed.said.new)
    except ValueError as problem:
        raise NoteError(f"a statement about a key names none: {problem}") from None
    if keys[0].name != keys[1].name or signed.said.old == signed.said.new:
        raise NoteError(f"key {signed.said.new} cannot follow {signed.said.old}")
    for key in keys:
        journal.open_text(note, name=key.name, key_id=key.key_id, verify=key.verify)
    return signed


def sign_revoked(revoked: RevokedKey, key: SigningKey) -> str:
    """The hub's word as a note: the line `edgegw/revoked-key/v1`, one line of JSON, a blank line, its
    signature line."""
    body = _REVOKED_LABEL.encode() + _encode(revoked) + b"\n"
    return journal.sign_note(body, name=key.name, key_id=key.key_id, sign=key.sign)


def open_revoked(note: str, hub: VerifyingKey) -> RevokedKey:
    """What the hub has revoked by this note; raises NoteError."""
    body = journal.open_text(note, name=hub.name, key_id=hub.key_id, verify=hub.verify)
    if not body.startswith(_REVOKED_LABEL):
        raise NoteError("the note revokes no key")
    try:
        return _revoked_decoder.decode(body.removeprefix(_REVOKED_LABEL))
    except UNREADABLE as problem:
        raise NoteError(f"the note revokes no key: {problem}") from None


def void_above(revoked: Sequence[RevokedKey], *, box: str, epoch: int) -> dict[str, int]:
    """The keys of an epoch that are revoked, each with the largest size that counts; of several words the
    strictest."""
    found: dict[str, int] = {}
    for one in revoked:
        if (one.box, one.epoch) == (box, epoch):
            found[one.key] = min(one.size_max, found.get(one.key, one.size_max))
    return found


class KeyPolicy:
    """The keys of one epoch, by sizes. Immutable: what adds to it gives another one."""

    def __init__(
        self,
        *,
        bank: str,
        box: str,
        epoch: int,
        first: str,
        parse: ParseKey,
        changes: Sequence[Signed] = (),
        void: Mapping[str, int] | None = None,
    ) -> None:
        """first: the key that the hub's link names. changes were checked before (`extended`). void: revoked
        keys, each with the largest size that counts."""
        self._place = (bank, box, epoch)
        self._first = first
        self._parse = parse
        self._changes = tuple(changes)
        self._void = dict(void or {})

    @property
    def newest(self) -> str:
        """The key that signs now."""
        return self._changes[-1].said.new if self._changes else self._first

    @property
    def notes(self) -> tuple[str, ...]:
        """All statements, in order."""
        return tuple(change.note for change in self._changes)

    def notes_from(self, seq: int) -> tuple[str, ...]:
        """The statements of records from seq on."""
        return tuple(change.note for change in self._changes if change.said.seq >= seq)

    def key_at(self, size: int) -> str:
        """The key that signs a checkpoint of this size."""
        before = [change.said.new for change in self._changes if change.said.seq < size]
        return before[-1] if before else self._first

    def ranges(self) -> list[KeyRange]:
        """Every key with its sizes, in order."""
        ends = [change.said.seq for change in self._changes]
        keys = [self._first, *(change.said.new for change in self._changes)]
        return [
            KeyRange(key, first, last, self._void.get(key))
            for key, first, last in zip(keys, [1, *(end + 1 for end in ends)], [*ends, None], strict=True)
        ]

    # --- opening --------------------------------------------------------------------------------------------

    def open(self, note: str | bytes) -> Checkpoint:
        """The checkpoint that the key of its size has signed; raises NoteError."""
        checkpoint, lines = journal.parse_checkpoint(note)
        text = self.key_at(checkpoint.size)
        key = self._key(text)
        try:
            opened = journal.open_note(note, name=key.name, key_id=key.key_id, verify=key.verify)
        except NoteError as problem:
            raise NoteError(self._out_of_range(checkpoint, lines) or str(problem)) from None
        fault = self._void_fault(checkpoint.size)
        if fault:
            raise NoteError(fault)
        return opened

    def _void_fault(self, size: int) -> str:
        """Which revoked key a checkpoint of this size would rest on, "" for none: its own or one that has
        introduced that."""
        signs = [(change.said.old, change.said.seq + 1) for change in self._changes if change.said.seq < size]
        for text, signed in (*signs, (self.key_at(size), size)):
            if signed > self._void.get(text, signed):
                return f"key {text} is revoked: what it signs above size {self._void[text]} is void"
        return ""

    def _out_of_range(self, checkpoint: Checkpoint, lines: Sequence[SignatureLine]) -> str:
        """What to say of a checkpoint that another key of this epoch has signed."""
        for one in self.ranges():
            key = self._key(one.key)
            if any((line.name, line.key_id) == (key.name, key.key_id) for line in lines):
                upto = "on" if one.last is None else f"to {one.last}"
                return (
                    f"key {key.name} ({key.key_id.hex()}) signs sizes from {one.first} {upto},"
                    f" not {checkpoint.size}"
                )
        return ""

    def _key(self, text: str) -> VerifyingKey:
        try:
            return self._parse(text)
        except ValueError as problem:
            raise NoteError(f"epoch {self._place[2]} has no key: {problem}") from None

    # --- growing --------------------------------------------------------------------------------------------

    def without(self, void: Mapping[str, int]) -> KeyPolicy:
        """The same, and these keys are void above the sizes."""
        policy = self._with(self._changes)
        policy._void = dict(void)
        return policy

    def known(self, notes: Sequence[str]) -> KeyPolicy:
        """The same with statements that were checked when they were kept; raises NoteError for what is
        none."""
        return self._with((*self._changes, *map(read_change, notes)))

    def extended(self, notes: Sequence[str]) -> KeyPolicy:
        """The same with later statements, each of them checked; raises NoteError."""
        policy = self
        for note in notes:
            policy = policy._with((*policy._changes, policy._checked(open_change(note, self._parse))))
        return policy

    def before(self, seq: int) -> KeyPolicy:
        """The same without the statements of records from seq on."""
        if not self._changes or self._changes[-1].said.seq < seq:
            return self
        return self._with(tuple(change for change in self._changes if change.said.seq < seq))

    def of_package(self, package: Package) -> KeyPolicy:
        """The policy by what a package says of keys, in its records and beside them; raises NoteError.

        What is known of records from the package's first one on gives way: it comes with the package.
        """
        if len(package.keys) > KEY_CHANGES_MAX:
            raise NoteError(f"{len(package.keys)} statements about keys; {KEY_CHANGES_MAX} at most")
        beside = [read_change(note) for note in package.keys]
        start = min((package.old_size, *(change.said.seq for change in beside)))
        inside = changes_in(package.records, package.old_size)
        policy = self.before(start)
        policy = policy.extended([one.note for one in beside if one.said.seq < package.old_size])
        for seq, note in inside:
            said = open_change(note, self._parse).said
            if said.seq != seq:
                raise NoteError(f"record {seq} holds the statement of record {said.seq} about a key")
            if said.purpose == CHECKPOINT:
                policy = policy.extended([note])
        return policy.extended([one.note for one in beside if one.said.seq >= package.size])

    def _checked(self, signed: Signed) -> Signed:
        said = signed.said
        if (said.bank, said.box, said.epoch) != self._place or said.purpose != CHECKPOINT:
            place = f"{said.bank}/{said.box} epoch {said.epoch}"
            raise NoteError(f"the statement about a key is for the {said.purpose} key of {place}")
        last = self._changes[-1].said.seq if self._changes else _UNSIGNED_SEQ
        if said.seq <= last:
            raise NoteError(f"the statement of record {said.seq} about a key follows that of record {last}")
        if said.old != self.newest:
            raise NoteError(f"record {said.seq} ends key {said.old}, but {self.newest} signs there")
        if said.new in (one.key for one in self.ranges()):
            raise NoteError(f"record {said.seq} brings back key {said.new}, which has signed before")
        if said.seq >= self._void.get(said.old, said.seq + 1):
            raise NoteError(
                f"key {said.old} is revoked: its statement in record {said.seq} is above size"
                f" {self._void[said.old]} and void"
            )
        return signed

    def _with(self, changes: tuple[Signed, ...]) -> KeyPolicy:
        bank, box, epoch = self._place
        return KeyPolicy(
            bank=bank,
            box=box,
            epoch=epoch,
            first=self._first,
            parse=self._parse,
            changes=changes,
            void=self._void,
        )


class _KeyRecord(msgspec.Struct):
    """What a record of a key says of it."""

    key: str
    note: str = ""


_record_decoder: Final = msgspec.json.Decoder(_KeyRecord)


def changes_in(records: Sequence[bytes], start: int) -> list[tuple[int, str]]:
    """(seq, statement) of those records, from seq `start` on, that begin another key; raises NoteError for
    one that begins a key and says not why."""
    found = []
    for seq, body in enumerate(records, start):
        if not body.startswith(_KEY_RECORD):
            continue
        try:
            record = _record_decoder.decode(body)
        except UNREADABLE:
            continue  # it is no record, which is found where its place is looked at
        if record.note:
            if read_change(record.note).said.new != record.key:
                raise NoteError(f"record {seq} names another key than its statement")
            found.append((seq, record.note))
        elif seq != _UNSIGNED_SEQ:
            raise NoteError(f"record {seq} begins a key without a statement of both keys")
    return found
