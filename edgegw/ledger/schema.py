"""What the ledger file is: its tables, its version, and how a connection to it must be set up (DESIGN §8).

Measured before it was frozen (495-byte records, 14 clients, time-ordered ids, batches of 64): with the id
first, the identity index writes half as many pages as with the client first, because all clients then write
at one place; type as text and the leaf as a column cost nothing, a page holds seven records either way.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import apsw

from edgegw.errors import LedgerForeign, StorageFailed, UnsafeSqlite

APPLICATION_ID: Final = 0x45475744
"""EGWD, in the header of every ledger file, where file(1) finds it."""
BUSY_TIMEOUT_MS: Final = 5_000
WAL_PAGES: Final = 1_000
"""A COMMIT that leaves the WAL longer than this (4 MB) copies it into the file; more gained nothing."""
WAL_BYTES_MAX: Final = 64 * 2**20
"""A WAL that a slow reader made longer is cut back to this."""

_FIRST: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE record(
    position INTEGER PRIMARY KEY, type TEXT NOT NULL, client TEXT, id BLOB, original INTEGER,
    leaf BLOB NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX record_identity ON record(id, client) WHERE id IS NOT NULL;
CREATE INDEX record_original ON record(original) WHERE original IS NOT NULL;
CREATE INDEX record_window ON record(position) WHERE type = 'window';
CREATE INDEX record_directive ON record(position) WHERE type = 'directive';
CREATE TRIGGER record_keeps_rows BEFORE DELETE ON record
    BEGIN SELECT RAISE(ABORT, 'records are never deleted'); END;
CREATE TRIGGER record_keeps_content BEFORE UPDATE ON record
    BEGIN SELECT RAISE(ABORT, 'records are never changed'); END;
CREATE TABLE tile(
    epoch INTEGER, level INTEGER, number INTEGER, hash BLOB NOT NULL, PRIMARY KEY(epoch, level, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE head(
    epoch INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL,
    checkpoint TEXT NOT NULL, boot TEXT NOT NULL
) STRICT;
CREATE TABLE cosignature(epoch INTEGER PRIMARY KEY, size INTEGER NOT NULL, note TEXT NOT NULL) STRICT;
CREATE TABLE snapshot(position INTEGER PRIMARY KEY, digest TEXT NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE directive(position INTEGER PRIMARY KEY, leaf BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TRIGGER directive_keeps_rows BEFORE DELETE ON directive
    BEGIN SELECT RAISE(ABORT, 'directives are never deleted'); END;
CREATE TRIGGER directive_keeps_content BEFORE UPDATE ON directive
    BEGIN SELECT RAISE(ABORT, 'directives are never changed'); END;
CREATE TABLE directive_head(
    incarnation INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL,
    checkpoint TEXT NOT NULL, frontier BLOB NOT NULL
) STRICT;
CREATE TABLE site(version INTEGER PRIMARY KEY, digest TEXT NOT NULL, bundle BLOB NOT NULL) STRICT;
"""
_RETENTION: Final = """
CREATE TABLE identity(
    id BLOB, client TEXT, position INTEGER NOT NULL, remains BLOB NOT NULL, PRIMARY KEY(id, client)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER identity_keeps_rows BEFORE DELETE ON identity
    BEGIN SELECT RAISE(ABORT, 'identities are never deleted'); END;
CREATE TRIGGER identity_keeps_content BEFORE UPDATE ON identity
    BEGIN SELECT RAISE(ABORT, 'identities are never changed'); END;
CREATE TABLE horizon(
    epoch INTEGER PRIMARY KEY, size INTEGER NOT NULL, base INTEGER NOT NULL, digest TEXT NOT NULL,
    image BLOB NOT NULL
) STRICT;
CREATE TRIGGER horizon_begins_cosigned BEFORE INSERT ON horizon
    WHEN NEW.size > coalesce((SELECT size FROM cosignature WHERE epoch = NEW.epoch), 0)
    BEGIN SELECT RAISE(ABORT, 'only what the centre has cosigned is pruned'); END;
CREATE TRIGGER horizon_rises BEFORE UPDATE ON horizon
    WHEN NEW.epoch <> OLD.epoch OR NEW.size < OLD.size
        OR NEW.size > coalesce((SELECT size FROM cosignature WHERE epoch = OLD.epoch), 0)
    BEGIN SELECT RAISE(ABORT, 'only what the centre has cosigned is pruned, and that for ever'); END;
CREATE TRIGGER horizon_stays BEFORE DELETE ON horizon
    BEGIN SELECT RAISE(ABORT, 'what is pruned stays pruned'); END;
CREATE TRIGGER cosignature_covers_horizon BEFORE UPDATE ON cosignature
    WHEN NEW.epoch <> OLD.epoch OR NEW.size < (SELECT size FROM horizon WHERE epoch = OLD.epoch)
    BEGIN SELECT RAISE(ABORT, 'the centre has cosigned what was pruned'); END;
CREATE TRIGGER cosignature_stays BEFORE DELETE ON cosignature
    WHEN EXISTS (SELECT 1 FROM horizon WHERE epoch = OLD.epoch)
    BEGIN SELECT RAISE(ABORT, 'the centre has cosigned what was pruned'); END;
DROP TRIGGER record_keeps_rows;
CREATE TRIGGER record_keeps_rows BEFORE DELETE ON record
    WHEN OLD.position & 1099511627775 >=
            coalesce((SELECT size FROM horizon WHERE epoch = OLD.position >> 40), 0)
        OR OLD.type IN ('link', 'key')
        OR (OLD.id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM identity
            WHERE id = OLD.id AND client = OLD.client AND position = OLD.position))
    BEGIN SELECT RAISE(ABORT, 'records are never deleted'); END;
CREATE TABLE portion(
    epoch INTEGER, start INTEGER, end INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY(epoch, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE mark(
    epoch INTEGER, size INTEGER, hub_s INTEGER NOT NULL, at_ns INTEGER NOT NULL, PRIMARY KEY(epoch, size)
) STRICT, WITHOUT ROWID;
"""
"""What stays of pruned records, and how far they may go: below the horizon alone, which only rises, never
beyond what the centre has cosigned, and no identity without its row in `identity`."""
_OTHER_HISTORIES: Final = """
CREATE TABLE other_history(
    epoch INTEGER PRIMARY KEY, frontier BLOB NOT NULL, leaf BLOB NOT NULL, identities INTEGER NOT NULL
) STRICT;
CREATE TABLE other_identity(
    id BLOB, client TEXT, position INTEGER NOT NULL, remains BLOB NOT NULL, PRIMARY KEY(id, client)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER other_identity_keeps_rows BEFORE DELETE ON other_identity
    BEGIN SELECT RAISE(ABORT, 'identities are never deleted'); END;
CREATE TRIGGER other_identity_keeps_content BEFORE UPDATE ON other_identity
    BEGIN SELECT RAISE(ABORT, 'identities are never changed'); END;
"""
"""What a history of this box decided that is not here: after a fork the centre has it, and its payments are
answered, not decided again."""
_SITES: Final = """
CREATE TABLE kept_site(
    number INTEGER PRIMARY KEY, version INTEGER NOT NULL, digest TEXT NOT NULL UNIQUE, note TEXT NOT NULL,
    bundle BLOB NOT NULL
) STRICT;
INSERT INTO kept_site(version, digest, note, bundle)
    SELECT version, digest, '', bundle FROM site ORDER BY version;
DROP TABLE site;
ALTER TABLE kept_site RENAME TO site;
CREATE TABLE id_list(digest TEXT PRIMARY KEY, block BLOB NOT NULL) STRICT;
"""
"""The last bundles of the site's settings, by digest: one version may have two, of an older and a newer
program."""
_LATE_WORDS: Final = """
CREATE INDEX record_late ON record(position)
    WHERE type IN ('directive', 'expiry', 'refusal') AND original IS NOT NULL;
CREATE INDEX record_acknowledgement ON record(client, position) WHERE type = 'acknowledgement';
"""
"""What became of payments after their answers, and how far each client has taken note of it."""
_KEY_CHANGES: Final = """
CREATE TABLE key_change(
    epoch INTEGER, seq INTEGER, note TEXT NOT NULL, PRIMARY KEY(epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE revoked_key(note TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
DROP TRIGGER record_keeps_rows;
CREATE TRIGGER record_keeps_rows BEFORE DELETE ON record
    WHEN OLD.position & 1099511627775 >=
            coalesce((SELECT size FROM horizon WHERE epoch = OLD.position >> 40), 0)
        OR OLD.type = 'link'
        OR (OLD.type = 'key' AND NOT EXISTS (SELECT 1 FROM key_change
            WHERE epoch = OLD.position >> 40 AND seq = OLD.position & 1099511627775))
        OR (OLD.id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM identity
            WHERE id = OLD.id AND client = OLD.client AND position = OLD.position))
    BEGIN SELECT RAISE(ABORT, 'records are never deleted'); END;
"""
"""The statements by which one checkpoint key follows another: they prove checkpoints when their records are
pruned, and, of an epoch that comes back from elsewhere, before those are here. And what the hub revoked."""
MIGRATIONS: Final = (_FIRST, _RETENTION, _OTHER_HISTORIES, _SITES, _LATE_WORDS, _KEY_CHANGES)
"""Script n brings user_version from n to n + 1. Append only: ledgers in branches are at every version."""
READABLE_FROM: Final = 6
"""The oldest schema whose programs open a ledger that this one has brought to its own, read and write it, and
lose nothing: a new image may be left again, and what it has answered stays answered. So a script behind this
one only adds tables and indexes (rows are written and read whole, a column more would break them), and no
record of a kind is written that the release before cannot read. Raise it by one release at a time, or boxes
have no way from one to the other."""
_READABLE_KEY: Final = "readable_from"
"""In `meta`: the schema, and the oldest that may go on with it. Two places that must agree, because a version
rots like any other number."""

