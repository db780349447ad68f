"""What a box must remember of tokens over restarts, in one small SQLite file beside the ledger: families of
refresh tokens, what was revoked here, assertions that were used, the latest time that was seen.

Every change is on disk (fsync) before its method returns. Of a refresh token only its SHA-256 is kept: it is
256 random bits, so nothing slower is needed. Other processes (`edgegw oauth`) may change the file while a box
has it open; `changed_elsewhere` tells. Leaves out what the changes mean to a client (`access.oauth`).
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import msgspec

STORE_NAME: Final = "tokens.db"
MEMORY: Final = Path(":memory:")
"""A store that lasts as long as its object: for a box without a disk, as in tests of a way in."""
FAMILIES_EACH_MAX: Final = 1024
"""Families of one client at once: its tills, each with its own. Beyond it the oldest ends."""
ASSERTIONS_EACH_MAX: Final = 4096
"""Assertions of one client remembered at once; beyond it the client waits until some have expired."""
SWEPT_MAX: Final = 50
"""Rows of each table that one change sweeps away, so that none takes long."""
BUSY_TIMEOUT_MS: Final = 2_000
TOKEN, CLIENT, ALL, BLOCKED = "token", "client", "all", "blocked"
"""What a revocation is of: one token or family by its id; all that a client, or everybody, was given until
then; a client altogether."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS family(
    id TEXT PRIMARY KEY, client TEXT NOT NULL, client_key TEXT NOT NULL, epoch INTEGER NOT NULL,
    scopes TEXT NOT NULL, made_s INTEGER NOT NULL, expires_s INTEGER NOT NULL, generation INTEGER NOT NULL,
    certificate TEXT NOT NULL, ended TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS family_client ON family(client, made_s);
