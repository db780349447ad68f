"""The box's token server: what a thief of tokens gets, what a restart, a kill or a wrong clock may change."""

import threading
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from edgegw.access import token_store
from edgegw.access.keystore import OPEN_FILES, KeyFile
from edgegw.access.oauth import ASSERTION_TYPE, Granted, OAuthError, TokenFiles, TokenServer
from edgegw.access.token_keys import OVERLAP_S, PUBLISHED_BEFORE_S, ROTATED_AFTER_S
from edgegw.access.token_store import ALL, BLOCKED, CLIENT, TOKEN, Revocation, TokenStore
from edgegw.access.token_time import BELIEVED_AFTER_S, JUMP_S
from edgegw.access.tokens import Client, TokenError, Tokens, mint_token, public_key_text
from edgegw.core.scopes import GROUPS, SCOPES
from edgegw.core.site import ClientRule, CurrencyRule, Site, TokenRule

NOW = 1_790_000_000
BANK, BOX = "demo-bank", "branch-1"
KEYS = {"till": Ed25519PrivateKey.generate(), "other": Ed25519PrivateKey.generate()}


def a_site(**changes: Any) -> Site:
    site = Site(
        bank=BANK,
        version=1,
        currencies=(CurrencyRule(code="CNY", numeric=156),),
        clients=tuple(
            ClientRule(name=name, public_key=public_key_text(key), scopes=("pay", "read"))
            for name, key in KEYS.items()
        ),
    )
    return msgspec.structs.replace(site, **changes)


class Place:
    """A box with clocks that tests turn, and settings, orders and an epoch that they change."""

    def __init__(self, directory: Path | None = None, *, box: str = BOX) -> None:
        self.wall_s, self.mono_s = float(NOW), 100.0
        self.site, self.epoch, self.box = a_site(), 1, box
        self.orders: dict[tuple[str, str], str] = {}
        self.files = TokenFiles()
        if directory is not None:
            key = KeyFile("token_key_file", directory / "tokens.json", "tokens", "x")
            self.files = TokenFiles(OPEN_FILES, key, directory / "tokens.db")
        self.start()

    def start(self) -> None:
        """Begin as a new process does."""
        self.server = TokenServer(
            self.files,
            bank=BANK,
            box=self.box,
            epoch=lambda: self.epoch,
            ordered=lambda of, whose: self.orders.get((of, whose)),
            wall_s=lambda: self.wall_s,
            mono_s=lambda: self.mono_s,
        )
        self.tokens = Tokens(box=self.box, site=lambda: self.site, issuer=self.server)

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.mono_s += seconds

    def said(self, client: str = "till", *, token: str = "") -> Any:
        assertion = token or mint_token(
            KEYS[client], client=client, box=self.box, lifetime_seconds=300, now_s=int(self.wall_s)
        )
        return self.server.authenticated(self.site, assertion_type=ASSERTION_TYPE, assertion=assertion)

    def begin(self, client: str = "till", scope: str = "") -> Granted:
        return self.server.begin(self.site, self.said(client), scope=scope)

    def refresh(self, token: str, client: str = "till", scope: str = "") -> Granted:
        return self.server.refresh(self.site, self.said(client), token=token, scope=scope)

    def client(self, token: str) -> Client:
        return self.tokens.client_of(f"Bearer {token}")

    def code(self, token: str) -> str:
        with pytest.raises(TokenError) as caught:
            self.client(token)
        return caught.value.code

    def error(self, token: str, client: str = "till", scope: str = "") -> str:
        with pytest.raises(OAuthError) as caught:
            self.refresh(token, client, scope)
        return caught.value.error


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_client_gets_a_short_token_and_pays_with_it(place: Place) -> None:
    """Without it every client would need a signature of its own for each token."""
    granted = place.begin()
    claims = jwt.decode(granted.access_token, options={"verify_signature": False})
    header = jwt.get_unverified_header(granted.access_token)
    assert (header["typ"], header["alg"]) == ("at+jwt", "EdDSA")
    needed = {"iss", "aud", "sub", "client_id", "scope", "jti", "iat", "exp"}
    assert needed <= claims.keys()
    assert claims["exp"] - claims["iat"] == granted.expires_in == 600
    client = place.client(granted.access_token)
    assert (client.name, client.scopes) == ("till", frozenset({*GROUPS["pay"], *GROUPS["read"]}))
    place.pass_s(600)
    assert place.code(granted.access_token) == "token_expired"


