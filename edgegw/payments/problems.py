"""Why there is no cleared payment to show: every problem code in one table, and the RFC 9457 document that
carries it.

The reference of codes is generated from `PROBLEMS`. Owns codes, statuses, mends and the document; a ledger's
refusals (`core.reasons`) are problems too: status 409, decided, final under their id. Leaves out who writes
them to a socket."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from edgegw.core.card_numbers import DIGITS_MAX, holds_card_number, mask_card_numbers
from edgegw.core.reasons import REASONS

REFUSED_STATUS: Final = 409
"""Decided, and the decision is no: a conflict with the state of the ledger, repeatable for ever."""


class Problem(NamedTuple):
    """One code: its HTTP status, what it means, what mends it."""

    code: str
    status: int
    title: str
    mend: str
    retry_after_s: int = 0
    """0: asking again with the same id changes nothing."""


def _table(*problems: Problem) -> dict[str, Problem]:
    return {problem.code: problem for problem in problems}


PROBLEMS: Final[dict[str, Problem]] = _table(
    Problem(
        "malformed_http", 400, "The request is not HTTP", "Send HTTP/1.1 requests as RFC 9112 writes them."
    ),
    Problem("malformed_json", 400, "The body is not JSON", "Send one whole JSON document in UTF-8."),
    Problem(
        "missing_field",
        400,
        "A required field is missing",
        "Send the field; /v1/openapi.json gives its shape.",
    ),
    Problem("unknown_field", 400, "A field is not known", "Leave the field out or mend its name."),
    Problem("repeated_field", 400, "A field is named twice", "Name every field once."),
    Problem("invalid_field", 400, "A field's value is not allowed", "Mend the value as the detail says."),
    Problem(
        "card_number",
        400,
        "A field looks like a card number",
        "Send an account id or a token, never a card number.",
    ),
    Problem(
        "token_missing", 401, "No token", "Send `Authorization: Bearer <token>` signed with the client's key."
    ),
    Problem(
        "token_invalid",
        401,
        "The token is not valid",
        "Sign a token with the client's Ed25519 key for this box.",
    ),
    Problem(
        "token_expired",
        401,
        "The token's time is not now",
        "Mint a new token; compare the clocks if it is new.",
    ),
    Problem(
        "certificate_missing",
        401,
        "No client certificate",
        "Connect over TLS with the client's certificate; the box's [http.tls] must have a client_ca_file.",
    ),
    Problem(
        "certificate_wrong",
        403,
        "Another client's certificate",
        "Connect with a certificate that the site's settings name for this client, or have them name this"
        " one.",
    ),
    Problem(
        "token_of_other_certificate",
        401,
        "The token is bound to another certificate",
        "Connect with the certificate of the token's cnf, or mint a token for this one.",
    ),
    Problem(
        "signature_missing",
        401,
        "No signature",
        "Sign the request with the client's SM2 key, as the client's profile asks.",
    ),
    Problem(
        "signature_malformed",
        401,
        "The signature is not written as it is spoken here",
        "Write Signature-Input and Signature as the message says; `edgegw sign` shows a right one.",
    ),
    Problem(
        "signature_key_unknown",
        401,
        "The signature's key is not known",
        "Name the keyid that `edgegw keygen client --sm2` printed, and give the key to the site's settings.",
    ),
    Problem(
        "signature_invalid",
        401,
        "The signature is not this request's",
        "Sign what is sent: method, authority, path, query, headers and the digest of the body.",
    ),
    Problem(
        "signature_stale",
        401,
        "The signature's time is not now",
        "Sign again, with server_time_s as created, or with challenge as the nonce, which asks no clock.",
    ),
    Problem(
        "signature_replayed",
        401,
        "The signature came before",
        "Sign every request anew, also one that is sent again, with a nonce that was never used.",
    ),
    Problem(
        "session_unknown",
        401,
        "The session is not open",
        "Open another one: POST /v1/sessions, signed with the client's SM2 key.",
    ),
    Problem(
        "token_revoked",
        401,
        "The token was revoked",
        "Ask for a new one at /v1/oauth/token; where that is refused, ask the bank.",
    ),
    Problem(
        "client_blocked",
        403,
        "The client is blocked",
        "Ask the bank; `edgegw order block client NAME --off` at the centre, or `edgegw oauth block NAME"
        " --off` at the box, lets it speak again.",
    ),
    Problem(
        "scope_missing",
        403,
        "The client may not do this",
        "Ask the bank to give the client the scope, or the token endpoint for a token with it.",
    ),
    Problem(
        "second_person_needed",
        403,
        "This takes two people",
        "Give the token of another client with the scope operate, too (--second-token).",
    ),
    Problem("not_found", 404, "There is no such address", "Use an address of /v1/openapi.json."),
    Problem(
        "payment_not_found",
        404,
        "No such payment",
        "Check the id; only this client's payments at this box show.",
    ),
    Problem(
        "notice_not_found",
        404,
        "No such notice",
        "Send the record of a notice that GET /v1/notices listed, or its next_after.",
    ),
    Problem(
        "account_not_found", 404, "No such account", "Check the account's id; GET /v1/accounts lists them."
    ),
    Problem(
        "method_not_allowed",
        405,
        "The address does not know this method",
        "Use a method of the Allow header.",
    ),
    Problem(
        "request_timeout",
        408,
        "The body came too slowly",
        "Send the whole body at once; the id is still free.",
        1,
    ),
    Problem(
        "float_number", 409, "A whole number written as a float", "Write it without a point or exponent."
    ),
    Problem("id_reused", 409, "The id was used with other content", "Mint a new id for a new payment."),
    Problem(
        "repeated_id",
        409,
        "An id occurs twice in a linked batch",
        "Mint an id for every payment of the batch.",
    ),
    Problem(
        "repeated_currency", 409, "A currency occurs twice in the totals", "Send one total for each currency."
    ),
    Problem(
        "group_mixed", 409, "Part of the group is decided", "Send the group as it was first, or with new ids."
    ),
    Problem(
        "business_date_not_open",
        409,
        "The open window is not of that business date",
        "The site's calendar gives each window its business date; send the one that the message names, or"
        " leave the closing to the calendar.",
    ),
    Problem(
        "window_not_open", 409, "That window is not the open one", "GET /v1/status names the open window."
    ),
    Problem(
        "record_pruned",
        410,
        "The record is older than what the box keeps",
        "Ask the centre: it has the record and proves it.",
    ),
    Problem("body_too_large", 413, "The body is too large", "Send at most the bytes that the detail names."),
    Problem(
        "unsupported_media_type",
        415,
        "Not a JSON body",
        "Send `Content-Type: application/json`, not compressed.",
    ),
    Problem(
        "overloaded", 429, "Too much at once", "Wait as Retry-After says, then ask again with the same id.", 1
    ),
    Problem(
        "rate_exceeded",
        429,
        "Asked too fast",
        "Ask more slowly, with the same id; the site's settings give the rate.",
        1,
    ),
    Problem(
        "too_many_refusals",
        429,
        "Too many refused requests",
        "Mend the cause, wait, ask again with the same id.",
        5,
    ),
    Problem(
        "internal_error",
        500,
        "The box failed",
        "Ask again with the same id; give the trace_id to the operator.",
        5,
    ),
    Problem(
        "not_clearing",
        503,
        "The box does not clear now",
        "GET /v1/status says why; `edgegw status` at the box.",
        30,
    ),
    Problem(
        "mirror_away",
        503,
        "The box's mirror is away",
        "Ask again with the same id: nothing was decided and the id is free.",
        5,
    ),
    Problem(
        "tokens_not_kept",
        503,
        "The box cannot keep tokens now",
        "Ask again; the box's log says what is wrong with its file or its keys.",
        5,
    ),
    Problem("not_decided", 503, "Nothing was decided", "Ask again with the same id.", 1),
    Problem(
        "outcome_unknown", 503, "The outcome is unknown", "Ask again with the same id: it is decided once.", 5
    ),
    Problem("stopping", 503, "The box is stopping", "Ask again with the same id when it is back.", 5),
    Problem(
        "unwell",
        503,
        "The box's machine is not well",
        "Ask again with the same id: nothing was decided and the id is free. `edgegw health` at the box says"
        " what is wrong.",
        30,
    ),
    Problem(
        "vault_unavailable",
        503,
        "No payment with a card is decided now",
        "`edgegw vault status` at the box says why; payments without a card go on.",
        30,
    ),
    Problem("storage_full", 507, "The disk is full", "Ask the operator for space; the id is still free.", 60),
)


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as RFC 9457 writes it (`application/problem+json`)."""

    type: str
    """`urn:edgegw:problem:<code>`; the reference of codes explains each."""
    title: str
    status: int
    code: str
    message: str
    """What is wrong here and now, for a person."""
    trace_id: str
    """32 hex digits to find the log lines by. Of a stored refusal: the payment's own id, so that a repeat is
    the same bytes."""
    hint: str
    """What mends it."""
    transient: bool = False
    """Whether it may succeed later: under the same id if nothing was decided, under a new id if it was
    refused."""
    field: str = ""
    value: str = ""
    """What was sent in that field, shortened; never anything that looks like a card number."""
    first_value: str = ""
    """For `id_reused`: what the first request said in that field."""
    server_time_s: int = 0
    """For signatures: the box's clock, seconds since 1970."""
    challenge: str = ""
    """For signatures: a nonce to sign with that takes the place of a time, for five minutes."""
    instance: str = ""
    """For a stored refusal: `urn:edgegw:record:<box>/<epoch>/<seq>`."""


