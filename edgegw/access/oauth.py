"""A box's own authorization server (OAuth 2.1): access tokens for a few minutes, refresh tokens that rotate,
and what was revoked.

A client shows who it is by an assertion that it signs with its own key (RFC 7523, `private_key_jwt`), each
once. Access tokens are RFC 9068's, signed by a key of the box. A refresh token is good once; an old one that
comes again ends its whole family, at once and without grace: a client whose answer was lost asks with its key
and gets a new family, so nobody is locked out, and a thief never gets a second try. Nothing here needs the
line. Leaves out the wire (`payments.http_api.tokens`), the file (`access.token_store`), the keys
(`access.token_keys`) and the time (`access.token_time`).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
import msgspec
import structlog

from edgegw.access import token_store
from edgegw.access.keystore import OPEN_FILES, KeyFile, Keystore
from edgegw.access.token_keys import TokenKeys
from edgegw.access.token_store import (
    ALL,
    BLOCKED,
    CLIENT,
    MEMORY,
    TOKEN,
    Family,
    Revocation,
    StoreFails,
    TokenStore,
    TooMany,
    UsedBefore,
)
from edgegw.access.token_time import TokenTime
from edgegw.access.tokens import (
    ALGORITHM,
    LEEWAY_SECONDS,
    X5T_S256,
    Assertion,
    Client,
    TokenError,
    assertion_of,
    bound_to,
    header_of,
    is_access_token,
    key_name,
    out_of_time,
    verified_claims,
)
from edgegw.core.scopes import expanded, groups_of, scopes_of
from edgegw.core.site import Site, TokenRule

_log: Final = structlog.get_logger("edgegw.tokens")

ASSERTION_SECONDS_MAX: Final = 3600
"""An assertion is remembered until it expires, so it must expire soon."""
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
CLIENT_CREDENTIALS, REFRESH_TOKEN = "client_credentials", "refresh_token"
REFRESH_BYTES: Final = 32
REFRESH_CHARACTERS_MAX: Final = 128
OLD: Final = "an old refresh token came again"
LOOKS_EACH_S: Final = 0.2
"""How often the file is asked whether another process has revoked something."""
LOOKS_AGAIN_S: Final = 60
"""And after a look that failed."""
LONGEST_TOKEN_S: Final = 24 * 3600 + LEEWAY_SECONDS
"""When nothing is left that was issued before a revocation of all of a client's tokens."""

Ordered = Callable[[str, str], str | None]
"""Why the centre has blocked a `client` or a `token` of this id (`edgegw order block`); None where it has
not."""


class OAuthError(Exception):
    """A request that is refused, in the words of RFC 6749, 5.2."""

    def __init__(self, error: str, description: str, *, is_unknown: bool = False) -> None:
        super().__init__(description)
        self.error = error
        self.is_unknown = is_unknown
        """Whether nobody whom the settings know has signed it."""


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is given, as RFC 6749, 5.1 writes it."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str
    refresh_token: str


class TokenFiles(NamedTuple):
    """Where a box keeps its tokens' keys and memory."""

    keystore: Keystore = OPEN_FILES
    key_file: KeyFile | None = None
    store: Path = MEMORY


class _Revoked(NamedTuple):
    """What was revoked at this box, to be asked quickly."""

    era: str
    tokens: dict[str, str]
    until_s: dict[str, int]
    """By client; of everybody under ""."""
    blocked: dict[str, str]


