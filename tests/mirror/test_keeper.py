"""The mirror's copy of one box: what it takes and cosigns, what it never overwrites, what it gives back."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgegw.core import journal
from edgegw.core.messages import ExchangeError, LogHead, PackageVerdict, Verdict
from edgegw.ledger.received import proven_head
from edgegw.ledger.store import Store
from edgegw.mirror.keeper import TALKS_MAX, Keeper, Keys
from tests.core.authors import BANK, BOX, new_key
from tests.mirror.boxes import DEVICE_KEY, HUB_KEY, MIRROR_KEY, Conversation, Epoch

OpenKeeper = Callable[[], Keeper]


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[OpenKeeper]:
    """Opens the keeper of one directory, closing the one before as a stop would."""
    running: list[Keeper] = []

    def again() -> Keeper:
        while running:
            running.pop().close()
        keys = Keys(MIRROR_KEY, DEVICE_KEY.public, HUB_KEY.public)
        keeper = Keeper(tmp_path / BOX, keys, bank=BANK, box=BOX)
        running.append(keeper)
        return keeper

    yield again
    while running:
        running.pop().close()


@pytest.fixture
def keeper(reopened: OpenKeeper) -> Keeper:
    """A mirror that holds nothing."""
    return reopened()


def filled(keeper: Keeper, log: Epoch, *, boot: str = "boot-1") -> Conversation:
    """A conversation in which all of the log was pushed."""
    talk = Conversation(keeper, boot=boot)
    assert talk.open(log.head()).verdict is Verdict.OK
    assert talk.beat(push=log.package(0, len(log.bodies))).push is PackageVerdict.ACCEPTED
    return talk


def test_what_is_cosigned_is_on_disk(keeper: Keeper, tmp_path: Path) -> None:
    """An answer leaves the box on the strength of this signature alone."""
    log = Epoch()
    log.write_many(9)
    talk = Conversation(keeper)
    assert talk.open(log.head()).journals == (LogHead(1),)
    beaten = talk.beat(push=log.package(0, 10))
    signed = MIRROR_KEY.public.check_cosignature(beaten.cosignature).checkpoint
    assert signed == journal.Checkpoint(log.origin, 10, log.root())
    reader = Store.open_reader(tmp_path / BOX / "ledger.db")
    stored = [entry.body for entry in reader.records(epoch=1, start=0, limit=99, bytes_max=1 << 20)]
    reader.close()
    assert stored == log.bodies


def test_a_push_again_is_cosigned_again(keeper: Keeper) -> None:
    """The answer to the first one may have been lost; the box would wait for ever."""
    log = Epoch()
    talk = filled(keeper, log)
    beaten = talk.beat(push=log.package(0, 1))
    assert beaten.push is PackageVerdict.DUPLICATE
    assert MIRROR_KEY.public.check_cosignature(beaten.cosignature).checkpoint.size == 1


def test_an_epoch_needs_a_link_of_the_pinned_hub(keeper: Keeper) -> None:
    """Else whoever has a device key could begin an epoch and fence the true one."""
    for log in (Epoch(hub=new_key(f"{BANK}/hub")), Epoch(box="branch-2"), Epoch(2, epoch=3)):
        talk = Conversation(keeper)
        talk.open(log.head())
        with pytest.raises(ExchangeError):
            talk.beat(push=log.package(0, 1))
    assert keeper.status().records == 0


def test_a_record_of_another_key_is_refused(keeper: Keeper) -> None:
    """The epoch's key is the one in its link, whoever signs the message around it."""
    log = Epoch()
    log.key = new_key(f"{BANK}/{BOX}/checkpoint")
    talk = Conversation(keeper)
    talk.open(log.head())
    assert talk.beat(push=log.package(0, 1)).push is PackageVerdict.BAD_CHECKPOINT
    assert keeper.status().records == 0


def test_a_fork_keeps_both_signed_heads_and_overwrites_nothing(reopened: OpenKeeper) -> None:
    """Each head alone proves nothing: together they convict the box, after a restart too."""
    keeper = reopened()
    log = Epoch()
    log.write_many(4)
    clone = log.copy()
    log.write_many(3, "paid")
    clone.write_many(2, "paid elsewhere")
    talk = filled(keeper, log)
    beaten = talk.beat(push=clone.package(5, 7))
    assert (beaten.push, beaten.verdict) == (PackageVerdict.FORK, Verdict.FORKED)
    assert not beaten.cosignature
    assert beaten.journal == log.head()
    again = reopened()
    fork = again._forks[1]
    assert log.key.public.open(fork.held).root == log.root()
    assert clone.key.public.open(fork.other).root == clone.root()
    assert Conversation(again).open(log.head()).verdict is Verdict.FORKED
    assert again.status().records == 8


def test_nothing_more_of_a_forked_epoch_is_taken(keeper: Keeper) -> None:
    """Which of the two is to go on is the hub's to say."""
    log = Epoch()
    clone = log.copy()
    log.write_many(1, "paid")
    clone.write_many(1, "paid elsewhere")
    talk = filled(keeper, log)
    talk.beat(push=clone.package(1, 2))
    log.write_many(1)
    assert talk.beat(push=log.package(2, 3)).push is PackageVerdict.FORK
    assert keeper.status().records == 2


