"""Where the mirror may be: settings first, then what was reached, then what is said on the network."""

from pathlib import Path

import pytest

from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import has_mirror, load_box
from edgegw.config.discovery import DiscoveryTable, StaticPeer
from edgegw.config.options import SettingsError
from edgegw.discovery.finder import KEPT_NAME, Discovery
from edgegw.discovery.messages import EXCHANGE, Kind, Peer, Report, Way
from edgegw.uplink.mirror import Turns

LISTED = StaticPeer(kind="mirror", name="mirror-1", url="https://10.0.0.9:8610")
BASE = (
    'bank = "b1"\nbox = "box-1"\n[hub]\nkey_file = "hub.pub"\n[[hub.addresses]]\nurl = "http://127.0.0.1:1"\n'
    "[http]\n"
)


def heard(discovery: Discovery, *addresses: str, kind: Kind = "mirror") -> None:
    """Somebody says to be at these."""
    way = {EXCHANGE: Way(port=8610, profile="plain")}
    peer = Peer(kind=kind, name="mirror-1", instance="mirror-1", addresses=addresses, ways=way)
    discovery._take(Report(instance="box-1", peers=(peer,)))


def finder(folder: Path | None = None, *peers: StaticPeer) -> Discovery:
    """As a box has it."""
    table = DiscoveryTable(peers=peers)
    return Discovery(table, kind="box", bank="b1", name="box-1", kept_dir=folder)


def test_settings_come_before_the_network_and_the_last_place_before_both(tmp_path: Path) -> None:
    """Who lies on the network is asked last, and a place that was good is known at the next start."""
    discovery = finder(tmp_path, LISTED)
    heard(discovery, "10.0.0.66")
    assert discovery.mirrors(encrypted=True) == (LISTED.url, "https://10.0.0.66:8610")
    discovery.mirror_reached("https://10.0.0.66:8610")
    assert finder(tmp_path, LISTED).mirrors(encrypted=True) == ("https://10.0.0.66:8610", LISTED.url)
    assert (tmp_path / KEPT_NAME).read_text() == "https://10.0.0.66:8610"


def test_the_network_cannot_talk_a_box_out_of_encryption() -> None:
    """A listing that says `plain` is spoken to as the box's own settings say."""
    discovery = finder()
    heard(discovery, "10.0.0.66")
    assert discovery.mirrors(encrypted=True) == ("https://10.0.0.66:8610",)


def test_a_box_is_no_place_of_a_mirror() -> None:
    """Only what is listed as a mirror is asked to be one."""
    discovery = finder()
    heard(discovery, "10.0.0.66", kind="box")
    assert discovery.mirrors(encrypted=True) == ()


def test_any_number_of_false_places_keeps_no_box_from_the_true_one() -> None:
    """The likeliest place is tried each second time, however many strangers appear meanwhile."""
    strangers, turns = iter(range(10_000)), Turns()
    seen = [turns.next(("true", *(f"false-{next(strangers)}" for _ in range(20)))) for _ in range(10)]
    assert seen.count("true") == 5


def test_addresses_of_settings_are_tried_in_turns() -> None:
    """With fixed places, each has its turn; with none, nobody is asked."""
    turns = Turns()
    assert [turns.next(("a", "b", "c")) for _ in range(6)] == ["a", "b", "a", "c", "a", "b"]
    assert turns.next(()) == ""


def fault(folder: Path, more: str) -> str:
    """What is wrong with the settings of a box."""
    path = folder / "box.toml"
    path.write_text(BASE + more)
    with pytest.raises(SettingsError) as problem:
        load_box(path, protocol_shapes())
    return str(problem.value)


def test_a_mirror_is_looked_for_only_where_its_certificate_can_be_told(tmp_path: Path) -> None:
    """An address from the network proves nothing, so the settings must say what does."""
    mirror = '[mirror]\nkey = "k"\n'
    assert "mirror.tls: it is missing" in fault(tmp_path, f"{mirror}[discovery]\n")
    tls = '[mirror.tls]\nprofile = "intl"\nca_file = "a"\ncertificate_file = "b"\nkey_file = "c"\n'
    assert "mirror.tls.server_name: it is missing" in fault(tmp_path, f"{mirror}{tls}[discovery]\n")
    path = tmp_path / "box.toml"
    path.write_text(f'{BASE}{mirror}{tls}server_name = "mirror-1"\n[discovery]\n')
    assert has_mirror(load_box(path, protocol_shapes()).settings)


def test_without_discovery_a_key_alone_is_no_mirror(tmp_path: Path) -> None:
    """Nothing is looked for that the settings do not ask for."""
    path = tmp_path / "box.toml"
    path.write_text(f'{BASE}[mirror]\nkey = "k"\n[discovery]\nenabled = false\n')
    assert not has_mirror(load_box(path, protocol_shapes()).settings)


def test_faults_of_the_table_name_the_mend(tmp_path: Path) -> None:
    """An IPv6 address of an interface, or a port that is none."""
    wrong = '[discovery]\ninterfaces = ["fe80::1"]\n[[discovery.peers]]\nkind = "box"\nname = "b"\n'
    said = fault(tmp_path, f'{wrong}url = "http://10.0.0.1:0"\n')
    assert "IPv4" in said
    assert "its port is no number from 1 to 65535" in said
