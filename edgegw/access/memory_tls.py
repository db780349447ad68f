"""pyOpenSSL behind the interface by which asyncio uses the standard library's TLS.

asyncio's TLS carries bytes between a transport, two memory buffers and an `ssl.SSLObject`. `Connected` is
such an object over a pyOpenSSL connection, so that what the interpreter's own OpenSSL cannot do (SM2, SM4,
hybrid key exchange) works with unmodified asyncio and aiohttp. Leaves out what is negotiated (`access.tls`).
"""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

_CHUNK_BYTES: Final = 1 << 16
_RECORD_BYTES_MAX: Final = 1 << 14
"""What one record carries at most, so no read returns more."""
_NO_PARTIAL_WILDCARDS: Final = 0x4
_NEVER_CHECK_SUBJECT: Final = 0x20
_PROTOCOL, _WANT_READ, _EOF = 1, 2, 8
"""Numbers of errors, as the standard library counts them."""
_CERTIFICATE_FAILED: Final = "certificate verify failed"


class Connected(ssl.SSLObject):
    """One connection: bytes of the peer come in by `incoming`, bytes for it leave by `outgoing`."""

    def __init__(  # the standard library's own constructor refuses to be called
        self,
        context: SSL.Context,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,
        server_hostname: str | None,
    ) -> None:
        """A client checks that the server's certificate has server_hostname, a name or an IP address; without
        one it checks none."""
        self._incoming = incoming
        self._outgoing = outgoing
        self._connection = SSL.Connection(context)
        if server_side:
            self._connection.set_accept_state()
            return
        if server_hostname:
            _expect_host(self._connection, server_hostname)
        self._connection.set_connect_state()

    # --- what asyncio calls ---

    def do_handshake(self) -> None:
        """Go on with the handshake; raises SSLWantReadError until it is done."""
        self._take_in()
        try:
            self._connection.do_handshake()
        except SSL.Error as problem:
            raise self._translated(problem) from None
        finally:
            self._give_out()

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the standard library's name
        """Bytes of the peer, b"" (0 into a buffer) at its end; raises SSLWantReadError while there are
        none."""
        self._take_in()
        wanted = min(len, _RECORD_BYTES_MAX)
        try:
            if buffer is not None:
                return self._connection.recv_into(buffer, wanted)
            return self._connection.recv(wanted)
        except SSL.ZeroReturnError:
            return b"" if buffer is None else 0
        except SSL.Error as problem:
            raise self._translated(problem) from None
        finally:
            self._give_out()

    def write(self, data: Any) -> int:
        """Encrypt all of data; its size."""
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while view:
                view = view[self._connection.send(view) :]
        except SSL.Error as problem:
            raise self._translated(problem) from None
        finally:
            self._give_out()
        return size

    def unwrap(self) -> None:
        """Say goodbye; raises SSLWantReadError until the peer has said it, too."""
        self._take_in()
        try:
            if not self._connection.shutdown():
                self._give_out()
                self._connection.shutdown()
        except SSL.ZeroReturnError:
            return
        except SSL.Error as problem:
            raise self._translated(problem) from None
        finally:
            self._give_out()

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The peer's certificate: DER, or an empty dictionary in the place of the standard library's."""
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        if not binary_form:
            return None if certificate is None else {}
        return None if certificate is None else certificate.public_bytes(Encoding.DER)

    def verified_chain(self) -> list[bytes]:
        """DER, from the peer's certificate to its CA; none before the handshake."""
        chain = self._connection.get_verified_chain(as_cryptography=True) or []
        return [one.public_bytes(Encoding.DER) for one in chain]

    def cipher(self) -> tuple[str, str, int] | None:
        """Name, version and bits of the cipher in use."""
        name = self._connection.get_cipher_name()
        if name is None:
            return None
        return name, self._connection.get_protocol_version_name(), self._connection.get_cipher_bits() or 0

    def compression(self) -> str | None:
        """There is none."""
        return None

    def version(self) -> str | None:
        """The version of TLS in use."""
        return self._connection.get_protocol_version_name()

    def pending(self) -> int:
        """Decrypted bytes that wait to be read."""
        return self._connection.pending()

    @property
    def group(self) -> str:
        """The name of the group by which keys were exchanged."""
        return self._connection.get_group_name() or ""

    # --- bytes ---

    def _take_in(self) -> None:
        while self._incoming.pending:
            self._connection.bio_write(self._incoming.read(_CHUNK_BYTES))
        if self._incoming.eof:
            self._connection.bio_shutdown()

    def _give_out(self) -> None:
        try:
            while True:
                self._outgoing.write(self._connection.bio_read(_CHUNK_BYTES))
        except SSL.WantReadError:
            return

    def _translated(self, problem: SSL.Error) -> ssl.SSLError:
        """The standard library's error of the same meaning."""
        if isinstance(problem, SSL.WantReadError):
            return ssl.SSLWantReadError(_WANT_READ, "more of the peer's bytes are needed")
        if isinstance(problem, SSL.SysCallError):
            return _named(ssl.SSLEOFError(_EOF, "the peer ended without saying so"), "unexpected eof")
        said = [reason for *_, reason in problem.args[0]] if problem.args and problem.args[0] else []
        text = "; ".join(said) or type(problem).__name__
        if _CERTIFICATE_FAILED not in text:
            return _named(ssl.SSLError(_PROTOCOL, f"[SSL] {text}"), said[-1] if said else "")
        code = _lib.SSL_get_verify_result(self._connection._ssl)
        why = _ffi.string(_lib.X509_verify_cert_error_string(code)).decode()
        failed = ssl.SSLCertVerificationError(_PROTOCOL, f"[SSL] {text}: {why}")
        failed.verify_code, failed.verify_message = code, why
        return _named(failed, _CERTIFICATE_FAILED)


def _named(error: ssl.SSLError, reason: str) -> ssl.SSLError:
    """The error with OpenSSL's reason as the standard library has it: HTTP_REQUEST."""
    error.library, error.reason = "SSL", reason.upper().replace(" ", "_")
    return error


def _expect_host(connection: SSL.Connection, host: str) -> None:
    """Have OpenSSL hold the server's certificate to this name or address: pyOpenSSL itself checks none."""
    rules = _lib.SSL_get0_param(connection._ssl)
    try:
        address = ipaddress.ip_address(host).packed
    except ValueError:
        name = host.encode("idna")
        connection.set_tlsext_host_name(name)
        _lib.X509_VERIFY_PARAM_set_hostflags(rules, _NO_PARTIAL_WILDCARDS | _NEVER_CHECK_SUBJECT)
        taken = _lib.X509_VERIFY_PARAM_set1_host(rules, name, len(name))
    else:
        taken = _lib.X509_VERIFY_PARAM_set1_ip(rules, address, len(address))
    if taken != 1:
        raise ValueError(f"{host!r} is no name of a host")


def allow_only(context: SSL.Context, *, groups: str, signatures: str) -> bool:
    """Whether this OpenSSL has these groups of key exchange and signatures, which alone it then uses."""
    inner = context._context
    known = (
        _lib.SSL_CTX_set1_curves_list(inner, groups.encode()) == 1
        and _lib.SSL_CTX_set1_sigalgs_list(inner, signatures.encode()) == 1
    )
    _lib.ERR_clear_error()
    return bool(known)
