"""What a machine takes, what it refuses, and what it remembers."""

import shutil
from datetime import timedelta
from pathlib import Path
from threading import Event

import msgspec
import pytest

from edgegw.commands import update as command
from edgegw.units import files_of
from edgegw.update.choosing import Rollout
from edgegw.update.files import AtWork, alone
from edgegw.update.health import Answer
from edgegw.update.rauc import Rauc, RaucFailed
from edgegw.update.repository import Life
from edgegw.update.sources import FolderSource
from edgegw.update.state import Failed
from edgegw.update.windows import BoxWord
from tests.update.appliance import NOON, RAUC, UNWELL, WELL, Appliance, Releases


def test_a_good_release_is_tried_once_and_then_kept(releases: Releases, appliance: Appliance) -> None:
    """An image that is never kept leaves both slots in doubt; one that is kept unseen may be broken."""
    releases.release("1.1.0", epoch=2)
    assert appliance.look().end == "restarts"
    assert (appliance.restarts, appliance.first, appliance.epoch_variable) == (1, "a", 0)
    appliance.boot()
    assert appliance.judge() == "kept"
    assert (appliance.slot, appliance.first, appliance.runs.version) == ("b", "b", "1.1.0")
    assert (appliance.state.floor_version, appliance.state.floor_epoch) == ("1.1.0", 2)
    assert appliance.epoch_variable == 2
    assert appliance.look().end == "nothing"


def test_an_unwell_release_is_left_once_and_never_taken_again(
    releases: Releases, appliance: Appliance
) -> None:
    """Without a memory the box would install it every night."""
    releases.release("1.1.0")
    appliance.answers = lambda version: UNWELL if version == "1.1.0" else WELL
    assert appliance.update() == ["restarts", "left", "none"]
    assert (appliance.slot, appliance.first, appliance.restarts) == ("a", "a", 2)
    assert "the ledger does not open" in appliance.state.failed[0].why
    again = appliance.look()
    assert (again.end, appliance.restarts) == ("refused", 2)
    assert "has failed here" in again.said
    releases.release("1.1.1", filling=b"mended")
    assert appliance.update() == ["restarts", "kept"]


def test_a_failed_version_is_refused_under_the_same_number_with_other_bytes(
    releases: Releases, appliance: Appliance, tmp_path: Path
) -> None:
    """A number names one content; another under it is a mistake or an attack."""
    other = releases.elsewhere(tmp_path / "other")
    releases.release("1.1.0")
    appliance.answers = lambda version: UNWELL if version == "1.1.0" else WELL
    appliance.update()
    other.release("1.0.0", filling=b"nothing")
    other.release("1.1.0", filling=b"other bytes")
    outcome = appliance.look(source=other.source)
    assert (outcome.end, appliance.restarts) == ("refused", 2)
    assert "1.1.0: it has failed here" in outcome.said


def test_power_that_flaps_never_demotes_a_committed_slot(releases: Releases, appliance: Appliance) -> None:
    """Three quick power cuts of a healthy box must not bring back an old image."""
    releases.release("1.1.0")
    appliance.update()
    for _ in range(20):
        appliance.boot()
    assert (appliance.slot, appliance.first) == ("b", "b")
    assert appliance.judge() == "none"


def test_a_committed_slot_that_falls_ill_is_not_restarted(releases: Releases, appliance: Appliance) -> None:
    """Both slots bad is a degraded branch, not a loop of restarts."""
    releases.release("1.1.0")
    appliance.update()
    appliance.answers = lambda _: UNWELL
    restarts = appliance.restarts
    for _ in range(3):
        appliance.boot()
        assert appliance.judge() == "none"
    assert appliance.restarts == restarts