class Unanswered(Exception):
    """No answer of the ledger: the request was not well formed, not allowed, or not decided."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str = "",
        value: object = "",
        first_value: object = "",
        hint: str = "",
        server_time_s: int = 0,
        challenge: str = "",
    ) -> None:
        super().__init__(message)
        self.problem = PROBLEMS[code]
        self.message = message
        self.field = field
        self.value = shown(value)
        self.first_value = shown(first_value)
        self.hint = hint or self.problem.mend
        self.server_time_s = server_time_s
        self.challenge = challenge

    @property
    def code(self) -> str:
        """The problem's code."""
        return self.problem.code

    def document(self, *, trace_id: str) -> ProblemDocument:
        """The problem document of one occurrence."""
        problem = self.problem
        return ProblemDocument(
            type=f"urn:edgegw:problem:{problem.code}",
            title=problem.title,
            status=problem.status,
            code=problem.code,
            message=self.message,
            trace_id=trace_id,
            hint=self.hint,
            transient=problem.retry_after_s > 0,
            field=self.field,
            value=self.value,
            first_value=self.first_value,
            server_time_s=self.server_time_s,
            challenge=self.challenge,
        )


def refusal_document(*, reason: str, detail: str, box: str, record: str, payment_id: str) -> ProblemDocument:
    """The problem document of a stored refusal, from the record alone, so that every repeat is the same
    bytes."""
    known = REASONS[reason]
    return ProblemDocument(
        type=f"urn:edgegw:problem:{reason}",
        title="The payment was refused",
        status=REFUSED_STATUS,
        code=reason,
        message=detail,
        trace_id=payment_id,
        hint=known.mend,
        transient=known.transient,
        instance=f"urn:edgegw:record:{box}/{record}",
    )


VALUE_CHARACTERS_MAX: Final = 64


def shown(value: object) -> str:
    """A sent value as an error may repeat it: printable, short, and masked where it could be a card
    number."""
    text = mask_card_numbers(value) if isinstance(value, str) else str(value)
    if not isinstance(value, str) and (len(text) > DIGITS_MAX or holds_card_number(text)):
        text = "*" * (len(text) - 4) + text[-4:]
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"