def test_a_service_behind_the_box_can_check_a_token_by_the_published_keys(place: Place) -> None:
    """Otherwise it would have to trust whoever asks it."""
    granted = place.begin()
    keys = jwt.PyJWKSet.from_dict(place.server.keys.jwks())  # type: ignore[arg-type]
    key = keys[jwt.get_unverified_header(granted.access_token)["kid"]]
    said = jwt.decode(
        granted.access_token,
        key,
        algorithms=["EdDSA"],
        audience=place.server.issuer,
        issuer=place.server.issuer,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert said["client_id"] == "till"


# --- refresh tokens -----------------------------------------------------------------------------------------


def test_an_old_refresh_token_ends_the_family_and_its_access_tokens(place: Place) -> None:
    """A thief who has copied a refresh token must not go on beside its owner."""
    first = place.begin()
    second = place.refresh(first.refresh_token)
    place.client(second.access_token)
    assert place.error(first.refresh_token) == "invalid_grant"
    assert place.error(second.refresh_token) == "invalid_grant"
    assert place.code(first.access_token) == place.code(second.access_token) == "token_revoked"
    place.client(place.begin().access_token)


class Families(RuleBasedStateMachine):
    """Any order of beginnings, refreshes by any token, revocations and restarts, against a plain model: a
    family is a number, and lives while only its newest token was shown."""

    refresh_tokens = Bundle("refresh_tokens")

    def __init__(self) -> None:
        super().__init__()
        self.place = Place()
        self.family_of: dict[str, int] = {}
        self.newest: dict[int, str] = {}
        self.access: list[tuple[str, int]] = []
        self.dead: set[int] = set()

    def _given(self, granted: Granted, family: int) -> str:
        self.family_of[granted.refresh_token] = family
        self.newest[family] = granted.refresh_token
        self.access.append((granted.access_token, family))
        return granted.refresh_token

    @rule(target=refresh_tokens)
    def begin(self) -> str:
        return self._given(self.place.begin(), len(self.newest))

    @rule(target=refresh_tokens, token=refresh_tokens)
    def show(self, token: str) -> Any:
        family = self.family_of[token]
        if family not in self.dead and self.newest[family] == token:
            return self._given(self.place.refresh(token), family)
        self.dead.add(family)
        assert self.place.error(token) == "invalid_grant"
        return multiple()

    @rule(token=refresh_tokens)
    def show_as_another_client(self, token: str) -> None:
        self.dead.add(self.family_of[token])
        assert self.place.error(token, "other") == "invalid_grant"

    @rule(token=consumes(refresh_tokens))
    def revoke(self, token: str) -> None:
        self.dead.add(self.family_of[token])
        self.place.server.revoke(self.place.site, self.place.said(), token=token)

    @rule(garbage=st.text(max_size=60))
    def show_garbage(self, garbage: str) -> None:
        assert self.place.error(garbage.encode("utf-8", "replace").decode()) == "invalid_grant"

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.place.pass_s(seconds / 60)

    @invariant()
    def only_the_living_speak(self) -> None:
        for token, family in self.access[-4:]:
            if family in self.dead:
                assert self.place.code(token) == "token_revoked"
            else:
                assert self.place.client(token).name == "till"


TestFamilies = Families.TestCase
TestFamilies.settings = hypothesis_settings(max_examples=6, stateful_step_count=15, deadline=None)


def test_of_two_refreshes_at_once_one_wins_and_the_family_ends(place: Place) -> None:
    """Both would otherwise go on with the same rights, and nobody would see that there are two."""
    first = place.begin()
    said = [place.said(), place.said()]
    outcomes: list[object] = []
    barrier = threading.Barrier(2)

    def refresh(one: Any) -> None:
        barrier.wait()
        try:
            outcomes.append(
                place.server.refresh(place.site, one, token=first.refresh_token, scope="").access_token
            )
        except OAuthError as error:
            outcomes.append(error.error)

    threads = [threading.Thread(target=refresh, args=(one,)) for one in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("invalid_grant") == 1
    [access] = [str(one) for one in outcomes if one != "invalid_grant"]
    assert place.code(access) == "token_revoked"


def test_of_two_that_saw_the_same_newest_token_one_rotates_it(tmp_path: Path) -> None:
    """The check and the change are one step: what was read before may be old by then."""
    store = TokenStore(tmp_path / "tokens.db")
    family = token_store.Family(
        id="f", client="till", client_key="k", epoch=1, scopes=(), made_s=NOW, expires_s=NOW + 900
    )
    used = [token_store.Assertion("till", f"{number}", NOW + 60) for number in range(3)]
    store.begin(family, b"first", used[0], now_s=NOW)
    assert store.rotate(family, b"second", used[1], now_s=NOW)
    assert not store.rotate(family, b"third", used[2], now_s=NOW)
    assert store.family_of(b"third") is None


def test_a_request_that_is_sent_again_ends_no_family(place: Place) -> None:
    """Who has recorded a request of yesterday must not be able to log a client out."""
    first = place.begin()
    said = place.said()
    second = place.server.refresh(place.site, said, token=first.refresh_token, scope="")
    with pytest.raises(OAuthError) as caught:
        place.server.refresh(place.site, said, token=first.refresh_token, scope="")
    assert caught.value.error == "invalid_client"
    assert place.client(place.refresh(second.refresh_token).access_token).name == "till"


def test_families_and_revocations_outlive_a_restart_and_a_kill(place: Place) -> None:
    """A restart must neither log everybody out nor let anybody back in."""
    kept, gone = place.begin(), place.begin()
    newest = place.refresh(kept.refresh_token)
    place.server.revoke(place.site, place.said(), token=gone.refresh_token)
    place.server.revoke(place.site, place.said(), token=kept.access_token)
    used = mint_token(KEYS["till"], client="till", box=BOX, lifetime_seconds=300, now_s=NOW)
    place.server.begin(place.site, place.said(token=used), scope="")
    place.start()  # The one before is never closed: as after a kill.
    assert place.code(gone.access_token) == place.code(kept.access_token) == "token_revoked"
    assert place.client(newest.access_token).name == "till"
    assert place.error(gone.refresh_token) == "invalid_grant"
    with pytest.raises(OAuthError, match="used before"):
        place.server.begin(place.site, place.said(token=used), scope="")
    assert place.refresh(newest.refresh_token).scope == newest.scope
    assert place.error(kept.refresh_token) == "invalid_grant"


def test_no_refresh_token_lies_on_the_disk(place: Place, tmp_path: Path) -> None:
    """A copied disk would be everybody's session."""
    granted = place.begin()
    said = place.said()
    place.server.begin(place.site, said, scope="")
    place.server.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert granted.refresh_token.encode() not in written
    assert said.token_id.encode() not in written
    assert b"family" in written
    assert (tmp_path / "tokens.db").stat().st_mode & 0o077 == 0


def test_a_family_ends_with_its_time_its_key_and_its_epoch(place: Place) -> None:
    """What was bought with a stolen key, or lies in a restored backup, must not live on."""
    aged, other_key, restored = place.begin(), place.begin(), place.begin()
    place.pass_s(TokenRule().refresh_hours * 3600)
    assert place.error(aged.refresh_token) == "invalid_grant"
    other_key = place.begin()
    fresh = Ed25519PrivateKey.generate()
    renewed = ClientRule(name="till", public_key=public_key_text(fresh))
    old, KEYS["till"] = KEYS["till"], fresh
    try:
        place.site = a_site(version=2, clients=(renewed,))
        assert place.code(other_key.access_token) == "token_revoked"
        assert place.error(other_key.refresh_token) == "invalid_grant"
        restored = place.begin()
        place.epoch = 2
        assert place.error(restored.refresh_token) == "invalid_grant"
    finally:
        KEYS["till"] = old


def test_what_one_client_may_leave_behind_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks in a loop must not fill the box's disk."""
    monkeypatch.setattr(token_store, "FAMILIES_EACH_MAX", 3)
    monkeypatch.setattr(token_store, "ASSERTIONS_EACH_MAX", 6)
    given = []
    for _ in range(5):
        given.append(place.begin())
        place.pass_s(1)
    assert place.error(given[0].refresh_token) == "invalid_grant"
    with pytest.raises(OAuthError, match="too many assertions"):
        place.begin()
    place.begin("other")
    place.pass_s(600)
    assert place.refresh(given[-1].refresh_token).scope


# --- scopes -------------------------------------------------------------------------------------------------


def test_a_token_may_ask_for_less_and_never_gets_more(place: Place) -> None:
    """A till that only reads must not carry the right to pay."""
    less = place.begin(scope="receipts:read status:read")
    assert place.client(less.access_token).scopes == {"receipts:read", "status:read"}
    assert place.error(less.refresh_token, scope="read") == "invalid_scope"
    lesser = place.refresh(less.refresh_token, scope="status:read")
    assert lesser.scope == "status:read"
    assert place.refresh(lesser.refresh_token).scope == "receipts:read status:read"
    for asked in ("windows:close", "operate", "nothing", "payments:write  status:read", "\x00"):
        with pytest.raises(OAuthError) as caught:
            place.begin(scope=asked)
        assert caught.value.error == "invalid_scope"


def test_groups_are_all_that_a_client_has_and_take_effect_at_once(place: Place) -> None:
    """Rights that were taken away must not last as long as a token."""
    groups = {"cashier": ("payments:write", "receipts:read")}
    cashier = msgspec.structs.replace(place.site.clients[0], groups=("cashier",))
    place.site = a_site(version=2, scope_groups=groups, clients=(cashier,))
    granted = place.begin(scope="cashier")
    assert granted.scope == "payments:write receipts:read"
    place.site = a_site(version=3, scope_groups={"cashier": ("receipts:read",)}, clients=(cashier,))
    assert place.client(granted.access_token).scopes == {"receipts:read"}
    place.site = a_site(version=4, clients=())
    assert place.code(granted.access_token) == "token_revoked"


def test_every_scope_is_in_one_group() -> None:
    """A scope in no group could be given to nobody."""
    assert sorted(SCOPES) == sorted(name for group in GROUPS.values() for name in group)


# --- revocation ---------------------------------------------------------------------------------------------


def test_the_centre_s_order_stops_a_client_and_a_token(place: Place) -> None:
    """A stolen key is found out at the centre; the order lies in the box's journal from then on."""
    granted = place.begin()
    family = place.client(granted.access_token).family
    direct = mint_token(KEYS["other"], client="other", box=BOX, lifetime_seconds=300, now_s=NOW)
    assert place.client(direct).token_id
    place.orders["token", family] = "lost till"
    place.orders["token", place.client(direct).token_id] = "lost, too"
    assert place.code(granted.access_token) == place.code(direct) == "token_revoked"
    place.orders["client", "till"] = "stolen"
    assert place.server.why_blocked("till") == "stolen"
    with pytest.raises(OAuthError, match="stolen"):
        place.begin()


@pytest.mark.parametrize("of", [TOKEN, CLIENT, ALL, BLOCKED])
def test_another_process_revokes_while_the_box_runs(place: Place, tmp_path: Path, of: str) -> None:
    """With the line down the person at the branch must not have to restart the box."""
    granted = place.begin()
    client = place.client(granted.access_token)
    whose = {TOKEN: client.token_id, ALL: ""}.get(of, "till")
    elsewhere = TokenStore(tmp_path / "tokens.db")
    entry = Revocation(of, whose, NOW, NOW + 90_000, "seen in strange hands")
    elsewhere.revoke(entry, now_s=NOW)
    elsewhere.close()
    place.pass_s(1)
    if of == BLOCKED:
        place.server.has_changed()
        assert place.server.why_blocked("till") == entry.reason
        assert place.error(granted.refresh_token) == "invalid_client"
    else:
        assert place.code(granted.access_token) == "token_revoked"
    if of in (CLIENT, ALL):
        assert place.error(granted.refresh_token) == "invalid_grant"
        assert place.client(place.begin().access_token).name == "till"


def test_a_client_revokes_its_own_tokens_and_nobody_else_s(place: Place) -> None:
    """A client that could revoke another's tokens could stop it."""
    mine, theirs = place.begin(), place.begin("other")
    for token in (theirs.access_token, theirs.refresh_token):
        with pytest.raises(OAuthError) as caught:
            place.server.revoke(place.site, place.said(), token=token)
        assert caught.value.error == "invalid_grant"
    assert place.client(theirs.access_token).name == "other"
    for unknown in ("nonsense", "a.b.c", mine.access_token[:-8] + "AAAAAAAA", ""):
        place.server.revoke(place.site, place.said(), token=unknown)
    assert place.client(mine.access_token).name == "till"
    direct = mint_token(KEYS["till"], client="till", box=BOX, lifetime_seconds=300, now_s=NOW)
    place.client(direct)
    place.server.revoke(place.site, place.said(), token=direct)
    assert place.code(direct) == "token_revoked"
    assert place.client(mine.access_token).name == "till"


def test_a_client_that_names_its_token_as_another_s_is_named_revokes_its_own_alone(place: Place) -> None:
    """Clients choose the jti of what they sign; by one that is chosen alike nobody may stop the other."""
    theirs = place.begin("other")
    family = place.client(theirs.access_token).family
    claims = {"aud": BOX, "iat": NOW, "exp": NOW + 300}
    for jti in ("1", place.client(theirs.access_token).token_id, family):
        mine, alike = (
            jwt.encode(claims | {"iss": name, "sub": name, "jti": jti}, KEYS[name], algorithm="EdDSA")
            for name in ("till", "other")
        )
        place.server.revoke(place.site, place.said(), token=mine)
        assert place.code(mine) == "token_revoked"
        assert place.client(alike).name == "other"
    assert place.client(theirs.access_token).name == "other"
    place.refresh(theirs.refresh_token, "other")


def test_what_is_revoked_while_another_process_s_change_is_read_stays_revoked(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread reads the file for who speaks, another writes it: the older reading must not win."""
    granted, said = place.begin(), place.said()
    revoking = threading.Thread(
        target=place.server.revoke, args=(place.site, said), kwargs={"token": granted.access_token}
    )
    era = place.server._store.era

    def era_meanwhile() -> str:
        if not revoking.ident:
            revoking.start()
            revoking.join(0.2)
        return era()

    monkeypatch.setattr(place.server._store, "era", era_meanwhile)
    elsewhere = TokenStore(tmp_path / "tokens.db")
    elsewhere.revoke(Revocation(TOKEN, "x", 0, 0, "by hand"), now_s=NOW)
    elsewhere.close()
    place.server.keep_time()
    revoking.join()
    assert place.code(granted.access_token) == "token_revoked"


def test_revocations_are_let_go_once_nothing_is_left_to_revoke(place: Place, tmp_path: Path) -> None:
    """A set that only grows would be slow after a year."""
    for _ in range(3):
        granted = place.begin()
        place.server.revoke(place.site, place.said(), token=granted.access_token)
    place.pass_s(2 * 86_400)
    place.begin()
    assert TokenStore(tmp_path / "tokens.db").revocations() == []


# --- forged, foreign, confused ------------------------------------------------------------------------------


def test_forged_and_foreign_access_tokens_are_not_let_in(place: Place) -> None:
    """Whoever gets past here pays in a client's name."""
    good = place.begin().access_token
    claims = jwt.decode(good, options={"verify_signature": False})
    header = jwt.get_unverified_header(good)
    own = place.server.keys.signing(NOW)

    def made(key: Any = own.private, algorithm: str = "EdDSA", **changes: Any) -> str:
        said = {"typ": "at+jwt", "kid": header["kid"], **changes.pop("header", {})}
        return jwt.encode({**claims, **changes}, key, algorithm=algorithm, headers=said)

    assert place.client(made()).name == "till"
    public = public_key_text(own.private)
    forged = {
        "another key": made(Ed25519PrivateKey.generate()),
        "the client's key": made(KEYS["till"]),
        "not signed": made(None, "none"),
        "the public key as a secret": made(public * 2, "HS256"),
        "an unknown kid": made(header={"kid": "x"}),
        "a path for a kid": made(header={"kid": "../../secrets/tokens.json"}),
        "a list for a kid": good.replace(good.split(".")[0], _segment({**header, "kid": ["a"]})),
        "another issuer": made(iss="edgegw://demo-bank/branch-2"),
        "another audience": made(aud="branch-2"),
        "an own critical extension": made(header={"crit": ["x"], "x": 1}),
        "its own key in the header": made(
            Ed25519PrivateKey.generate(), header={"jwk": own.jwk(), "kid": "other"}
        ),
        "no type": made(header={"typ": "JWT"}),
        "a truth for a time": made(exp=True),
    }
    assert {name: place.code(token) for name, token in forged.items()} == dict.fromkeys(
        forged, "token_invalid"
    )
    assert place.code(made(client_id="ghost")) == "token_revoked"
    neighbour = Place(box="branch-2")
    assert place.code(neighbour.begin().access_token) == "token_invalid"
    twin = Place()  # The same name with other keys: a box that was replaced.
    assert place.code(twin.begin().access_token) == "token_invalid"


def _segment(header: Any) -> str:
    import base64

    return base64.urlsafe_b64encode(msgspec.json.encode(header)).rstrip(b"=").decode()


def test_an_access_token_is_no_assertion_and_an_assertion_is_good_once(place: Place) -> None:
    """Who has stolen ten minutes must not make days of them."""
    granted = place.begin()
    with pytest.raises(OAuthError) as caught:
        place.said(token=granted.access_token)
    assert caught.value.error == "invalid_client"
    once = place.said()
    place.server.begin(place.site, once, scope="")
    with pytest.raises(OAuthError, match="used before"):
        place.server.begin(place.site, once, scope="")
    for wrong in (
        {"aud": "branch-2"},
        {"jti": ""},
        {"exp": NOW + 86_400},
        {"exp": NOW - 61},
        {"sub": "other"},
        {"iss": "other"},
    ):
        claims = {"iss": "till", "sub": "till", "aud": BOX, "exp": NOW + 60, "jti": "1"} | wrong
        with pytest.raises(OAuthError) as caught:
            place.said(token=jwt.encode(claims, KEYS["till"], algorithm="EdDSA"))
        assert caught.value.error == "invalid_client"


# --- clocks and keys ----------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_revives_nothing(place: Place) -> None:
    """Who can set the clock must not be able to use what was found in the bin."""
    granted = place.begin()
    direct = mint_token(KEYS["till"], client="till", box=BOX, lifetime_seconds=300, now_s=NOW)
    place.pass_s(4000)
    place.begin()
    place.server.keep_time()
    place.wall_s -= 4000
    assert place.code(granted.access_token) == place.code(direct) == "token_expired"
    place.start()
    assert place.code(granted.access_token) == place.code(direct) == "token_expired"
    assert place.server.behind_s() == 4000


def test_a_clock_that_is_put_back_by_minutes_locks_nobody_out_for_long(place: Place) -> None:
    """A machine whose clock was fast until the line came back would else refuse short tokens for as long as
    it runs; what was said of the time is never taken back meanwhile."""
    place.begin()
    place.wall_s -= 240
    before_s = place.server.now_s()
    for _ in range(60):
        place.pass_s(60)
        now_s = place.server.now_s()
        assert now_s > before_s
        before_s = now_s
    assert place.server.behind_s() == 0
    place.pass_s(60)
    now_s = int(place.wall_s)
    token = mint_token(KEYS["till"], client="till", box=BOX, lifetime_seconds=30, now_s=now_s)
    assert place.client(token).name == "till"


def test_a_clock_that_jumps_ahead_and_back_locks_nobody_out(place: Place) -> None:
    """A wrong minute must not stop a branch for a year."""
    place.wall_s += 365 * 86_400
    ahead = place.begin()
    place.pass_s(BELIEVED_AFTER_S - 1)
    place.server.keep_time()
    place.wall_s -= 365 * 86_400
    place.start()
    assert place.client(place.begin().access_token).name == "till"
    assert place.code(ahead.access_token) == "token_expired"  # It was issued in a year.


def test_a_jump_that_lasts_is_believed(place: Place) -> None:
    """After a week without power the clock is right, and its past is over."""
    place.wall_s += 7 * 86_400
    for _ in range(3):
        place.server.now_s()
        place.pass_s(BELIEVED_AFTER_S)
    place.server.keep_time()
    place.wall_s -= 6 * 86_400
    place.start()
    assert place.server.behind_s() > 5 * 86_400 - JUMP_S


def test_a_person_takes_back_a_time_that_was_wrong(place: Place, tmp_path: Path) -> None:
    """Else a clock that was years ahead for an hour would need a new disk."""
    place.wall_s += 365 * 86_400
    place.begin()
    place.pass_s(BELIEVED_AFTER_S)
    wrong = place.begin()
    place.server.keep_time()
    place.wall_s -= 365 * 86_400
    assert place.server.behind_s() > 300 * 86_400
    elsewhere = TokenStore(tmp_path / "tokens.db")
    elsewhere.set_time(int(place.wall_s))
    elsewhere.close()
    place.server.keep_time()  # As the running box does each minute; it must not write the wrong time again.
    assert place.server.behind_s() == 0
    assert place.client(place.begin().access_token).name == "till"
    assert place.error(wrong.refresh_token) == "invalid_grant"
    place.pass_s(365 * 86_400)
    assert place.code(wrong.access_token) == "token_revoked"


def test_signing_keys_change_without_a_token_that_stops_working(place: Place, tmp_path: Path) -> None:
    """A key that is never changed is stolen for good; one that is changed at once stops every till."""
    first = place.server.keys.signing(NOW).kid
    place.pass_s(ROTATED_AFTER_S)
    before = place.begin()
    assert place.server.keys.signing(place.server.now_s()).kid == first
    assert len(place.server.keys.jwks()["keys"]) == 2
    place.pass_s(PUBLISHED_BEFORE_S - 300)
    old = place.begin()
    place.start()
    place.pass_s(300)
    new = place.begin()
    assert jwt.get_unverified_header(new.access_token)["kid"] != first
    assert place.client(old.access_token).name == place.client(new.access_token).name == "till"
    place.pass_s(OVERLAP_S)
    place.begin()
    assert [key["kid"] for key in place.server.keys.jwks()["keys"]] != [first]
    assert place.code(before.access_token) == "token_invalid"
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0