def test_both_versions_unwell_ends_in_one_slot_without_a_loop(
    releases: Releases, appliance: Appliance
) -> None:
    """A fault that is not the image's (settings, a disk) must not restart a box for ever."""
    releases.release("1.1.0")
    assert appliance.look().end == "restarts"
    appliance.answers = lambda _: UNWELL
    appliance.boot()
    assert appliance.judge() == "left"
    for _ in range(5):
        appliance.boot()
        assert appliance.judge() == "none"
        appliance.look()
    assert (appliance.slot, appliance.restarts) == ("a", 2)


def test_a_power_cut_in_the_trial_is_not_held_against_the_release_twice_is(
    releases: Releases, appliance: Appliance
) -> None:
    """A cut says nothing of the image; an image that dies before it can speak looks the same."""
    releases.release("1.1.0")
    assert appliance.look().end == "restarts"
    appliance.boot()
    appliance.boot()
    assert (appliance.slot, appliance.judge(), appliance.state.failed) == ("a", "none", ())
    assert appliance.look().end == "restarts"
    appliance.boot()
    appliance.boot()
    assert appliance.judge() == "none"
    assert "2 trials" in appliance.state.failed[0].why
    assert appliance.look().end == "refused"


def test_a_cut_in_mid_installation_costs_nothing(releases: Releases, appliance: Appliance) -> None:
    """The slot that runs was not touched, and the release is innocent."""
    releases.release("1.1.0")
    (appliance.firmware / "refuse").write_text("no power", encoding="ascii")
    assert appliance.look().end == "refused"
    assert appliance.state.attempt is not None
    appliance.boot()
    assert (appliance.judge(), appliance.slot, appliance.state.attempt) == ("none", "a", None)
    assert (appliance.state.failed, appliance.state.interrupted) == ((), {})
    (appliance.firmware / "refuse").unlink()
    assert appliance.update() == ["restarts", "kept"]


def test_a_boot_right_after_the_last_step_of_rauc_is_known_as_the_trial(
    releases: Releases, appliance: Appliance
) -> None:
    """The agent may die between RAUC's last step and its own note of it."""
    releases.release("1.1.0")
    appliance.look(restart=False)
    state, store = appliance.state, appliance.here().store
    assert state.attempt is not None
    store.write(
        msgspec.structs.replace(state, attempt=msgspec.structs.replace(state.attempt, phase="installing"))
    )
    appliance.boot()
    assert appliance.judge() == "kept"


def test_a_downgrade_is_never_taken(releases: Releases, appliance: Appliance) -> None:
    """An old image has old faults."""
    releases.release("1.2.0")
    appliance.update()
    releases.release("1.1.0", filling=b"older")
    assert appliance.look(by_hand=True).end == "nothing"
    assert appliance.runs.version == "1.2.0"


def test_a_lower_security_epoch_is_refused_also_after_the_data_was_lost(
    releases: Releases, appliance: Appliance
) -> None:
    """A data partition from a backup must not reopen what an epoch has closed."""
    releases.release("1.1.0", epoch=3)
    appliance.update()
    shutil.rmtree(appliance.folder / "state")
    releases.release("1.2.0", epoch=2, filling=b"before the fix")
    outcome = appliance.look()
    assert (outcome.end, appliance.runs.version) == ("refused", "1.1.0")
    assert "takes none below 3" in outcome.said


def test_the_epoch_rises_only_with_a_commit(releases: Releases, appliance: Appliance) -> None:
    """Else a failed trial would shut out the release that mends it."""
    releases.release("1.1.0", epoch=9)
    appliance.answers = lambda version: UNWELL if version == "1.1.0" else WELL
    appliance.update()
    assert (appliance.state.floor_epoch, appliance.epoch_variable) == (0, 0)
    releases.release("1.1.1", epoch=1, filling=b"mended")
    assert appliance.update() == ["restarts", "kept"]


def test_another_content_under_the_running_number_is_told(
    releases: Releases, appliance: Appliance, tmp_path: Path
) -> None:
    """Somebody has built, or signed, one number twice."""
    other = releases.elsewhere(tmp_path / "other")
    releases.release("1.1.0")
    appliance.update()
    other.release("1.0.0", filling=b"nothing")
    other.release("1.1.0", filling=b"forged")
    outcome = appliance.look(source=other.source)
    assert outcome.end == "refused"
    assert "another content" in outcome.said


