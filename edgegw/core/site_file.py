"""A site bundle as something that proves itself: the hub's signature over its digest, the file that carries
both, and the bundle of an older version's content under a new number.

The signature is a C2SP-style note of its own, so that a bundle from a box's disk or a stick needs no log
to be believed. Leaves out what a bundle says (`core.site`) and which box is to have it (`hub.site`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from edgegw.core import journal
from edgegw.core.messages import SigningKey, VerifyingKey
from edgegw.core.records import UNREADABLE
from edgegw.core.site import decode_site

_LABEL: Final = "edgegw/site/v1\n"
_END: Final = "\n\n"
"""Of a note's text; its one signature line follows, then the bundle."""


class SiteNote(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's word that this is its bundle of this version."""

    bank: str
    version: int
    digest: str
    """SM3 of the bundle's bytes, hex."""


class NotOurs(ValueError):
    """A bundle that the hub has not signed; the text says what is wrong."""


_note_decoder: msgspec.json.Decoder[SiteNote] = msgspec.json.Decoder(SiteNote)


def sign_site(bundle: bytes, key: SigningKey, *, bank: str, version: int) -> str:
    """The hub's note over a bundle: the line `edgegw/site/v1`, one line of JSON, a blank line, the
    signature line."""
    said = SiteNote(bank=bank, version=version, digest=journal.sm3(bundle).hex())
    body = _LABEL.encode() + msgspec.json.encode(said) + b"\n"
    return journal.sign_note(body, name=key.name, key_id=key.key_id, sign=key.sign)


def check_site(note: str, bundle: bytes, key: VerifyingKey) -> SiteNote:
    """What the hub's key says of exactly these bytes; raises NotOurs."""
    try:
        body = journal.open_text(note, name=key.name, key_id=key.key_id, verify=key.verify)
        if not body.startswith(_LABEL):
            raise NotOurs("the note is of something else than a site's settings")
        said = _note_decoder.decode(body[len(_LABEL) :])
    except (journal.NoteError, *UNREADABLE) as problem:
        raise NotOurs(f"the hub has not signed it: {problem}") from None
    found = journal.sm3(bundle).hex()
    if said.digest != found:
        raise NotOurs(f"the hub has signed {said.digest}, these bytes are {found}")
    return said


def join_file(note: str, bundle: bytes) -> bytes:
    """A file that proves itself: the note, then the bundle."""
    return note.encode() + bundle


def split_file(data: bytes) -> tuple[str, bytes]:
    """Note and bundle of such a file, neither of them checked; raises NotOurs."""
    text_ends = data.find(_END.encode())
    start = data.find(b"\n", text_ends + len(_END)) + 1
    if not data.startswith(_LABEL.encode()) or text_ends < 0 or not start:
        raise NotOurs("it is no signed bundle; `edgegw site export` writes one")
    try:
        return data[:start].decode(), data[start:]
    except UnicodeDecodeError:
        raise NotOurs("its note is no text") from None


def restored(bundle: bytes, *, version: int) -> bytes:
    """The bundle of an older version's content under another number: the same bytes wherever it is made, so
    that a box which has the old one need not fetch it. Raises msgspec.DecodeError for bytes that are none."""
    return msgspec.json.encode(msgspec.structs.replace(decode_site(bundle), version=version))