class TokenServer:
    """Gives, checks and revokes the tokens of one box; what it keeps is on disk before it returns."""

    def __init__(
        self,
        files: TokenFiles,
        *,
        bank: str,
        box: str,
        issuer: str = "",
        epoch: Callable[[], int] = lambda: 0,
        ordered: Ordered = lambda _of, _whose: None,
        wall_s: Callable[[], float] = time.time,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """issuer is the URL by which clients reach the box, where it has one that lasts; epoch its ledger's
        now. Raises KeyFileError, PlaceAway and StoreFails."""
        self.issuer: Final = issuer.rstrip("/") or f"edgegw://{bank}/{box}"
        own = {box, self.issuer}
        self._audiences: Final = own | ({f"{self.issuer}/v1/oauth/token"} if issuer else set())
        self._epoch = epoch
        self._ordered = ordered
        self._mono_s = mono_s
        self._store = TokenStore(files.store)
        self._wall_s = wall_s
        self._time = self._kept_time()
        self.keys = TokenKeys(files.keystore, files.key_file)
        self.keys.signing(self.now_s())
        self._look_next_s = mono_s() + LOOKS_EACH_S
        self._changed = False
        self._taking = threading.Lock()
        self._revoked = self._read()

    def close(self) -> None:
        """Keep the time, and close the file."""
        self.keep_time()
        self._store.close()

    def now_s(self) -> int:
        """The time by which tokens are judged."""
        return self._time.now_s()

    def behind_s(self) -> int:
        """How far the machine's clock is behind that time."""
        return self._time.behind_s()

    def keep_time(self) -> None:
        """Keep the time over a restart."""
        self._look()
        self._store.keep_time(self._time.believed_s())

    # --- who speaks -----------------------------------------------------------------------------------------

    def has_changed(self) -> bool:
        """Whether something was revoked since this was last asked. A file that cannot be read is told in the
        log, and what was known before goes on to hold."""
        mono_s = self._mono_s()
        if mono_s >= self._look_next_s:
            self._look_next_s = mono_s + LOOKS_EACH_S
            try:
                self._look()
            except StoreFails as problem:
                self._look_next_s = mono_s + LOOKS_AGAIN_S
                _log.warning("tokens_not_read", problem=str(problem), hint=problem.hint)
        changed, self._changed = self._changed, False
        return changed

    def access_of(self, token: str, site: Site) -> Client:
        """The client of one of the box's access tokens; raises TokenError."""
        claims = self._own_claims(token)
        now_s = self.now_s()
        if claims["exp"] <= now_s:
            raise out_of_time("exp", claims["exp"], now_s)
        if claims["iat"] > now_s + LEEWAY_SECONDS:
            raise out_of_time("iat", claims["iat"], now_s)
        name, token_id, family = claims["client_id"], claims["jti"], claims["family"]
        rule = next((rule for rule in site.clients if rule.name == name), None)
        if rule is None or key_name(rule.public_key) != claims["client_key"]:
            raise TokenError("token_revoked", f"the key of {name} that it was given for is not in force")
        if claims["era"] != self._revoked.era:
            raise TokenError("token_revoked", "all tokens of this box were revoked after it was given")
        self.check(client=name, ids=(token_id, family), issued_at_s=claims["iat"])
        scopes = scopes_of(rule, site) & set(str(claims["scope"]).split())
        return Client(
            name,
            frozenset(scopes),
            claims["exp"],
            certificate=bound_to(claims),
            token_id=token_id,
            family=family,
        )

    def _own_claims(self, token: str) -> dict[str, Any]:
        key = self.keys.public_of(header_of(token).get("kid"))
        if key is None:
            raise TokenError("token_invalid", "the access token is not one of this box's")
        own = ("iat", "jti", "client_id", "scope", "family", "client_key", "era")
        return verified_claims(token, key, issuer=self.issuer, audiences=(self.issuer,), also=own)

    def check(self, *, client: str, ids: Collection[str], issued_at_s: int) -> None:
        """Raise TokenError where a client's token was revoked here, by its own id or its family's, or because
        of when it was issued."""
        revoked = self._revoked
        for one in ids:
            for known in (one, _signed_id(client, one)):
                if known in revoked.tokens:
                    raise TokenError("token_revoked", f"it was revoked: {revoked.tokens[known]}")
        until_s = max(revoked.until_s.get(client, 0), revoked.until_s.get("", 0))
        if issued_at_s <= until_s:
            raise TokenError("token_revoked", f"what {client} had until {until_s} was revoked")
        self.check_orders(ids)

    def check_orders(self, ids: Collection[str]) -> None:
        """Raise TokenError where the centre has revoked one of these ids."""
        for one in ids:
            why = self._ordered(TOKEN, one) if one else None
            if why is not None:
                raise TokenError("token_revoked", f"the centre has revoked it: {why}")

    def why_blocked(self, client: str) -> str | None:
        """Why a client may not speak at all, by whatever it shows; None where it may."""
        why = self._revoked.blocked.get(client)
        return why if why is not None else self._ordered(CLIENT, client)

    # --- what is given --------------------------------------------------------------------------------------

    def authenticated(
        self, site: Site, *, assertion_type: str, assertion: str, client_id: str = ""
    ) -> Assertion:
        """The client's assertion, checked but for its use; raises OAuthError."""
        if assertion_type != ASSERTION_TYPE or not assertion:
            raise OAuthError(
                "invalid_client", f"client_assertion_type is not {ASSERTION_TYPE} with a client_assertion"
            )
        try:
            said = assertion_of(
                assertion,
                site,
                audiences=self._audiences,
                now_s=self.now_s(),
                lifetime_seconds_max=ASSERTION_SECONDS_MAX,
            )
            name = said.rule.name
            self.check(client=name, ids=(said.token_id,), issued_at_s=said.issued_at_s)
        except TokenError as error:
            is_unknown = error.code == "token_invalid"
            raise OAuthError("invalid_client", f"client_assertion: {error}", is_unknown=is_unknown) from None
        if not said.token_id:
            raise OAuthError("invalid_client", "client_assertion has no jti; give each its own")
        if client_id and client_id != name:
            raise OAuthError("invalid_client", "client_id is not who has signed client_assertion")
        why = self.why_blocked(name)
        if why is not None:
            raise OAuthError("invalid_client", f"{name} is blocked: {why}")
        return said

    def begin(self, site: Site, said: Assertion, *, scope: str) -> Granted:
        """Tokens for a client that has shown its key; raises OAuthError, StoreFails, KeyFileError and
        PlaceAway."""
        now_s, rule = self.now_s(), _rule_of(site)
        allowed = scopes_of(said.rule, site)
        scopes = _asked(scope, site, allowed)
        family = Family(
            id=token_store.new_id(),
            client=said.rule.name,
            client_key=key_name(said.rule.public_key),
            epoch=self._epoch(),
            scopes=tuple(sorted(scopes)),
            made_s=now_s,
            expires_s=now_s + rule.refresh_hours * 3600,
            certificate=said.certificate,
        )
        refresh, digest = _fresh()
        access = self._access(family, scopes, now_s, rule)
        with _words_of_the_store():
            self._store.begin(family, digest, _use(said), now_s=self._time.believed_s())
        return _granted(access, scopes, refresh, rule)

    def refresh(self, site: Site, said: Assertion, *, token: str, scope: str) -> Granted:
        """The next tokens of a family; raises OAuthError, StoreFails, KeyFileError and PlaceAway. An old one
        ends the family."""
        now_s, rule = self.now_s(), _rule_of(site)
        found = self._store.family_of(_digest(token)) if len(token) <= REFRESH_CHARACTERS_MAX else None
        if found is None:
            self._use_up(said)
            raise OAuthError("invalid_grant", "refresh_token is not one of this box's, or has expired")
        family, generation = found
        if family.ended or family.expires_s <= now_s or family.made_s > now_s + LEEWAY_SECONDS:
            self._use_up(said)
            raise OAuthError("invalid_grant", f"refresh_token is over: {family.ended or 'it has expired'}")
        foul = self._foul(family, generation, said)
        if foul:
            # Used up first: who sends again what was sent before must not end a family by it.
            self._use_up(said)
            raise self._ended(family, foul, now_s)
        scopes = _asked(scope, site, frozenset(family.scopes) & scopes_of(said.rule, site))
        fresh, digest = _fresh()
        access = self._access(family, scopes, now_s, rule)
        with _words_of_the_store():
            is_newest = self._store.rotate(family, digest, _use(said), now_s=self._time.believed_s())
        if not is_newest:
            raise self._ended(family, OLD, now_s)
        return _granted(access, scopes, fresh, rule)

    def _foul(self, family: Family, generation: int, said: Assertion) -> str:
        """Why a family must end because its token was shown, "" for a sound use."""
        if family.client != said.rule.name:
            return "another client has shown its refresh token"
        if generation != family.generation:
            return OLD
        if family.client_key != key_name(said.rule.public_key):
            return "the client's key is another one"
        return "" if family.epoch == self._epoch() else "the box has begun another epoch"

    def _use_up(self, said: Assertion) -> None:
        with _words_of_the_store():
            self._store.use(_use(said), now_s=self._time.believed_s())

    def _ended(self, family: Family, reason: str, now_s: int) -> OAuthError:
        expires_s = now_s + LONGEST_TOKEN_S
        self._store.end_family(family.id, reason=reason, now_s=self._time.believed_s(), expires_s=expires_s)
        self._take_over()
        _log.warning("token_family_ended", client=family.client, family=family.id, reason=reason)
        return OAuthError("invalid_grant", f"{reason}: all tokens of its family are revoked")

    def _access(self, family: Family, scopes: frozenset[str], now_s: int, rule: TokenRule) -> str:
        claims: dict[str, object] = {
            "iss": self.issuer,
            "aud": self.issuer,
            "sub": family.client,
            "client_id": family.client,
            "scope": " ".join(sorted(scopes)),
            "jti": token_store.new_id(),
            "iat": now_s,
            "exp": now_s + rule.access_minutes * 60,
            "family": family.id,
            "client_key": family.client_key,
            "era": self._revoked.era,
        }
        if family.certificate:
            claims["cnf"] = {X5T_S256: family.certificate}
        key = self.keys.signing(now_s)
        return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"typ": "at+jwt", "kid": key.kid})

    # --- what is revoked ------------------------------------------------------------------------------------

    def revoke(self, site: Site, said: Assertion, *, token: str) -> None:
        """Revoke a client's own token (RFC 7009): a refresh token with its whole family, another alone. One
        that is not known is no error. Raises OAuthError and StoreFails."""
        now_s = self.now_s()
        self._use_up(said)
        found = self._store.family_of(_digest(token)) if len(token) <= REFRESH_CHARACTERS_MAX else None
        if found is not None:
            self._check_own(found[0].client, said)
            self._ended(found[0], "its client has revoked it", now_s)
            return
        try:
            if is_access_token(token):
                claims = self._own_claims(token)
                client, token_id, expires_s = claims["client_id"], claims["jti"], claims["exp"]
            else:
                own = assertion_of(
                    token,
                    site,
                    audiences=self._audiences,
                    now_s=now_s,
                    lifetime_seconds_max=LONGEST_TOKEN_S,
                )
                client, expires_s = own.rule.name, own.expires_at_s
                token_id = _signed_id(client, own.token_id) if own.token_id else ""
        except TokenError:
            return
        self._check_own(client, said)
        if token_id:
            # It is checked with the leeway, so it is remembered with it.
            until_s = max(expires_s, now_s) + LEEWAY_SECONDS + 1
            entry = Revocation(TOKEN, token_id, 0, until_s, "its client has revoked it")
            self._store.revoke(entry, now_s=self._time.believed_s())
            self._take_over()

    def _check_own(self, client: str, said: Assertion) -> None:
        if client != said.rule.name:
            raise OAuthError("invalid_grant", "token was given to another client")

    def _look(self) -> None:
        """Take over what another process has changed."""
        if self._store.changed_elsewhere():
            self._take_over()

    def _take_over(self) -> None:
        with self._taking:  # Of two threads that read at once, the later must not put the earlier back.
            before, self._revoked = self._revoked, self._read()
            if self._revoked.era != before.era:
                self._time = self._kept_time()  # Somebody may have taken back a time that was wrong.
            self._changed = True

    def _kept_time(self) -> TokenTime:
        return TokenTime(latest_s=self._store.latest_s(), wall_s=self._wall_s, mono_s=self._mono_s)

    def _read(self) -> _Revoked:
        entries = self._store.revocations()
        return _Revoked(
            era=self._store.era(),
            tokens={one.whose: one.reason for one in entries if one.of == TOKEN},
            until_s={one.whose: one.until_s for one in entries if one.of in (CLIENT, ALL)},
            blocked={one.whose: one.reason for one in entries if one.of == BLOCKED},
        )