def test_a_release_whose_ledger_this_program_could_not_open_again_is_refused(
    releases: Releases, appliance: Appliance
) -> None:
    """After a rollback the box would have its answered payments, and no program that reads them."""
    releases.release("1.1.0", readable_from=7)
    outcome = appliance.look()
    assert (outcome.end, appliance.restarts) == ("refused", 0)
    assert "could not be opened again" in outcome.said


def test_a_manifest_that_says_otherwise_is_refused_for_good(releases: Releases, appliance: Appliance) -> None:
    """Two signatures must agree on what a bundle is."""
    releases.release("1.1.0", manifest='{"compatible":"edgegw-x86_64-cloud","version":"1.0.0"}')
    assert appliance.look().end == "refused"
    assert "own manifest says 1.0.0" in appliance.state.failed[0].why
    releases.release("1.1.1", manifest='{"compatible":"edgegw-x86_64-hardware","version":"1.1.1"}')
    assert appliance.look().end == "refused"
    assert (appliance.slot, appliance.restarts) == ("a", 0)


def test_a_bundle_that_rauc_does_not_believe_is_refused(releases: Releases, appliance: Appliance) -> None:
    """The key of the images and the keys of the metadata are different hands."""
    releases.release("1.1.0", manifest=" ")
    assert appliance.look().end == "refused"
    assert "RAUC refuses the bundle" in appliance.state.failed[0].why


def test_a_rauc_that_was_killed_is_not_held_against_the_release(
    releases: Releases, appliance: Appliance
) -> None:
    """Memory runs out, or the disk is slow, for a minute: remembered as the release's fault it would be
    refused for ever."""
    releases.release("1.1.0")
    rauc = appliance.firmware / "rauc"
    whole = rauc.read_text(encoding="ascii")
    rauc.write_text('[ "$2" = info ] && kill -9 $$\n' + whole, encoding="ascii")
    with pytest.raises(RaucFailed, match="code -9"):
        appliance.look()
    assert appliance.state.failed == ()
    rauc.write_text(whole, encoding="ascii")
    assert appliance.look().end == "restarts"


def test_a_rollout_reaches_named_boxes_and_a_share_that_only_grows(
    releases: Releases, appliance: Appliance
) -> None:
    """A canary must be the box that was named, and a larger share must not take anything back."""
    releases.release("1.1.0", rollout=Rollout(percent=0, boxes=("bank/box-2",)))
    assert appliance.look().end == "nothing"
    appliance.name = "bank/box-2"
    assert appliance.look(restart=False).end == "armed"
    shares = [
        {n for n in range(200) if Rollout(percent=percent).includes("1.1.0", box=f"bank/b{n}")}
        for percent in (0, 10, 50, 100)
    ]
    assert (len(shares[0]), len(shares[3])) == (0, 200)
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert 5 < len(shares[1]) < 40


def test_a_person_takes_a_release_before_the_rollout(releases: Releases, appliance: Appliance) -> None:
    """Ansible's canaries are chosen by its inventory."""
    releases.release("1.1.0", rollout=Rollout(percent=0))
    assert appliance.look(by_hand=True).end == "restarts"


@pytest.mark.parametrize("by_hand", [False, True])
def test_no_restart_while_a_window_closes(releases: Releases, appliance: Appliance, by_hand: bool) -> None:
    """A branch's day ends with its window, whatever is due besides."""
    releases.release("1.1.0")
    soon = int(NOON.timestamp()) + 600
    for word in (BoxWord(mode="active", next_cut_off_s=soon), BoxWord(mode="active", window_due=True)):
        appliance.box = word
        outcome = appliance.look(by_hand=by_hand)
        assert outcome.end == "waits"
        assert "window" in outcome.said
    assert (appliance.restarts, appliance.state.attempt) == (0, None)
    assert not (appliance.firmware / "next").exists()
    appliance.box = BoxWord(mode="active", next_cut_off_s=soon + 7_200)
    assert appliance.look(by_hand=by_hand).end == "restarts"


