"""Every class of rollback, clone and fork: how it comes about, how it is fenced, and the way back.

Each drill starts with a box and a hub in step and some payments answered, and ends with the audit.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from typing import Final

from tests.drills.audit import check_answers, rows
from tests.drills.branch import Bank, MirroredBank
from tests.mirror.branch import TIMEOUT_MS

Drill = Callable[[Bank], None]


def _some(bank: Bank, most: int = 4) -> int:
    return bank.chance.randint(1, most)


def _in_step(bank: Bank, *, most: int = 4) -> None:
    """Line up, allowances granted, some payments answered and held by the hub."""
    bank.start_hub()
    bank.start_box()
    bank.wait_until_synced()
    bank.until(
        lambda: bank.call("GET", "/v1/accounts/alice").json["available_minor"] == 100_000, "the allowance"
    )
    bank.sell(_some(bank, most))
    bank.wait_until_synced()


def _offline_sales(bank: Bank, count: int) -> list[str]:
    """Payments that the hub hears of later; alice's allowance covers them."""
    before = set(bank.answered)
    bank.sell(count, accounts=("alice",))
    return sorted(set(bank.answered) - before)


def _fenced(bank: Bank, mode: str) -> None:
    """At first contact: this mode, no new payment, and what was answered is answered again."""
    bank.until(lambda: bank.status()["mode"] == mode, f"the box to be {mode}")
    bank.clears_nothing()


def _start_behind(bank: Bank) -> None:
    bank.start_box(ready=False)
    bank.until(lambda: bank.call("GET", "/readyz").status == 503, "the box to say that it is behind")


def _new_epoch(bank: Bank) -> None:
    """The operator's order, and the box clears again, in a later epoch, with its past."""
    before = _held_epochs(bank)[-1]
    bank.run("order", "new-epoch", "box-1", "--hub", bank.path("hub.toml"))
    bank.wait_until_ready()
    bank.wait_until_synced()
    assert bank.status()["epoch"] > before
    bank.sell(_some(bank))
    bank.wait_until_synced()


def _held_epochs(bank: Bank) -> list[int]:
    return [epoch for (epoch,) in rows(bank, "SELECT epoch FROM journal_head ORDER BY epoch")]


def _seal_old(bank: Bank) -> None:
    """Nothing of the older epochs is in doubt any more."""
    for (epoch,) in rows(
        bank,
        "SELECT epoch FROM journal_head WHERE NOT sealed AND epoch < (SELECT max(epoch) FROM journal_head)",
    ):
        bank.run("order", "seal", "box-1", str(epoch), "--hub", bank.path("hub.toml"))


def _ends_well(bank: Bank, own: list[str] | None = None, *, loss_allowed: bool = False) -> None:
    """In a new epoch what was answered, or what the box has of it, is answered again; then the audit."""
    _new_epoch(bank)
    bank.repeats_agree(own or sorted(bank.answered))
    _seal_old(bank)
    check_answers(bank, loss_allowed=loss_allowed)


def _take_journal(bank: Bank, epoch: int, *, disk: Bank | None = None) -> None:
    """What a box's disk holds of an epoch goes to the hub as a file, twice: the second changes nothing."""
    file = bank.path(f"epoch-{epoch}.journal")
    bank.run("journal", "export", (disk or bank).path("box.toml"), "--output", file, "--epoch", str(epoch))
    for _ in range(2):
        bank.run("order", "take-journal", file, "--hub", bank.path("hub.toml"))


# --- the box's disk is from the past ---------------------------------------------------------------------


def restored_image_found_by_its_anchor(bank: Bank) -> None:
    """The ledger's disk is put back, the second medium knows better; the line is down."""
    _in_step(bank)
    bank.stop_box(bank.chance.choice((signal.SIGTERM, signal.SIGKILL)))
    image = bank.image()
    bank.start_box()
    lost = _offline_sales(bank, _some(bank))
    bank.wait_until_synced()
    bank.stop_box()
    bank.stop_hub()
    bank.put_back(image, anchor=False)
    bank.start_box(ready=False)
    _fenced(bank, "behind")
    bank.start_hub()
    bank.until(lambda: bank.call("GET", f"/v1/payments/{lost[0]}").status == 200, "the lost records")
    bank.repeats_agree(sorted(bank.answered))
    _ends_well(bank)


def restored_image_found_by_the_hub(bank: Bank) -> None:
    """Both media are put back, so that only the hub knows more: behind, with the same prefix."""
    _in_step(bank)
    bank.stop_box(bank.chance.choice((signal.SIGTERM, signal.SIGKILL)))
    image = bank.image()
    bank.start_box()
    _offline_sales(bank, _some(bank))
    bank.wait_until_synced()
    bank.stop_box()
    bank.put_back(image, anchor=True)
    bank.start_box(ready=False)
    _fenced(bank, "behind")
    _ends_well(bank)


