"""What may go without encryption, and what a table of encryption must have, in real settings files."""

from pathlib import Path

import pytest

from edgegw.config.box import load_box
from edgegw.config.hub import load_hub
from edgegw.config.mirror import load_mirror
from edgegw.config.options import SettingsError
from edgegw.payments.protocols import discover

HUB = 'bank = "b1"\nlisten = ["{listen}"]\n'
MIRROR = 'bank = "b1"\nmirror = "m"\nhub_key = "k"\nlisten = ["{listen}"]\nboxes = {{ b = "k" }}\n'
BOX = """bank = "b1"
box = "box-1"
[hub]
key = "k"
[[hub.addresses]]
url = "{url}"
[http]
host = "{host}"
"""
FILES = 'certificate_file = "c.pem"\nkey_file = "k.pem"\n'


def _faults(folder: Path, text: str, kind: str) -> list[str]:
    path = folder / f"{kind}.toml"
    path.write_text(text)
    shapes = {name: adapter.options for name, adapter in discover().items()}
    loads = {"hub": load_hub, "mirror": load_mirror, "box": lambda path: load_box(path, shapes)}
    try:
        loads[kind](path)
    except SettingsError as problem:
        return list(problem.faults)
    return []


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.8.8:1"])
def test_loopback_needs_no_encryption(tmp_path: Path, listen: str) -> None:
    """A demo, a test or a terminator on the same machine speaks plainly: nobody else can listen there."""
    assert _faults(tmp_path, HUB.format(listen=listen), "hub") == []
    assert _faults(tmp_path, MIRROR.format(listen=listen), "mirror") == []


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "hub.bank.example:1"])
def test_nothing_listens_plainly_to_other_machines_unless_it_is_said(tmp_path: Path, listen: str) -> None:
    """An address that was opened in haste must not put payments on the branch's network in the clear."""
    for kind, text in (("hub", HUB), ("mirror", MIRROR)):
        said = _faults(tmp_path, text.format(listen=listen), kind)
        assert len(said) == 1
        assert "would not be encrypted; give [tls] with its profile" in said[0]
        assert _faults(tmp_path, text.format(listen=listen) + '[tls]\nprofile = "plain"\n', kind) == []


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "tls.profile: it is missing."),
        ('profile = "sm"\n', 'tls.profile = "sm": it must be one of "plain", "intl", "pq", "gm", "gm-pq"'),
        ('profile = "intl"\n' + FILES, "tls.client_ca_file: it is missing; profile = intl needs it"),
        ('profile = "gm"\nclient_ca_file = "ca.pem"\n', "tls.certificate_file: it is missing"),
        ('profile = "plain"\n' + FILES, "tls.certificate_file = c.pem: profile = plain uses none"),
        ('profile = "pq"\nclient_ca = "ca.pem"\n', "did you mean client_ca_file?"),
    ],
)
def test_a_table_that_lacks_something_says_what(tmp_path: Path, table: str, said: str) -> None:
    """Half a table must not end in a listener that encrypts less than was meant."""
    found = _faults(tmp_path, HUB.format(listen="10.0.0.1:1") + "[tls]\n" + table, "hub")
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize(
    ("url", "host", "tables", "said"),
    [
        (
            "http://10.0.0.1:1",
            "127.0.0.1",
            "",
            "hub.addresses[].url = http://10.0.0.1:1: it leaves this machine",
        ),
        ("https://127.0.0.1:1", "127.0.0.1", "", "how it is encrypted is missing; give [hub.tls]"),
        (
            "http://127.0.0.1:1",
            "127.0.0.1",
            '[hub.tls]\nprofile = "pq"\nca_file = "ca.pem"\n' + FILES,
            "[hub.tls] encrypts; write https://127.0.0.1:1",
        ),
        (
            "https://h:1",
            "127.0.0.1",
            '[hub.tls]\nprofile = "gm-pq"\n',
            "hub.tls.ca_file: it is missing; profile = gm-pq needs it",
        ),
        ("http://127.0.0.1:1", "192.168.0.5", "", "http.host = 192.168.0.5: it is reachable from outside"),
        ("http://127.0.0.1:1", "", "", "http.host = : it is reachable from outside"),
        (
            "http://127.0.0.1:1",
            "192.168.0.5",
            '[http.tls]\nprofile = "gm"\n',
            "http.tls.key_file: it is missing",
        ),
        ("http://127.0.0.1:1", "192.168.0.5", '[http.tls]\nprofile = "plain"\n', ""),
        ("http://10.0.0.1:1", "127.0.0.1", '[hub.tls]\nprofile = "plain"\n', ""),
        ("https://h:1", "127.0.0.1", '[hub.tls]\nprofile = "intl"\nca_file = "ca.pem"\n' + FILES, ""),
        ("http://127.0.0.1:1", "192.168.0.5", '[http.tls]\nprofile = "intl"\n' + FILES, ""),
    ],
)
def test_what_leaves_a_box_plainly_is_said(
    tmp_path: Path, url: str, host: str, tables: str, said: str
) -> None:
    """Neither its lines nor its ways in are plain beyond the machine by an oversight."""
    found = _faults(tmp_path, BOX.format(url=url, host=host) + tables, "box")
    assert found == [] if not said else any(said in fault for fault in found), found
