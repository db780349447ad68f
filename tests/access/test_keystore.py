"""Keys at rest: nobody reads them from a disk, one never stands in for another, and no move loses one."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import GCM

from edgegw.access import sealed_key
from edgegw.access.key_files import KeyFileError
from edgegw.access.keystore import FILES, KeyFile, Keystore
from edgegw.access.places.passphrase import Passphrase
from edgegw.access.sealed_key import Head

WORDS = {"passphrase": "the words of the old place", "systemd": "the words of the new place"}
"""Two real places: passphrases at a cost that suits a test, one of them under another place's name."""
KEK = bytes(range(16))
SECRETS = {
    "device": b"-----BEGIN PRIVATE KEY-----\nthe device key's number\n-----END PRIVATE KEY-----\n",
    "vault": b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n",
    "terminal": b"ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100\n",
}


class Killed(BaseException):
    """What no handler of errors catches: the process is gone."""


def keystore(folder: Path, place: str = "passphrase", *, owner: str = "box-1") -> Keystore:
    """A keystore as a start makes it; the files of the words lie outside, as on another disk."""
    words = folder.parent / "words"
    words.mkdir(exist_ok=True)
    places = {}
    for name, text in WORDS.items():
        (words / name).write_text(text)
        (words / name).chmod(0o600)
        places[name] = Passphrase(str(words / name), memory_kib=64)
    return Keystore(owner=owner, place=place, directory=folder, places=places)


def key_files(folder: Path) -> dict[str, KeyFile]:
    """The keys of the tests, one in a folder of its own."""
    paths = {"device": "device.pem", "vault": "vault.key", "terminal": "terminals/T1.key"}
    return {
        purpose: KeyFile(f"{purpose}_key_file", folder / path, purpose, f"the {purpose}")
        for purpose, path in paths.items()
    }


def filled(folder: Path, place: str = "passphrase") -> dict[str, KeyFile]:
    """The folder with every key in it."""
    keys = key_files(folder)
    (folder / "terminals").mkdir(parents=True)
    store = keystore(folder, place)
    for purpose, key in keys.items():
        store.create(key, SECRETS[purpose])
    return keys


def read_all(folder: Path, place: str = "passphrase") -> dict[str, bytes]:
    """What a new start reads."""
    store = keystore(folder, place)
    return {purpose: store.read(key) for purpose, key in key_files(folder).items()}


def test_a_sealed_file_says_what_another_program_reads(tmp_path: Path) -> None:
    """The form as it is written down, read without the code that wrote it."""
    head = Head(purpose="vault", name="vault", place="tpm2", kek=sealed_key.kek_id(KEK))
    text = sealed_key.seal(SECRETS["vault"], kek=KEK, head=head).decode()
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == (
        "-----BEGIN EDGEGW SEALED KEY-----",
        "-----END EDGEGW SEALED KEY-----",
    )
    raw = base64.b64decode("".join(lines[1:-1]), validate=True)
    length = int.from_bytes(raw[1:3], "big")
    said = json.loads(raw[3 : 3 + length])
    assert raw[0] == 1
    assert said == {
        "purpose": "vault", "name": "vault", "key_version": 1, "place": "tpm2", "kek": said["kek"]
    }  # fmt: skip
    nonce, sealed, tag = raw[3 + length :][:12], raw[3 + length + 12 : -16], raw[-16:]
    decryptor = Cipher(SM4(KEK), GCM(nonce, tag)).decryptor()
    decryptor.authenticate_additional_data(raw[: 3 + length])
    assert decryptor.update(sealed) + decryptor.finalize() == SECRETS["vault"]
    assert sealed_key.parse(text.encode()).open(KEK) == SECRETS["vault"]


