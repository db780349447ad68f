"""Strict decoding: bytes to a typed body, or an Unanswered that names the field, the value and the mend.

msgspec checks types and limits in one pass; this module turns its words into ours and adds what it does not
look for: fields named twice, and card numbers where none belongs."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from edgegw.core.card_numbers import holds_card_number, is_padded_card_number
from edgegw.payments.http_api.bodies import BatchBody, CloseBatchBody, CloseBody, GroupBody
from edgegw.payments.problems import Unanswered, shown

S = TypeVar("S", bound=msgspec.Struct)

_AMOUNT: Final = (
    "Write the amount in minor units as a whole number from 1 to 9223372036854775807, no quotes, no point."
)
_ACCOUNT: Final = "Send an account id: 1 to 34 letters, digits or ._:- and a letter or digit first."
_ID: Final = "Send 32 lower-case hex digits that the client mints before its first send."
_TEXT: Final = "Send printable ASCII, at most 64 characters."
MENDS: Final[Mapping[str, str]] = {
    "amount_minor": _AMOUNT,
    "id": _ID,
    "original_id": _ID,
    "hold_id": _ID,
    "debit_account_id": _ACCOUNT,
    "credit_account_id": _ACCOUNT,
    "account_id": _ACCOUNT,
    "currency": "Send the currency's three ISO 4217 letters in capitals, as in CNY.",
    "timeout_s": "Send whole seconds, at most 31622400; 0 is never.",
    "stand_in": "Send true or false.",
    "linked": "Send true or false.",
    "members": "Send a list of 1 to 512 members.",
    "kind": "Send payment, hold, post, void, reversal or refund.",
    "payment_id": _ID,
    "totals": "Send one object for each currency, or leave it out.",
    "before": "Send what the page before gave as next_before.",
    "card": "Send the card's lookup, 64 lower-case hex digits, never its number; or leave it out.",
    "terminal": _TEXT,
    "merchant": "Send 1 to 64 letters, digits, blanks or ._:- and a letter or digit first.",
    "reference": _TEXT,
    "payments": "Send a list of 1 to 8190 payments.",
    "business_date": "Send a date that exists, as in 2026-02-28.",
    "window": "Send the open window's number; GET /v1/status names it.",
    "after": "Send what the page before gave as next_after.",
    "limit": "Send a whole number from 1 up to what the message names; 100 is always taken.",
    "up_to": "Send the record of a notice that GET /v1/notices listed, or its next_after.",
    "client": "Send a client's name, or iso8583: and a terminal's id; or leave it out.",
    "second_token": "Send the bearer token of another client with the scope operate.",
}
_FREE_TEXTS: Final = ("debit_account_id", "credit_account_id", "terminal", "merchant", "reference")
_IDS: Final = ("id", "original_id", "hold_id")
"""They are random hex and may hold any run of digits, but they are no card number that was filled up."""
_PLACE: Final = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>.*)`", re.DOTALL)


def decode_body(raw: bytes, decoder: msgspec.json.Decoder[S], *, known_account: Callable[[str], bool]) -> S:
    """A body from its bytes; raises Unanswered."""
    try:
        body = decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _named(str(error), lambda: _loosely(raw)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unanswered("malformed_json", f"the body is not JSON: {error}") from None
    items: Sequence[msgspec.Struct] = [body]
    prefix = ""
    if isinstance(body, BatchBody):
        items, prefix = body.payments, "payments[{}]."
    elif isinstance(body, GroupBody):
        items, prefix = body.members, "members[{}]."
    _check_repeated(raw, body, items)
    for index, item in enumerate(items):
        _check_card_numbers(item, prefix.format(index), known_account)
    if isinstance(body, CloseBody):
        _check_date(body.business_date)
    return body


def decode_text(values: Mapping[str, str], shape: type[S]) -> S:
    """Typed parameters from their texts (of a query or a path); raises Unanswered."""
    try:
        converted = msgspec.convert(values, shape, strict=False)
    except msgspec.ValidationError as error:
        raise _named(str(error), lambda: values) from None
    _check_ids(converted, "")
    return converted


def _named(message: str, sent: Callable[[], object]) -> Unanswered:
    """msgspec's words as a problem: field, value, mend."""
    place = _PLACE.match(message)
    what, path = (message, "") if place is None else (place["what"], place["path"] or "")
    unknown, missing = _UNKNOWN.match(what), _MISSING.match(what)
    if unknown is not None:
        field = _joined(path, unknown["name"])
        return Unanswered("unknown_field", f"{shown(field)} is not known here", field=shown(field))
    if missing is not None:
        field = _joined(path, missing["name"])
        hint = MENDS.get(missing["name"], "")
        return Unanswered("missing_field", f"{field} is missing", field=field, hint=hint)
    field = path.lstrip(".") or "body"
    last = field.rsplit(".", 1)[-1].split("[")[0]
    value = _at(sent(), path)
    if isinstance(value, float) and value.is_integer() and what.startswith("Expected `int`"):
        # To JSON Schema 2.0 is an integer, so the published schema lets it pass; the rule is ours.
        message = f"{field} is written as a float"
        return Unanswered("float_number", message, field=field, value=value, hint=MENDS.get(last, ""))
    return Unanswered("invalid_field", f"{field}: {what}", field=field, value=value, hint=MENDS.get(last, ""))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


