"""An image holds nothing that is one machine's, or a secret: what is planted is found, and Debian is not."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from firmware.secrets_in_root import secrets_in

# Put together here, so that this file is none of what it plants.
_LINE = base64.b64encode(bytes(range(48))).decode()
PEM = f"-----BEGIN {'PRIVATE'} KEY-----\n{_LINE}\n-----END {'PRIVATE'} KEY-----\n"
JWT = ".".join(("eyJ" + "hbGciOiJFZERTQSJ9", "eyJ" + "zdWIiOiJ0aWxsLTEifQ", "c2lnbmF0dXJlLXNpZ25hdHVyZQ"))
PLANTED = {
    "opt/edgegw/lib/python3.13/site-packages/edgegw/left.pem": PEM,
    "usr/lib/edgegw/device.txt": "begins somewhere\n" + PEM,
    "etc/ssh/ssh_host_ed25519_key": "x",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "var/lib/dbus/machine-id": "0123456789abcdef0123456789abcdef\n",
    "var/lib/systemd/random-seed": "x",
    "var/lib/systemd/credential.secret": "x",
    "var/lib/edgegw/box.toml": "",
    "var/lib/edgegw-update/state.json": "",
    "usr/share/edgegw/claim.json": "{}",
    "usr/share/edgegw/box-1.kek.tpm2": "x",
    "srv/store.p12": "x",
    "opt/tool/.netrc": "machine x login y password z",
    "etc/apt/auth.conf.d/inside.conf": "machine x",
    "etc/pip.conf": "[global]\nindex-url = https://build:pass-word@packages.example/simple\n",
    "etc/edgegw.conf": "token = abcdefghijkl\n",
    "root/.ssh/authorized_keys": "ssh-ed25519 x",
    "usr/lib/edgegw/token": JWT,
    "etc/cloud.cfg": "key: " + "AKIA" + "ABCDEFGHIJKLMNOP",
    "usr/share/tool/hub.txt": "ghp" + "_" + "a" * 36,
}
CLEAN = {
    "etc/machine-id": "",
    "etc/shadow": "root:*:20000:0:99999:7:::\nedgegw:!*:20000::::::\n",
    "etc/gshadow": "tss::edgegw\n",
    "etc/ssl/certs/ca.crt": f"-----BEGIN CERTIFICATE-----\n{_LINE}\n",
    "etc/pip.conf": "[global]\nindex-url = https://packages.example/simple\n",
    "opt/edgegw/lib/python3.13/site-packages/edgegw/sm/known_answers.py": PEM,
    "opt/edgegw/lib/python3.13/site-packages/jwt.py": 'BEGIN = "-----BEGIN PRIVATE KEY-----"\n',
    "usr/lib/x86_64-linux-gnu/libtested.so": "\x7fELF" + PEM,
}


def lay(root: Path, files: dict[str, str]) -> None:
    """Write these files below a root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_root_without_secrets_has_none(tmp_path: Path) -> None:
    """A check that cries at every certificate is switched off within a week."""
    lay(tmp_path, CLEAN)
    assert secrets_in(tmp_path) == []


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_secret_is_found(tmp_path: Path, name: str) -> None:
    """One of them in an image is one on every box of a bank."""
    lay(tmp_path, CLEAN)
    lay(tmp_path, {name: PLANTED[name]})
    places = ("/" + name, "/" + str(Path(name).parent))
    assert any(found.startswith(places) for found in secrets_in(tmp_path))


@pytest.mark.parametrize("line", ["root:$y$j9T$abc$def:20000::::::", "root::20000::::::"])
def test_an_account_that_can_log_in_with_a_password_is_found(tmp_path: Path, line: str) -> None:
    """With a password all boxes have the same one; without one there is no need of it."""
    lay(tmp_path, {**CLEAN, "etc/shadow": line + "\n"})
    [found] = secrets_in(tmp_path)
    assert found.startswith("/etc/shadow: root has ")
