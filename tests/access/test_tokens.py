"""Client tokens: who is let in, who is not, and that no token outlives its time or its client."""

import time
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgegw.access.tokens import (
    LEEWAY_SECONDS,
    REMEMBERED_MAX,
    TokenError,
    Tokens,
    mint_token,
    public_key_text,
)
from edgegw.core.scopes import GROUPS
from edgegw.core.site import ClientRule, CurrencyRule, Site, TokenRule

NOW = 1_790_000_000
DIRECT_SECONDS = 60 * TokenRule().direct_minutes
KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


class Place:
    """A box with a clock that tests turn, and settings that they change."""

    def __init__(self) -> None:
        self.now_s = NOW
        self.site = Site(
            bank="demo-bank",
            version=1,
            currencies=(CurrencyRule(code="CNY", numeric=156),),
            clients=(ClientRule(name="till", public_key=public_key_text(KEY), scopes=("pay",)),),
        )
        self.tokens = Tokens(box="branch-1", site=lambda: self.site, now_s=lambda: self.now_s)

    def code(self, token: str, scheme: str = "Bearer") -> str:
        with pytest.raises(TokenError) as caught:
            self.tokens.client_of(f"{scheme} {token}")
        return caught.value.code


@pytest.fixture
def place() -> Place:
    return Place()


def minted(key: Ed25519PrivateKey = KEY, **changes: Any) -> str:
    wanted = {"client": "till", "box": "branch-1", "lifetime_seconds": 600, "now_s": NOW, **changes}
    return mint_token(key, **wanted)


def signed(algorithm: str = "EdDSA", key: Any = KEY, typ: str = "JWT", **changes: Any) -> str:
    claims = {"iss": "till", "sub": "till", "aud": "branch-1", "exp": NOW + 600, **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"typ": typ})


def test_a_client_of_the_site_is_let_in_with_its_scopes(place: Place) -> None:
    """A client that cannot speak cannot pay."""
    client = place.tokens.client_of(f"Bearer {minted()}")
    assert (client.name, client.scopes) == ("till", frozenset(GROUPS["pay"]))


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dGlsbDp4", "token"])
def test_no_token_is_not_let_in(place: Place, header: str | None) -> None:
    """A request without a name has no identity to be decided under."""
    with pytest.raises(TokenError) as caught:
        place.tokens.client_of(header)
    assert caught.value.code == "token_missing"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(minted(OTHER_KEY), id="another key"),
        pytest.param(minted(client="ghost"), id="a client that the site does not know"),
        pytest.param(minted(box="branch-2"), id="for another box"),
        pytest.param(signed(iss="ghost"), id="issuer is not the subject"),
        pytest.param(signed(aud=None), id="no audience"),
        pytest.param(signed(exp=None), id="no end"),
        pytest.param(signed(exp=True), id="a truth for a time"),
        pytest.param(signed(nbf=0.5), id="a fraction for a time"),
        pytest.param(jwt.encode({"sub": "till"}, key=None, algorithm="none"), id="not signed"),
        pytest.param(signed("HS256", public_key_text(KEY) * 2), id="the public key as a shared secret"),
        pytest.param(minted()[:-4], id="cut off"),
        pytest.param("..", id="empty parts"),
        pytest.param(signed(typ="at+jwt"), id="a client's own that calls itself the box's"),
        pytest.param(signed(jti=5), id="a number for a name"),
        pytest.param("a" * 5000, id="too long"),
        pytest.param("\ud800", id="no text"),
    ],
)
def test_a_forged_or_foreign_token_is_not_let_in(place: Place, token: str) -> None:
    """Whoever gets past here pays in a client's name."""
    assert place.code(token) == "token_invalid"


def test_a_token_ends_when_it_says_and_not_much_later(place: Place) -> None:
    """A stolen token that never ends is a stolen key."""
    token = minted()
    place.now_s = NOW + 600 + LEEWAY_SECONDS - 1
    assert place.tokens.client_of(f"Bearer {token}").name == "till"
    place.now_s += 1
    assert place.code(token) == "token_expired"
    assert place.code(token) == "token_expired"


def test_a_token_that_ends_too_late_is_not_let_in(place: Place) -> None:
    """A client cannot give itself a token for a year."""
    assert place.tokens.client_of(f"Bearer {minted(lifetime_seconds=DIRECT_SECONDS)}").name == "till"
    assert place.code(minted(lifetime_seconds=DIRECT_SECONDS + LEEWAY_SECONDS + 1)) == "token_expired"
    assert place.code(signed(nbf=NOW + LEEWAY_SECONDS + 1)) == "token_expired"


def test_a_clock_off_by_days_is_named_with_its_distance(place: Place) -> None:
    """Without the distance, a wrong clock looks like a wrong key."""
    place.now_s = NOW + 3 * 86_400
    with pytest.raises(TokenError, match=f"exp {NOW + 600} is {3 * 86_400 - 600} s behind the box's clock"):
        place.tokens.client_of(f"Bearer {minted()}")


def test_a_client_that_the_site_drops_is_out_at_once(place: Place) -> None:
    """A remembered token must not outlive new settings."""
    token = minted()
    place.tokens.client_of(f"Bearer {token}")
    place.site = msgspec.structs.replace(place.site, version=2, clients=())
    assert place.code(token) == "token_invalid"


def test_a_key_in_the_settings_that_is_none_lets_nobody_in(place: Place) -> None:
    """A slip in the settings must neither stop the box nor open it."""
    broken = ClientRule(name="till", public_key="AAAA")
    place.site = msgspec.structs.replace(place.site, version=2, clients=(broken,))
    assert place.code(minted()) == "token_invalid"


def test_remembered_tokens_are_bounded_and_quick(place: Place) -> None:
    """A flood of good tokens must not eat the memory; a known token must not cost a signature check."""
    first = minted()
    place.tokens.client_of(f"Bearer {first}")
    began = time.thread_time()
    for _ in range(1000):
        place.tokens.client_of(f"Bearer {first}")
    remembered_seconds = (time.thread_time() - began) / 1000
    for number in range(REMEMBERED_MAX + 10):
        place.tokens._remembered[f"{number}"] = place.tokens._remembered[first]  # filled without the signing
        if len(place.tokens._remembered) > REMEMBERED_MAX:
            break
    began = time.thread_time()
    for number in range(20):
        place.tokens.client_of(f"Bearer {minted(lifetime_seconds=100 + number)}")
    assert len(place.tokens._remembered) <= REMEMBERED_MAX + 1
    assert remembered_seconds < (time.thread_time() - began) / 20


@pytest.mark.parametrize(
    "bound",
    [None, "x", {}, {"x5t#S256": 7}, {"x5t#S256": ""}, {"jkt": "a"}, {"x5t#S256": "a", "jkt": "b"}, [1]],
)
def test_a_binding_that_nobody_checks_lets_nobody_in(place: Place, bound: object) -> None:
    """A token bound to something else than one certificate is refused, not taken for one that is free."""
    claims = {"iss": "till", "sub": "till", "aud": "branch-1", "exp": NOW + 600, "cnf": bound}
    assert place.code(jwt.encode(claims, KEY, algorithm="EdDSA")) == "token_invalid"
