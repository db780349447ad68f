"""What a restored database must not forget: claims, devices, certificates and revocations, kept beside it.

A file on another medium, only ever added to: each line holds the rows that an event of the identities' log
has touched, names the line before by its hash, and is signed by the hub. A hub whose database lacks what the
file has serves nobody until that was recalled: a revoked device, or a claim that was used, would count again.
Written after the COMMIT and before the answer leaves. Leaves out what the rows mean (`hub.identities`,
`hub.claims`).
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from sqlalchemy import Connection, LargeBinary, Table, and_, delete, func, insert, or_, select, update

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core.allowance import NS_PER_S
from edgegw.core.journal import sm3
from edgegw.errors import OperatingError
from edgegw.hub import schema
from edgegw.hub.database import Database
from edgegw.hub.identities import LIVE, add_box, lock_identities

LABEL: Final = b"edgegw/identities/v1\n"
TABLES: Final = (schema.identity, schema.claim, schema.certificate, schema.revoked_key, schema.identity_event)
"""In the order in which they are recalled."""
CRL_NUMBERS_LEFT_OUT: Final = 1_000
"""Lists are made each day too, without an event; the next one's number is beyond any that a box has seen."""
_FIRST: Final = "0" * 64

Row = dict[str, Any]


class KeptIdentitiesError(OperatingError):
    """The database and the file beside it do not agree."""

    code = "identities_differ"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line's content."""

    seq: int
    previous: str
    """SM3 of the line's content before, hex."""
    rows: dict[str, list[Row]]
    """By table; bytes are base64."""
    crl: dict[str, int]
    """The newest number of each CA's list."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    entry: str
    signature: str


class Seen:
    """How far a file was read, and what it has of each row: whoever holds it reads on from there."""

    def __init__(self) -> None:
        self.size = 0
        self.previous = _FIRST
        self.end = 0
        """Where the last whole line ends: one that a crash has torn is written over."""
        self.newest = 0
        """The number of the newest event."""
        self.held: dict[str, dict[str, bytes]] = {table.name: {} for table in TABLES}
        """By table and primary key: the digest of the newest row. Rows themselves are too many to hold."""
        self._file = (0, 0)
        self._last = b""

    def begins(self, file: BinaryIO) -> bool:
        """Whether this file goes on from here: another one in its place, or one that was cut, does not."""
        there = os.fstat(file.fileno())
        if not self.size:
            self._file = (there.st_dev, there.st_ino)
        begin = self.end - len(self._last)
        # The last line names the one before by its hash, and so all of them.
        return (
            self._file == (there.st_dev, there.st_ino)
            and os.pread(file.fileno(), len(self._last), begin) == self._last
        )

    def read_on(self, file: BinaryIO, path: Path, key: VerifyingKey) -> None:
        """Read what has come since; raises KeptIdentitiesError, after which this is of no use. The last
        line's signature covers all lines before it."""
        signed = None
        file.seek(self.end)
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                held = msgspec.json.decode(line, type=_Line)
                body = held.entry.encode()
                entry = msgspec.json.decode(body, type=Entry)
                signed = (LABEL + body, base64.b64decode(held.signature, validate=True))
            except (msgspec.MsgspecError, binascii.Error, ValueError) as problem:
                raise _altered(path, self.size, str(problem)) from None
            if (entry.seq, entry.previous) != (self.size, self.previous):
                raise _altered(path, self.size, "it does not follow the line before")
            try:
                for table in TABLES:
                    for row in entry.rows.get(table.name, ()):
                        self.take(table, row)
            except (KeyError, TypeError, ValueError) as problem:
                raise _altered(path, self.size, f"a row without its columns ({problem})") from None
            self.say(entry)
            self.size, self.previous = self.size + 1, sm3(body).hex()
            self.end, self._last = self.end + len(line), line
        if signed is not None and not key.verify(*signed):
            raise _altered(path, self.size - 1, "the hub has not signed it")

    def take(self, table: Table, row: Row) -> None:
        """Hear of a row as it is from now on."""
        self.held[table.name][_key(table, row)] = _digest(row)
        if table is schema.identity_event:
            self.newest = max(self.newest, int(row["number"]))

    def say(self, entry: Entry) -> None:
        """Hear of a line."""

    def has(self, table: Table, row: Row) -> bool:
        """Whether the file has the row as it is."""
        return self.held[table.name].get(_key(table, row)) == _digest(row)