def test_a_bundle_that_waits_for_its_hours_is_not_read_each_minute(
    releases: Releases, appliance: Appliance
) -> None:
    """A quarter of a gigabyte, hashed and shown to RAUC each minute of a day, beside the payments."""
    releases.release("1.1.0", filling=b"x" * 8_192)
    appliance.box = BoxWord(mode="active", window_due=True)
    assert appliance.look().end == "waits"
    bundle = appliance.here().bundle.path
    rauc = appliance.firmware / "rauc"
    rauc.write_text(RAUC.replace("info --output", "no such --command"), encoding="ascii")
    before = _read_bytes()
    assert appliance.look().end == "waits"
    assert _read_bytes() - before < bundle.stat().st_size / 2
    rauc.write_text(RAUC, encoding="ascii")
    with bundle.open("r+b") as file:
        file.write(b"y")
    appliance.box = BoxWord(mode="active")
    assert appliance.look().end == "refused", "what is installed has been hashed"
    assert appliance.look().end == "restarts"


def _read_bytes() -> int:
    """So much this process has read, from any file."""
    (line,) = [one for one in Path("/proc/self/io").read_text().splitlines() if one.startswith("rchar")]
    return int(line.split()[1])


def test_an_installed_image_waits_for_its_time_as_well(releases: Releases, appliance: Appliance) -> None:
    """What --no-reboot has left behind must not restart the box in the middle of a close."""
    releases.release("1.1.0")
    assert appliance.look(restart=False).end == "armed"
    appliance.box = BoxWord(mode="active", window_due=True)
    assert (appliance.look().end, appliance.restarts) == ("waits", 0)
    appliance.box = BoxWord(mode="active")
    assert (appliance.look().end, appliance.restarts) == ("restarts", 1)


@pytest.mark.parametrize("mode", ["offline", "syncing", "behind"])
def test_a_box_that_alone_holds_records_does_not_restart_by_itself(
    releases: Releases, appliance: Appliance, mode: str
) -> None:
    """An outage is no time for experiments, unless a person says so."""
    releases.release("1.1.0")
    appliance.box = BoxWord(mode=mode)
    assert appliance.look().end == "waits"
    assert appliance.look(by_hand=True).end == "restarts"


def test_a_machine_that_is_short_of_something_takes_no_release_by_itself(
    releases: Releases, appliance: Appliance
) -> None:
    """A download takes what the payments lack; a person may know that the release is the mend."""
    releases.release("1.1.0")
    said = b'{"mode":"active","health":[{"check":"memory","level":"pause","why":"memory: 4 percent"}]}'
    appliance.box = msgspec.json.decode(said, type=BoxWord)
    outcome = appliance.look()
    assert (outcome.end, "memory: 4 percent" in outcome.said) == ("waits", True)
    assert not appliance.here().bundle.path.exists()
    assert appliance.look(by_hand=True).end == "restarts"


def test_a_box_that_the_hub_fences_during_the_trial_is_well(releases: Releases, appliance: Appliance) -> None:
    """What the centre says is no fault of the image; nor is a line that is down."""
    releases.release("1.1.0")
    assert appliance.look().end == "restarts"
    appliance.boot()
    appliance.answers = lambda _: WELL._replace(ready=False, said="fenced")
    appliance.box = BoxWord(mode="fenced")
    assert appliance.judge() == "kept"


def test_a_box_that_took_payments_and_takes_none_is_unwell(releases: Releases, appliance: Appliance) -> None:
    """An image that serves its health page and no payments is broken."""
    releases.release("1.1.0")
    assert appliance.look().end == "restarts"
    appliance.boot()
    appliance.answers = lambda _: WELL._replace(ready=False, said="no room for payments")
    appliance.box = BoxWord(mode="active")
    assert appliance.judge() == "left"
    assert "no room for payments" in appliance.state.failed[0].why


