"""A client that signs, at a real box whose line is down: what was let through before a kill is refused after
it, also when the clock went back."""

import base64
import http.client
import json
import secrets
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgegw.sm.sm2 import PrivateKey
from tests.processes import Branch, Process, Reply
from tests.signing import SessionSigner, Sm2Signer

pytestmark = pytest.mark.slow
PAY, NOTED = "/v1/payments", "/v1/notices/acknowledgements"


class SignedBranch(Branch):
    """Its till must sign. Its processes take the clock that the test gives them."""

    process = Process

    def sign_only(self) -> Sm2Signer:
        """Publish that, with a key of `keygen client --sm2`; its signer."""
        public = self.run("keygen", "client", "--sm2", "--out", self.path("till-sm2.pem")).strip()
        site = json.loads((self.folder / "site.json").read_text())
        site["clients"][0] |= {"sm2_public_keys": [public], "profile": "signed"}
        site["version"] = 2
        (self.folder / "site.json").write_text(json.dumps(site))
        self.run("site", "publish", self.path("site.json"), "--hub", self.path("hub.toml"))
        return Sm2Signer("till", PrivateKey.from_pem((self.folder / "till-sm2.pem").read_bytes()))

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        """A request exactly so."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.headers.items()), answer.read())

    def signed(
        self, signer: Sm2Signer | SessionSigner, path: str, body: bytes, **changes: Any
    ) -> dict[str, str]:
        host = f"127.0.0.1:{self.http_port}"
        return signer.headers(host=host, path=path, body=body, box="box-1", **changes)


def pay() -> bytes:
    """A payment's body."""
    return json.dumps(
        {
            "id": secrets.token_hex(16),
            "debit_account_id": "alice",
            "credit_account_id": "shop",
            "amount_minor": 1,
            "currency": "CNY",
        }
    ).encode()


FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.mark.parametrize("clock", ["+0", "-2h", "+2h", "-3650d"])
def test_a_kill_lets_nothing_through_again(
    tmp_path: Path, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line down: signed payments clear, a kill -9 forgets no signature, sessions open again; also
    with a clock that another battery gave."""
    if clock != "+0" and FAKETIME is None:
        pytest.skip("libfaketime is not installed")
    branch = SignedBranch(tmp_path)
    try:
        signer = branch.sign_only()
        branch.start_hub()
        branch.start_box()
        assert branch.hub is not None
        assert branch.box is not None
        branch.hub.end(signal.SIGKILL)
        assert branch.pay("alice", 1).json["code"] == "signature_missing"
        spent = []
        for _ in range(20):
            body = pay()
            headers = branch.signed(signer, PAY, body)
            assert branch.send(PAY, body, headers).status == 201
            spent.append((PAY, body, headers))
        noted = b'{"up_to":"1/1"}'
        headers = branch.signed(signer, NOTED, noted)
        assert branch.send(NOTED, noted, headers).json["code"] == "notice_not_found"
        spent.append((NOTED, noted, headers))
        session = opened(branch, signer)
        body = pay()
        in_session = branch.signed(session, PAY, body)
        assert branch.send(PAY, body, in_session).status == 201
        spent.append((PAY, body, in_session))
        port = branch.http_port
        branch.box.end(signal.SIGKILL)
        box = (branch.folder / "box.toml").read_text()
        (branch.folder / "box.toml").write_text(box.replace("port = 0", f"port = {port}"))
        if clock != "+0":
            monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
            monkeypatch.setenv("FAKETIME", clock)
            monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        branch.start_box()
        for path, body, headers in spent:
            refused = branch.send(path, body, headers)
            assert refused.status == 401, refused.body
            assert refused.json["code"] in ("signature_stale", "session_unknown")
        assert (abs(refused.json["server_time_s"] - time.time()) > 3600) is (clock != "+0")
        body = pay()
        fresh = branch.signed(signer, PAY, body, nonce=refused.json["challenge"], created_s=1)
        assert branch.send(PAY, body, fresh).status == 201
        again = opened(branch, signer, challenge=refused.json["challenge"])
        body = pay()
        assert branch.send(PAY, body, branch.signed(again, PAY, body)).status == 201
    finally:
        branch.end()


def opened(branch: SignedBranch, signer: Sm2Signer, *, challenge: str = "") -> SessionSigner:
    """A session."""
    own = X25519PrivateKey.generate()
    share = base64.b64encode(own.public_key().public_bytes_raw()).decode()
    body = json.dumps({"share": share}).encode()
    nonce = f"{challenge}.session" if challenge else ""
    answer = branch.send("/v1/sessions", body, branch.signed(signer, "/v1/sessions", body, nonce=nonce))
    assert answer.status == 201, answer.body
    return SessionSigner("till", own, answer.json, box="box-1")
