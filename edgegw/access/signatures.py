"""HTTP message signatures (RFC 9421) as they are spoken here: the two headers, the signature base, the digest
of the body (RFC 9530). Pure: no keys, no clock, no sockets.

A request carries one signature. It covers `@method`, `@authority`, `@path` and `@query`, with a body also
`content-digest` and `content-type`, and any other header that its sender adds; its tag names the box, so that
what is signed for one box is nothing at another. Only the canonical writing is taken, so the parameters are
signed as they came.

Two algorithms of our own names: `sm2-sm3`, the signature r || s of `sm.sm2` under the user id
1234567812345678; `hmac-sm3`, under the key of a session (`access.sessions`)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from multidict import CIMultiDict, MultiMapping

SIGNATURE: Final = "Signature"
SIGNATURE_INPUT: Final = "Signature-Input"
CONTENT_DIGEST: Final = "Content-Digest"
SM2_SM3: Final = "sm2-sm3"
HMAC_SM3: Final = "hmac-sm3"
SESSION_PREFIX: Final = "session:"
"""How the keyid of a session begins; no client's name has a colon."""

DEMANDED: Final = ("@method", "@authority", "@path", "@query")
DEMANDED_WITH_BODY: Final = ("content-digest", "content-type")
HEADER_CHARACTERS_MAX: Final = 2048
"""Of Signature-Input and of Signature, each."""
COMPONENTS_MAX: Final = 24

_INPUT: Final = re.compile(
    r'(?P<label>[a-z*][a-z0-9_.*-]{0,31})=(?P<params>\((?P<components>"[^"()]*"(?: "[^"()]*")*)\)'
    r'(?P<rest>(?:;[a-z]+=(?:"[ !#-\[\]-~]*"|[0-9]{1,15}))*))'
)
_PARAMETER: Final = re.compile(r';([a-z]+)=(?:"([^"]*)"|([0-9]+))')
_VALUE: Final = re.compile(r"(?P<label>[a-z*][a-z0-9_.*-]{0,31})=:(?P<bytes>[A-Za-z0-9+/]{1,128}={0,2}):")
_DIGESTS: Final = re.compile(r"([a-z0-9-]{1,16})=:([A-Za-z0-9+/]{1,128}={0,2}):")
_FIELD: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_NONCE: Final = re.compile(r"[A-Za-z0-9_.:~+/=-]{1,96}")
_TEXTS: Final = frozenset({"keyid", "nonce", "tag", "alg"})
_NUMBERS: Final = frozenset({"created", "expires"})
_PORTS: Final = {"https": ":443", "http": ":80"}


class SignatureProblem(Exception):
    """What a request shows is no signature as it is spoken here; the text names the header and the mend."""

    def __init__(self, message: str, *, field: str = SIGNATURE_INPUT) -> None:
        super().__init__(message)
        self.field = field


class Signed(NamedTuple):
    """What a request's signature says of itself; nothing of it is proven yet."""

    components: tuple[str, ...]
    parameters: str
    """The value of `@signature-params`, as it came."""
    keyid: str
    alg: str
    """"" where it names none."""
    tag: str
    nonce: str
    created_s: int
    """-1 where it names none."""
    expires_s: int
    """-1 where it names none."""
    signature: bytes


def parse(headers: MultiMapping[str], *, has_body: bool) -> Signed | None:
    """What the signature of a request says, None where it has none; raises SignatureProblem.

    has_body: the request is of a kind that has one, so the signature must cover it.
    """
    given, values = headers.getall(SIGNATURE_INPUT, ()), headers.getall(SIGNATURE, ())
    if not given and not values:
        return None
    found = _INPUT.fullmatch(_one(SIGNATURE_INPUT, given))
    value = _VALUE.fullmatch(_one(SIGNATURE, values))
    if found is None:
        raise SignatureProblem(
            'it is not one signature\'s `label=("component" ...);parameter=value...` in its canonical form'
        )
    if value is None or value["label"] != found["label"]:
        raise SignatureProblem(f"it is not `{found['label']}=:base64:`", field=SIGNATURE)
    components = tuple(found["components"][1:-1].split('" "'))
    _check_components(components, has_body=has_body)
    said = _parameters(found["rest"])
    return Signed(
        components=components,
        parameters=found["params"],
        keyid=said.get("keyid", ""),
        alg=said.get("alg", ""),
        tag=said.get("tag", ""),
        nonce=said.get("nonce", ""),
        created_s=int(said.get("created", -1)),
        expires_s=int(said.get("expires", -1)),
        signature=_bytes(value["bytes"], SIGNATURE),
    )


def _one(name: str, values: Sequence[str]) -> str:
    if len(values) != 1:
        raise SignatureProblem(f"it is there {len(values)} times; send one signature", field=name)
    value = values[0].strip(" \t")
    if len(value) > HEADER_CHARACTERS_MAX:
        raise SignatureProblem(f"it has more than {HEADER_CHARACTERS_MAX} characters", field=name)
    return value