@contextmanager
def _words_of_the_store() -> Iterator[None]:
    """What the store says of an assertion, as the protocol says it."""
    try:
        yield
    except UsedBefore:
        raise OAuthError(
            "invalid_client", "client_assertion was used before; sign one for each request"
        ) from None
    except TooMany:
        raise OAuthError("invalid_client", "too many assertions of this client; let some expire") from None


def _signed_id(client: str, token_id: str) -> str:
    """How what a client has signed itself is revoked by it: it chose the id, maybe as another's is."""
    return f"{client}:{token_id}"


def _rule_of(site: Site) -> TokenRule:
    return TokenRule() if site.tokens is msgspec.UNSET else site.tokens


def _asked(scope: str, site: Site, allowed: frozenset[str]) -> frozenset[str]:
    """The scopes that are asked for, of those allowed; all of them where none is named."""
    if not scope:
        return allowed
    groups = groups_of(site)
    for name in scope.split(" "):
        behind = expanded((name,), groups)
        if not behind or behind - allowed:
            what = f", which needs {' '.join(sorted(behind - allowed))}" if name in groups else ""
            shown = name[:64] if name.isprintable() and name.isascii() else "?"
            raise OAuthError("invalid_scope", f"the client may not have {shown}{what}")
    return expanded(scope.split(" "), groups)


def _fresh() -> tuple[str, bytes]:
    token = base64.urlsafe_b64encode(secrets.token_bytes(REFRESH_BYTES)).rstrip(b"=").decode()
    return token, _digest(token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _use(said: Assertion) -> token_store.Assertion:
    # Hashed: the client chooses it, and what it chooses may be anything, also what must not lie on a disk. It
    # is checked with the leeway, so it is remembered with it.
    jti = hashlib.sha256(said.token_id.encode()).hexdigest()
    return token_store.Assertion(said.rule.name, jti, said.expires_at_s + LEEWAY_SECONDS + 1)


def _granted(access: str, scopes: frozenset[str], refresh: str, rule: TokenRule) -> Granted:
    return Granted(
        access_token=access,
        token_type="Bearer",  # noqa: S106 - the scheme
        expires_in=rule.access_minutes * 60,
        scope=" ".join(sorted(scopes)),
        refresh_token=refresh,
    )
