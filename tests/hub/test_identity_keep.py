"""A database that was put back forgets neither a revocation nor a used claim."""

import json
import os
import resource
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from edgegw.access.keys import SigningKey
from edgegw.hub import schema
from edgegw.hub.claims import USED, claim_of, make_claim, use_claim
from edgegw.hub.database import Database
from edgegw.hub.identities import ENROLLED, bind, bound_to, device_key, live_identity
from edgegw.hub.identity_keep import IdentityKeep, KeptIdentitiesError
from edgegw.hub.identity_log import events, note_event
from edgegw.hub.revocations import revoke_device
from tests.hub import simulated_box
from tests.hub.places import Place

NOW_NS = time.time_ns()
CLAIM = "c" * 32
on_one_engine = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


def signing_key(name: str) -> SigningKey:
    """A new key, of the kind that this world signs with."""
    return SigningKey(name, simulated_box.PrivateKey.generate())


class Centre:
    """A hub's identities, on one engine."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.keep = IdentityKeep(folder / "medium" / "identities.jsonl", signing_key("b1/hub"))
        self.database: Database = place.open()
        self.old, self.new = signing_key("b1/east").public, signing_key("b1/west").public

    def enrols(self, box: str, *, claim: str) -> None:
        """Bind a device by a claim, as the enrolment does."""
        key = self.old if box == "east" else self.new

        def work(connection: Connection) -> None:
            made = {"branch": "", "public_key": "ab", "hosts": (), "replaces": False, "by": ""}
            expires_s = NOW_NS // 10**9 + 3_600
            make_claim(connection, id=claim, box=box, expires_s=expires_s, now_ns=NOW_NS, **made)  # type: ignore[arg-type]
            row = claim_of(connection, claim)
            assert row is not None
            use_claim(connection, row, keys="k", now_ns=NOW_NS)
            bind(connection, box, key, origin=ENROLLED, claim=claim, now_ns=NOW_NS)
            note_event(connection, "enrolled", now_ns=NOW_NS, box=box, claim=claim)

        self.database.transact(work)

    def revokes(self, box: str) -> None:
        """A person says that it is stolen."""
        self.database.transact(lambda c: revoke_device(c, box, reason="stolen", by="", now_ns=NOW_NS))

    def is_put_back(self) -> None:
        """The backup, in the place of the database."""
        self.database.close()
        self.place.restore(self.folder / "backup")
        self.database = self.place.open()


@pytest.fixture
def centre(place: Place, tmp_path: Path) -> Centre:
    """East is enrolled, then comes the backup; after it west is enrolled and east revoked."""
    centre = Centre(place, tmp_path)
    centre.enrols("east", claim="a" * 32)
    centre.keep.follow(centre.database)
    place.back_up(tmp_path / "backup")
    centre.enrols("west", claim=CLAIM)
    centre.keep.follow(centre.database)
    centre.revokes("east")
    centre.keep.follow(centre.database)
    return centre


@on_one_engine
def test_a_restored_database_serves_nobody_before_it_was_recalled(centre: Centre) -> None:
    """Without the look the revoked device speaks again, and the used claim enrols another one."""
    centre.keep.check(centre.database)
    centre.is_put_back()
    assert centre.database.transact(lambda c: device_key(c, "east")) is not None, "the harm"
    with pytest.raises(KeptIdentitiesError, match="lacks 3 of its 5 events") as problem:
        centre.keep.check(centre.database)
    assert "hub ca recall" in problem.value.hint
    assert centre.keep.recall(centre.database) > 0
    centre.keep.check(centre.database)


def test_what_was_done_after_the_backup_is_done_again(centre: Centre) -> None:
    """The revocation, the claim and the device; nothing is doubled by doing it twice."""
    centre.is_put_back()
    centre.keep.recall(centre.database)

    def work(connection: Connection) -> None:
        assert device_key(connection, "east") is None
        assert live_identity(connection, "east") is None
        [east] = bound_to(connection, centre.old)
        assert (east.state, east.reason) == ("revoked", "stolen")
        assert device_key(connection, "west") == centre.new
        used = claim_of(connection, CLAIM)
        assert used is not None
        assert used.state == USED
        assert [one.event for one in events(connection)] == ["claim_made", "enrolled"] * 2 + ["revoked"]

    centre.database.transact(work)
    assert centre.keep.recall(centre.database) == 0
    assert centre.keep.follow(centre.database) == 0


@on_one_engine
def test_a_database_that_went_on_by_itself_is_not_mixed_with_the_file(centre: Centre) -> None:
    """Two pasts of identities are a person's to judge."""
    centre.is_put_back()
    centre.enrols("south", claim="d" * 32)
    with pytest.raises(KeptIdentitiesError, match="gone on by itself"):
        centre.keep.recall(centre.database)


