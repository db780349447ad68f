"""The vault's file: which token stands for which card, and the cards' numbers, sealed.

One row a card: the box's random token; an HMAC-SM3 of the card's lookup, by which the row is found; a data
key of the card's own under SM4-GCM by the key version, and lookup and number under SM4-GCM by that data key.
Finding and wrapping hang on a *key version*, which lies in a file of its own (`payments.vault_keys`): once
every row has gone to the next version and the older one is destroyed, an older copy of this file tells
nothing of any card. Shredding a card destroys its data key and all of its row but the token.

One `VaultFile` is one connection, used by one thread at a time; several processes may write. Leaves out who
asks for tokens while payments wait (`payments.cards`).
"""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import apsw

from edgegw.errors import Next, OperatingError
from edgegw.ledger.schema import BUSY_TIMEOUT_MS, check_sqlite_version, fsync_directory
from edgegw.sm import sm4_gcm
from edgegw.sm.sm3 import HASH_BYTES, hmac_sm3

VAULT_NAME: Final = "vault.db"
"""Beside the ledger."""
APPLICATION_ID: Final = 0x45475756
"""EGWV, where file(1) finds it."""
SCHEMA: Final = 1
PORTION: Final = 500
"""Cards that go to a new key version in one COMMIT, some 30 ms; payments' new cards wait that long."""
_TOKEN_BYTES: Final = 15
"""120 random bits, 24 letters: two cards share a token about once in 10**18 vaults of a billion."""
_ONLY_NONCE: Final = bytes(sm4_gcm.NONCE_BYTES)
"""A data key seals one text in its life, so that its nonce cannot come twice."""
_TABLES: Final = """
CREATE TABLE key_version(number INTEGER PRIMARY KEY) STRICT;
CREATE TABLE card(
    token TEXT PRIMARY KEY, version INTEGER NOT NULL, found_by BLOB, data_key BLOB, sealed BLOB,
    has_number INTEGER NOT NULL, shredded_at_s INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX card_found_by ON card(found_by) WHERE found_by IS NOT NULL;
CREATE TABLE act(
    number INTEGER PRIMARY KEY, at_s INTEGER NOT NULL, what TEXT NOT NULL, token TEXT NOT NULL,
    done_by TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
"""
_PRAGMAS: Final[dict[str, tuple[str, str | int]]] = {
    "journal_mode": ("WAL", "wal"),
    "synchronous": ("FULL", 2),
    "secure_delete": ("ON", 1),
    "mmap_size": ("0", 0),
    "trusted_schema": ("OFF", 0),
    "foreign_keys": ("ON", 1),
}


class VaultFailed(OperatingError):
    """The vault's file or keys cannot be used; no payment with a card is decided, all others go on."""

    code = "vault_unavailable"
    next = Next.PAUSE
    default_hint = (
        "Payments without a card go on. Mend the disk or the keys; if either is gone for good, take what is"
        " left of vault.db away, start the box, and `edgegw vault accept-loss`."
    )


class VersionKeys(Protocol):
    """Where the secrets of key versions lie, 32 bytes each; each method raises VaultFailed."""

    def numbers(self) -> list[int]:
        """The versions that are there, rising."""

    def read(self, number: int, /) -> bytes:
        """One version's secret."""

    def create(self, number: int, /) -> None:
        """Make a new version's secret, on disk when this returns."""

    def destroy(self, number: int, /) -> None:
        """Take a version's secret away for good."""


class Act(NamedTuple):
    """Something that a person had the vault do."""

    number: int
    at_s: int
    what: str
    token: str
    by: str
    reason: str


class Counts(NamedTuple):
    """What a vault holds."""

    cards: int
    with_number: int
    shredded: int
    versions: tuple[int, ...]
    """Key versions in use; more than one while a rotation is under way."""
    behind: int
    """Cards that have still to go to the newest version."""


class Portion(NamedTuple):
    """Cards that went to the newest key version in one COMMIT."""

    moved: int
    last: str
    """The token after which the next portion begins."""


class Card(NamedTuple):
    """What the vault knows of one card."""

    lookup: str
    number: str
    """Its PAN, "" where the box was never shown it."""


class _Keys(NamedTuple):
    finding: bytes
    wrapping: bytes