def _diverged(bank: Bank, *, first: int, second: int) -> None:
    """Two histories from one image: the hub has the first, the box has written the second."""
    _in_step(bank)
    bank.stop_hub()
    bank.stop_box()
    image = bank.image()
    bank.start_box()
    theirs = _offline_sales(bank, first)
    bank.start_hub()
    bank.wait_until_synced()
    bank.stop_hub()
    bank.stop_box()
    bank.put_back(image, anchor=True)
    bank.start_box()
    own = _offline_sales(bank, second)
    bank.start_hub()
    _fenced(bank, "forked")
    bank.repeats_agree(own)
    bank.until(
        lambda: rows(bank, "SELECT count(*) FROM evidence")[0][0] > 0, "the hub to have what was signed twice"
    )
    epoch = bank.status()["epoch"]
    _take_journal(bank, epoch)
    _ends_well(bank, own, loss_allowed=True)
    bank.outcomes_agree(theirs)


def fork_shorter_than_what_the_hub_holds(bank: Bank) -> None:
    """Behind without the same prefix."""
    second = _some(bank, 2)
    _diverged(bank, first=second + 20 + _some(bank), second=second)


def fork_of_about_the_same_size(bank: Bank) -> None:
    """The same size, or nearly, and another root."""
    count = _some(bank)
    _diverged(bank, first=count, second=count)


def fork_longer_than_what_the_hub_holds(bank: Bank) -> None:
    """Ahead of the hub, on another prefix."""
    first = _some(bank, 2)
    _diverged(bank, first=first, second=first + 20 + _some(bank))


def two_live_boots_of_one_epoch(bank: Bank) -> None:
    """A clone of the running box's disk comes up elsewhere: one of the two is fenced."""
    _in_step(bank)
    bank.stop_hub()
    bank.stop_box(bank.chance.choice((signal.SIGTERM, signal.SIGKILL)))
    twin = bank.twin()
    bank.start_box()
    twin.start_box()
    for box in (bank, twin):
        box.sell(bank.chance.randint(0, 3), accounts=("alice",))
    bank.start_hub()
    bank.wait_until_not_both_clear(twin)
    twin.stop_box(signal.SIGTERM)
    bank.stop_box(signal.SIGTERM)
    epoch = _held_epochs(bank)[-1]
    for disk in (bank, twin):
        _take_journal(bank, epoch, disk=disk)
    bank.start_box(ready=False)
    if not bank.status()["clears"]:
        _new_epoch(bank)
        _take_journal(bank, epoch)  # with what its last start wrote there
        _seal_old(bank)
    bank.repeats_agree(sorted(bank.answered))
    bank.answered |= twin.answered
    check_answers(bank, loss_allowed=True)


# --- the hub is from the past ----------------------------------------------------------------------------


def restored_hub(bank: Bank) -> None:
    """The hub's database is put back: what it cosigned and granted since is at the box alone."""
    _in_step(bank)
    bank.stop_hub()
    image = bank.hub_image()
    bank.start_hub()
    bank.wait_until_synced()
    bank.sell(_some(bank, 6))
    bank.wait_until_synced()
    if bank.chance.random() < 0.5:
        bank.stop_box()
    bank.stop_hub()
    bank.put_hub_back(image)
    bank.start_hub()
    assert bank.box is not None
    if not bank.running:
        bank.start_box()
    bank.wait_until_synced()
    bank.sell(_some(bank))
    bank.wait_until_synced()
    bank.repeats_agree(sorted(bank.answered))
    check_answers(bank)


def hub_failed_over_without_its_last_commits(bank: Bank) -> None:
    """An asynchronous standby takes over in the middle of an epoch's first contact."""
    bank.start_hub()
    bank.stop_hub()
    image = bank.hub_image()
    _in_step(bank, most=6)
    bank.stop_hub()
    bank.put_hub_back(image)
    _offline_sales(bank, _some(bank))
    bank.start_hub()
    bank.wait_until_synced()
    bank.sell(_some(bank))
    bank.wait_until_synced()
    check_answers(bank)


# --- epochs ------------------------------------------------------------------------------------------------


def _lose_hardware(bank: Bank) -> None:
    for name in ("data", "anchor"):
        bank.wipe(name)
    for suffix in ("pem", "pub"):
        (bank.folder / f"secrets/checkpoint.{suffix}").unlink()


def replacement_box(bank: Bank) -> None:
    """The hardware is gone, with disk, second medium and checkpoint key; a new one takes over."""
    _in_step(bank)
    bank.stop_box()
    _lose_hardware(bank)
    _start_behind(bank)
    bank.clears_nothing()
    _ends_well(bank)


