"""HTTP/JSON: payments, holds, reversals, batches, accounts, receipts, windows, notices, status, health,
metrics, OpenAPI.

Clients send `Authorization: Bearer <token>`: an access token that POST /v1/oauth/token gave for a JWT signed
with their own Ed25519 key, or such a JWT itself. One with
`certificates` in the site's settings is heard only over a connection that has shown one of them in TLS; with
`certificate_is_enough` that is all it needs, without an Authorization header. A first
answer is 201, a repeat is the same status and bytes with `Idempotent-Replay: true`. Errors are RFC 9457
problem documents, also for bytes that are no HTTP request at all; a body is read whole, within a limit of
bytes and seconds, before anything is decided. The routes come from `payments.http_api.operations`.

With `[http.tls]` it is HTTPS alone. Inside TLS the end of sending is the end of the connection: who says it
before the answer asks again with the same id."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
import structlog
from aiohttp import hdrs, web

from edgegw.access.arrivals import LINES_EACH_MINUTE, arrivals_of
from edgegw.access.crowd import host_of
from edgegw.access.oauth import OAuthError, TokenServer
from edgegw.access.shield import BodyTooLarge, BodyTooSlow, Lines, Places, Rates, Shares, bounded, read_whole
from edgegw.access.shown import Shown, Stranger
from edgegw.access.speakers import Speakers
from edgegw.access.tls import certificate_shown
from edgegw.access.token_store import StoreFails
from edgegw.access.tokens import Client
from edgegw.core.card_numbers import is_padded_card_number
from edgegw.errors import OperatingError
from edgegw.payments.http_api.bodies import CloseBody
from edgegw.payments.http_api.calls import Call, Reply
from edgegw.payments.http_api.handlers import Handlers
from edgegw.payments.http_api.openapi import PROBLEM_TYPE, build_document
from edgegw.payments.http_api.operations import ANY_SCOPE, OPERATIONS, Operation
from edgegw.payments.http_api.strict import decode_body, decode_text
from edgegw.payments.http_api.tokens import FORM, TokenHandlers, decode_form, refused
from edgegw.payments.problems import Unanswered
from edgegw.payments.protocol import Adapter
from edgegw.payments.service import Gateway
from edgegw.payments.site_health import FAILED_EVENT, TURNED_AWAY_EVENT
from edgegw.tls_tables import OptionalServerTls

_log = structlog.get_logger("edgegw.http")
_peer_log = logging.getLogger("edgegw.http.peer")
_encode = msgspec.json.Encoder().encode
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_QUOTED: Final = re.compile(r":?\n|: b")
"""Where aiohttp's message about bytes that are no request begins to quote them; they may hold a token."""
_CUT_OFF_S: Final = 0.05
"""After the peer's end of sending: aiohttp may still be about to begin with the request."""
_JSON: Final = re.compile(r"application/json(?:\s*;\s*charset=\"?utf-8\"?)?\s*", re.IGNORECASE)
_NOBODY: Final = Client("", frozenset(), 0)
_INVALID_TOKEN: Final = ("token_invalid", "token_expired", "token_revoked", "token_of_other_certificate")
_BUSY: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n"
    b'{"type":"urn:edgegw:problem:overloaded","title":"Too much at once","status":429,"code":"overloaded",'
    b'"message":"the box has as many connections as it takes","trace_id":"00000000000000000000000000000000",'
    b'"hint":"Close idle connections, wait, then ask again with the same id.","transient":true}'
)