def test_nothing_of_a_key_lies_on_the_disk(tmp_path: Path) -> None:
    """A stolen disk is searched for a key's bytes, in any file."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    assert read_all(folder) == SECRETS
    store = keystore(folder)
    kek = store._secrets("passphrase")[0]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(keys) + 1
    for path in files:
        content = path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
        for secret in (*SECRETS.values(), kek, *(text.encode() for text in WORDS.values())):
            for form in (secret, secret.strip(), base64.b64encode(secret)[:-4], secret.hex().encode()):
                assert form not in content


def test_every_changed_byte_of_a_sealed_key_is_found(tmp_path: Path) -> None:
    """Whoever can write to the disk must not turn one key into another, or crash the start."""
    folder = tmp_path / "secrets"
    key = filled(folder)["vault"]
    store, whole = keystore(folder), key.path.read_bytes()
    assert store.read(key) == SECRETS["vault"]
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x20 if chr(changed[position]).isalpha() else 0x01
        key.path.write_bytes(changed)
        with pytest.raises(KeyFileError, match=r"vault\.key"):
            store.read(key)
    for length in range(len(sealed_key.BEGIN), len(whole)):
        key.path.write_bytes(whole[:length])
        with pytest.raises(KeyFileError):
            store.read(key)


def test_a_head_that_was_rewritten_is_found(tmp_path: Path) -> None:
    """An older key must not pass for the newer one."""
    folder = tmp_path / "secrets"
    key = filled(folder)["vault"]
    raw = base64.b64decode(b"".join(key.path.read_bytes().splitlines()[1:-1]))
    assert b'"key_version":1' in raw
    forged = base64.b64encode(raw.replace(b'"key_version":1', b'"key_version":2'))
    key.path.write_bytes(sealed_key.BEGIN + forged + b"\n" + sealed_key.END)
    assert sealed_key.parse(key.path.read_bytes()).head.key_version == 2
    with pytest.raises(KeyFileError, match="altered since it was sealed"):
        keystore(folder).read(key)


def test_one_key_never_stands_in_for_another(tmp_path: Path) -> None:
    """A terminal's key under the vault's name would make tokens that a terminal's owner can compute."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    shutil.copy(keys["terminal"].path, keys["vault"].path)
    with pytest.raises(KeyFileError, match=r"terminal key of the terminal, not the vault key") as refused:
        keystore(folder).read(keys["vault"])
    assert "vault_key_file" in refused.value.hint


def test_an_open_key_is_refused_where_keys_are_sealed_until_it_is(tmp_path: Path) -> None:
    """One file copied in as it came, and a box that says it is sealed lies."""
    folder = tmp_path / "secrets"
    keys = filled(folder, FILES)
    assert read_all(folder, FILES) == SECRETS
    with pytest.raises(KeyFileError, match=r"lies open, and keys\.place = passphrase") as refused:
        read_all(folder)
    assert "edgegw keys seal" in refused.value.hint
    assert len(keystore(folder).seal(keys.values())) == len(keys)
    assert keystore(folder).seal(keys.values()) == []
    assert read_all(folder) == read_all(folder, FILES) == SECRETS
    assert all(sealed_key.is_sealed(key.path.read_bytes()) for key in keys.values())


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda words, _: words.unlink(), r"passphrase_file = .*cannot be read"),
        (lambda words, _: words.chmod(0o644), r"passphrase_file = .*others can read"),
        (lambda words, _: words.write_text("short"), r"passphrase_file = .*5 bytes"),
        (lambda words, _: words.write_text("the words of another box"), r"does not open it"),
        (lambda _, slot: slot.unlink(), r"box-1\.kek\.passphrase: cannot be read"),
        (lambda _, slot: slot.write_bytes(slot.read_bytes()[:-3]), r"no slot of this place"),
        (lambda _, slot: slot.write_bytes(slot.read_bytes().replace(b":64,", b":65,")), r"altered"),
        (lambda _, slot: slot.write_bytes(slot.read_bytes().replace(b":64,", b":99999999,")), r"bounds"),
    ],
)
def test_what_does_not_open_says_what_and_the_mend(
    tmp_path: Path, harm: Callable[[Path, Path], object], said: str
) -> None:
    """At night, in a branch, the text is all that there is; and it must not hold what it is about."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    store = keystore(folder)
    harm(tmp_path / "words" / "passphrase", folder / "box-1.kek.passphrase")
    with pytest.raises(KeyFileError, match=said) as refused:
        store.read(keys["device"])
    told = "".join(traceback.format_exception(refused.value)) + repr(refused.value) + repr(store)
    assert str(folder / "box-1.kek.passphrase") in str(refused.value)
    assert refused.value.hint
    for secret in (*SECRETS.values(), *(text.encode() for text in WORDS.values())):
        assert secret.decode().strip() not in told + refused.value.hint


def test_a_key_of_another_machine_is_refused(tmp_path: Path) -> None:
    """The vault's key is the same in every box, its sealed file is not."""
    for name in ("a", "b"):
        filled(tmp_path / name / "secrets")
    shutil.copy(tmp_path / "a/secrets/vault.key", tmp_path / "b/secrets/vault.key")
    with pytest.raises(KeyFileError, match="does not hold"):
        read_all(tmp_path / "b/secrets")