def test_a_slot_that_died_is_mended_with_what_was_committed(releases: Releases, appliance: Appliance) -> None:
    """A box on its older slot must find its way back to the version that it had."""
    releases.release("1.1.0")
    appliance.update()
    (appliance.firmware / "first").write_text("a", encoding="ascii")  # the initrd found b unreadable
    appliance.boot()
    assert (appliance.slot, appliance.judge()) == ("a", "none")
    assert appliance.update() == ["restarts", "kept"]
    assert (appliance.slot, appliance.runs.version) == ("b", "1.1.0")


def comes_up_in_a(appliance: Appliance) -> None:
    """Slot b is dead: the initrd of each of its boots starts the other slot, once; the order stays."""
    appliance.boot()
    while appliance.slot == "b":
        (appliance.firmware / "next").write_text("a", encoding="ascii")
        appliance.boot()


def test_a_slot_that_stays_dead_is_not_written_for_ever(releases: Releases, appliance: Appliance) -> None:
    """A bad block in the slot that was committed: the box restarted at each look, every night."""
    releases.release("1.1.0")
    appliance.update()
    ends = []
    for _ in range(5):
        comes_up_in_a(appliance)
        assert appliance.judge() == "none"
        ends.append(appliance.look().end)
    assert ends == ["restarts", "restarts", "refused", "refused", "refused"]
    assert "trials ended without a word" in appliance.state.problem


def test_a_trial_in_the_slot_that_died_has_a_slot_to_come_back_to(
    releases: Releases, appliance: Appliance
) -> None:
    """The dead one was first in the order still: what was written there came first untried, and stayed,
    however unwell."""
    releases.release("1.1.0")
    appliance.update()
    comes_up_in_a(appliance)
    assert (appliance.slot, appliance.first, appliance.judge()) == ("a", "b", "none")
    releases.release("1.2.0", filling=b"broken")
    appliance.answers = lambda version: UNWELL if version == "1.2.0" else WELL
    assert appliance.update() == ["restarts", "left", "none"]
    assert (appliance.slot, appliance.runs.version, appliance.first) == ("a", "1.0.0", "a")


def test_an_unkept_image_writes_nothing_over_the_slot_that_is_kept(
    releases: Releases, appliance: Appliance
) -> None:
    """The record of its trial was lost and it is unwell: the other slot is all that there is."""
    releases.release("1.1.0")
    appliance.look(restart=False)
    shutil.rmtree(appliance.folder / "state")
    appliance.boot()
    appliance.answers = lambda _: UNWELL
    assert (appliance.judge(), appliance.slot, appliance.first) == ("stays", "b", "a")
    releases.release("1.2.0", filling=b"newer")
    before = (appliance.firmware / "slot-a").read_bytes()
    found = appliance.look(by_hand=True)
    assert (found.end, found.said) == ("trial", "the image that runs is not kept")
    assert (appliance.firmware / "slot-a").read_bytes() == before
    appliance.boot()
    assert appliance.slot == "a"


def test_who_asks_for_a_verdict_before_the_trial_takes_none_away(
    releases: Releases, appliance: Appliance
) -> None:
    """`edgegw update commit` by hand, on the slot that is kept: the trial to come lost its record."""
    releases.release("1.1.0")
    assert appliance.look(restart=False).end == "armed"
    armed = appliance.state.attempt
    assert (appliance.judge(), appliance.state.attempt, appliance.first) == ("none", armed, "a")
    appliance.answers = lambda version: UNWELL if version == "1.1.0" else WELL
    appliance.boot()
    assert appliance.judge() == "left"


def test_a_machine_that_becomes_a_box_during_its_trial_is_well(
    releases: Releases, appliance: Appliance
) -> None:
    """Before, the first boot's page was there, which takes no payments; now the box waits for its site."""
    releases.release("1.1.0")
    appliance.answers = lambda _: Answer(alive=True, said="the page of the first boot: 200")
    assert appliance.look().end == "restarts"
    appliance.boot()
    appliance.answers = lambda _: Answer(alive=True, said="the box has no settings of its site yet")
    assert appliance.judge() == "kept"


