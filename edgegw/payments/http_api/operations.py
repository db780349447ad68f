"""One table of what the HTTP interface can do. The routes and the OpenAPI document are both made from it, so
neither can lie.

Owns `Operation`, and the errors that every operation of a kind can give. The handlers are
`protocols/http.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from edgegw.access.oauth import Granted
from edgegw.core.records import AccountId, BatchTotals, RequestId
from edgegw.core.scopes import GROUPS
from edgegw.ledger.receipts import Receipt
from edgegw.payments.answer import Answer
from edgegw.payments.history import PaymentView
from edgegw.payments.http_api import bodies
from edgegw.payments.http_api.tokens import (
    FORM_BYTES_MAX,
    Jwks,
    Metadata,
    RevokeForm,
    TokenForm,
)
from edgegw.payments.notices import Notices

BODY_BYTES_MAX: Final = 1 << 20
BATCH_BYTES_MAX: Final = 16 << 20
ANY_SCOPE: Final = "any"


class Response(msgspec.Struct, frozen=True):
    """A successful response: what it means, and its JSON shape or its text's media type."""

    description: str
    shape: type[msgspec.Struct] | None = None
    media_type: str = "application/json"


class PaymentPath(bodies.Sent, frozen=True, kw_only=True):
    """Which payment."""

    id: RequestId


class HoldPath(bodies.Sent, frozen=True, kw_only=True):
    """Which hold: the id that it was placed with."""

    hold_id: RequestId


class MerchantPath(bodies.Sent, frozen=True, kw_only=True):
    """Whose batches."""

    merchant: bodies.Merchant


class AccountPath(bodies.Sent, frozen=True, kw_only=True):
    """Which account."""

    account_id: AccountId


class NoPath(bodies.Sent, frozen=True, kw_only=True):
    """No parameters."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one address."""

    name: str
    """The handler's name; the document writes it as one word, `createPayment`."""
    method: str
    path: str
    summary: str
    scope: str
    """One of `core.scopes.SCOPES`; `any`: every client; "" is open to everyone."""
    responses: Mapping[int, Response]
    body: type[msgspec.Struct] | None = None
    example: msgspec.Struct | None = None
    """A body as the document shows it."""
    path_shape: type[msgspec.Struct] = NoPath
    query_shape: type[msgspec.Struct] = bodies.NoQuery
    body_bytes_max: int = BODY_BYTES_MAX
    problems: tuple[str, ...] = ()
    """Codes of its own, beside those of its kind."""
    refuses: bool = False
    """The ledger can decide against it (409 with the reason's code)."""
    links: Mapping[str, str] = {}
    """Operation to the name of its path parameter that takes this one's `id`."""
    is_form: bool = False
    """Its body is a form, and who it refuses hears it in the words of RFC 6749, 5.2."""

    @property
    def operation_id(self) -> str:
        """The name as the document writes it."""
        return camel(self.name)

    @property
    def decides(self) -> bool:
        """Whether the ledger decides it."""
        return self.scope in GROUPS["pay"]

    @property
    def codes(self) -> tuple[str, ...]:
        """Every problem code that it can give, but for a ledger's refusals."""
        return (
            *self.problems,
            *(_SCOPED if self.scope else ()),
            *(_WITH_FORM if self.is_form else _WITH_BODY if self.body is not None else ()),
            *(_WITH_PARAMETERS if self._has_parameters else ()),
            *(_DECIDING if self.decides else ()),
            *_EVERYWHERE,
        )

    @property
    def _has_parameters(self) -> bool:
        return bool(self.path_shape.__struct_fields__ or self.query_shape.__struct_fields__)