def late_tail_of_a_fenced_epoch(bank: Bank) -> None:
    """The old box was thought lost, and comes back with payments that only it knows."""
    _in_step(bank)
    bank.stop_hub()
    bank.stop_box()
    old = bank.twin()
    old.start_box()
    old.sell(_some(bank), accounts=("alice",))
    bank.answered |= old.answered
    _lose_hardware(bank)
    bank.start_hub()
    old.stop_box(signal.SIGKILL)
    bank.start_box(ready=False)
    _new_epoch(bank)
    old.start_box(ready=False)
    old.until(lambda: old.status()["mode"] == "fenced", "the old box to be fenced")
    old.clears_nothing()
    old.until(lambda: old.status()["records_waiting"] == 0, "the late tail to be taken")
    old.stop_box(signal.SIGTERM)
    _seal_old(bank)
    check_answers(bank)


def image_from_before_the_epoch(bank: Bank) -> None:
    """A disk of an older epoch comes up after a newer one was begun."""
    _in_step(bank)
    bank.stop_box()
    image = bank.image()
    shutil.rmtree(bank.folder / "data")
    _start_behind(bank)
    _new_epoch(bank)
    _seal_old(bank)
    bank.stop_box(signal.SIGTERM)
    bank.put_back(image, anchor=bank.chance.random() < 0.5)
    bank.start_box(ready=False)
    bank.until(lambda: bank.status()["mode"] in ("fenced", "behind"), "the old disk to be fenced")
    bank.clears_nothing()
    _ends_well(bank)


# --- a mirror in the branch ---------------------------------------------------------------------------------


def _wait_for_mirror(bank: MirroredBank) -> None:
    bank.until(lambda: bank.metric("edgegw_mirror_durability") == 1, "answers to wait for the mirror")


def _mirrored(bank: Bank) -> MirroredBank:
    """Hub, mirror and box in step, and answers that wait for the mirror."""
    assert isinstance(bank, MirroredBank)
    bank.wait_for_mirror(60_000)  # a busy machine is no mirror that is away
    bank.start_mirror()
    _in_step(bank)
    _wait_for_mirror(bank)
    return bank


def burnt_box_with_the_line_down(bank: Bank) -> None:
    """What only the mirror holds comes back from it, and reaches the hub through the new box."""
    bank = _mirrored(bank)
    bank.stop_hub()
    _offline_sales(bank, _some(bank, 6))
    bank.burn_box()
    bank.start_box(ready=False)
    bank.start_hub()
    _new_epoch(bank)
    bank.repeats_agree(sorted(bank.answered))
    bank.until(
        lambda: rows(bank, "SELECT count(*) FROM record WHERE type = 'transfer'")[0][0] >= len(bank.answered),
        "the late tail to reach the hub",
    )
    _seal_old(bank)
    check_answers(bank)


def restored_image_found_by_the_mirror(bank: Bank) -> None:
    """Both media are put back and the line is down: the mirror alone knows better."""
    bank = _mirrored(bank)
    bank.stop_hub()
    bank.stop_box()
    image = bank.image()
    bank.start_box()
    _wait_for_mirror(bank)
    _offline_sales(bank, _some(bank))
    bank.stop_box()
    bank.put_back(image, anchor=True)
    bank.start_box(ready=False)
    _fenced(bank, "behind")
    bank.start_hub()
    _ends_well(bank)


def fork_found_by_the_mirror(bank: Bank) -> None:
    """A second history was written while both were away; the mirror is back first and sees it."""
    bank = _mirrored(bank)
    bank.stop_hub()
    bank.stop_box()
    image = bank.image()
    bank.start_box()
    _wait_for_mirror(bank)
    _offline_sales(bank, _some(bank))
    bank.stop_box()
    bank.stop_mirror()
    bank.wait_for_mirror(TIMEOUT_MS)
    bank.put_back(image, anchor=True)
    bank.start_box(ready=False)
    bank.wait_until_ready()
    own = _offline_sales(bank, _some(bank))
    bank.start_mirror()
    _fenced(bank, "forked")
    bank.repeats_agree(own)
    bank.start_hub()
    epoch = _held_epochs(bank)[-1]
    file = bank.path("mirror.journal")
    bank.run("journal", "export", bank.path("mirror.toml"), "--output", file)
    bank.run("order", "take-journal", file, "--hub", bank.path("hub.toml"))
    _take_journal(bank, epoch)
    _ends_well(bank, own, loss_allowed=True)


CLASSES: Final[dict[str, Drill]] = {
    drill.__name__: drill
    for drill in (
        restored_image_found_by_its_anchor,
        restored_image_found_by_the_hub,
        fork_shorter_than_what_the_hub_holds,
        fork_of_about_the_same_size,
        fork_longer_than_what_the_hub_holds,
        two_live_boots_of_one_epoch,
        restored_hub,
        hub_failed_over_without_its_last_commits,
        replacement_box,
        late_tail_of_a_fenced_epoch,
        image_from_before_the_epoch,
        burnt_box_with_the_line_down,
        restored_image_found_by_the_mirror,
        fork_found_by_the_mirror,
    )
}

MIRRORED: Final = frozenset(
    drill.__name__
    for drill in (burnt_box_with_the_line_down, restored_image_found_by_the_mirror, fork_found_by_the_mirror)
)
"""The drills that need a mirror."""