@on_one_engine
def test_lists_of_revoked_certificates_never_count_backwards(centre: Centre) -> None:
    """A box that has seen list 7 must not be given another list 7."""
    centre.is_put_back()
    with (centre.folder / "medium" / "identities.jsonl").open("rb") as file:
        assert all(json.loads(json.loads(line)["entry"])["crl"] == {} for line in file)
    values = {"kind": "p256", "number": 7, "made_s": 1, "entries": 0, "der": b"x"}
    centre.database.transact(lambda c: c.execute(schema.crl.insert().values(values)))
    centre.keep.recall(centre.database)
    centre.revokes("west")
    centre.keep.follow(centre.database)
    centre.database.transact(lambda c: c.execute(update(schema.crl).values(number=3)))
    centre.database.transact(lambda c: c.execute(schema.identity_event.delete()))
    centre.keep.recall(centre.database)
    number = centre.database.transact(lambda c: c.execute(select(schema.crl.c.number)).scalar_one())
    assert number > 7


@on_one_engine
def test_a_medium_that_is_gone_is_said_and_made_up_for(centre: Centre) -> None:
    """Nobody hears that he is enrolled while nothing could keep it; later nothing is lacking."""
    path = centre.folder / "medium" / "identities.jsonl"
    kept = path.read_bytes()
    path.unlink()
    path.mkdir()
    centre.revokes("west")
    with pytest.raises(KeptIdentitiesError, match="cannot be written"):
        centre.keep.follow(centre.database)
    path.rmdir()
    path.write_bytes(kept)
    assert centre.keep.follow(centre.database) > 0
    centre.keep.check(centre.database)


@on_one_engine
@pytest.mark.parametrize("harm", ["flipped", "dropped", "torn", "unnamed"])
def test_an_altered_file_is_refused_and_a_torn_end_is_written_over(centre: Centre, harm: str) -> None:
    """Somebody who takes a revocation out of the middle is found; a crash amid a line is none of that."""
    path = centre.folder / "medium" / "identities.jsonl"
    body = path.read_bytes()
    lines = body.splitlines(keepends=True)
    if harm == "torn":
        path.write_bytes(body + b'{"entry":"{')
        centre.revokes("west")
        assert centre.keep.follow(centre.database) > 0
        centre.keep.check(centre.database)
        return
    harmed = {
        "flipped": body.replace(b"east", b"eest"),
        "dropped": lines[0] + lines[2],
        "unnamed": body.replace(b"number", b"numbes"),
    }
    path.write_bytes(harmed[harm])
    with pytest.raises(KeptIdentitiesError, match="is not what the hub wrote"):
        centre.keep.check(centre.database)


@on_one_engine
def test_a_line_that_does_not_fit_is_not_taken_for_written(centre: Centre) -> None:
    """A full medium takes the beginning of a line in silence: the revocation would be in neither place."""
    file = centre.folder / "medium" / "identities.jsonl"
    centre.revokes("west")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # SQLite's own file is open and not written while it is only read.
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 40, limits[1]))
    try:
        with pytest.raises(KeptIdentitiesError, match="cannot be written"):
            centre.keep.follow(centre.database)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert centre.keep.follow(centre.database) > 0
    assert centre.keep.follow(centre.database) == 0


@on_one_engine
def test_a_medium_that_is_not_mounted_is_no_empty_file(centre: Centre) -> None:
    """The restored hub would begin a new file in the empty folder, and serve who was revoked."""
    file = centre.folder / "medium" / "identities.jsonl"
    away = file.rename(file.with_suffix(".away"))
    centre.is_put_back()
    with pytest.raises(KeptIdentitiesError, match="is not there"):
        centre.keep.check(centre.database)
    file.touch()
    centre.keep.check(centre.database)
    assert centre.keep.follow(centre.database) > 0
    away.rename(file)
    with pytest.raises(KeptIdentitiesError, match="is older than"):
        centre.keep.check(centre.database)