_PRAGMAS: Final[dict[str, tuple[str, str | int]]] = {
    "synchronous": ("FULL", 2),
    "busy_timeout": (str(BUSY_TIMEOUT_MS), BUSY_TIMEOUT_MS),
    "trusted_schema": ("OFF", 0),
    "cell_size_check": ("ON", 1),
    "recursive_triggers": ("ON", 1),  # else INSERT OR REPLACE deletes past the trigger
    "mmap_size": ("0", 0),
    "temp_store": ("MEMORY", 2),
    "wal_autocheckpoint": (str(WAL_PAGES), WAL_PAGES),
    "journal_size_limit": (str(WAL_BYTES_MAX), WAL_BYTES_MAX),
}
_WRITER_PRAGMAS: Final = _PRAGMAS | {"journal_mode": ("WAL", "wal"), "cache_size": ("-65536", -65536)}
_READER_PRAGMAS: Final = _PRAGMAS | {"query_only": ("ON", 1), "cache_size": ("-8192", -8192)}


def check_sqlite_version(version: str) -> None:
    """Raise UnsafeSqlite for the WAL-reset bug: below 3.51.3, but for 3.50.7 and 3.44.6 and up."""
    release = tuple(int(part) for part in version.split("."))
    mended = release >= (3, 51, 3) or any(
        release[:2] == branch[:2] and release >= branch for branch in ((3, 50, 7), (3, 44, 6))
    )
    if not mended:
        raise UnsafeSqlite(f"SQLite {version} can lose committed records in WAL mode; 3.51.3 does not")