def _loosely(raw: bytes) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _at(sent: object, path: str) -> object:
    """The value at a path like `.payments[3].amount_minor`."""
    for name, index in _STEP.findall(path):
        if name and isinstance(sent, Mapping):
            sent = sent.get(name, "")
        elif index and isinstance(sent, list) and int(index) < len(sent):
            sent = sent[int(index)]
        else:
            return ""
    if isinstance(sent, str | int | float) and not isinstance(sent, bool):
        return sent
    return msgspec.json.encode(sent).decode()


def _check_repeated(raw: bytes, body: msgspec.Struct, items: Sequence[msgspec.Struct]) -> None:
    """Refuse fields named twice: the last would win in silence. Only a surprise is parsed again.

    Without escapes each name and each text has two quotes, so as many as what was decided on needs say that
    nothing else stands there: no name twice, and none with its default."""
    holds_objects = isinstance(body, GroupBody | CloseBatchBody)
    if not holds_objects and b"\\" not in raw:
        texts = sum([_texts(item) for item in items])
        if body is not items[0]:
            texts += _texts(body)
        if raw.count(b'"') == 2 * texts:
            return
    try:
        json.loads(raw, object_pairs_hook=_pairs)
    except RecursionError:
        raise Unanswered("malformed_json", "the body is nested too deeply") from None


def _texts(item: msgspec.Struct) -> int:
    """How many texts it takes to say this: a name for each value that is no default, and values that are
    texts."""
    values = zip(msgspec.structs.astuple(item), _defaults(type(item)), strict=True)
    return sum([2 if type(value) is str else 1 for value, default in values if value != default])


@functools.cache
def _defaults(shape: type[msgspec.Struct]) -> tuple[object, ...]:
    return tuple(field.default for field in msgspec.structs.fields(shape))


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise Unanswered(
            "repeated_field",
            f"{shown(repeated)} is named twice",
            field=shown(repeated),
            value=found[repeated],
        )
    return found


def _check_card_numbers(item: msgspec.Struct, prefix: str, known_account: Callable[[str], bool]) -> None:
    for name in _those(_FREE_TEXTS, type(item)):
        value: str = getattr(item, name)
        if value and holds_card_number(value) and not (name.endswith("account_id") and known_account(value)):
            field = prefix + name
            raise Unanswered("card_number", f"{field} looks like a card number", field=field, value=value)
    _check_ids(item, prefix)


def _check_ids(item: msgspec.Struct, prefix: str) -> None:
    for name in _those(_IDS, type(item)):
        value: str = getattr(item, name)
        if value and is_padded_card_number(value):
            raise Unanswered(
                "card_number", f"{prefix}{name} is a card number; mint a random id", field=prefix + name
            )


@functools.cache
def _those(names: tuple[str, ...], shape: type[msgspec.Struct]) -> tuple[str, ...]:
    """The ones of these names that a shape has."""
    return tuple(name for name in names if name in shape.__struct_fields__)


def _check_date(text: str) -> None:
    try:
        datetime.date.fromisoformat(text)
    except ValueError as error:
        hint = MENDS["business_date"]
        message = f"business_date: {error}"
        raise Unanswered("invalid_field", message, field="business_date", value=text, hint=hint) from None
