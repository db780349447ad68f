"""Requests signed by hand: `edgegw sign`, and `edgegw session`, which spares it the SM2 key.

They make what a client sends; curl, or whatever speaks the branch's TLS, carries it.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from edgegw.commands.keys import KeyPath
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

FilePath = click.Path(dir_okay=False, exists=True, path_type=Path)
_WEBHOOK_PREFIX: Final = "whpk_"


class KeptSession(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A session's file: before it is open the client's half, then what it signs with."""

    private: str = ""
    """The X25519 key, base64; gone once the session is open."""
    client: str = ""
    box: str = ""
    keyid: str = ""
    key: str = ""
    """The HMAC-SM3 key, base64."""
    count: int = 0
    """Requests signed so far."""


class _Signer(NamedTuple):
    """How one request is signed."""

    box: str
    keyid: str
    nonce: str
    created_s: int | None
    sign: Callable[[bytes], bytes]


@click.command()
@click.option("--client", default="", help="The client's name in the site's settings.")
@click.option("--box", default="", help="The box that is spoken to.")
@click.option(
    "--key", type=KeyPath, default=None, help="The client's SM2 key (`edgegw keygen client --sm2`)."
)
@click.option(
    "--session", type=FilePath, default=None, help="An open session's file, instead of the three before."
)
@click.option("--body", type=FilePath, default=None, help="File of the body to send.")
@click.option("--challenge", default="", help="A refusal's challenge: sign with it instead of this clock.")
@click.argument("method")
@click.argument("url")
def sign(
    *,
    client: str,
    box: str,
    key: Path | None,
    session: Path | None,
    body: Path | None,
    challenge: str,
    method: str,
    url: str,
) -> None:
    """Sign one HTTP request and print its headers, one a line, as `curl -H @file` takes them.

    \b
    edgegw sign --client till --box branch-1 --key till-sm2.pem --body pay.json \\
        POST http://127.0.0.1:8443/v1/payments > headers
    curl -H @headers --data-binary @pay.json http://127.0.0.1:8443/v1/payments
    """
    from edgegw.access.signatures import draft

    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.netloc or "@" in address.netloc:
        raise SettingsError("URL", [f"{url}: it is no address; write http://host:port/path"])
    if session is not None:
        if client or box or key or challenge:
            raise click.UsageError("--session names client, box and key, and needs no challenge")
        signer = _in_session(session)
    elif client and box and key:
        signer = _by_key(key, client=client, box=box, challenge=challenge)
    else:
        raise click.UsageError("give --client, --box and --key, or --session")
    drafted = draft(
        method=method,
        scheme=address.scheme,
        host=address.netloc,
        path=address.path,
        query=address.query,
        body=None if body is None else body.read_bytes(),
        box=signer.box,
        keyid=signer.keyid,
        nonce=signer.nonce,
        created_s=signer.created_s,
    )
    for name, value in drafted.signed(signer.sign(drafted.base)).items():
        if name != "Host":  # that is the address's own
            click.echo(f"{name}: {value}")


def _by_key(path: Path, *, client: str, box: str, challenge: str) -> _Signer:
    from edgegw.access import key_files
    from edgegw.access.key_files import KeyFileError
    from edgegw.access.signers import keyid_of

    try:
        private = key_files.load_private_key(path)
    except KeyFileError as problem:
        raise SettingsError(str(path), [str(problem)]) from None
    nonce = challenge or secrets.token_urlsafe(18)
    return _Signer(box, keyid_of(client, private.public), nonce, int(time.time()), private.sign)


def _in_session(path: Path) -> _Signer:
    """The next request's number is on disk before it is used: none is ever used twice."""
    from edgegw.access.key_files import replace_key_file
    from edgegw.sm.sm3 import hmac_sm3

    kept = _read(path)
    if not kept.key:
        raise SettingsError(str(path), ["the session is not open; `edgegw session keep` takes the answer in"])
    kept.count += 1
    replace_key_file(path, msgspec.json.encode(kept))
    key = base64.b64decode(kept.key)
    return _Signer(kept.box, kept.keyid, str(kept.count), None, lambda base: hmac_sm3(key, base))