def fresh_look(centre: Centre) -> None:
    """The next start of the hub, which reads the file whole."""
    IdentityKeep(centre.folder / "medium" / "identities.jsonl", centre.keep._key).check(centre.database)


def notes(centre: Centre, count: int) -> None:
    """So many things happen."""

    def work(connection: Connection) -> None:
        for _ in range(count):
            note_event(connection, "renewed", now_ns=NOW_NS, box="west")

    centre.database.transact(work)


@on_one_engine
def test_what_was_read_once_is_not_read_at_each_event(centre: Centre) -> None:
    """A year of ten thousand boxes are 180 MB: four seconds of a processor for each renewal, and twice for
    each minute in which nothing happens."""
    path = centre.folder / "medium" / "identities.jsonl"
    for count in (100, 100, 100, 1, 1):
        notes(centre, count)
        centre.keep.follow(centre.database)
    before = _read_bytes()
    notes(centre, 1)
    assert centre.keep.follow(centre.database) == 1
    assert _read_bytes() - before < path.stat().st_size / 3
    fresh_look(centre)


def _read_bytes() -> int:
    """So much this process has read, from any file."""
    (line,) = [one for one in Path("/proc/self/io").read_text().splitlines() if one.startswith("rchar")]
    return int(line.split()[1])


@on_one_engine
def test_a_command_beside_the_hub_writes_what_the_hub_goes_on_from(centre: Centre) -> None:
    """Two processes with one file: neither may write over the other's lines, or leave one out."""
    path = centre.folder / "medium" / "identities.jsonl"
    beside = IdentityKeep(path, centre.keep._key)
    for keep in (beside, centre.keep, centre.keep, beside, beside, centre.keep):
        notes(centre, 1)
        assert keep.follow(centre.database) == 1
        assert keep.follow(centre.database) == 0
    with path.open("ab") as file:
        file.write(b'{"entry":"{')  # the command was killed
    notes(centre, 1)
    assert centre.keep.follow(centre.database) == 1
    notes(centre, 1)
    assert beside.follow(centre.database) == 1
    fresh_look(centre)
    seqs = [json.loads(json.loads(line)["entry"])["seq"] for line in path.read_bytes().splitlines()]
    assert seqs == list(range(len(seqs)))
    centre.is_put_back()
    assert centre.keep.recall(centre.database) > 8
    fresh_look(centre)


@on_one_engine
@pytest.mark.parametrize("harm", ["cut", "older", "emptied"])
def test_a_file_that_was_set_back_under_a_running_hub_gets_what_it_lacks(centre: Centre, harm: str) -> None:
    """Somebody copies an old one into its place: going on behind the last end would leave a hole."""
    path = centre.folder / "medium" / "identities.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if harm == "older":
        path.with_suffix(".old").write_bytes(b"".join(lines[:2]))
        path.with_suffix(".old").rename(path)
    else:
        os.truncate(path, len(lines[0]) if harm == "cut" else 0)
    assert centre.keep.follow(centre.database) > 0
    fresh_look(centre)
    centre.is_put_back()
    assert centre.keep.recall(centre.database) > 0


@on_one_engine
@pytest.mark.parametrize("line", [0, -1])
def test_a_line_that_is_altered_under_a_running_hub_is_found(centre: Centre, line: int) -> None:
    """The last one at the next event, any other at the next start."""
    path = centre.folder / "medium" / "identities.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"east", b"eest")
    with path.open("r+b") as file:
        file.write(b"".join(lines))
    if line:
        with pytest.raises(KeptIdentitiesError, match="is not what the hub wrote"):
            centre.keep.follow(centre.database)
    with pytest.raises(KeptIdentitiesError, match="is not what the hub wrote"):
        fresh_look(centre)


@on_one_engine
def test_a_medium_that_goes_away_under_a_running_hub_gets_no_second_file(centre: Centre) -> None:
    """In the empty folder of the mount the hub would begin another file, and nobody would hear of it."""
    path = centre.folder / "medium" / "identities.jsonl"
    away = path.rename(path.with_suffix(".away"))
    notes(centre, 1)
    for _ in range(2):
        with pytest.raises(KeptIdentitiesError, match="not there any more"):
            centre.keep.follow(centre.database)
        assert not path.exists()
    away.rename(path)
    assert centre.keep.follow(centre.database) == 1
    fresh_look(centre)