class VaultFile:
    """One connection to a vault."""

    def __init__(self, path: Path, connection: apsw.Connection, keys: VersionKeys) -> None:
        self.path = path
        self._db = connection
        self._keys = keys
        self._opened: dict[int, _Keys] = {}

    # --- opening --------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path, keys: VersionKeys, *, create: bool = False) -> VaultFile:
        """A connection to the vault; create makes one, with its first key version, where there is none.
        Raises VaultFailed."""
        check_sqlite_version(apsw.sqlite_lib_version())
        if not path.exists() and not create:
            raise VaultFailed(f"there is no vault at {path}", hint="Start the box once: it makes one.")
        with _guarded(path):
            if create and not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            owner = connection.pragma("application_id"), connection.pragma("user_version")
            if owner not in ((0, 0), (APPLICATION_ID, SCHEMA)):
                raise VaultFailed(f"{path} is no vault of this program: {owner}")
            for name, (setting, expected) in _PRAGMAS.items():
                connection.execute(f"PRAGMA {name}={setting}").fetchall()
                actual = connection.pragma(name)
                if actual != expected:
                    raise VaultFailed(f"PRAGMA {name} is {actual!r} after it was set to {setting}")
            vault = cls(path, connection, keys)
            if owner == (0, 0):
                vault._begin()
            fsync_directory(path.parent)
        try:
            vault._check_keys()
        except VaultFailed:
            connection.close()
            raise
        return vault

    def _begin(self) -> None:
        """The tables and the first key version. A folder of keys that is not empty belonged to a vault that
        is lost: its keys are left for whoever finds that again."""
        number = max(self._keys.numbers(), default=0) + 1
        self._keys.create(number)
        with self._db:
            self._db.execute(_TABLES)
            self._db.execute("INSERT INTO key_version VALUES(?)", (number,))
            self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version={SCHEMA}")

    def _check_keys(self) -> None:
        """Open every key version now, with a card of it: under another vault's key each known card would be
        taken for a new one. Raises VaultFailed."""
        with self._writing():  # no rotation ends meanwhile
            for number in self._versions():
                self._open_version(number)
                for row in self._all(
                    """SELECT token, version, data_key, sealed FROM card
                        WHERE version = ? AND sealed IS NOT NULL LIMIT 1""",
                    number,
                ):
                    self._unsealed(*row)

    def close(self) -> None:
        """End the connection."""
        self._db.close()

    def changed(self) -> int:
        """A number that is another one when another connection has written."""
        value = self._db.pragma("data_version")
        return value if isinstance(value, int) else 0

    # --- tokens ---------------------------------------------------------------------------------------------

    def mint(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """The token of each lookup, new ones on disk when this returns; wanted gives the card's number, or
        "" where only its lookup is known. Raises VaultFailed."""
        found: dict[str, str] = {}
        with self._writing():
            versions = self._versions()
            for lookup, number in wanted.items():
                row = self._row_of(lookup, versions)
                token, has_number = row or (_new_token(), False)
                if row is None or (number and not has_number):
                    self._put(token, Card(lookup, number), versions[-1])
                found[lookup] = token
        return found

    def find(self, lookup: str) -> str | None:
        """The token of a lookup, or None; raises VaultFailed."""
        with _guarded(self.path):
            row = self._row_of(lookup, self._versions())
            return row[0] if row else None

    def card(self, token: str) -> Card | None:
        """What the vault knows behind a token, None where it knows nothing (any more); raises VaultFailed."""
        with _guarded(self.path):
            rows = self._all(
                "SELECT version, data_key, sealed FROM card WHERE token = ? AND sealed IS NOT NULL", token
            )
            return self._unsealed(token, *rows[0]) if rows else None

    def unknown(self, tokens: Collection[str]) -> list[str]:
        """Those tokens of which this vault has never heard, shredded ones being known; raises
        VaultFailed."""
        with _guarded(self.path):
            return [
                token
                for token in sorted(tokens)
                if not self._all("SELECT 1 FROM card WHERE token = ?", token)
            ]

    def _row_of(self, lookup: str, versions: list[int]) -> tuple[str, bool] | None:
        for number in reversed(versions):
            found_by = self._found_by(number, lookup)
            for token, has_number in self._all(
                "SELECT token, has_number FROM card WHERE found_by = ?", found_by
            ):
                return token, bool(has_number)
        return None

    def _put(self, token: str, card: Card, version: int) -> None:
        """Seal a card anew, under a data key that has sealed nothing before."""
        data_key, nonce = secrets.token_bytes(sm4_gcm.KEY_BYTES), sm4_gcm.fresh_nonce()
        wrapped = sm4_gcm.seal(
            self._open_version(version).wrapping, data_key, nonce=nonce, associated=_of(token, version)
        )
        plaintext = bytes.fromhex(card.lookup) + card.number.encode("ascii")
        sealed = sm4_gcm.seal(
            data_key, plaintext, nonce=bytes(sm4_gcm.NONCE_BYTES), associated=token.encode()
        )
        self._db.execute(
            """INSERT INTO card VALUES(?, ?, ?, ?, ?, ?, 0) ON CONFLICT(token) DO UPDATE SET
                version = excluded.version, found_by = excluded.found_by, data_key = excluded.data_key,
                sealed = excluded.sealed, has_number = excluded.has_number""",
            (
                token,
                version,
                self._found_by(version, card.lookup),
                nonce + wrapped,
                sealed,
                int(bool(card.number)),
            ),
        )

    def _unsealed(self, token: str, version: int, data_key: bytes, sealed: bytes) -> Card:
        nonce, wrapped = data_key[: sm4_gcm.NONCE_BYTES], data_key[sm4_gcm.NONCE_BYTES :]
        try:
            opened = sm4_gcm.unseal(
                self._open_version(version).wrapping, wrapped, nonce=nonce, associated=_of(token, version)
            )
            plaintext = sm4_gcm.unseal(opened, sealed, nonce=_ONLY_NONCE, associated=token.encode())
        except sm4_gcm.NotAuthentic:
            raise VaultFailed(
                f"{self.path}: the card of token {token} was altered, or version {version} is another"
                " vault's key",
                hint="Restore the vault and its keys from one backup.",
            ) from None
        return Card(plaintext[:HASH_BYTES].hex(), plaintext[HASH_BYTES:].decode("ascii"))

    # --- key versions ---------------------------------------------------------------------------------------

    def begin_rotation(self) -> int:
        """Make a new key version for new cards, or find the one that an interrupted rotation has made;
        returns it. Raises VaultFailed."""
        with self._writing():
            versions = self._versions()
            if len(versions) > 1:
                return versions[-1]
            number = max(*self._keys.numbers(), *versions) + 1
            self._keys.create(number)
            self._db.execute("INSERT INTO key_version VALUES(?)", (number,))
        return number

    def rotate_portion(self, after: str = "") -> Portion | None:
        """Bring the next cards after this token to the newest key version, each with a new data key; None
        when all are there. Raises VaultFailed."""
        with self._writing():
            version = self._versions()[-1]
            rows = self._all(
                """SELECT token, version, data_key, sealed FROM card
                    WHERE token > ? AND version < ? AND sealed IS NOT NULL ORDER BY token LIMIT ?""",
                after,
                version,
                PORTION,
            )
            for token, older, data_key, sealed in rows:
                self._put(token, self._unsealed(token, older, data_key, sealed), version)
            return Portion(len(rows), rows[-1][0]) if rows else None

    def end_rotation(self, *, by: str, reason: str) -> None:
        """Destroy every key version but the newest: from here on no older copy of this file opens anything.

        Raises VaultFailed, and destroys nothing, while a card hangs on one.
        """
        with self._writing():
            version = self._versions()[-1]
            left = self._count("SELECT count(*) FROM card WHERE version < ? AND sealed IS NOT NULL", version)
            if left:
                raise VaultFailed(f"{left} cards hang on older key versions", hint="Rotate again.")
            self._db.execute("DELETE FROM key_version WHERE number < ?", (version,))
            self._note("rotate", "", by=by, reason=reason)
        self._empty_wal()
        for number in self._keys.numbers():
            if number < version:
                self._keys.destroy(number)

    def _versions(self) -> list[int]:
        numbers = [number for (number,) in self._all("SELECT number FROM key_version ORDER BY number")]
        if not numbers:
            raise VaultFailed(f"{self.path} names no key version", hint="Restore the vault.")
        for gone in self._opened.keys() - numbers:
            del self._opened[gone]
        return numbers

    def _open_version(self, number: int) -> _Keys:
        if number not in self._opened:
            secret = self._keys.read(number)
            wrapping = hmac_sm3(secret, b"edgegw vault wrapping")[: sm4_gcm.KEY_BYTES]
            self._opened[number] = _Keys(hmac_sm3(secret, b"edgegw vault finding"), wrapping)
        return self._opened[number]

    def _found_by(self, version: int, lookup: str) -> bytes:
        return hmac_sm3(self._open_version(version).finding, bytes.fromhex(lookup))

    # --- what persons do ------------------------------------------------------------------------------------

    def shred(self, token: str, *, by: str, reason: str) -> bool:
        """Destroy a card's data key and everything else of it but the token, overwritten in file and WAL;
        False where there is nothing to destroy. Raises VaultFailed.

        A copy of the file from before opens it until the next rotation has ended.
        """
        with self._writing():
            self._db.execute(
                """UPDATE card SET found_by = NULL, data_key = NULL, sealed = NULL, has_number = 0,
                    shredded_at_s = ? WHERE token = ? AND sealed IS NOT NULL""",
                (int(time.time()), token),
            )
            if not self._db.changes():
                return False
            self._note("shred", token, by=by, reason=reason)
        self._empty_wal()
        return True

    def give_up(self, tokens: Collection[str], *, by: str, reason: str) -> None:
        """Keep these tokens, which the ledger names and this vault does not know, as shredded ones: their
        cards get new tokens. Raises VaultFailed."""
        with self._writing():
            version = self._versions()[-1]
            for token in tokens:
                self._db.execute(
                    "INSERT OR IGNORE INTO card VALUES(?, ?, NULL, NULL, NULL, 0, ?)",
                    (token, version, int(time.time())),
                )
            self._note("accept-loss", "", by=by, reason=reason)

    def note(self, what: str, token: str, *, by: str, reason: str) -> None:
        """Keep what a person did; on disk when this returns. Raises VaultFailed."""
        with self._writing():
            self._note(what, token, by=by, reason=reason)

    def acts(self, after: int = 0) -> list[Act]:
        """What persons did, from the one after this number on; raises VaultFailed."""
        with _guarded(self.path):
            return [
                Act(*row)
                for row in self._db.execute("SELECT * FROM act WHERE number > ? ORDER BY number", (after,))
            ]

    def counts(self) -> Counts:
        """What is in the vault; raises VaultFailed."""
        with _guarded(self.path):
            versions = self._versions()
            return Counts(
                cards=self._count("SELECT count(*) FROM card WHERE sealed IS NOT NULL"),
                with_number=self._count("SELECT count(*) FROM card WHERE has_number"),
                shredded=self._count("SELECT count(*) FROM card WHERE sealed IS NULL"),
                versions=tuple(versions),
                behind=self._count(
                    "SELECT count(*) FROM card WHERE version < ? AND sealed IS NOT NULL", versions[-1]
                ),
            )

    def _note(self, what: str, token: str, *, by: str, reason: str) -> None:
        self._db.execute(
            "INSERT INTO act(at_s, what, token, done_by, reason) VALUES(?, ?, ?, ?, ?)",
            (int(time.time()), what, token, by, reason),
        )

    def _count(self, query: str, *values: int) -> int:
        [(number,)] = self._all(query, *values)
        return int(number)

    def _all(self, query: str, *values: int | str | bytes) -> list[Any]:
        return self._db.execute(query, values).fetchall()

    # --- SQL ------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One SQL transaction, undone by whatever is raised in it."""
        with _guarded(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _empty_wal(self) -> None:
        """Bring the WAL into the file and cut it to nothing: it still has the pages from before."""
        with _guarded(self.path):
            [(busy, _, _)] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            raise VaultFailed(
                f"{self.path}-wal is in use and still holds what was destroyed",
                hint="Do the same again; if it stays so, stop the box first.",
            )


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except (apsw.Error, OSError, UnicodeDecodeError) as problem:
        raise VaultFailed(f"{path}: {problem}") from problem


def _new_token() -> str:
    """Letters and few digits, so that no search for card numbers and no lookup is taken for one."""
    return base64.b32encode(secrets.token_bytes(_TOKEN_BYTES)).decode("ascii").lower()


def _of(token: str, version: int) -> bytes:
    return f"{token} {version}".encode()