_TLS_ONLY: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\r\n"
    b'{"type":"urn:edgegw:problem:malformed_http","title":"Not HTTP as it is spoken here","status":400,'
    b'"code":"malformed_http","message":"this port speaks TLS only",'
    b'"trace_id":"00000000000000000000000000000000","hint":"Use https://.","transient":false}'
)


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the HTTP interface."""

    host: Annotated[str, msgspec.Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    ] = 8443
    body_timeout_ms: Annotated[
        int,
        msgspec.Meta(
            ge=10, le=600_000, description="A body must be there whole within this time after its headers."
        ),
    ] = 10_000
    idle_timeout_s: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=3600, description="A connection without a whole request header for this long is closed."
        ),
    ] = 30
    connections_max: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=100_000,
            description="Open connections at once. When all are taken, one that is idle and on which no known"
            " client was heard is ended for a new one; where there is none, the new one is answered 429.",
        ),
    ] = 1024
    client_requests_max: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="Requests that one client may have in hand at once.")
    ] = 512
    issuer: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(https?://[^\s/?#@]+)?\Z",
            description="The URL by which clients and services reach this box, as https://host:port; its"
            " tokens name it. Empty: edgegw://BANK/BOX.",
        ),
    ] = ""
    tls: OptionalServerTls = msgspec.UNSET


class _Peer(web.RequestHandler):
    """One connection: what aiohttp would answer in its own words becomes a problem document, too. In
    `places` from the moment that it is accepted."""

    def __init__(
        self, server: web.Server, places: Places[web.RequestHandler], lines: Lines, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._places = places
        self._lines = lines
        places.take(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin as a stranger."""
        self._places.stranger(self, host_of(transport))
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what came; the headers of a request make it one in hand."""
        super().data_received(data)
        if self._messages:
            self._places.busy(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place free."""
        self._places.leave(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, and close; the bytes themselves are neither said nor logged."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        said = _QUOTED.split(message or "", maxsplit=1)[0].strip(" *.") or "the address is not one"
        if self._lines.take():
            _peer_log.warning("not a request from %s: %s", request.remote, type(exc).__name__)
        code = "malformed_http" if status < web.HTTPInternalServerError.status_code else "internal_error"
        response = _problem(request, Unanswered(code, said))
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; the router's own for `OPTIONS *` and CONNECT is put into ours."""
        if isinstance(resp, web.HTTPException):
            resp = _problem(
                request, Unanswered("not_found", "nothing is at this address", value=request.path)
            )
        sent = await super().finish_response(request, resp, start_time)
        if not self._messages:
            self._places.idle(self)
        return sent

    def eof_received(self) -> bool:  # type: ignore[override]
        """Some clients send, shut their half and read: what is under way is still answered."""
        encrypted = self.transport is None or self.transport.get_extra_info("ssl_object") is not None
        if encrypted or (self._waiter is not None and not self._waiter.done()):
            return False  # asyncio's TLS has no half of a connection to keep open
        self.close()
        self._loop.call_later(_CUT_OFF_S, self._cut_off)
        return True

    def _cut_off(self) -> None:
        """What of a body has not come by now never will."""
        request = self._current_request
        if request is not None and not request.content.is_eof():
            request._cancel(ConnectionResetError("its sender ended first"))


class HttpServer:
    """The open HTTP interface."""

    def __init__(self, gateway: Gateway, options: HttpOptions) -> None:
        self._gateway = gateway
        self._options = options
        self._tokens = TokenServer(
            gateway.token_files,
            bank=gateway.book.bank,
            box=gateway.box,
            issuer=options.issuer,
            epoch=lambda: gateway.book.epoch,
            ordered=lambda of, whose: gateway.book.tally.blocked.get((of, whose)),
        )
        self._speakers = Speakers(
            box=gateway.box,
            site=lambda: gateway.site,
            folder=gateway.history.folder,
            server=self._tokens,
        )
        self._shares = Shares(each_max=options.client_requests_max)
        self._lines = Lines(each_minute_max=LINES_EACH_MINUTE)
        self._rubbish_lines = Lines(each_minute_max=LINES_EACH_MINUTE)
        """Apart, so that rubbish does not hide who was refused."""
        self._rates = Rates(site=lambda: gateway.site)
        document = _encode(build_document(OPERATIONS, version=gateway.version))
        self._handlers = Handlers(gateway, document, self._speakers.sessions)
        self._token_handlers = TokenHandlers(gateway, self._tokens, self._rates)
        self._places: Places[web.RequestHandler] = Places(
            places_max=options.connections_max, end=self._give_way
        )
        self._peer: dict[str, Any] = {
            "access_log": None,
            "logger": _peer_log,
            "keepalive_timeout": options.idle_timeout_s,
            # To read on for a peer whose body is not wanted, so that it sees the answer.
            "lingering_time": 1.0,
            "auto_decompress": False,
        }
        self._runner = web.AppRunner(self._application(), shutdown_timeout=5.0)
        self._arrivals = arrivals_of(options.tls, name="http", plain_answer=_TLS_ONLY, counted=self._count)
        self._server: asyncio.Server | None = None
        self.addresses: tuple[str, ...] = ()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=0)
        by_path: dict[str, list[Operation]] = {}
        for operation in OPERATIONS:
            by_path.setdefault(operation.path, []).append(operation)
        for path, operations in by_path.items():
            resource = application.router.add_resource(path)
            for operation in operations:
                resource.add_route(operation.method, self._route(operation), expect_handler=_expect)
            allowed = ", ".join(operation.method for operation in operations)
            resource.add_route(hdrs.METH_ANY, _not_allowed(allowed), expect_handler=_expect)
        application.router.add_route(hdrs.METH_ANY, "/{unknown:.*}", _not_found, expect_handler=_expect)
        return application

    async def start(self) -> None:
        """Listen; raises OSError when the address is taken."""
        await self._runner.setup()
        http = self._runner.server
        if http is None:
            raise RuntimeError("the runner of aiohttp made no server")
        loop = asyncio.get_running_loop()
        accept = bounded(
            lambda: _Peer(http, self._places, self._rubbish_lines, loop=loop, **self._peer),
            has_one_free=self._places.has_one_free,
            answer=_BUSY,
        )
        if self._arrivals is not None:
            accept = self._arrivals.protocol(accept)
        self._server = await loop.create_server(accept, self._options.host, self._options.port, backlog=1024)
        names = [socket.getsockname() for socket in self._server.sockets]
        self.addresses = tuple(f"{name[0]}:{name[1]}" for name in names)
        self._token_handlers.start()

    async def stop(self) -> None:
        """Take no new connections, answer what is under way for up to 5 s, close."""
        if self._server is not None:
            self._server.close()
        if self._arrivals is not None:
            self._arrivals.end()
        await self._runner.cleanup()
        self._speakers.close()
        await self._token_handlers.stop()

    def _give_way(self, peer: web.RequestHandler) -> None:
        self._count("connection_gave_way")
        if peer.transport is None:
            return
        if self._rubbish_lines.take():
            remote = host_of(peer.transport)
            _log.warning("connection_gave_way", remote=remote, problem="connections_max needed its place")
        peer.transport.abort()

    # -- one request --------------------

    def _route(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The whole life of a request to one operation, in one function: no middlewares, which cost 20 µs
        each."""
        owner = self._token_handlers if hasattr(TokenHandlers, operation.name) else self._handlers
        handler: Callable[[Call], Awaitable[Reply]] = getattr(owner, operation.name)
        decoder: msgspec.json.Decoder[Any] | None = None
        if operation.body is not None:
            decoder = msgspec.json.Decoder(operation.body)
        has_path = bool(operation.path_shape.__struct_fields__)
        no_query, no_path = operation.query_shape, operation.path_shape

        async def route(request: web.Request) -> web.Response:
            client: Client | None = None
            shared = False
            try:
                read = self._reader(request, operation)
                if operation.scope:
                    client = await self._client(request, operation, read)
                    shared = self._shares.take(client.name)
                    if not shared:
                        raise Unanswered("overloaded", f"{client.name} has too many requests in hand")
                    if not self._rates.take(client.name):
                        raise Unanswered("rate_exceeded", f"{client.name} asks faster than the site allows")
                path = decode_text(request.match_info, no_path) if has_path else None
                query = decode_text(_query(request), no_query) if request.query_string else no_query()
                if operation.is_form:
                    body = await self._form(request, operation, read)
                else:
                    body = None if decoder is None else await self._body(request, decoder, read)
                second = self._second(request, operation, body)
                base = f"{request.scheme}://{request.host}"
                who = _NOBODY if client is None else client
                reply = await handler(
                    Call(who.name, body, path, query, second, who.signed_by, who.scopes, base)
                )
                return _response(request, reply)
            except OAuthError as error:
                return _response(request, refused(error))
            except Unanswered as unanswered:
                return _problem(request, unanswered)
            except Exception:  # noqa: BLE001 - the edge: logged with its trace, the process lives on
                self._count(FAILED_EVENT)
                return _failed(request, operation.name)
            finally:
                if shared and client is not None:
                    self._shares.give_back(client.name)

        return route

    def _count(self, event: str) -> None:
        self._gateway.meter.protocol_event(protocol="http", event=event)

    async def _client(
        self, request: web.Request, operation: Operation, read: Callable[[], Awaitable[bytes]]
    ) -> Client:
        if self._gateway.site is None:
            # Whose request it is nobody here can say yet: to call it invalid would make a till give up.
            why, hint = self._gateway.why_not_ready or ("", "")
            raise Unanswered("not_clearing", f"the box knows no clients yet: {why}", hint=hint)
        path, _, query = request.raw_path.partition("?")
        shown = Shown(
            method=request.method,
            path=path,
            query=query,
            scheme=request.scheme,
            headers=request.headers,
            has_body=operation.body is not None,
            body=read,
            peer=request.remote or "",
            certified=lambda: certificate_shown(request.transport),
        )
        speaker = await self._speakers.client_of(shown)
        if isinstance(speaker, Client):
            self._places.known(request.protocol)
        return self._trusted(speaker, operation.scope, peer=shown.peer)

    def _second(self, request: web.Request, operation: Operation, body: Any) -> str:
        """The second client behind an order, by the token in its body; "" where there is none."""
        if not isinstance(body, CloseBody) or not body.second_token:
            return ""
        second = self._speakers.second_of_token(
            body.second_token,
            field="second_token",
            certified=lambda: certificate_shown(request.transport),
        )
        return self._trusted(second, operation.scope, peer=request.remote or "").name

    def _trusted(self, speaker: Client | Stranger, scope: str, *, peer: str) -> Client:
        """The client, if it is one and may do this."""
        if isinstance(speaker, Stranger):
            self._count(speaker.code)
            if speaker.counts:
                self._count(TURNED_AWAY_EVENT)
            if self._lines.take():
                _log.warning("stranger_refused", code=speaker.code, remote=peer)
            raise Unanswered(
                speaker.code,
                speaker.message,
                field=speaker.field,
                server_time_s=speaker.server_time_s,
                challenge=speaker.challenge,
            )
        if scope != ANY_SCOPE and scope not in speaker.scopes:
            message = f"{speaker.name} does not have the scope `{scope}`"
            raise Unanswered("scope_missing", message, field="scope", value=scope)
        return speaker

    def _reader(self, request: web.Request, operation: Operation) -> Callable[[], Awaitable[bytes]]:
        """What reads the body of a request once, when it is first wanted."""
        whole: bytes | None = b"" if operation.body is None else None

        async def read() -> bytes:
            nonlocal whole
            if whole is None:
                whole = await self._whole(request, operation.body_bytes_max)
            return whole

        return read

    async def _whole(self, request: web.Request, bytes_max: int) -> bytes:
        if not request.content.is_eof():
            self._places.idle(request.protocol)  # A request that is not there yet keeps no stranger's place.
        try:
            return await read_whole(
                request.content,
                length=request.content_length,
                bytes_max=bytes_max,
                timeout_seconds=self._options.body_timeout_ms / 1000,
            )
        except BodyTooLarge as error:
            length = request.content_length or ""
            raise Unanswered("body_too_large", str(error), field="Content-Length", value=length) from None
        except BodyTooSlow as error:
            raise Unanswered("request_timeout", str(error)) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise Unanswered("malformed_json", f"the body did not arrive whole: {error}") from None
        finally:
            self._places.busy(request.protocol)

    async def _body(
        self,
        request: web.Request,
        decoder: msgspec.json.Decoder[Any],
        read: Callable[[], Awaitable[bytes]],
    ) -> Any:
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        if not _JSON.fullmatch(content_type):
            message = (
                "Content-Type is missing" if not content_type else "Content-Type is not application/json"
            )
            raise Unanswered("unsupported_media_type", message, field="Content-Type", value=content_type)
        encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
        if encoding.lower() != "identity":
            message = "Content-Encoding is not accepted"
            raise Unanswered("unsupported_media_type", message, field="Content-Encoding", value=encoding)
        return decode_body(await read(), decoder, known_account=self._known_account)

    async def _form(
        self, request: web.Request, operation: Operation, read: Callable[[], Awaitable[bytes]]
    ) -> Any:
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        if not FORM.fullmatch(content_type) or operation.body is None:
            message = "Content-Type is not application/x-www-form-urlencoded"
            hint = "Send `Content-Type: application/x-www-form-urlencoded`, as RFC 6749 has it."
            field = "Content-Type"
            raise Unanswered("unsupported_media_type", message, field=field, value=content_type, hint=hint)
        return decode_form(await read(), operation.body)

    def _known_account(self, account_id: str) -> bool:
        return account_id in self._gateway.book.accounts


def _query(request: web.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name in found:
            raise Unanswered("repeated_field", f"{name} is given twice", field=name, value=value)
        found[name] = value
    return found


def trace_of(request: web.BaseRequest) -> str:
    """The trace id of the caller's W3C traceparent, or a fresh one."""
    given = request.headers.get("traceparent")
    if given is not None:
        match = _TRACEPARENT.fullmatch(given)
        if match is not None and match[1].strip("0") and not is_padded_card_number(match[1]):
            return match[1]
    return os.urandom(16).hex()


def _response(request: web.Request, reply: Reply) -> web.Response:
    headers = {
        "Content-Type": reply.content_type,
        "Trace-Id": trace_of(request),
        "Cache-Control": "no-store",
        "Server": "edgegw",
    }
    headers.update(reply.headers)
    return web.Response(body=reply.body, status=reply.status, headers=headers)


def _problem(request: web.BaseRequest, unanswered: Unanswered, **extra: str) -> web.Response:
    trace_id = trace_of(request)
    problem = unanswered.problem
    headers = {
        "Content-Type": PROBLEM_TYPE,
        "Trace-Id": trace_id,
        "Cache-Control": "no-store",
        "Server": "edgegw",
        **extra,
    }
    if problem.retry_after_s:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.code == "scope_missing":
        headers["WWW-Authenticate"] = (
            f'Bearer realm="edgegw", error="insufficient_scope", scope="{unanswered.value}"'
        )
    elif problem.status == web.HTTPUnauthorized.status_code:
        is_signed = unanswered.code.startswith(("signature_", "session_"))
        invalid = ', error="invalid_token"' if problem.code in _INVALID_TOKEN else ""
        headers["WWW-Authenticate"] = f'{"Signature" if is_signed else "Bearer"} realm="edgegw"{invalid}'
    response = web.Response(
        body=_encode(unanswered.document(trace_id=trace_id)), status=problem.status, headers=headers
    )
    if not request.content.at_eof():
        response.force_close()  # The rest of the body is not wanted.
    return response


def _failed(request: web.Request, name: str) -> web.Response:
    response = _problem(
        request, Unanswered("internal_error", "the box failed on this request; nothing is known of it")
    )
    _log.exception("request_failed", operation=name, trace_id=response.headers["Trace-Id"])
    return response


def _not_allowed(allowed: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def route(request: web.Request) -> web.Response:
        message = f"{request.method} is not a method of this address"
        return _problem(
            request, Unanswered("method_not_allowed", message, value=request.method), Allow=allowed
        )

    return route


async def _not_found(request: web.Request) -> web.Response:
    return _problem(request, Unanswered("not_found", "nothing is at this address", value=request.path))


async def _expect(request: web.Request) -> None:
    """Ask for the body when the client waits to be asked; any other expectation is ignored (RFC 9110,
    10.1.1)."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def start(gateway: Gateway, options: HttpOptions) -> HttpServer:
    """Open the HTTP interface; raises OperatingError, KeyFileError and PlaceAway where the tokens' file or
    keys cannot be read, and OSError."""
    try:
        server = HttpServer(gateway, options)
    except StoreFails as problem:
        raise OperatingError(str(problem), hint=problem.hint) from None
    await server.start()
    return server


ADAPTER: Final = Adapter(name="http", options=HttpOptions, start=start)