def open_writer(path: Path, *, create: bool, checkpoints: bool = True) -> apsw.Connection:
    """The connection that writes; the file is created (if asked for) and brought to this schema.

    Without `checkpoints` its COMMITs leave the WAL as it is: somebody else moves it into the file.
    """
    check_sqlite_version(apsw.sqlite_lib_version())
    if create:
        _create_file(path)
    elif not path.exists():
        raise LedgerForeign(f"there is no ledger at {path}")
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    # A box that was killed leaves a litestream that ends a moment later, and may hold a lock until then.
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    _check_owner(connection, path, create=create)
    # Takes effect in an empty file alone; it lets pruning give pages back in small portions.
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
    left_alone: dict[str, tuple[str, str | int]] = {} if checkpoints else {"wal_autocheckpoint": ("0", 0)}
    _set_pragmas(connection, _WRITER_PRAGMAS | left_alone)
    _migrate(connection)
    fsync_directory(path.parent)
    return connection


def open_reader(path: Path) -> apsw.Connection:
    """A connection of its own that cannot write; it sees what is committed."""
    check_sqlite_version(apsw.sqlite_lib_version())
    if not path.exists():
        raise LedgerForeign(f"there is no ledger at {path}")
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    _check_owner(connection, path, create=False)
    if (version := _number(connection, "user_version")) < len(MIGRATIONS):
        raise LedgerForeign(
            f"{path} has schema {version}, this program reads {len(MIGRATIONS)}",
            hint="Start the box once with this version: it brings the ledger to its schema.",
        )
    _set_pragmas(connection, _READER_PRAGMAS)
    return connection