def camel(name: str) -> str:
    """create_payment as createPayment."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


_EVERYWHERE: Final = ("unknown_field", "method_not_allowed", "internal_error")
_SCOPED: Final = (
    "token_missing",
    "token_invalid",
    "token_expired",
    "signature_missing",
    "signature_malformed",
    "signature_key_unknown",
    "signature_invalid",
    "signature_stale",
    "signature_replayed",
    "session_unknown",
    "storage_full",
    "token_revoked",
    "client_blocked",
    "scope_missing",
    "overloaded",
    "rate_exceeded",
    "not_clearing",
)
_WITH_PARAMETERS: Final = ("invalid_field", "unknown_field", "missing_field", "repeated_field")
_WITH_BODY: Final = (
    "malformed_json",
    "missing_field",
    "unknown_field",
    "repeated_field",
    "invalid_field",
    "float_number",
    "card_number",
    "request_timeout",
    "body_too_large",
    "unsupported_media_type",
)
_WITH_FORM: Final = (
    "request_timeout",
    "body_too_large",
    "unsupported_media_type",
    "overloaded",
    "rate_exceeded",
    "not_clearing",
    "tokens_not_kept",
)
_DECIDING: Final = (
    "id_reused",
    "too_many_refusals",
    "mirror_away",
    "not_decided",
    "outcome_unknown",
    "stopping",
    "storage_full",
    "unwell",
)

_PAYMENT: Final = bodies.PaymentBody(
    id="0198f2c5a1b27c3d8e4f5a6b7c8d9e0f",
    debit_account_id="alice",
    credit_account_id="shop-1",
    amount_minor=1250,
    currency="CNY",
    reference="table 7",
)
_HOLD: Final = bodies.HoldBody(
    id="0198f2c5a1b27c3d8e4f5a6b7c8d9e10",
    debit_account_id="alice",
    credit_account_id="shop-1",
    amount_minor=50000,
    currency="CNY",
    timeout_s=604800,
)
_CLEARED: Final = Response(
    "Cleared; a repeat is the same bytes, with `Idempotent-Replay: true` (once its record is pruned, without"
    " its legs, and its detail says so).",
    Answer,
)


def _after_another(
    *,
    name: str,
    path: str,
    summary: str,
    scope: str,
    path_shape: type[msgspec.Struct],
    example: msgspec.Struct,
) -> Operation:
    """What is done about an earlier request, which the address names."""
    return Operation(
        name=name,
        method="POST",
        path=path,
        summary=summary,
        scope=scope,
        path_shape=path_shape,
        body=type(example),
        example=example,
        responses={201: _CLEARED},
        refuses=True,
    )


OPERATIONS: Final = (
    Operation(
        name="create_payment",
        method="POST",
        path="/v1/payments",
        summary="Pay from one account to another",
        scope="payments:write",
        body=bodies.PaymentBody,
        example=_PAYMENT,
        responses={201: _CLEARED},
        refuses=True,
        links={"get_payment": "id", "get_receipt": "id", "create_refund": "id"},
    ),
    Operation(
        name="create_payments",
        method="POST",
        path="/v1/payments/batch",
        summary="Pay up to 8,190 times, each by itself or all or none",
        scope="payments:write",
        body=bodies.BatchBody,
        example=bodies.BatchBody(payments=[_PAYMENT]),
        body_bytes_max=BATCH_BYTES_MAX,
        responses={200: Response("Every payment's result, in order.", bodies.BatchAnswers)},
        problems=("repeated_id", "group_mixed"),
    ),
    Operation(
        name="get_payment",
        method="GET",
        path="/v1/payments/{id}",
        summary="A payment's first answer, and what became of it",
        scope="payments:read",
        path_shape=PaymentPath,
        responses={200: Response("The payment.", PaymentView)},
        problems=("payment_not_found", "outcome_unknown"),
    ),
    Operation(
        name="create_hold",
        method="POST",
        path="/v1/holds",
        summary="Reserve money, to be posted or voided later",
        scope="holds:write",
        body=bodies.HoldBody,
        example=_HOLD,
        responses={201: _CLEARED},
        refuses=True,
        links={"get_payment": "id", "post_hold": "hold_id", "void_hold": "hold_id"},
    ),
    _after_another(
        name="post_hold",
        path="/v1/holds/{hold_id}/post",
        summary="Pay what was held, whole or in part",
        scope="holds:write",
        path_shape=HoldPath,
        example=bodies.PostBody(id="0198f2c5a1b27c3d8e4f5a6b7c8d9e11", amount_minor=47300),
    ),
    _after_another(
        name="void_hold",
        path="/v1/holds/{hold_id}/void",
        summary="Give free what was held",
        scope="holds:write",
        path_shape=HoldPath,
        example=bodies.VoidBody(id="0198f2c5a1b27c3d8e4f5a6b7c8d9e12"),
    ),
    Operation(
        name="create_reversal",
        method="POST",
        path="/v1/reversals",
        summary="Give a payment back, whole or in part",
        scope="reversals:write",
        body=bodies.ReversalBody,
        example=bodies.ReversalBody(id="0198f2c5a1b27c3d8e4f5a6b7c8d9e13", original_id=_PAYMENT.id),
        responses={
            201: _CLEARED,
            202: Response(
                "Kept: its original is not known here yet; nothing moved, and it wins when that arrives.",
                Answer,
            ),
        },
        refuses=True,
        links={"get_payment": "id"},
    ),
    _after_another(
        name="create_refund",
        path="/v1/payments/{id}/refunds",
        summary="Give money of a payment back, whole or in parts",
        scope="refunds:write",
        path_shape=PaymentPath,
        example=bodies.RefundBody(id="0198f2c5a1b27c3d8e4f5a6b7c8d9e14", amount_minor=250),
    ),
    Operation(
        name="create_group",
        method="POST",
        path="/v1/groups",
        summary="Payments, holds, posts, voids, reversals and refunds: all of them, or none",
        scope="groups:write",
        body=bodies.GroupBody,
        example=bodies.GroupBody(
            members=[
                bodies.GroupPayment(
                    id="0198f2c5a1b27c3d8e4f5a6b7c8d9e15",
                    debit_account_id="alice",
                    credit_account_id="shop-1",
                    amount_minor=900,
                    currency="CNY",
                ),
                bodies.GroupHold(
                    id="0198f2c5a1b27c3d8e4f5a6b7c8d9e16",
                    debit_account_id="alice",
                    credit_account_id="shop-1",
                    amount_minor=5000,
                    currency="CNY",
                    timeout_s=86400,
                ),
            ]
        ),
        responses={
            200: Response(
                "Every member's result, in order: all cleared; or all refused, the one at fault for its own"
                " reason and the others with `linked_event_failed`, whose message names it.",
                bodies.BatchAnswers,
            )
        },
        problems=("repeated_id", "group_mixed"),
    ),
    Operation(
        name="close_batch",
        method="POST",
        path="/v1/merchants/{merchant}/batches",
        summary="Close a merchant's or terminal's batch, and compare its totals",
        scope="batches:write",
        path_shape=MerchantPath,
        body=bodies.CloseBatchBody,
        example=bodies.CloseBatchBody(
            id="0198f2c5a1b27c3d8e4f5a6b7c8d9e17",
            totals=[
                BatchTotals(
                    currency="CNY",
                    payments_count=12,
                    payments_minor=48250,
                    refunds_count=1,
                    refunds_minor=250,
                )
            ],
        ),
        responses={
            201: Response(
                "Closed, whatever the client has counted: `batch` says both, and whether they are the same. A"
                " repeat is the same bytes.",
                Answer,
            )
        },
        problems=("repeated_currency",),
        refuses=True,
        links={"get_payment": "id", "get_receipt": "id"},
    ),
    Operation(
        name="list_batches",
        method="GET",
        path="/v1/merchants/{merchant}/batches",
        summary="What a merchant's or terminal's open batch has counted, and its closed ones",
        scope="batches:read",
        path_shape=MerchantPath,
        query_shape=bodies.BatchesQuery,
        responses={200: Response("The open batch, and a page of closed ones.", bodies.BatchesPage)},
        problems=("outcome_unknown",),
    ),
    Operation(
        name="list_kept_reversals",
        method="GET",
        path="/v1/reversals",
        summary="Reversals of all clients that wait for an original this box does not know",
        scope="reversals:read",
        query_shape=bodies.KeptQuery,
        responses={200: Response("A page of them.", bodies.KeptPage)},
        problems=("outcome_unknown",),
    ),
    Operation(
        name="list_accounts",
        method="GET",
        path="/v1/accounts",
        summary="What the box holds of every account",
        scope="accounts:read",
        query_shape=bodies.AccountQuery,
        responses={200: Response("A page of accounts.", bodies.AccountPage)},
        problems=("outcome_unknown",),
    ),
    Operation(
        name="get_account",
        method="GET",
        path="/v1/accounts/{account_id}",
        summary="What the box holds of an account",
        scope="accounts:read",
        path_shape=AccountPath,
        responses={200: Response("The account.", bodies.AccountView)},
        problems=("account_not_found", "outcome_unknown"),
    ),
    Operation(
        name="get_receipt",
        method="GET",
        path="/v1/receipts/{id}",
        summary="Proof that a payment is in the box's journal, verifiable offline",
        scope="receipts:read",
        path_shape=PaymentPath,
        responses={200: Response("The receipt.", Receipt)},
        problems=("payment_not_found", "record_pruned", "outcome_unknown"),
    ),
    Operation(
        name="list_windows",
        method="GET",
        path="/v1/windows",
        summary="Closed clearing windows and their positions",
        scope="windows:read",
        query_shape=bodies.WindowQuery,
        responses={200: Response("A page of windows.", bodies.WindowPage)},
        problems=("outcome_unknown",),
    ),
    Operation(
        name="close_window",
        method="POST",
        path="/v1/windows/close",
        summary="Close the open clearing window",
        scope="windows:close",
        body=bodies.CloseBody,
        example=bodies.CloseBody(window=1, business_date="2026-11-21"),
        responses={200: Response("Closed; a repeat gives the same window.", bodies.WindowView)},
        problems=(
            "second_person_needed",
            "window_not_open",
            "business_date_not_open",
            "not_decided",
            "outcome_unknown",
            "storage_full",
        ),
    ),
    Operation(
        name="create_session",
        method="POST",
        path="/v1/sessions",
        summary="Open a session, whose requests carry an HMAC-SM3 in the place of a signature",
        scope=ANY_SCOPE,
        body=bodies.SessionBody,
        example=bodies.SessionBody(share="3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="),
        responses={201: Response("Opened.", bodies.SessionOpened)},
    ),
    Operation(
        name="list_notices",
        method="GET",
        path="/v1/notices",
        summary="What became of payments after their answers: confirmed, declined late, expired",
        scope="notices:read",
        query_shape=bodies.NoticeQuery,
        responses={200: Response("A page of notices.", Notices)},
        problems=("outcome_unknown",),
    ),
    Operation(
        name="acknowledge_notices",
        method="POST",
        path="/v1/notices/acknowledgements",
        summary="Take note of notices; it is journalled, and again changes nothing",
        scope="notices:write",
        body=bodies.AcknowledgeBody,
        example=bodies.AcknowledgeBody(up_to="1/42"),
        responses={200: Response("Taken note of.", bodies.Acknowledged)},
        problems=("notice_not_found", "not_decided", "outcome_unknown", "storage_full"),
    ),
    Operation(
        name="get_status",
        method="GET",
        path="/v1/status",
        summary="How the box is: mode, line, window, what waits",
        scope="status:read",
        responses={200: Response("The status.", bodies.Status)},
    ),
    Operation(
        name="get_checkpoint",
        method="GET",
        path="/v1/checkpoint",
        summary="The signed end of the journal, with the centre's cosignature",
        scope="receipts:read",
        responses={200: Response("The checkpoint.", bodies.Checkpoint)},
        problems=("outcome_unknown",),
    ),
    Operation(
        name="create_token",
        method="POST",
        path="/v1/oauth/token",
        summary="Tokens for a client's signed assertion, or the next ones for a refresh token",
        scope="",
        body=TokenForm,
        is_form=True,
        body_bytes_max=FORM_BYTES_MAX,
        responses={200: Response("The tokens.", Granted)},
    ),
    Operation(
        name="revoke_token",
        method="POST",
        path="/v1/oauth/revoke",
        summary="Revoke a token of one's own; one that is not known is no error",
        scope="",
        body=RevokeForm,
        is_form=True,
        body_bytes_max=FORM_BYTES_MAX,
        responses={200: Response("It is not good any more.")},
    ),
    Operation(
        name="get_jwks",
        method="GET",
        path="/v1/oauth/jwks",
        summary="The public keys of the box's access tokens, for services behind it",
        scope="",
        responses={200: Response("The keys.", Jwks, "application/jwk-set+json")},
    ),
    Operation(
        name="get_token_metadata",
        method="GET",
        path="/.well-known/oauth-authorization-server",
        summary="What the box's authorization server can do, and where",
        scope="",
        responses={200: Response("The metadata.", Metadata)},
    ),
    Operation(
        name="get_health",
        method="GET",
        path="/healthz",
        summary="Whether the process lives",
        scope="",
        responses={200: Response("It lives.", bodies.Health)},
    ),
    Operation(
        name="get_readiness",
        method="GET",
        path="/readyz",
        summary="Whether payments are taken",
        scope="",
        responses={200: Response("They are.", bodies.Health)},
        problems=("not_clearing",),
    ),
    Operation(
        name="get_metrics",
        method="GET",
        path="/metrics",
        summary="Metrics in Prometheus' text format",
        scope="",
        responses={200: Response("The metrics.", None, "text/plain")},
    ),
    Operation(
        name="get_openapi",
        method="GET",
        path="/v1/openapi.json",
        summary="This document",
        scope="",
        responses={200: Response("The document.", None, "application/json")},
    ),
)


def member_scope(member: bodies.Member) -> str:
    """The scope that a member of a group needs: that of the operation which does it alone."""
    return _MEMBER_SCOPES[type(member)]


_MEMBER_SCOPES: Final[Mapping[type[bodies.Member], str]] = {
    bodies.GroupPayment: "payments:write",
    bodies.GroupHold: "holds:write",
    bodies.GroupPost: "holds:write",
    bodies.GroupVoid: "holds:write",
    bodies.GroupReversal: "reversals:write",
    bodies.GroupRefund: "refunds:write",
}
