"""SM2 against the standard's example and against two implementations that share no code with the binding."""

import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gmssl.sm2 import CryptSM2
from gmssl.sm2 import default_ecc_table as curve

from edgegw.access import sm2
from edgegw.access.sm2 import ORDER, KeyFileError, PrivateKey, PublicKey, Sm2Error

PATIENCE_SECONDS = 20.0

# GB/T 32918.5 annex A.2.
MESSAGE = b"message digest"
PRIVATE = "3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8"
NONCE = "59276e27d506861a16680f3ad9c02dccef3cc1fa3cdbe4ce6d54b80deac1bc21"
POINT = bytes.fromhex(
    "0409f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
SIGNATURE = bytes.fromhex(
    "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3"
    "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa"
)


def oracle(point: bytes, private: str = "") -> CryptSM2:
    """gmssl's key. Its constructor mangles points that begin with the digits 0 and 4, hence the attribute."""
    key = CryptSM2(private_key=private, public_key="")
    key.public_key = point[1:].hex()
    return key


def test_the_example_of_the_standard_verifies() -> None:
    """GB/T 32918.5 annex A.2; the oracle makes that very signature from the annex's key and nonce."""
    key = PublicKey(POINT)
    assert key.verify(MESSAGE, SIGNATURE)
    assert not key.verify(MESSAGE + b"\x00", SIGNATURE)
    made = oracle(POINT, PRIVATE).sign_with_sm3(MESSAGE, random_hex_str=NONCE)
    assert bytes.fromhex(made) == SIGNATURE
    sm2.self_test()


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    """All 512 of the annex's signature."""
    key = PublicKey(POINT)
    for bit in range(512):
        changed = bytearray(SIGNATURE)
        changed[bit // 8] ^= 1 << bit % 8
        assert not key.verify(MESSAGE, bytes(changed))


def test_signatures_out_of_range_or_shape_are_refused() -> None:
    """r + n, s + n, zeros, n - r, n itself, wrong lengths: a number outside 1 to n - 1 signs nothing."""
    key = PublicKey(POINT)
    r, s = int.from_bytes(SIGNATURE[:32], "big"), int.from_bytes(SIGNATURE[32:], "big")
    for bad_r, bad_s in [
        (0, s),
        (r, 0),
        (0, 0),
        (ORDER, s),
        (r, ORDER),
        (r, ORDER - r),
        (ORDER - r, s),
        (r, ORDER - s),
    ]:
        assert not key.verify(MESSAGE, bad_r.to_bytes(32, "big") + bad_s.to_bytes(32, "big"))
    for bad in (
        b"",
        SIGNATURE[:-1],
        SIGNATURE + b"\x00",
        bytes(64),
        b"\xff" * 64,
        sm2._to_der(SIGNATURE) or b"",
    ):
        assert not key.verify(MESSAGE, bad)


def test_both_sides_take_each_others_signatures() -> None:
    """Binding signs, oracle verifies, and the reverse; the id is the standard's on both sides."""
    rng = random.Random(32918)
    for _ in range(12):
        number = f"{rng.randrange(1, ORDER - 1):064x}"
        scratch = oracle(POINT, number)
        point = b"\x04" + bytes.fromhex(scratch._kg(int(number, 16), curve["g"]))
        theirs = oracle(point, number)
        message = rng.randbytes(rng.randrange(1, 300))
        signature = bytes.fromhex(
            theirs.sign_with_sm3(message, random_hex_str=f"{rng.randrange(1, ORDER):064x}")
        )
        assert PublicKey(point).verify(message, signature)
        assert not PublicKey(point).verify(message + b"x", signature)
        ours = PrivateKey.generate()
        signature = ours.sign(message)
        assert oracle(ours.public.point).verify_with_sm3(signature.hex(), message)
        assert not oracle(ours.public.point).verify_with_sm3(signature.hex(), message + b"x")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
def test_the_openssl_command_takes_our_files_and_signatures(tmp_path: Path) -> None:
    """Our PEM files are ordinary ones, and the user id is what the command calls distid."""
    key = PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(key.to_pem())
    (tmp_path / "public.pem").write_bytes(key.public.to_pem())
    (tmp_path / "message").write_bytes(b"a payment")
    der = sm2._to_der(key.sign(b"a payment"))
    assert der
    (tmp_path / "ours").write_bytes(der)
    common = ["-rawin", "-in", "message", "-digest", "sm3", "-pkeyopt", "distid:1234567812345678"]

    def openssl(*arguments: str) -> int:
        done = subprocess.run(
            ["openssl", "pkeyutl", *arguments, *common],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            timeout=30,
        )
        return done.returncode

    assert openssl("-verify", "-pubin", "-inkey", "public.pem", "-sigfile", "ours") == 0
    assert openssl("-sign", "-inkey", "key.pem", "-out", "theirs") == 0
    theirs = sm2._from_der((tmp_path / "theirs").read_bytes())
    assert key.public.verify(b"a payment", theirs)
    assert not key.public.verify(b"a repayment", theirs)


@pytest.mark.parametrize(
    "point",
    [
        b"",
        POINT[:-1],
        POINT + b"\x00",
        b"\x02" + POINT[1:33],
        b"\x06" + POINT[1:],
        b"\x00" * 65,
        b"\x04" + bytes(64),
        POINT[:-1] + bytes([POINT[-1] ^ 1]),
        b"\x04" + b"\xff" * 64,
    ],
)
def test_a_point_off_the_curve_is_no_key(point: bytes) -> None:
    """An attacker's point must be refused when it is read, not when it is used."""
    with pytest.raises(ValueError, match=r"key|bytes"):
        PublicKey(point)


def test_keys_survive_their_texts() -> None:
    """PEM there and back; the same key signs after it."""
    key = PrivateKey.generate()
    again = PrivateKey.from_pem(key.to_pem())
    assert again.public == key.public == PublicKey.from_pem(key.public.to_pem())
    assert hash(again.public) == hash(key.public)
    assert key.public.verify(b"x", again.sign(b"x"))
    assert PrivateKey.generate().public != key.public
    assert key.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_a_key_whose_halves_do_not_fit_is_refused() -> None:
    """Signing with a number that is not the public key's would make a log that nobody can verify."""
    from base64 import b64decode, b64encode

    def parts(pem: bytes) -> bytes:
        return b64decode(b"".join(pem.splitlines()[1:-1]))

    one, two = PrivateKey.generate(), PrivateKey.generate()
    mixed = parts(one.to_pem())[:-64] + two.public.point[1:]
    pem = b"-----BEGIN PRIVATE KEY-----\n" + b64encode(mixed) + b"\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ValueError, match="SM2 key"):
        PrivateKey.from_pem(pem)


def other_pems() -> list[bytes]:
    """What might lie in a key's file instead of an SM2 key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    p256 = ec.generate_private_key(ec.SECP256R1())
    pkcs8 = serialization.PrivateFormat.PKCS8
    return [
        p256.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()),
        p256.private_bytes(
            serialization.Encoding.PEM, pkcs8, serialization.BestAvailableEncryption(b"secret")
        ),
        PrivateKey.generate().public.to_pem(),
        PrivateKey.generate().to_pem()[:-60],
        b"",
        b"-----BEGIN PRIVATE KEY-----\n",
        os.urandom(200),
    ]


def test_anything_but_an_sm2_key_is_refused() -> None:
    """Other curves, encrypted, public, torn and empty ones; nothing asks a terminal for a passphrase."""
    for pem in other_pems():
        with pytest.raises(ValueError, match=r"SM2|PKCS#8|libcrypto"):
            PrivateKey.from_pem(pem)
        if b"PUBLIC" not in pem:
            with pytest.raises(ValueError, match=r"SM2|libcrypto"):
                PublicKey.from_pem(pem)


def test_a_key_file_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, no half-written leftovers, and an existing file stays as it is."""
    path = tmp_path / "box.key"
    key = PrivateKey.generate()
    before = os.umask(0)
    try:
        sm2.store_private_key(path, key)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sm2.load_private_key(path).public == key.public
    with pytest.raises(KeyFileError, match="exists already") as refusal:
        sm2.store_private_key(path, PrivateKey.generate())
    assert refusal.value.path == path
    assert sm2.load_private_key(path).public == key.public
    assert list(tmp_path.iterdir()) == [path]


def test_an_unusable_key_file_names_path_and_mend(tmp_path: Path) -> None:
    """Missing, open to others, too large, or not a key: the message says which file and what to do."""
    path = tmp_path / "box.key"
    with pytest.raises(KeyFileError, match=r"box\.key: cannot be read"):
        sm2.load_private_key(path)
    with pytest.raises(KeyFileError, match="cannot be written"):
        sm2.store_private_key(tmp_path / "nowhere" / "box.key", PrivateKey.generate())
    sm2.store_private_key(path, PrivateKey.generate())
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode 640") as refusal:
        sm2.load_private_key(path)
    assert refusal.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nMIG\n")
    with pytest.raises(KeyFileError, match="libcrypto can read") as refusal:
        sm2.load_private_key(path)
    assert "backup" in refusal.value.hint
    path.write_bytes(bytes(5000))
    with pytest.raises(KeyFileError, match="4096"):
        sm2.load_private_key(path)


def test_threads_share_one_key() -> None:
    """The writer's thread signs while others verify, with the same objects and no lock."""
    key = PrivateKey.generate()

    def work(worker: int) -> bool:
        messages = [b"%d-%d" % (worker, turn) for turn in range(20)]
        return all(
            key.public.verify(m, key.sign(m)) and not key.public.verify(m + b"!", key.sign(m))
            for m in messages
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_signing_releases_the_interpreter() -> None:
    """With a switch interval that never comes, another thread runs only if the call lets go of the GIL."""
    key = PrivateKey.generate()
    count = 0
    stop = threading.Event()

    def turn() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)  # hands the interpreter back

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    other = threading.Thread(target=turn)
    try:
        other.start()
        before = count
        # A busy machine may be slow to give the other thread a core.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while count == before and time.monotonic() < deadline:
            key.sign(b"x")
        assert count > before
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        other.join()


def test_no_memory_is_lost_per_operation() -> None:
    """A box signs a checkpoint per batch for years."""

    def resident_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def turn(times: int) -> None:
        for _ in range(times):
            key = PrivateKey.from_pem(pem)
            assert not key.public.verify(b"y", key.sign(b"x"))
            with pytest.raises(ValueError, match="key"):
                PublicKey(b"\x04" + bytes(64))

    pem = PrivateKey.generate().to_pem()
    turn(100)
    before = resident_kib()
    turn(300)
    assert resident_kib() - before < 300


def test_a_libcrypto_without_sm2_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some distributions build OpenSSL without SM2: the box says so at start, before it takes a payment."""

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    sm2._libcrypto.cache_clear()
    monkeypatch.setattr(sm2.ctypes, "CDLL", missing)
    try:
        with pytest.raises(Sm2Error, match=r"libcrypto\.so\.3") as refusal:
            PrivateKey.generate()
        assert "apt install" in refusal.value.hint
    finally:
        monkeypatch.undo()
        sm2._libcrypto.cache_clear()


def test_a_libcrypto_that_computes_wrongly_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The known answer is really asked for: with another one the start fails."""
    sm2.self_test.cache_clear()
    monkeypatch.setattr(sm2, "_ANNEX_SIGNATURE", SIGNATURE[:-1] + b"\xab")
    try:
        with pytest.raises(Sm2Error, match="annex"):
            sm2.self_test()
    finally:
        sm2.self_test.cache_clear()