def test_a_trial_whose_record_was_lost_is_kept_when_it_is_well(
    releases: Releases, appliance: Appliance
) -> None:
    """Without the state nobody would ever keep it, and the next boot would be the old image."""
    releases.release("1.1.0")
    appliance.look(restart=False)
    shutil.rmtree(appliance.folder / "state")
    appliance.boot()
    assert (appliance.judge(), appliance.first) == ("kept", "b")


def test_an_unreadable_state_is_set_aside_and_the_box_goes_on(
    releases: Releases, appliance: Appliance
) -> None:
    """A torn file must not end updates for ever."""
    releases.release("1.1.0")
    (appliance.folder / "state").mkdir(exist_ok=True)
    (appliance.folder / "state" / "state.json").write_text("{", encoding="ascii")
    assert appliance.update() == ["restarts", "kept"]
    assert (appliance.folder / "state" / "state.json.unreadable").exists()


def test_an_older_program_reads_what_a_newer_one_remembers(appliance: Appliance) -> None:
    """After a rollback the failed release must still be known."""
    failed = Failed(version="9.9.9", sha256="00", why="unwell", at_s=1)
    appliance.here().store.write(appliance.state.with_failed(failed))
    path = appliance.folder / "state" / "state.json"
    newer = msgspec.json.decode(path.read_bytes())
    newer["a_field_of_tomorrow"] = {"x": 1}
    newer["failed"][0]["slot"] = "b"
    path.write_bytes(msgspec.json.encode(newer))
    assert appliance.state.failed == (failed,)


def test_hours_of_the_settings_hold_up_the_installation_too(releases: Releases, appliance: Appliance) -> None:
    """Once an image is installed any power cut is its trial; that must not fall into the day."""
    releases.release("1.1.0")
    appliance.table = msgspec.structs.replace(appliance.table, begins="01:00", ends="05:00")
    assert appliance.look().end == "waits"
    assert not (appliance.firmware / "next").exists()
    appliance.now = NOON + timedelta(hours=14)
    assert appliance.look().end == "restarts"


def test_two_at_work_do_not_meet(releases: Releases, appliance: Appliance) -> None:
    """A person's command beside the agent must not write the bundle, or the slot, at the same moment."""
    releases.release("1.1.0")
    with alone(appliance.folder / "state"), pytest.raises(AtWork, match="another process"):
        appliance.look()
    assert appliance.look().end == "restarts"


def test_a_rollout_takes_the_version_that_it_names_and_no_other(
    releases: Releases, appliance: Appliance
) -> None:
    """A fleet's playbook that rolls out 1.1.0 must not install what was published meanwhile."""
    releases.release("1.1.0")
    releases.release("1.2.0", filling=b"newer")
    assert appliance.look(by_hand=True, version="1.3.0").end == "refused"
    assert appliance.look(by_hand=True, version="0.9.0").end == "refused"
    assert appliance.look(by_hand=True, version="1.0.0").end == "nothing"
    outcome = appliance.look(by_hand=True, version="1.1.0")
    assert (outcome.end, outcome.version) == ("restarts", "1.1.0")


def test_a_slot_that_is_first_already_is_not_left_for_being_unwell(
    releases: Releases, appliance: Appliance
) -> None:
    """A power cut right after RAUC's mark, before the agent's note: there is nothing to fall back to."""
    releases.release("1.1.0")
    assert appliance.look().end == "restarts"
    appliance.boot()
    appliance.here().rauc.keep()
    appliance.answers = lambda _: UNWELL
    appliance.boot()
    assert (appliance.judge(), appliance.restarts) == ("stays", 1)
    for _ in range(3):
        appliance.boot()
        assert (appliance.slot, appliance.judge(), appliance.restarts) == ("b", "none", 1)


