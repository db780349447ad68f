"""The OpenAPI 3.1 document, built from the table of operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from edgegw.core.reasons import Reason
from edgegw.payments.http_api.operations import ANY_SCOPE, Operation, Response, camel
from edgegw.payments.http_api.tokens import FORM_ERRORS, OAuthProblem
from edgegw.payments.problems import PROBLEMS, REFUSED_STATUS, ProblemDocument

PROBLEM_TYPE: Final = "application/problem+json"
_TEMPLATE: Final = "#/components/schemas/{name}"
Json = dict[str, Any]

_TRACE: Final[Json] = {
    "description": "32 hex digits to find the request's log lines by; those of `traceparent`, if sent.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}
_REPLAY: Final[Json] = {
    "description": "`true` on every answer but the first: the bytes are the first one's.",
    "schema": {"type": "string", "enum": ["true"]},
}
_RETRY: Final[Json] = {
    "description": "Seconds to wait before asking again with the same id.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}
_DESCRIPTION: Final = (
    "Payments at a branch that keeps clearing while the line to the centre is down. Every amount is a whole"
    " number of minor units. An id is minted by the client before its first send; asking again with the same"
    " id and content is always safe and gives the first answer, byte for byte. 2xx is cleared (or kept), 409"
    " is a no for good under this id; 429, 503 and 507 mean that nothing was decided, or that the outcome is"
    " unknown: ask again with the same id."
)

_SIGNATURE: Final = (
    "RFC 9421, with the parameters in Signature-Input. Covered: @method, @authority, @path, @query; with a"
    " body also content-digest (RFC 9530, sm3 or sha-256) and content-type. Parameters: keyid, nonce, tag"
    ' ("edgegw:" and the box), created unless the nonce begins with a challenge. By SM2: keyid is'
    " <client>/<first 8 hex digits of the SM3 of the key's point>, the signature SM2 with SM3 under the user"
    " id 1234567812345678, r || s, 64 bytes; the nonce has at least 16 characters and was never used before."
    " In a session (POST /v1/sessions): the keyid that it got, HMAC-SM3, the nonce the request's number, no"
    " created. Clients of the profile `signed` must sign whatever is not GET."
)


def build_document(operations: Sequence[Operation], *, version: str) -> Json:
    """The whole document as JSON-ready values."""
    shapes: list[type[msgspec.Struct]] = [ProblemDocument]
    for operation in operations:
        shapes += [operation.path_shape, operation.query_shape]
        shapes += [] if operation.body is None else [operation.body]
        shapes += [OAuthProblem] if operation.is_form else []
        shapes += [response.shape for response in operation.responses.values() if response.shape is not None]
    references, components = msgspec.json.schema_components(shapes, ref_template=_TEMPLATE)
    schemas: Json = _portable(components)
    names = dict(zip(shapes, [reference["$ref"].rsplit("/", 1)[1] for reference in references], strict=True))
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas, names)
    for shape in {
        shape for operation in operations for shape in (operation.path_shape, operation.query_shape)
    }:
        schemas.pop(names[shape], None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgegw",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An access token of POST /v1/oauth/token; or a JWT (EdDSA) signed with the"
                    " client's Ed25519 key: iss and sub the client, aud the box, exp at most an hour ahead"
                    " (or as the site's settings say).",
                },
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Signature",
                    "description": _SIGNATURE,
                },
            },
        },
    }


def _portable(schema: Any) -> Any:
    """Python's end of a text is `\\Z`, JSON Schema's is `$`, which in Python would let a newline pass."""
    if isinstance(schema, Mapping):
        return {
            key: re.sub(r"\\Z$", "$", value)
            if key == "pattern" and isinstance(value, str)
            else _portable(value)
            for key, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


def _operation(operation: Operation, schemas: Json, names: Mapping[type, str]) -> Json:
    document: Json = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "tags": [operation.path.split("/")[2] if operation.path.startswith("/v1/") else "service"],
        "parameters": [
            *_parameters(schemas[names[operation.path_shape]], "path"),
            *_parameters(schemas[names[operation.query_shape]], "query"),
        ],
        "responses": _responses(operation, names),
    }
    if operation.scope:
        document["security"] = [{"token": []}, {"signature": []}]
        every = operation.scope == ANY_SCOPE
        document["description"] = (
            "For every client." if every else f"The client needs the scope `{operation.scope}`."
        )
    else:
        document["security"] = []
    if operation.body is not None:
        reference = {"$ref": _TEMPLATE.format(name=names[operation.body])}
        content: Json = {"schema": reference}
        if operation.example is not None:
            content["example"] = msgspec.to_builtins(operation.example)
        media_type = "application/x-www-form-urlencoded" if operation.is_form else "application/json"
        document["requestBody"] = {"required": True, "content": {media_type: content}}
    return document


def _parameters(shape: Json, where: str) -> Iterable[Json]:
    for name, described in shape.get("properties", {}).items():
        schema = dict(described)
        parameter = {
            "name": name,
            "in": where,
            "required": name in shape.get("required", ()),
            "schema": schema,
        }
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        yield parameter


def _responses(operation: Operation, names: Mapping[type, str]) -> Json:
    responses: Json = {}
    for status, response in operation.responses.items():
        responses[str(status)] = _success(operation, response, names)
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(operation.codes):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    if operation.refuses:
        by_status.setdefault(REFUSED_STATUS, []).extend(reason.value for reason in Reason)
    for status in sorted(by_status):
        responses[str(status)] = _failure(operation, status, by_status[status], names)
    if operation.is_form:
        _add_form_errors(responses, names)
    return responses


def _add_form_errors(responses: Json, names: Mapping[type, str]) -> None:
    """What a form is refused with: RFC 6749's errors, beside problem documents."""
    content = {"application/json": {"schema": {"$ref": _TEMPLATE.format(name=names[OAuthProblem])}}}
    for status, errors in FORM_ERRORS.items():
        response = responses.setdefault(str(status), {"headers": {"Trace-Id": _TRACE}, "content": {}})
        said = f"Errors: {', '.join(f'`{error}`' for error in errors)}."
        response["description"] = " ".join(filter(None, (response.get("description"), said)))
        response["content"] |= content


def _success(operation: Operation, response: Response, names: Mapping[type, str]) -> Json:
    headers: Json = {"Trace-Id": _TRACE}
    if operation.decides:
        headers["Idempotent-Replay"] = _REPLAY
    if response.shape is not None:
        schema: Json = {"$ref": _TEMPLATE.format(name=names[response.shape])}
    else:
        schema = {"type": "object" if response.media_type == "application/json" else "string"}
    document: Json = {
        "description": response.description,
        "headers": headers,
        "content": {response.media_type: {"schema": schema}},
    }
    if operation.links:
        document["links"] = {
            camel(target): {"operationId": camel(target), "parameters": {name: "$response.body#/id"}}
            for target, name in operation.links.items()
        }
    return document


def _failure(operation: Operation, status: int, codes: Sequence[str], names: Mapping[type, str]) -> Json:
    headers: Json = {"Trace-Id": _TRACE}
    if status == REFUSED_STATUS and operation.refuses:
        headers["Idempotent-Replay"] = _REPLAY
    if all(code in PROBLEMS and PROBLEMS[code].retry_after_s for code in codes):
        headers["Retry-After"] = _RETRY
    listed = ", ".join(f"`{code}`" for code in codes)
    return {
        "description": f"Codes: {listed}.",
        "headers": headers,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": _TEMPLATE.format(name=names[ProblemDocument])}}},
    }
