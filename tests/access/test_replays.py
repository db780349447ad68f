"""That a signed request counts once: across restarts, wrong clocks, full memories."""

import asyncio
from pathlib import Path

import pytest

from edgegw.access import replays
from edgegw.access.replays import CHALLENGE_LIFETIME_S, FLOOR_AHEAD_S, WINDOW_S, Refused, Replays

NOW_S = 1_800_000_000
NONCE = "0123456789abcdef"


class Machine:
    """A box's clocks, and its disk."""

    def __init__(self, folder: Path) -> None:
        self.wall_s = float(NOW_S)
        self.mono_s = 50.0
        self.file = folder / "signatures.json"

    def start(self) -> Replays:
        """A process; the one before may have been killed at any moment, so nothing is told to it."""
        return Replays(self.file, now_s=lambda: self.wall_s, mono_s=lambda: self.mono_s)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def tried(
    box: Replays, *, created_s: int = NOW_S, nonce: str = NONCE, client: str = "till", expires_s: int = -1
) -> str:
    """The code that it is refused with, "" when it is let through."""
    try:
        await box.spend(client, nonce=nonce, created_s=created_s, expires_s=expires_s)
    except Refused as refused:
        return refused.code
    return ""


async def test_the_same_request_counts_once(machine: Machine) -> None:
    """And another nonce, second or client is another request."""
    box = machine.start()
    assert await tried(box) == ""
    assert await tried(box) == "signature_replayed"
    assert await tried(box, nonce=NONCE[::-1]) == ""
    assert await tried(box, created_s=NOW_S + 1) == ""
    assert await tried(box, client="other") == ""
    assert await tried(box) == "signature_replayed"


async def test_a_request_from_before_a_kill_does_not_count_after_it(machine: Machine) -> None:
    """Whatever was let through was on disk as spent before."""
    box = machine.start()
    for ahead_s in (0, 3, WINDOW_S):
        assert await tried(box, created_s=NOW_S + ahead_s) == ""
    machine.wall_s += 1
    box = machine.start()
    for ahead_s in (0, 3, WINDOW_S):
        assert await tried(box, created_s=NOW_S + ahead_s) == "signature_stale"
    machine.wall_s = NOW_S + WINDOW_S
    assert await tried(box, created_s=NOW_S + WINDOW_S + FLOOR_AHEAD_S + 1) == ""


async def test_a_clock_that_went_back_lets_nothing_through_again(machine: Machine) -> None:
    """In the running process, after what was remembered is forgotten, and in the next one."""
    box = machine.start()
    assert await tried(box) == ""
    machine.wall_s += 2 * 3600
    assert await tried(box, created_s=NOW_S + 7200) == ""
    machine.wall_s = NOW_S
    assert await tried(box) == "signature_stale"
    assert await tried(machine.start()) == "signature_stale"


async def test_without_its_file_a_process_believes_nothing_from_before_it(machine: Machine) -> None:
    """A file that was lost loses no more than requests that were dated ahead."""
    assert await tried(machine.start()) == ""
    machine.file.unlink()
    machine.wall_s += 1
    assert await tried(machine.start()) == "signature_stale"


async def test_a_file_that_cannot_be_read_is_no_empty_one(machine: Machine) -> None:
    """Half-written or altered: no time counts before all that could have been let through is past."""
    assert await tried(machine.start(), created_s=NOW_S + WINDOW_S) == ""
    machine.file.write_bytes(machine.file.read_bytes()[:-1])
    box = machine.start()
    assert await tried(box, created_s=NOW_S + WINDOW_S) == "signature_stale"
    machine.wall_s += 2
    assert await tried(box, created_s=NOW_S + WINDOW_S + 2) == ""


@pytest.mark.parametrize("apart_s", [-WINDOW_S - 1, WINDOW_S + 1, -10 * 365 * 86400])
async def test_a_time_far_from_the_boxs_is_refused(machine: Machine, apart_s: int) -> None:
    """A captured request is worth nothing a minute later; one that was dated ahead neither."""
    machine.wall_s -= 3600
    box = machine.start()
    machine.wall_s += 3600
    assert await tried(box, created_s=NOW_S + apart_s) == "signature_stale"
    assert await tried(box, created_s=-1) == "signature_stale"
    assert await tried(box, expires_s=NOW_S - 1) == "signature_stale"
    assert await tried(box, expires_s=NOW_S) == ""


async def test_a_challenge_needs_no_clock_and_counts_once(machine: Machine) -> None:
    """Box and client may be years apart; each nonce that begins with the challenge counts once."""
    box = machine.start()
    challenge = box.challenge()
    machine.wall_s -= 10 * 365 * 86400
    for nonce in (challenge, f"{challenge}.1", f"{challenge}.2"):
        assert await tried(box, nonce=nonce, created_s=7) == ""
        assert await tried(box, nonce=nonce, created_s=-1) == "signature_replayed"
    machine.mono_s += CHALLENGE_LIFETIME_S + 1
    assert await tried(box, nonce=f"{challenge}.3") == "signature_stale"
    assert await tried(box, nonce=challenge) == "signature_stale"
    assert await tried(box, nonce=box.challenge()) == ""


async def test_a_challenge_of_another_process_or_a_made_up_one_is_none(machine: Machine) -> None:
    """A restart ends all challenges, so nothing of them needs to be kept."""
    challenge = machine.start().challenge()
    box = machine.start()
    for nonce in (
        challenge,
        f"{challenge}.1",
        "box.",
        "box.AAAA",
        "box.~",
        f"box.{'A' * 43}",
        f"{box.challenge()}A",
    ):
        assert await tried(box, nonce=nonce) == "signature_stale", nonce


async def test_a_full_memory_refuses_what_it_has_forgotten(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory may refuse more than it must, never less."""
    monkeypatch.setattr(replays, "NONCES_MAX", 10)
    machine.wall_s -= 100
    box = machine.start()
    machine.wall_s += 100
    let_through = [(second, f"{NONCE}{number}") for second in range(NOW_S, NOW_S + 5) for number in range(4)]
    for second, nonce in let_through:
        assert await tried(box, created_s=second, nonce=nonce) == ""
    for second, nonce in let_through:
        assert await tried(box, created_s=second, nonce=nonce) in ("signature_stale", "signature_replayed")
    challenge = box.challenge()
    for number in range(10):
        assert await tried(box, nonce=f"{challenge}.{number}") == ""
    await tried(box, nonce=f"{challenge}.10")
    for number in range(11):
        assert await tried(box, nonce=f"{challenge}.{number}") != ""


async def test_a_disk_that_takes_nothing_lets_nothing_through(machine: Machine) -> None:
    """What could not be kept could be replayed after a restart."""
    box = machine.start()
    machine.file.with_suffix(".new").mkdir()
    assert await tried(box) == "storage_full"
    assert await tried(box) == "signature_replayed"


async def test_many_at_once_wait_for_few_writes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that come while one write runs share the next; within two seconds there is none at all."""
    writes = 0
    replace = replays.Floors._replace

    def counted(floors: replays.Floors, content: bytes) -> None:
        nonlocal writes
        writes += 1
        replace(floors, content)

    monkeypatch.setattr(replays.Floors, "_replace", counted)
    box = machine.start()
    codes = await asyncio.gather(
        *(tried(box, client=f"c{number % 50}", nonce=f"{NONCE}{number}") for number in range(500))
    )
    assert set(codes) == {""}
    assert writes <= 3
    assert await tried(box, created_s=NOW_S + FLOOR_AHEAD_S, client="c1") == ""
    assert writes <= 3
