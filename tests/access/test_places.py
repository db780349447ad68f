"""The places of keys as they are: a TPM 2.0 (swtpm), an HSM (SoftHSM2), systemd-creds; the tests of one that
is not installed are left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgegw.access.places import Place, PlaceAway, PlaceRefuses, tpm2
from edgegw.access.places.pkcs11 import Pkcs11
from edgegw.access.places.systemd import SystemdCredential
from edgegw.access.places.tpm2 import Tpm2
from tests.crash.machine import lacks
from tests.software_tpm import SoftwareTpm, need_tpm

SECRET = bytes(range(16))
TWO_SECRETS = bytes(range(32))
PIN = "4711"
SOFTHSM = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")


@pytest.fixture
def tpms(tmp_path: Path) -> Iterator[Callable[[str], SoftwareTpm]]:
    """Makes TPMs by name, or skips."""
    need_tpm()
    made: list[SoftwareTpm] = []

    def make(name: str) -> SoftwareTpm:
        made.append(SoftwareTpm(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def flipped(slot: bytes) -> bytes:
    """The slot with another letter near the end of its last base64."""
    position = len(slot) - 8
    return slot[:position] + (b"B" if slot[position] == ord("A") else b"A") + slot[position + 1 :]


def refusal(place: Place, slot: bytes) -> PlaceRefuses:
    """What the place says when it does not open a slot; it never says the secret."""
    with pytest.raises(PlaceRefuses) as refused:
        place.open(slot)
    assert refused.value.hint
    assert SECRET.hex() not in str(refused.value)
    return refused.value


def test_what_a_tpm_sealed_no_other_tpm_opens(tpms: Callable[[str], SoftwareTpm]) -> None:
    """A disk in another machine, a mother board that was replaced: the keys stay shut."""
    tpm = tpms("its own")
    slot = tpm.place().seal(SECRET)
    assert SECRET not in slot
    assert tpm.place().open(slot) == SECRET
    stranger = tpms("a stranger's")
    assert "TPM did not seal it" in str(refusal(stranger.place(), slot))
    assert "altered" in str(refusal(tpm.place(), flipped(slot)))
    assert "no slot" in str(refusal(tpm.place(), slot[:-9]))


@pytest.mark.slow
def test_a_tpm_opens_after_a_power_cut_and_says_when_it_is_away(
    tpms: Callable[[str], SoftwareTpm],
) -> None:
    """Every morning of a branch begins with this."""
    tpm = tpms("one")
    place = tpm.place()
    slot = place.seal(TWO_SECRETS)
    tpm.stop()
    with pytest.raises(PlaceAway, match=r"keys\.tpm2\.tcti = swtpm:.*does not answer"):
        place.open(slot)
    again = tpms("one")
    for _ in range(5):  # more often than a TPM has room for what is left behind in it
        assert again.place().open(slot) == TWO_SECRETS


def test_power_that_fails_again_and_again_locks_no_tpm(tpms: Callable[[str], SoftwareTpm]) -> None:
    """A TPM counts each loss of power after a protected key was used as a wrong password, and locks soon:
    a flickering line would keep a branch from its own keys."""
    tpm = tpms("one")
    slot = tpm.place().seal(SECRET)
    for _ in range(5):
        tpm.stop()
        tpm = tpms("one")
        assert tpm.place().open(slot) == SECRET


@pytest.mark.slow
def test_a_changed_boot_shuts_what_was_sealed_to_its_pcrs(tpms: Callable[[str], SoftwareTpm]) -> None:
    """Another boot loader on the same board is another machine."""
    tpm = tpms("one")
    slot = tpm.place(7, 0).seal(SECRET)
    assert tpm.place().open(slot) == SECRET
    assert tpm.place(7, 0).open(slot) == SECRET
    environment = {**os.environ, "TPM2TOOLS_TCTI": tpm.tcti}
    subprocess.run(["tpm2_pcrextend", f"7:sha256={'01' * 32}"], check=True, env=environment)
    assert "PCRs sha256:0,7 are not as when it was sealed" in str(refusal(tpm.place(7, 0), slot))
    subprocess.run(["tpm2_changeauth", "-Q", "-c", "owner", "words"], check=True, env=environment)
    with pytest.raises(PlaceRefuses, match="owner hierarchy has a password"):
        tpm.place().seal(SECRET)


def test_what_a_killed_process_left_of_a_tpms_work_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box that is killed at each start fills its disk; one that works beside must keep what it works on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "edgegw-tpm-left").mkdir()
    (tmp_path / "edgegw-tpm-left" / "parent").write_bytes(b"context")
    (tmp_path / "others").mkdir()
    with tpm2._own_folder() as mine:
        with tpm2._own_folder() as another:
            assert {path.name for path in tmp_path.iterdir()} == {mine.name, another.name, "others"}
        assert mine.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["others"]


def test_a_machine_without_the_tpms_programs_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image lacks them: the text must name the package."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PlaceAway, match="tpm2_createprimary is not installed") as away:
        Tpm2(tcti="device:/dev/tpmrm0", pcrs=()).open(b'{"pcrs":"","public":"","private":""}')
    assert "tpm2-tools" in away.value.hint
    with pytest.raises(PlaceAway, match="systemd-creds is not installed"):
        SystemdCredential("edgegw-kek", with_key="host").seal(SECRET)


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pkcs11]]:
    """Makes the place of one of two tokens, or skips."""
    module = next((path for path in SOFTHSM if Path(path).exists()), "")
    if not module or not shutil.which("softhsm2-util"):
        lacks("softhsm2")
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOFTHSM2_CONF", str(settings))
        for token in ("its own", "another"):
            words = ["--init-token", "--free", "--label", token, "--so-pin", "12345678", "--pin", PIN]
            subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)

        def place(*, token: str = "its own", pin: str = PIN, **options: str) -> Pkcs11:
            file = folder / "pin"
            file.write_text(f"{pin}\n")
            file.chmod(0o600)
            given = {"module_file": module, "pin_file": str(file), "key_label": "edgegw-kek"}
            return Pkcs11(token=token, **{**given, **options})

        yield place


def test_what_an_hsm_wrapped_no_other_token_unwraps(hsm: Callable[..., Pkcs11]) -> None:
    """The box was carried off, the HSM was not."""
    slot = hsm().seal(SECRET)
    assert SECRET not in slot
    assert hsm().open(slot) == SECRET
    assert hsm().open(hsm().seal(TWO_SECRETS)) == TWO_SECRETS
    assert "has no key edgegw-kek" in str(refusal(hsm(token="another"), slot))
    hsm(token="another").seal(SECRET)
    assert "does not unwrap it" in str(refusal(hsm(token="another"), slot))
    assert "does not unwrap it" in str(refusal(hsm(), flipped(slot)))
    assert "no slot" in str(refusal(hsm(), slot[:-9]))


def test_an_hsm_that_does_not_serve_names_the_option(hsm: Callable[..., Pkcs11]) -> None:
    """A wrong PIN is not tried again and again: each start tries once, and says so."""
    slot = hsm().seal(SECRET)
    wrong = refusal(hsm(pin="9999"), slot)
    assert "keys.pkcs11.pin_file = " in str(wrong)
    assert "refuses this PIN" in str(wrong)
    assert "9999" not in str(wrong) + wrong.hint
    assert "keys.pkcs11.token is not given" in str(refusal(hsm(token=""), slot))
    assert "cannot be read" in str(refusal(hsm(pin_file="/nowhere/pin"), slot))
    for place in (hsm(token="gone"), hsm(module_file="/nowhere/module.so")):
        with pytest.raises(PlaceAway, match=r"keys\.place = pkcs11: .*does not serve"):
            place.open(slot)


def test_a_unit_gets_its_credential_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a unit nothing is decrypted by the box itself, so it needs no rights for that."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "edgegw-kek").write_bytes(SECRET)
    assert SystemdCredential("edgegw-kek", with_key="auto").open(b"the encrypted one") == SECRET


@pytest.mark.slow
def test_systemd_creds_opens_what_it_sealed_on_this_host_alone() -> None:
    """The file is a real credential: the name is within it, and a changed one is refused."""
    if not shutil.which("systemd-creds") or os.geteuid() != 0:
        lacks("systemd-creds")
    place = SystemdCredential("edgegw-kek", with_key="host")
    slot = place.seal(SECRET)
    assert place.open(slot) == SECRET
    assert "decrypt failed" in str(refusal(SystemdCredential("another", with_key="host"), slot))
    assert "decrypt failed" in str(refusal(place, slot[:40] + slot[44:]))