def _check_components(components: tuple[str, ...], *, has_body: bool) -> None:
    if len(components) > COMPONENTS_MAX or len(set(components)) != len(components):
        raise SignatureProblem(f"it covers a component twice, or more than {COMPONENTS_MAX}")
    for name in (*DEMANDED, *(DEMANDED_WITH_BODY if has_body else ())):
        if name not in components:
            raise SignatureProblem(f'it does not cover "{name}"; sign that too')
    for name in components:
        if name not in DEMANDED and not _FIELD.fullmatch(name):
            raise SignatureProblem(
                f"it covers {name[:64]!r}; use {', '.join(DEMANDED)} and names of headers in small letters"
            )


def _parameters(rest: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for name, text, number in _PARAMETER.findall(rest):
        if name in said or name not in (_NUMBERS if number else _TEXTS):
            raise SignatureProblem(f"its parameter {name} is not known, is there twice, or has another type")
        said[name] = number or text
    for name in ("keyid", "nonce", "tag"):
        if not said.get(name):
            raise SignatureProblem(f"its parameter {name} is missing")
    if not _NONCE.fullmatch(said["nonce"]):
        raise SignatureProblem("its nonce is not 1 to 96 letters, digits or _.:~+/=-")
    return said


def _bytes(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise SignatureProblem(f"it is no base64: {problem}", field=field) from None


def signature_base(
    components: Sequence[str],
    parameters: str,
    *,
    method: str,
    authority: str,
    path: str,
    query: str,
    headers: MultiMapping[str],
) -> bytes:
    """The bytes that are signed (RFC 9421, 2.5); raises SignatureProblem for a covered header that is not
    there. authority as `authority_of` gives it; path and query as on the wire, query without `?`."""
    derived = {"@method": method, "@authority": authority, "@path": path or "/", "@query": f"?{query}"}
    lines: list[str] = []
    for name in components:
        value = derived.get(name)
        if value is None:
            values = headers.getall(name, ())
            if not values:
                raise SignatureProblem(f'it covers "{name}", and the request has no such header')
            value = ", ".join([one.strip(" \t") for one in values])
        lines.append(f'"{name}": {value}')
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def authority_of(headers: MultiMapping[str], *, scheme: str) -> str:
    """`@authority` of a request: the Host header in small letters, without the scheme's own port; raises
    SignatureProblem."""
    hosts = headers.getall("Host", ())
    if len(hosts) != 1:
        raise SignatureProblem(f"it is there {len(hosts)} times; send it once", field="Host")
    return hosts[0].strip(" \t").lower().removesuffix(_PORTS.get(scheme, ""))


_HASHES: Final = {"sm3": "sm3", "sha-256": "sha256"}


def content_digest(body: bytes, algorithm: str = "sm3") -> str:
    """The Content-Digest header of a body: `sm3` (a name of our own) or `sha-256`."""
    value = base64.b64encode(hashlib.new(_HASHES[algorithm], body).digest()).decode()
    return f"{algorithm}=:{value}:"


def digest_fits(headers: MultiMapping[str], body: bytes) -> bool:
    """Whether Content-Digest names the body by sm3 or sha-256, and each of the two that it names is right;
    raises SignatureProblem for another form."""
    known = False
    for text in _one(CONTENT_DIGEST, headers.getall(CONTENT_DIGEST, ())).split(","):
        found = _DIGESTS.fullmatch(text.strip(" \t"))
        if found is None:
            raise SignatureProblem("it is not `sm3=:base64:` or `sha-256=:base64:`", field=CONTENT_DIGEST)
        if found[1] in _HASHES:
            right = hashlib.new(_HASHES[found[1]], body).digest()
            if not hmac.compare_digest(right, _bytes(found[2], CONTENT_DIGEST)):
                return False
            known = True
    return known


def signature_tag(box: str) -> str:
    """The tag of every signature for this box."""
    return f"edgegw:{box}"


class Draft(NamedTuple):
    """A request that is to be signed: what its headers must say, and the bytes to sign."""

    headers: Mapping[str, str]
    """All that the request needs but Signature, with Host."""
    base: bytes

    def signed(self, signature: bytes) -> dict[str, str]:
        """The headers with the signature in them."""
        return {**self.headers, SIGNATURE: f"{_LABEL}=:{base64.b64encode(signature).decode()}:"}


_LABEL: Final = "edgegw"


def draft(
    *,
    method: str,
    host: str,
    path: str,
    query: str = "",
    body: bytes | None,
    box: str,
    keyid: str,
    nonce: str,
    created_s: int | None,
    scheme: str = "http",
) -> Draft:
    """What a client signs: host as it stands in the address, path and query as they go on the wire."""
    headers = CIMultiDict({"Host": host})
    components: tuple[str, ...] = DEMANDED
    if body is not None:
        headers.update({"Content-Type": "application/json", CONTENT_DIGEST: content_digest(body)})
        components += DEMANDED_WITH_BODY
    created = "" if created_s is None else f";created={created_s}"
    names = " ".join(f'"{name}"' for name in components)
    parameters = f'({names}){created};keyid="{keyid}";nonce="{nonce}";tag="{signature_tag(box)}"'
    base = signature_base(
        components,
        parameters,
        method=method,
        authority=authority_of(headers, scheme=scheme),
        path=path,
        query=query,
        headers=headers,
    )
    return Draft({**headers, SIGNATURE_INPUT: f"{_LABEL}={parameters}"}, base)