def test_a_fork_of_the_past_does_not_stop_the_next_epoch(keeper: Keeper) -> None:
    """The hub has given it: the branch goes on, and the old evidence stays."""
    log = Epoch()
    clone = log.copy()
    log.write_many(1, "paid")
    clone.write_many(1, "paid elsewhere")
    filled(keeper, log).beat(push=clone.package(1, 2))
    new = Epoch(2)
    talk = Conversation(keeper, boot="boot-2")
    opened = talk.open(clone.head(), new.head())
    assert (opened.verdict, opened.closed) == (Verdict.OK, (log.head(),))
    beaten = talk.beat(push=new.package(0, 1))
    assert (beaten.push, beaten.verdict) == (PackageVerdict.ACCEPTED, Verdict.OK)


def test_a_clone_that_took_the_place_loses_nothing_but_the_place(keeper: Keeper) -> None:
    """Of two live boots the one that was displaced is fenced, with its next message and for ever."""
    log = Epoch()
    first = filled(keeper, log, boot="boot-1")
    second = Conversation(keeper, boot="boot-2")
    assert second.open(log.head()).verdict is Verdict.OK
    assert first.beat().verdict is Verdict.OK  # an opening alone displaces nobody
    assert second.beat().verdict is Verdict.OK
    assert first.beat().verdict is Verdict.FENCED
    assert first.open(log.head()).verdict is Verdict.FENCED
    assert first.beat().verdict is Verdict.FENCED
    assert second.beat().verdict is Verdict.OK


def test_a_clone_that_is_behind_displaces_nobody(keeper: Keeper) -> None:
    """Else yesterday's image would stop today's box."""
    log = Epoch()
    log.write_many(3)
    first = filled(keeper, log)
    stale = Conversation(keeper, boot="boot-2")
    assert stale.open(log.part(2)).verdict is Verdict.BEHIND
    assert stale.beat().verdict is Verdict.BEHIND
    assert first.beat().verdict is Verdict.OK


def test_a_mirror_that_starts_again_asks_for_a_new_opening(reopened: OpenKeeper) -> None:
    """Its sessions are gone with its memory; what it holds is not."""
    log = Epoch()
    talk = filled(reopened(), log)
    talk.keeper = reopened()
    assert talk.beat().verdict is Verdict.REOPEN
    assert talk.open(log.head()).journals == (log.head(),)
    log.write_many(1)
    assert talk.beat(push=log.package(1, 2)).push is PackageVerdict.ACCEPTED


def test_a_message_is_taken_once(keeper: Keeper) -> None:
    """A replayed push must not be answered as new."""
    log = Epoch()
    talk = filled(keeper, log)
    talk._counter -= 1
    assert talk.beat().verdict is Verdict.REOPEN


def test_many_boots_cost_no_memory(keeper: Keeper) -> None:
    """A box that starts again and again must not fill the mirror's memory with sessions."""
    log = Epoch()
    filled(keeper, log)
    for number in range(TALKS_MAX * 3):
        Conversation(keeper, boot=f"boot-{number}").open(log.head())
    assert len(keeper._talks) == TALKS_MAX


def test_the_past_comes_back_only_to_whoever_has_its_beginning(keeper: Keeper) -> None:
    """A box with another beginning would get a history that is not its own."""
    log = Epoch()
    log.write_many(700)
    talk = Conversation(keeper)
    talk.open(log.head())
    for start in range(0, 701, 256):
        talk.beat(push=log.package(start, min(start + 256, 701)))
    held = log.part(300)
    pulled = talk.beat(pull=held).pulled
    assert pulled is not None
    assert (pulled.old_size, pulled.records) == (300, tuple(log.bodies[300:556]))
    pulled = talk.beat(pull=log.part(556)).pulled
    assert pulled is not None
    assert pulled.records == tuple(log.bodies[556:])
    assert talk.beat(pull=log.head()).pulled is None
    assert talk.beat(pull=LogHead(1, 300, bytes(32))).pulled is None
    assert talk.beat(pull=LogHead(7)).pulled is None


def test_what_cannot_be_proven_is_not_given_back(keeper: Keeper, tmp_path: Path) -> None:
    """A box that burns amid a long batch leaves records whose only signature covers ones that burnt too."""
    log = Epoch()
    log.write_many(99)
    talk = filled(keeper, log)
    log.write_many(400)
    talk.beat(push=log.package(100, 300))
    pulled = talk.beat(pull=LogHead(1)).pulled
    assert pulled is not None
    assert pulled.size == 100
    reader = Store.open_reader(tmp_path / BOX / "ledger.db")
    proven, head = proven_head(reader, 1), reader.head(1)
    reader.close()
    assert proven is not None
    assert head is not None
    assert (proven.size, head.size) == (100, 300)
    assert log.key.public.open(proven.checkpoint).size == 100
