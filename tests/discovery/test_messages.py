"""What is said by multicast DNS, and what is made of what others say."""

import pytest

from edgegw.discovery.messages import ADDRESSES_MAX, WAYS_MAX, Advert, Way, peer_of, text_of

ADVERT = Advert(
    kind="box",
    bank="b1",
    name="box-1",
    ways={"http": Way(port=8443, profile="intl"), "iso8583": Way(port=8583, profile="gm", host="10.1.2.3")},
)


def test_a_box_is_read_as_it_was_said() -> None:
    """What one box says, another reads: name and ways in with their ports and profiles."""
    peer = peer_of("box", "box-1", text_of(ADVERT), addresses=["10.1.2.3"], bank="b1")
    assert peer is not None
    assert (peer.kind, peer.name, peer.addresses) == ("box", "box-1", ("10.1.2.3",))
    assert {name: (way.port, way.profile) for name, way in peer.ways.items()} == {
        "http": (8443, "intl"),
        "iso8583": (8583, "gm"),
    }


def test_nothing_but_names_ports_and_profiles_is_said() -> None:
    """A listing is read by everybody in the branch: no path, no key and no token belongs there."""
    assert set(text_of(ADVERT)) == {"v", "bank", "box", "http", "http-tls", "iso8583", "iso8583-tls"}


@pytest.mark.parametrize(
    "lie",
    [
        {"v": "2"},
        {"v": None},
        {"bank": "b2"},
        {"box": ""},
        {"box": "Box 1\n"},
        {"http": "0", "iso8583": "65536"},
        {"http-tls": "none", "iso8583-tls": None},
        {"http": "８443", "iso8583": "-1"},
    ],
    ids=str,
)
def test_a_listing_that_is_of_no_use_is_left_out(lie: dict[str, str | None]) -> None:
    """Another format, another bank, no name or no way in: nobody is there."""
    assert peer_of("box", "box-1", text_of(ADVERT) | lie, addresses=["10.1.2.3"], bank="b1") is None


def test_a_listing_takes_a_small_place_however_long_it_is() -> None:
    """A liar may list any number of ways, addresses and letters."""
    text = text_of(ADVERT) | {f"w{number}": "1" for number in range(500)}
    text |= {f"w{number}-tls": "intl" for number in range(500)}
    peer = peer_of("box", "\x1b" * 999, text, addresses=[f"10.0.0.{n}" for n in range(200)], bank="b1")
    assert peer is not None
    assert (len(peer.ways), len(peer.addresses)) == (WAYS_MAX, ADDRESSES_MAX)
    assert peer.instance == "?" * 63
