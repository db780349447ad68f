"""The openssl command as a peer: it takes our keys and signatures, and we take its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from edgegw.sm.sm2 import PrivateKey, PublicKey, from_der, to_der
from edgegw.sm.sm3 import hmac_sm3, sm3

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the openssl command is not installed"
)

USER_IDS = ["1234567812345678", "ALICE123@YAHOO.COM"]


class Peer:
    """The command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["openssl", *arguments], cwd=self.folder, capture_output=True, check=False, timeout=30
        )

    def verifies(self, signature: bytes, message: bytes, user_id: str, *, by: str) -> bool:
        """Whether public.pem's owner signed, asked by `pkeyutl` or by `dgst`."""
        (self.folder / "signature").write_bytes(signature)
        (self.folder / "message").write_bytes(message)
        if by == "dgst":
            asked = ("dgst", "-sm3", "-sigopt", f"distid:{user_id}", "-verify", "public.pem")
            return self.run(*asked, "-signature", "signature", "message").returncode == 0
        asked = ("pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-sigfile", "signature", "-rawin")
        common = ("-in", "message", "-digest", "sm3", "-pkeyopt", f"distid:{user_id}")
        return self.run(*asked, *common).returncode == 0

    def sign(self, message: bytes, user_id: str, *, by: str) -> bytes:
        """Its signature with key.pem, DER."""
        (self.folder / "message").write_bytes(message)
        if by == "dgst":
            asked = ("dgst", "-sm3", "-sigopt", f"distid:{user_id}", "-sign", "key.pem", "-out", "made")
            done = self.run(*asked, "message")
        else:
            asked = ("pkeyutl", "-sign", "-inkey", "key.pem", "-out", "made", "-rawin", "-in", "message")
            done = self.run(*asked, "-digest", "sm3", "-pkeyopt", f"distid:{user_id}")
        assert done.returncode == 0, done.stderr
        return (self.folder / "made").read_bytes()


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    """A fresh folder for it."""
    return Peer(tmp_path)


@pytest.mark.parametrize("by", ["pkeyutl", "dgst"])
@pytest.mark.parametrize("user_id", USER_IDS)
def test_the_command_takes_our_key_and_signature(peer: Peer, by: str, user_id: str) -> None:
    """Our PEM files are ordinary ones, `to_der` is what it reads, and the user id is what it calls distid."""
    key = PrivateKey.generate()
    (peer.folder / "public.pem").write_bytes(key.public.to_pem())
    signature = key.sign(b"a payment", user_id=user_id.encode())
    assert peer.verifies(to_der(signature), b"a payment", user_id, by=by)
    assert not peer.verifies(to_der(signature), b"a repayment", user_id, by=by)
    assert not peer.verifies(to_der(signature), b"a payment", "another", by=by)
    assert not peer.verifies(signature, b"a payment", user_id, by=by)


@pytest.mark.parametrize("by", ["pkeyutl", "dgst"])
@pytest.mark.parametrize("user_id", USER_IDS)
def test_we_take_the_commands_key_and_signature(peer: Peer, by: str, user_id: str) -> None:
    """A key that it made loads here, as does what it signs, and nothing else verifies."""
    assert peer.run("genpkey", "-algorithm", "SM2", "-out", "key.pem").returncode == 0
    assert peer.run("pkey", "-in", "key.pem", "-pubout", "-out", "public.pem").returncode == 0
    public = PublicKey.from_pem((peer.folder / "public.pem").read_bytes())
    assert PrivateKey.from_pem((peer.folder / "key.pem").read_bytes()).public == public
    signature = from_der(peer.sign(b"a payment", user_id, by=by))
    assert public.verify(b"a payment", signature, user_id=user_id.encode())
    assert not public.verify(b"a repayment", signature, user_id=user_id.encode())
    assert not public.verify(b"a payment", signature, user_id=b"another")


def test_the_command_signs_with_our_key(peer: Peer) -> None:
    """A key file of ours is not bound to us."""
    key = PrivateKey.generate()
    (peer.folder / "key.pem").write_bytes(key.to_pem())
    assert key.public.verify(b"x", from_der(peer.sign(b"x", USER_IDS[0], by="pkeyutl")))


def test_the_commands_hash_and_mac_are_ours(peer: Peer) -> None:
    """SM3 and HMAC-SM3 of the same bytes."""
    (peer.folder / "message").write_bytes(b"a payment")
    hashed = peer.run("dgst", "-sm3", "-r", "message")
    assert hashed.stdout.split()[0].decode() == sm3(b"a payment").hex()
    mac = peer.run("dgst", "-sm3", "-mac", "HMAC", "-macopt", f"hexkey:{bytes(range(32)).hex()}", "message")
    assert mac.stdout.split()[-1].decode() == hmac_sm3(bytes(range(32)), b"a payment").hex()