class Kept(Seen):
    """All that a file says."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, Row]] = {table.name: {} for table in TABLES}
        """By table and primary key; the newest of each."""
        self.crl: dict[str, int] = {}

    def take(self, table: Table, row: Row) -> None:
        """Hear of a row as it is from now on."""
        super().take(table, row)
        self.rows[table.name][_key(table, row)] = row

    def say(self, entry: Entry) -> None:
        """Hear of a line."""
        self.crl |= entry.crl


class IdentityKeep:
    """The file of one hub process, or of a command beside it."""

    def __init__(self, path: Path, key: SigningKey) -> None:
        self._path = path
        self._key = key
        self._seen: Seen | None = None
        """What this process has read; another one, a command beside the hub, may have written since."""

    def check(self, database: Database) -> None:
        """Raise KeptIdentitiesError where the database lacks what the file has, or where a file that must be
        there is not: what a medium that is not mounted holds, nobody can compare."""
        if not self._path.exists() and database.transact(_has_events):
            raise KeptIdentitiesError(
                f"{self._path} is not there, and the database has a past that it should hold",
                hint="Mount its medium. Where the settings name the file for the first time, make it empty:"
                f" touch {self._path}",
            )
        try:
            with _locked(self._path):
                seen = self._read_on()
        except OSError as problem:
            raise KeptIdentitiesError(
                f"{self._path} cannot be read: {problem.strerror}",
                hint="Mend the medium of identities_file; nobody is served without it.",
            ) from None
        lacking = database.transact(lambda c: _lacking(c, seen))
        if lacking:
            raise KeptIdentitiesError(
                f"the database is older than {self._path}: it lacks {lacking} of its {seen.newest} events",
                hint="Bring them back first: `edgegw hub ca recall --hub hub.toml`. Until then devices that"
                " were revoked, and claims that were used, would count again.",
            )

    def follow(self, database: Database) -> int:
        """Write what has happened since the file's end; how many rows that were. Raises
        KeptIdentitiesError."""
        try:
            with _locked(self._path):
                seen = self._read_on()
                rows, crl = database.transact(lambda c: _since(c, seen))
                count = sum(map(len, rows.values()))
                if count:
                    self._append(seen, rows, crl)
        except OSError as problem:
            raise KeptIdentitiesError(
                f"{self._path} cannot be written: {problem.strerror}; what was done to identities is done",
                hint="Mend the medium of identities_file; the next command or answer writes what is lacking.",
            ) from None
        return count

    def recall(self, database: Database) -> int:
        """Bring back what the database lacks; how many rows were written. Raises KeptIdentitiesError where it
        has gone on by itself since."""
        with _locked(self._path):
            kept = Kept()
            if self._path.exists():
                with self._path.open("rb") as file:
                    kept.read_on(file, self._path, self._key.public)
            return database.transact(lambda c: _recalled(c, kept))

    def _read_on(self) -> Seen:
        """Read what is new: the whole file where this is not the one that was read. Raises
        KeptIdentitiesError and OSError."""
        seen = self._seen or Seen()
        if not self._path.exists():
            if seen.size:
                raise KeptIdentitiesError(
                    f"{self._path} is not there any more; what was done to identities is done",
                    hint="Mount its medium; the next command or answer writes what is lacking.",
                )
            return seen
        self._seen = None  # what is half-read, or altered, is not gone on from
        with self._path.open("rb") as file:
            if not seen.begins(file):
                seen = Seen()
                seen.begins(file)
            seen.read_on(file, self._path, self._key.public)
        self._seen = seen
        return seen

    def _append(self, seen: Seen, rows: dict[str, list[Row]], crl: dict[str, int]) -> None:
        entry = Entry(seq=seen.size, previous=seen.previous, rows=rows, crl=crl)
        body = msgspec.json.encode(entry)
        signature = base64.b64encode(self._key.sign(LABEL + body)).decode()
        line = msgspec.json.encode(_Line(entry=body.decode(), signature=signature)) + b"\n"
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, seen.end)
            written = 0
            while written < len(line):  # a full medium takes a part first, and refuses then
                written += os.pwrite(handle, line[written:], seen.end + written)
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- the file -----------------------------------------------------------------------------------------------


def _altered(path: Path, line: int, problem: str) -> KeptIdentitiesError:
    return KeptIdentitiesError(
        f"line {line + 1} of {path} is not what the hub wrote: {problem}",
        hint="Take the file from its other copy; without one, go through `edgegw hub ca list` by hand.",
    )


def _digest(row: Row) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(row, order="sorted"), digest_size=16).digest()


def _key(table: Table, row: Row) -> str:
    return msgspec.json.encode([row[column.name] for column in table.primary_key]).decode()


# --- the database -------------------------------------------------------------------------------------------


def _has_events(connection: Connection) -> bool:
    return connection.execute(select(schema.identity_event.c.number).limit(1)).first() is not None


def _lacking(connection: Connection, seen: Seen) -> int:
    """How many of the kept events the database does not have as they are."""
    table = schema.identity_event
    if not seen.newest:
        return 0
    there = sum(seen.has(table, row) for row in _rows(connection, table, table.c.number <= seen.newest))
    return len(seen.held[table.name]) - there


def _since(connection: Connection, seen: Seen) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """The rows that events behind the file's end have touched and that are not there as they are now."""
    event = schema.identity_event
    fresh = _rows(connection, event, event.c.number > seen.newest)
    boxes, claims = {row["box"] for row in fresh}, {row["claim"] for row in fresh}
    certificate = schema.certificate
    began_ns = min((row["at_ns"] for row in fresh), default=0)
    is_servers = and_(
        certificate.c.box == "",
        or_(certificate.c.issued_ns >= began_ns, certificate.c.revoked_s >= began_ns // NS_PER_S),
    )
    found = {
        schema.identity: _rows(connection, schema.identity, schema.identity.c.box.in_(boxes))
        if fresh
        else [],
        schema.claim: _rows(connection, schema.claim, schema.claim.c.id.in_(claims)) if fresh else [],
        certificate: _rows(connection, certificate, or_(certificate.c.box.in_(boxes - {""}), is_servers))
        if fresh
        else [],
        schema.revoked_key: _rows(connection, schema.revoked_key, None),
        event: fresh,
    }
    rows = {
        table.name: news
        for table, all_ in found.items()
        if (news := [row for row in all_ if not seen.has(table, row)])
    }
    crl = {row.kind: row.number for row in connection.execute(select(schema.crl.c.kind, schema.crl.c.number))}
    return rows, crl


def _recalled(connection: Connection, kept: Kept) -> int:
    lock_identities(connection)
    if not _lacking(connection, kept):
        return 0
    event = schema.identity_event
    newest = connection.execute(select(func.max(event.c.number))).scalar() or 0
    there = _rows(connection, event, event.c.number <= kept.newest)
    if newest > kept.newest or not all(kept.has(event, row) for row in there):
        raise KeptIdentitiesError(
            "the database has gone on by itself since: it has events that the file has not",
            hint="Go through `edgegw hub ca log` and the file by hand; revoke what either of them revokes.",
        )
    written = 0
    for box in sorted({row["box"] for name in ("identity", "claim") for row in kept.rows[name].values()}):
        add_box(connection, box)
    for table in TABLES:
        for row in kept.rows[table.name].values():
            written += _put(connection, table, row)
    for box in {row["box"] for row in kept.rows["identity"].values()}:
        _speak_anew(connection, box)
    for kind, number in kept.crl.items():
        connection.execute(delete(schema.crl).where(schema.crl.c.kind == kind))
        values = {
            "kind": kind,
            "number": number + CRL_NUMBERS_LEFT_OUT,
            "made_s": 0,
            "entries": 0,
            "der": b"",
        }
        connection.execute(insert(schema.crl).values(values))
    return written


def _put(connection: Connection, table: Table, row: Row) -> bool:
    """Let the row be as it is kept; whether that changed something."""
    place = and_(*(column == row[column.name] for column in table.primary_key))
    held = _rows(connection, table, place)
    if held == [row]:
        return False
    values = {
        column.name: base64.b64decode(row[column.name])
        if isinstance(column.type, LargeBinary)
        else row[column.name]
        for column in table.columns
    }
    connection.execute(update(table).where(place).values(values) if held else insert(table).values(values))
    return True


def _speak_anew(connection: Connection, box: str) -> None:
    """Only the live device speaks for a box, in a new session."""
    identity, session = schema.identity.c, schema.session
    live = select(identity.device_key).where(identity.box == box, identity.state == LIVE)
    key = connection.execute(live).scalar() or ""
    connection.execute(update(schema.box).where(schema.box.c.box == box).values(device_key=key))
    connection.execute(update(session).where(session.c.box == box).values(session=b"", candidate=b""))


def _rows(connection: Connection, table: Table, where: Any) -> list[Row]:
    """Rows as JSON has them."""
    query = select(table).order_by(*table.primary_key)
    if where is not None:
        query = query.where(where)
    return [
        {
            name: base64.b64encode(value).decode() if isinstance(value, bytes | memoryview) else value
            for name, value in row._mapping.items()
        }
        for row in connection.execute(query)
    ]