def test_a_move_may_be_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that does not start after a power cut in its maintenance window is a branch without payments."""
    origin = tmp_path / "origin" / "secrets"
    filled(origin)
    steps = 0
    for doomed in range(1, 200):
        folder = tmp_path / str(doomed) / "secrets"
        shutil.copytree(origin, folder)
        done = 0

        def dying(real: Callable[..., object], doomed: int = doomed) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal done
                done += 1
                if done == doomed:
                    raise Killed
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patched:
            for name in ("replace", "fsync", "unlink", "open"):
                patched.setattr(os, name, dying(getattr(os, name)))
            try:
                keystore(folder).move(key_files(folder).values(), to="systemd")
            except Killed:
                steps += 1
            else:
                break
        assert read_all(folder) == SECRETS, doomed
        keystore(folder).move(key_files(folder).values(), to="systemd")
        assert read_all(folder, "systemd") == SECRETS
        assert sorted(path.name for path in folder.glob("*.kek.*")) == ["box-1.kek.systemd"]
    assert steps > 20
    assert read_all(folder, "systemd") == SECRETS


def test_moves_that_are_killed_at_their_end_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot holds a few keys at most; the one too many shut the box for ever."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    real, written = os.replace, 0

    def dying(draft: Path, path: Path) -> None:
        nonlocal written
        written += path.name == "box-1.kek.passphrase"
        if written == 2:  # the new key is in, all is sealed under it, the old one is to go
            raise Killed
        real(draft, path)

    for _ in range(6):
        written = 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", dying)
            with pytest.raises(Killed):
                keystore(folder).move(keys.values(), to="passphrase")
        assert len(keystore(folder)._secrets("passphrase")) == 2
        assert read_all(folder) == SECRETS


def test_a_running_process_reads_keys_that_were_sealed_anew(tmp_path: Path) -> None:
    """A box takes a renewed certificate's key up without a restart: it must not know one slot for ever."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    running = keystore(folder)
    assert {name: running.read(key) for name, key in keys.items()} == SECRETS
    keystore(folder).move(keys.values(), to="passphrase")
    assert {name: running.read(key) for name, key in keys.items()} == SECRETS
    heads = [running.head(key.path) for key in keys.values()]
    assert {head.key_version for head in heads if head is not None} == {2}


def test_a_move_leaves_nothing_that_the_old_place_opens(tmp_path: Path) -> None:
    """Who has the old passphrase and the new disk must have nothing."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    old = keystore(folder)
    assert old.read(keys["vault"]) == SECRETS["vault"]
    keystore(folder).move(keys.values(), to="systemd")
    for key in keys.values():
        sealed = sealed_key.parse(key.path.read_bytes())
        assert sealed.head.place == "systemd"
        with pytest.raises(ValueError, match="sealed under another key"):
            sealed.open(old._secrets("passphrase")[-1])


def test_a_second_move_to_the_same_place_gives_a_new_key(tmp_path: Path) -> None:
    """That is how a key-encryption key is changed after its passphrase was seen."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    before = keystore(folder)._secrets("passphrase")
    keystore(folder).move(keys.values(), to="passphrase")
    after = keystore(folder)._secrets("passphrase")
    assert len(after) == 1
    assert after != before
    assert read_all(folder) == SECRETS


def test_a_move_takes_what_the_settings_do_not_name_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    """A way in whose table is out for a day keeps its key; a hub in the same folder keeps its own."""
    folder = tmp_path / "secrets"
    keys = filled(folder)
    hub = KeyFile("key_file", folder / "hub.pem", "hub", "b/hub")
    keystore(folder, owner="hub").create(hub, b"the hub's key")
    moved = keystore(folder).move([keys["device"]], to="systemd")
    assert {path.name for path in moved} == {"device.pem", "vault.key", "T1.key"}
    assert read_all(folder, "systemd") == SECRETS
    assert keystore(folder, owner="hub").read(hub) == b"the hub's key"


def test_a_process_that_has_opened_a_key_leaves_no_core_dump(tmp_path: Path) -> None:
    """A dump is a copy of memory in a file that others collect."""
    folder = tmp_path / "secrets"
    filled(folder)
    program = (
        "import ctypes, resource, sys\n"
        "from pathlib import Path\n"
        "from tests.access.test_keystore import read_all\n"
        "limits = resource.getrlimit(resource.RLIMIT_CORE)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))\n"
        "dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "assert dumpable() == 1\n"
        "read_all(Path(sys.argv[1]))\n"
        "print(dumpable(), resource.getrlimit(resource.RLIMIT_CORE)[0])\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["0", "0"]