def fsync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_file(path: Path) -> None:
    """An empty file that only its owner reads; the WAL takes its mode over."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return


def _check_owner(connection: apsw.Connection, path: Path, *, create: bool) -> None:
    """Raise LedgerForeign unless the file is a ledger of a known version, or empty and to be created."""
    try:
        application_id = _number(connection, "application_id")
        version = _number(connection, "user_version")
        empty = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except apsw.NotADBError:
        raise LedgerForeign(f"{path} is no SQLite file") from None
    if empty and application_id == 0 and create:
        return
    if application_id != APPLICATION_ID:
        raise LedgerForeign(f"{path} is no ledger: its application id is {application_id:#x}")
    if not 1 <= version <= len(MIGRATIONS) and not _was_added_to(connection, version):
        raise LedgerForeign(f"{path} has schema {version}; this program knows them up to {len(MIGRATIONS)}")


def _was_added_to(connection: apsw.Connection, version: int) -> bool:
    """Whether a newer program has brought the ledger to its schema, and says that this one's may write it."""
    if version <= len(MIGRATIONS):
        return False
    try:
        rows = connection.execute("SELECT value FROM meta WHERE key = ?", (_READABLE_KEY,)).fetchall()
    except apsw.SQLError:
        return False
    schema, _, oldest = str(rows[0][0] if rows else "").partition(" ")
    return schema == str(version) and oldest.isdigit() and int(oldest) <= len(MIGRATIONS)


def _set_pragmas(connection: apsw.Connection, pragmas: dict[str, tuple[str, str | int]]) -> None:
    """Set each pragma and read it back: SQLite ignores in silence what it cannot do."""
    for name, (setting, expected) in pragmas.items():
        connection.execute(f"PRAGMA {name}={setting}").fetchall()
        actual = connection.pragma(name)
        if actual != expected:
            raise StorageFailed(f"PRAGMA {name} is {actual!r} after it was set to {setting}")


def _migrate(connection: apsw.Connection) -> None:
    """Apply the missing migrations, each whole or not at all."""
    for version in range(_number(connection, "user_version"), len(MIGRATIONS)):
        with connection:
            connection.execute(MIGRATIONS[version])
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={version + 1}")
            connection.execute(
                "INSERT INTO meta(key, value) VALUES (?, ?)"
                " ON CONFLICT(key) DO UPDATE SET value = excluded.value",
                (_READABLE_KEY, f"{version + 1} {READABLE_FROM}"),
            )


def _number(connection: apsw.Connection, pragma: str) -> int:
    value = connection.pragma(pragma)
    if not isinstance(value, int):
        raise StorageFailed(f"PRAGMA {pragma} is {value!r}, not a number")
    return value