def test_a_hub_that_is_away_is_the_lines_business_until_it_is_long(
    releases: Releases, appliance: Appliance, tmp_path: Path
) -> None:
    """An outage must not light a lamp of its own for updates; weeks without any word must."""
    assert appliance.look().end == "nothing"
    gone = FolderSource(tmp_path / "gone")
    assert (appliance.look(source=gone).end, appliance.state.problem) == ("away", "")
    appliance.now = NOON + timedelta(days=20)
    assert appliance.look(source=gone).end == "away"
    assert "timestamp.json" in appliance.state.problem
    releases.repository.refresh(releases.online, Life(appliance.now))
    assert (appliance.look().end, appliance.state.problem) == ("nothing", "")


def test_nothing_is_installed_where_boots_cannot_be_told_apart(
    releases: Releases, appliance: Appliance
) -> None:
    """A trial that nobody knows for one is never judged."""
    releases.release("1.1.0")
    appliance.boot_id = ""
    assert appliance.look().end == "refused"
    assert not (appliance.firmware / "next").exists()


@pytest.mark.parametrize("unit", ["edgegw-update.service", "edgegw-commit.service"])
def test_the_units_let_the_agent_see_which_boot_this_is(unit: str) -> None:
    """Hardening once hid the kernel's word on it."""
    [found] = [one for one in files_of("appliance") if one.path.endswith(unit)]
    assert b"ProcSubset=pid" not in found.content


def test_what_was_kept_without_a_record_is_no_alarm(releases: Releases, appliance: Appliance) -> None:
    """An image that came by RAUC itself has no known bundle: the centre's of that number is no forgery."""
    bundle = releases.release("1.1.0")
    appliance.here().rauc.install(bundle, progress=lambda *_: None)
    appliance.boot()
    assert (appliance.slot, appliance.judge(), appliance.first) == ("b", "kept", "b")
    found = appliance.look()
    assert (found.end, found.said) == ("nothing", "")


def test_a_trial_whose_record_is_unreadable_is_judged_all_the_same(
    releases: Releases, appliance: Appliance
) -> None:
    """A damaged file of the agent's must not send a good image back, nor fail each start."""
    releases.release("1.1.0")
    assert appliance.look().end == "restarts"
    appliance.boot()
    (appliance.folder / "state/state.json").write_bytes(b"{")
    assert (appliance.judge(), appliance.first) == ("kept", "b")


def test_a_box_that_hangs_is_not_asked_for_hours(
    releases: Releases, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the service manager ends the question, and the release is tried again without a word of why."""
    releases.release("1.1.0")
    appliance.look()
    appliance.boot()
    passed_s, asked = 0.0, 0

    def hangs(_: str) -> Answer:
        nonlocal passed_s, asked
        passed_s, asked = passed_s + 6, asked + 1
        return UNWELL

    monkeypatch.setattr("edgegw.update.trial.time.monotonic", lambda: passed_s)
    appliance.answers = hangs
    assert appliance.judge() == "left"
    assert asked == 2, "the settings say ten seconds"


def test_an_installation_that_hangs_ends(appliance: Appliance) -> None:
    """An agent that waits for RAUC for ever brings no release any more, and tells nobody."""
    hanging = Rauc(("sh", "-c", "echo installing; exec sleep 60"), install_s=0.2)
    with pytest.raises(RaucFailed, match="code -9"):
        hanging.install(appliance.folder / "a.raucb", progress=lambda *_: None)


def test_a_full_disk_is_told_to_the_centre(
    releases: Releases, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box that only writes it into its own log stays on an old release, and nobody knows why."""
    releases.release("1.1.0")
    appliance.keep_free_bytes = 1 << 60
    monkeypatch.setattr(command, "STICK", releases.repository.folder)
    end, _ = command._once(appliance.here(), appliance.folder / "box.toml", Event(), is_stick=True)
    assert end == "away"
    assert "the ledger keeps" in appliance.state.problem