@click.group()
def session() -> None:
    """Open a session: one request by the SM2 key, then `edgegw sign --session`.

    \b
    edgegw session begin --out session.json > share.json
    edgegw sign --client till --box branch-1 --key till-sm2.pem --body share.json \\
        POST http://127.0.0.1:8443/v1/sessions > headers
    curl -H @headers --data-binary @share.json http://127.0.0.1:8443/v1/sessions > opened.json
    edgegw session keep --client till --box branch-1 session.json opened.json
    """


@session.command("begin")
@click.option("--out", required=True, type=KeyPath, help="File for the session's secret.")
def session_begin(out: Path) -> None:
    """Make the client's half of a session's key, and print the body that asks for the session.

    Example: edgegw session begin --out session.json > share.json
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from edgegw.access import key_files

    private = X25519PrivateKey.generate()
    kept = KeptSession(private=_text(private.private_bytes_raw()))
    out.parent.mkdir(parents=True, exist_ok=True)
    key_files.write_new_file(out, msgspec.json.encode(kept), mode=0o600)
    click.echo(msgspec.json.encode({"share": _text(private.public_key().public_bytes_raw())}).decode())


@session.command("keep")
@click.option("--client", required=True, help="The client's name in the site's settings.")
@click.option("--box", required=True, help="The box that is spoken to.")
@click.option(
    "--box-key", default="", help="The box's webhook_key (GET /v1/status): its half must be signed."
)
@click.argument("file", type=FilePath)
@click.argument("answer", type=FilePath)
def session_keep(*, client: str, box: str, box_key: str, file: Path, answer: Path) -> None:
    """Take the box's answer into the session's file; from then on `edgegw sign --session` signs with it.

    Example: edgegw session keep --client till --box branch-1 session.json opened.json
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from edgegw.access.key_files import replace_key_file
    from edgegw.access.sessions import session_key, transcript_of
    from edgegw.payments.http_api.bodies import SessionOpened

    kept = _read(file)
    if not kept.private:
        raise SettingsError(str(file), ["it is open already; begin another one"])
    try:
        opened = msgspec.json.decode(answer.read_bytes(), type=SessionOpened)
        theirs = base64.b64decode(opened.share, validate=True)
        private = X25519PrivateKey.from_private_bytes(base64.b64decode(kept.private))
        transcript = transcript_of(
            box=box,
            client=client,
            keyid=opened.keyid,
            client_share=private.public_key().public_bytes_raw(),
            box_share=theirs,
        )
        key = session_key(private, theirs, transcript)
    except (msgspec.DecodeError, ValueError) as problem:
        raise SettingsError(str(answer), [f"it is no answer of POST /v1/sessions: {problem}"]) from None
    if box_key and not _signed_by(box_key, opened.signature, transcript):
        raise SettingsError(
            str(answer), ["that box has not signed it for this client and share; whoever answered is another"]
        )
    replace_key_file(
        file, msgspec.json.encode(KeptSession(client=client, box=box, keyid=opened.keyid, key=_text(key)))
    )


def _signed_by(box_key: str, signature: str, transcript: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.b64decode(box_key.removeprefix(_WEBHOOK_PREFIX), validate=True)
        key = Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError) as problem:
        raise SettingsError("--box-key", [f"{box_key} is no webhook_key of a box: {problem}"]) from None
    try:
        key.verify(base64.b64decode(signature, validate=True), transcript)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _read(path: Path) -> KeptSession:
    try:
        return msgspec.json.decode(path.read_bytes(), type=KeptSession)
    except (OSError, msgspec.DecodeError) as problem:
        raise SettingsError(str(path), [f"it is no session of `edgegw session begin`: {problem}"]) from None


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