CREATE INDEX IF NOT EXISTS family_expires ON family(expires_s);
CREATE TABLE IF NOT EXISTS refresh(
    digest BLOB PRIMARY KEY, family TEXT NOT NULL, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS refresh_family ON refresh(family);
CREATE TABLE IF NOT EXISTS assertion(
    client TEXT NOT NULL, jti TEXT NOT NULL, expires_s INTEGER NOT NULL,
    PRIMARY KEY(client, jti)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS assertion_expires ON assertion(expires_s);
CREATE TABLE IF NOT EXISTS revocation(
    of TEXT NOT NULL, whose TEXT NOT NULL, until_s INTEGER NOT NULL, expires_s INTEGER NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY(of, whose)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS family_gone AFTER DELETE ON family
    BEGIN DELETE FROM refresh WHERE family = old.id; END;
CREATE TABLE IF NOT EXISTS latest(
    one INTEGER PRIMARY KEY CHECK(one = 1), seen_s INTEGER NOT NULL, era TEXT NOT NULL);
INSERT OR IGNORE INTO latest VALUES(1, 0, lower(hex(randomblob(8))));
"""


_SWEEPS: Final = (
    (
        "DELETE FROM assertion WHERE (client, jti) IN"
        " (SELECT client, jti FROM assertion WHERE expires_s <= ? LIMIT ?)"
    ),
    (
        "DELETE FROM revocation WHERE (of, whose) IN"
        " (SELECT of, whose FROM revocation WHERE expires_s BETWEEN 1 AND ? LIMIT ?)"
    ),
    "DELETE FROM family WHERE id IN (SELECT id FROM family WHERE expires_s <= ? LIMIT ?)",
)
_ENDED_BY: Final = {
    TOKEN: "UPDATE family SET ended = ? WHERE ended = '' AND id = ?",
    CLIENT: "UPDATE family SET ended = ? WHERE ended = '' AND client = ?",
    BLOCKED: "UPDATE family SET ended = ? WHERE ended = '' AND client = ?",
    ALL: "UPDATE family SET ended = ? WHERE ended = '' AND ? = ''",
}


class StoreFails(Exception):
    """The file cannot be read or written; `hint` says what to do."""

    def __init__(self, path: Path, problem: apsw.Error | OSError) -> None:
        super().__init__(f"{path}: {problem}")
        self.hint = (
            "Make room or mend the disk. If the file is damaged, move it away: refresh tokens begin anew, and"
            " what was revoked at this box has to be revoked again."
        )


class UsedBefore(Exception):
    """An assertion that was used before."""


class TooMany(Exception):
    """As many assertions of a client are remembered as may be."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One chain of refresh tokens, each the successor of the one before."""

    id: str
    client: str
    client_key: str
    """Which key of the client it began with (`tokens.key_name`)."""
    epoch: int
    """Of the box's ledger, when it began: a restored or replaced box begins another one."""
    scopes: tuple[str, ...]
    made_s: int
    expires_s: int
    generation: int = 1
    certificate: str = ""
    """The only one with which its access tokens are good; "" with any or none."""
    ended: str = ""
    """Why it is over, "" while it is not."""


class Revocation(NamedTuple):
    """One entry of what was revoked at this box."""

    of: str
    whose: str
    until_s: int
    """Of a client or of all: what was issued up to here."""
    expires_s: int
    """When nothing is left that it speaks of; 0: never."""
    reason: str


class Assertion(NamedTuple):
    """The use of a client's assertion."""

    client: str
    jti: str
    expires_s: int


class TokenStore:
    """The file; its methods may be called from any thread, and wait for the disk."""

    def __init__(self, path: Path) -> None:
        """Open the file, made if there is none; raises StoreFails."""
        self.path = path
        self._lock = threading.Lock()
        try:
            if path != MEMORY:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = apsw.Connection(str(path))
            self._connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "trusted_schema=OFF"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
            with self._connection:
                self._connection.execute(_SCHEMA)
            self._version = self._data_version()
        except (apsw.Error, OSError) as problem:
            raise StoreFails(path, problem) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _change(self, now_s: int) -> Iterator[apsw.Connection]:
        """One SQL transaction, durable at its end; it also sweeps and keeps the time."""
        with self._lock:
            try:
                with self._connection as connection:
                    self._sweep(now_s)
                    yield connection
            except apsw.Error as problem:
                raise StoreFails(self.path, problem) from None

    @contextmanager
    def _read(self) -> Iterator[apsw.Connection]:
        """The file, for one query."""
        with self._lock:
            try:
                yield self._connection
            except apsw.Error as problem:
                raise StoreFails(self.path, problem) from None

    def _sweep(self, now_s: int) -> None:
        run = self._connection.execute
        run("UPDATE latest SET seen_s = max(seen_s, ?)", (now_s,))
        for sweep in _SWEEPS:
            run(sweep, (now_s, SWEPT_MAX))

    # --- families -------------------------------------------------------------------------------------------

    def begin(self, family: Family, digest: bytes, used: Assertion, *, now_s: int) -> None:
        """A new family, whose first refresh token has this digest; raises UsedBefore, TooMany, StoreFails."""
        with self._change(now_s) as connection:
            self._use(used)
            row = (*msgspec.structs.astuple(family)[:4], " ".join(family.scopes), family.made_s)
            connection.execute(
                "INSERT INTO family VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, family.expires_s, family.generation, family.certificate, family.ended),
            )
            connection.execute("INSERT INTO refresh VALUES(?, ?, ?)", (digest, family.id, family.generation))
            connection.execute(
                "DELETE FROM family WHERE id IN (SELECT id FROM family WHERE client = ?"
                " ORDER BY made_s DESC, id LIMIT -1 OFFSET ?)",
                (family.client, FAMILIES_EACH_MAX),
            )

    def family_of(self, digest: bytes) -> tuple[Family, int] | None:
        """The family of a refresh token and the token's own generation; None for one that nobody knows."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT f.*, r.generation FROM refresh r JOIN family f ON f.id = r.family WHERE r.digest = ?",
                (digest,),
            ).fetchone()
        return None if row is None else (_family(row[:-1]), row[-1])

    def rotate(self, family: Family, fresh: bytes, used: Assertion, *, now_s: int) -> bool:
        """Let the token with the digest `fresh` follow the family's newest; whether it was still the newest.

        Of two that rotate the same token at once, one does. Raises UsedBefore, TooMany, StoreFails.
        """
        with self._change(now_s) as connection:
            self._use(used)
            connection.execute(
                "UPDATE family SET generation = generation + 1"
                " WHERE id = ? AND generation = ? AND ended = ''",
                (family.id, family.generation),
            )
            if not connection.changes():
                return False
            connection.execute(
                "INSERT INTO refresh VALUES(?, ?, ?)", (fresh, family.id, family.generation + 1)
            )
            return True

    def end_family(self, family: str, *, reason: str, now_s: int, expires_s: int) -> None:
        """Let no token of the family be good any more: the refresh tokens, and until expires_s those for
        access."""
        with self._change(now_s) as connection:
            connection.execute("UPDATE family SET ended = ? WHERE id = ?", (reason, family))
            self._revoke(Revocation(TOKEN, family, 0, expires_s, reason))

    def use(self, used: Assertion, *, now_s: int) -> None:
        """Note that an assertion was used; raises UsedBefore, TooMany, StoreFails."""
        with self._change(now_s):
            self._use(used)

    def _use(self, used: Assertion) -> None:
        count = self._number("SELECT count(*) FROM assertion WHERE client = ?", used.client)
        if count >= ASSERTIONS_EACH_MAX:
            raise TooMany
        self._connection.execute("INSERT OR IGNORE INTO assertion VALUES(?, ?, ?)", used)
        if not self._connection.changes():
            raise UsedBefore

    def families(self) -> list[Family]:
        """All that are kept, the newest first; raises StoreFails."""
        with self._read() as connection:
            rows = connection.execute("SELECT * FROM family ORDER BY made_s DESC, id").fetchall()
        return [_family(row) for row in rows]

    # --- revocations ----------------------------------------------------------------------------------------

    def revoke(self, entry: Revocation, *, now_s: int) -> None:
        """Keep a revocation, and end the families that it speaks of."""
        with self._change(now_s) as connection:
            self._revoke(entry)
            if entry.of == ALL:
                self._new_era()
            connection.execute(_ENDED_BY[entry.of], (f"revoked: {entry.reason}", entry.whose))

    def _revoke(self, entry: Revocation) -> None:
        self._connection.execute(
            "INSERT INTO revocation VALUES(?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " until_s = max(until_s, excluded.until_s), reason = excluded.reason,"
            " expires_s ="
            " CASE WHEN excluded.expires_s = 0 THEN 0 ELSE max(expires_s, excluded.expires_s) END",
            entry,
        )

    def allow(self, client: str, *, now_s: int) -> bool:
        """Let a client that was blocked here speak again; whether it was."""
        with self._change(now_s) as connection:
            connection.execute("DELETE FROM revocation WHERE of = ? AND whose = ?", (BLOCKED, client))
            return connection.changes() > 0

    def revocations(self) -> list[Revocation]:
        """All that are kept; raises StoreFails."""
        with self._read() as connection:
            rows = connection.execute("SELECT * FROM revocation ORDER BY of, whose").fetchall()
        return [msgspec.convert(row, Revocation) for row in rows]

    def changed_elsewhere(self) -> bool:
        """Whether another process has changed the file since this was last asked; False while a change of
        this one is under way."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            before, self._version = self._version, self._data_version()
        except apsw.Error as problem:
            raise StoreFails(self.path, problem) from None
        finally:
            self._lock.release()
        return before != self._version

    def _data_version(self) -> int:
        return self._number("PRAGMA data_version")

    def _number(self, query: str, *values: str) -> int:
        [(found,)] = self._connection.execute(query, values).fetchall()
        return msgspec.convert(found, int)

    # --- time -----------------------------------------------------------------------------------------------

    def latest_s(self) -> int:
        """The latest time that was kept; 0 where there is none. Raises StoreFails."""
        with self._read():
            return self._number("SELECT seen_s FROM latest")

    def keep_time(self, now_s: int) -> None:
        """Keep the time."""
        with self._change(now_s):
            pass

    def set_time(self, now_s: int) -> None:
        """Take this time for the latest, also when it is earlier; nothing that the box has given before is
        good any more."""
        with self._change(0) as connection:
            connection.execute("UPDATE latest SET seen_s = ?", (now_s,))
            connection.execute("UPDATE revocation SET until_s = min(until_s, ?)", (now_s,))
            connection.execute("DELETE FROM family")
            self._new_era()

    def era(self) -> str:
        """Names the time since the box's tokens were all revoked last; each access token carries it.
        Raises StoreFails."""
        with self._read() as connection:
            [(era,)] = connection.execute("SELECT era FROM latest").fetchall()
        return str(era)

    def _new_era(self) -> None:
        self._connection.execute("UPDATE latest SET era = ?", (secrets.token_hex(8),))


def _family(row: tuple[apsw.SQLiteValue, ...]) -> Family:
    names = Family.__struct_fields__
    found = dict(zip(names, row, strict=True))
    return msgspec.convert({**found, "scopes": tuple(str(found["scopes"]).split())}, Family)


def new_id() -> str:
    """A fresh random id of a token or family, 32 hex digits."""
    return secrets.token_hex(16)
