"""The day's wrong messages, over both ways in: what arrives when programs, lines and people fail.

Each names what must come back. None may use up an id, change the books or end the process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from edgegw.demo.plan import TILLS, Step, Wrong

JSON: Final = {"Content-Type": "application/json"}
TOO_LARGE: Final = 2**63
FRAME_BYTES_MAX: Final = 4096
"""The box's default; one more closes the connection."""


def mistakes(
    number: Callable[[], int], id_of: Callable[[int], str], *, http: Step, card: Step, pan: str
) -> tuple[Wrong, ...]:
    """All of them; http and card are payments that were answered before, pan is a card number of the site."""
    return (*_over_http(number, id_of, http, pan), *_over_iso8583(number, card))


def _over_http(
    number: Callable[[], int], id_of: Callable[[int], str], first: Step, pan: str
) -> Iterator[Wrong]:
    def wrong(what: str, *expect: str, field: str = "", raw: bytes = b"", **changes: Any) -> Wrong:
        mine = number()
        document = {
            "id": id_of(mine),
            "debit_account_id": first.debit,
            "credit_account_id": first.credit,
            "amount_minor": 100,
            "currency": first.currency,
        }
        id = document["id"]
        document |= changes
        document = {name: value for name, value in document.items() if value is not None}
        return Wrong(
            number=mine,
            what=what,
            way="http",
            client=TILLS,
            expect=expect,
            field=field,
            headers=JSON,
            body=raw or json.dumps(document).encode(),
            id=str(id),
        )

    yield wrong("a float for money", "invalid_field", field="amount_minor", amount_minor=10.5)
    yield wrong("money in quotes", "invalid_field", field="amount_minor", amount_minor="100")
    yield wrong("an amount of 0", "invalid_field", field="amount_minor", amount_minor=0)
    yield wrong("a negative amount", "invalid_field", field="amount_minor", amount_minor=-1)
    yield wrong("an amount beyond 63 bits", "invalid_field", field="amount_minor", amount_minor=TOO_LARGE)
    yield wrong("a currency in small letters", "invalid_field", field="currency", currency="cny")
    yield wrong("a number for an account", "invalid_field", field="debit_account_id", debit_account_id=7)
    yield wrong("an id that is no id", "invalid_field", field="id", id="payment-1")
    yield wrong("a field that nobody knows", "unknown_field", field="amount", amount=100)
    yield wrong("no currency", "missing_field", field="currency", currency=None)
    yield wrong("a card number in a text", "card_number", field="reference", reference=pan)
    yield wrong("half a document", "malformed_json", raw=b'{"id": "0')
    yield wrong("a field twice", "repeated_field", field="currency", raw=_repeated(first))
    yield wrong("no JSON at all", "malformed_json", raw=b"\x00\xff pay me")
    yield wrong("too many bytes", "body_too_large", raw=b" " * (2 << 20))
    slow = wrong("a sender that stops in the middle", "request_timeout")
    yield msgspec.structs.replace(slow, sent_bytes_max=20)
    text = wrong("another content type", "unsupported_media_type", field="Content-Type")
    yield msgspec.structs.replace(text, headers={"Content-Type": "text/plain"})
    nobody = wrong("no token", "token_missing")
    yield msgspec.structs.replace(nobody, client="")
    forged = wrong("a forged token", "token_invalid")
    yield msgspec.structs.replace(forged, client="", headers=JSON | {"Authorization": "Bearer a.b.c"})
    lost = wrong("an address that is not there", "not_found")
    yield msgspec.structs.replace(lost, path="/v1/payment")
    yield msgspec.structs.replace(wrong("another method", "method_not_allowed"), method="DELETE")
    scope = wrong("a client without the scope", "scope_missing")
    yield msgspec.structs.replace(scope, path="/v1/windows/close")
    reused = wrong("an id used with other content", "id_reused", field="amount_minor", id=first.id)
    yield msgspec.structs.replace(reused, id="")


def _repeated(first: Step) -> bytes:
    document = {
        "id": "0" * 32,
        "debit_account_id": first.debit,
        "credit_account_id": first.credit,
        "amount_minor": 100,
        "currency": first.currency,
    }
    return json.dumps(document)[:-1].encode() + b', "currency": "USD"}'


def _over_iso8583(number: Callable[[], int], card: Step) -> Iterator[Wrong]:
    def wrong(what: str, *expect: str, changes: dict[int, str] | None = None, frame: bytes = b"") -> Wrong:
        mine = number()
        id = f"{mine:012d}"
        step = msgspec.structs.replace(card, number=mine, id=id, stan=f"{900_000 + mine % 100_000:06d}")
        return Wrong(
            number=mine,
            what=what,
            way="iso8583",
            client=card.client,
            expect=expect,
            step=None if frame else step,
            changes=changes or {},
            frame=frame,
            id=id,
        )

    yield wrong("letters in the amount", "30", changes={4: "00000000012A"})
    yield wrong("an amount of 0", "13", changes={4: "0" * 12})
    yield wrong("a day that does not exist", "30", changes={13: "0230"})
    yield wrong("a time that does not exist", "30", changes={12: "256199"})
    yield wrong("another currency", "12", changes={49: "840"})
    yield wrong("an unknown card", "14", changes={2: "6222029999999994"})
    yield wrong("an unknown terminal", "58", changes={41: "T9999999"})
    yield wrong("another merchant", "03", changes={42: "M99999999999999"})
    yield wrong("a processing code that is not served", "12", changes={3: "990000"})
    yield wrong("no amount", "30", changes={4: ""})
    yield wrong("garbage", "dropped", frame=b"\x00\x10" + bytes(range(240, 256)))
    yield wrong("a keep-alive", "dropped", frame=b"\x00\x00")
    yield wrong("a frame that is too long", "closed", frame=(FRAME_BYTES_MAX + 1).to_bytes(2, "big"))
    yield wrong("half a frame, then silence", "closed", frame=b"\x00\x40" + b"0200723800")
    again = wrong("a STAN used with other content", "94", changes={4: "000000099999"})
    yield msgspec.structs.replace(again, step=card, id="")
