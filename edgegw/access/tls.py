"""Transport profiles: from certificates and keys in PEM files to what asyncio and aiohttp take for a context.

Every profile is TLS 1.3 and nothing older, without session tickets, 0-RTT or renegotiation. `intl` is the
standard library's own; the others are pyOpenSSL's, whose wheels carry an OpenSSL with SM2, SM4 and hybrid key
exchange (`access.memory_tls`). Each connection is made with the files as they are then, so a renewed
certificate needs no restart. Leaves out listening (`access.arrivals`) and the settings' form (`tls_tables`).
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import os
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from edgegw.access.key_files import KeyFileError
from edgegw.access.memory_tls import Connected, allow_only
from edgegw.access.places import PlaceAway
from edgegw.access.revocations import LOOK_EACH_S, CrlError, Link, Revocations, links_of
from edgegw.access.sealed_key import is_sealed
from edgegw.tls_tables import ClientTls, ServerTls

SM2_PROFILES: Final = frozenset({"gm", "gm-pq"})
_SM2_KEY: Final = bytes.fromhex("301306072a8648ce3d020106082a811ccf5501822d")
"""In DER: an elliptic curve's key, and the curve is SM2's."""
_SM2_SIGNATURE: Final = "1.2.156.10197.1.501"
_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO
_PASSPHRASE: Final = b"ENCRYPTED"
FILE_BYTES_MAX: Final = 1 << 20
SOON_S: Final = 14 * 86_400
"""A certificate that ends so soon is told of at every start and renewal."""
CHAIN_DEPTH_MAX: Final = 5
_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME."""
_DER: Final = 2
"""`_ssl.ENCODING_DER`."""

_log = structlog.get_logger("edgegw.tls")


class TlsError(Exception):
    """Files or a profile that cannot be used; the text names the option, its value and the mend."""


class _Suite(NamedTuple):
    """What a profile of pyOpenSSL's negotiates, and nothing else."""

    ciphers: bytes
    groups: str
    signatures: str


_CLASSICAL_SIGNATURES: Final = (
    "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512:ed25519:RSA-PSS+SHA256:RSA-PSS+SHA384:RSA+SHA256:RSA+SHA384"
)
_SUITES: Final = {
    "pq": _Suite(
        b"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256", "X25519MLKEM768", _CLASSICAL_SIGNATURES
    ),
    "gm": _Suite(b"TLS_SM4_GCM_SM3", "curveSM2", "sm2sig_sm3"),
    "gm-pq": _Suite(b"TLS_SM4_GCM_SM3", "curveSM2MLKEM768", "sm2sig_sm3"),
}

LastWords = Callable[[bytes, ssl.SSLError], None]
LAST_WORDS: contextvars.ContextVar[LastWords | None] = contextvars.ContextVar("last_words", default=None)
"""Who is told of a handshake that fails, with what is still to be sent: asyncio closes without sending it."""


class Work:
    """What the cryptography of a handshake has cost so far."""

    cpu_s: float = 0.0


HANDSHAKE_WORK: contextvars.ContextVar[Work | None] = contextvars.ContextVar("handshake_work", default=None)
"""Where it is counted."""

SealedKeyReader = Callable[[str], bytes]
SEALED_KEYS: contextvars.ContextVar[SealedKeyReader | None] = contextvars.ContextVar(
    "sealed_keys", default=None
)
"""What opens a key_file that is sealed (its PEM; raises KeyFileError and PlaceAway), for the contexts that
are made from then on."""


class _Files(NamedTuple):
    """The options of a table, by the names that its errors use."""

    profile: str
    certificate: str
    key: str
    authority: str
    authority_option: str

    is_own: bool = False
    """The server is this machine's own, and the certificate is its own too: a client takes no other."""

    now_s: Callable[[], float] | None = None
    """The time that ends of certificates are held against; None: the machine's clock, as OpenSSL does."""

    crl: str = ""
    sealed_keys: SealedKeyReader | None = None

    def paths(self) -> tuple[str, ...]:
        return tuple(path for path in (self.certificate, self.key, self.authority) if path)


class TransportContext(ssl.SSLContext):
    """A context of one table, to be given to asyncio or aiohttp. Plain asyncio only: on uvloop it hangs."""

    _files: _Files
    _is_server: bool
    _server_name: str
    _made: ssl.SSLContext | SSL.Context
    _seen: tuple[object, ...]
    _day: int
    _revocations: Revocations | None

    def __new__(cls, files: _Files, *, is_server: bool, server_name: str = "") -> TransportContext:
        """Read the files; raises TlsError."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        files = files._replace(sealed_keys=SEALED_KEYS.get())
        self._files, self._is_server, self._server_name = files, is_server, server_name
        self._seen = _state(files)
        self._made = _made(files, is_server=is_server)
        self._day = _today()
        self._revocations = _revocations(files)
        return self

    @property
    def profile(self) -> str:
        """The profile's name."""
        return self._files.profile

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """What asyncio calls for every connection. A client checks the name in its settings, else the host's
        that it connects to."""
        del session  # none is ever resumed
        host = self._server_name or _text(server_hostname)
        if server_side or self._files.is_own:
            host = None
        elif not host:
            raise ValueError("a client needs the name of its server")
        made = self._current()
        wrapped: _Plain | _Memory
        if isinstance(made, ssl.SSLContext):
            of_library = made.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=host)
            assert isinstance(of_library, _Plain)  # noqa: S101 - its sslobject_class says so
            wrapped = of_library
        else:
            wrapped = _Memory(made, incoming, outgoing, server_side=server_side, server_hostname=host)
        wrapped.expected = _own_certificate(self._files) if self._files.is_own else b""
        wrapped.owner = self
        wrapped.last_words = LAST_WORDS.get()
        wrapped.work = HANDSHAKE_WORK.get()
        wrapped.leaving = outgoing
        return wrapped

    def late(self) -> list[str]:
        """What `edgegw config check` says of lists of revoked certificates that are late, a line each."""
        return [] if self._revocations is None else self._revocations.late()

    def problem(self, links: tuple[Link, ...]) -> str:
        """Why a peer with these certificates is heard no more, "" while it is."""
        if not links:
            return ""
        now_s = _now_s(self._files)
        ended = next((link for link in links if link.ends_s <= now_s), None)
        if ended is not None:
            return f"certificate has expired: {ended.text}"
        return "" if self._revocations is None else self._revocations.problem(links)

    def _current(self) -> ssl.SSLContext | SSL.Context:
        """Made of the files as they are; while new ones cannot be used, of those before. Once a day their end
        is looked at again."""
        state = _state(self._files)
        if self._files.certificate and state == self._seen and self._day != _today():
            self._day = _today()
            _tell_of_end(
                self._files.certificate,
                _certificates("certificate_file", self._files.certificate)[0],
                now_s=_now_s(self._files),
            )
        if state != self._seen:
            self._seen = state
            try:
                self._made = _made(self._files, is_server=self._is_server)
                _log.info("certificate_read_again", file=self._files.certificate)
            except TlsError as problem:
                _log.error(
                    "certificate_not_renewed",
                    problem=str(problem),
                    hint="The one from before stays in use; mend the files.",
                )
        return self._made


class _Watched:
    """What both kinds of connections do when a handshake fails, where only one certificate is taken, and when
    the peer's has ended or was revoked since."""

    expected: bytes = b""
    owner: TransportContext
    last_words: LastWords | None = None
    work: Work | None = None
    leaving: ssl.MemoryBIO
    _links: tuple[Link, ...] = ()
    _looked_s: float = 0.0

    def problem(self) -> str:
        """Why the peer is heard no more, "" while it is."""
        return self.owner.problem(self._links)

    def _check(self, certificate: object, chain: Callable[[], list[bytes]]) -> None:
        """Once the handshake is done. A certificate that has not begun is taken where another clock than the
        machine's says so: its CA has signed it, and the clock may be years late."""
        if self.expected:
            if certificate != self.expected:
                raise _refusal("another server than the one of these settings answers")
            return
        self._links = links_of(chain())
        self._looked_s = time.monotonic()
        problem = self.problem()
        if problem:
            raise _refusal(problem)

    def _look(self) -> None:
        """Before bytes are taken or given: what was good at the handshake may not be so any more."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EACH_S:
            return
        self._looked_s = now_s
        problem = self.problem()
        if problem:
            _log.warning("connection_ended", problem=problem)
            raise _refusal(problem)

    def _worked(self, cpu_s: float) -> None:
        if self.work is not None:
            self.work.cpu_s += cpu_s

    def _fail(self, problem: ssl.SSLError) -> None:
        if self.last_words is not None and not isinstance(problem, ssl.SSLWantReadError):
            self.last_words(self.leaving.read(), problem)


class _Plain(ssl.SSLObject, _Watched):
    """The standard library's connection."""

    def do_handshake(self) -> None:
        began_s = time.thread_time()
        try:
            super().do_handshake()
        except ssl.SSLError as problem:
            self._fail(problem)
            raise
        finally:
            self._worked(time.thread_time() - began_s)
        shown = self.getpeercert(binary_form=True)
        self._check(shown, lambda: [] if shown is None else _verified_chain(self))

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002
        self._look()
        return super().read(len, buffer)

    def write(self, data: Any) -> int:
        self._look()
        return super().write(data)


class _Memory(Connected, _Watched):
    """pyOpenSSL's connection."""

    def do_handshake(self) -> None:
        began_s = time.thread_time()
        try:
            super().do_handshake()
        except ssl.SSLError as problem:
            self._fail(problem)
            raise
        finally:
            self._worked(time.thread_time() - began_s)
        self._check(self.getpeercert(binary_form=True) if self.expected else b"", self.verified_chain)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002
        self._look()
        return super().read(len, buffer)

    def write(self, data: Any) -> int:
        self._look()
        return super().write(data)


def _refusal(problem: str) -> ssl.SSLCertVerificationError:
    """The standard library's error for a certificate that is not taken."""
    text = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {problem}"
    error = ssl.SSLCertVerificationError(1, text)
    error.library, error.reason = "SSL", "CERTIFICATE_VERIFY_FAILED"
    error.verify_message = problem
    return error


def server_context(table: ServerTls) -> TransportContext:
    """The context of a listener whose profile encrypts; raises TlsError."""
    files = _Files(
        table.profile,
        table.certificate_file,
        table.key_file,
        table.client_ca_file,
        "client_ca_file",
        crl=table.crl_file,
    )
    return TransportContext(files, is_server=True)


def client_context(table: ClientTls, *, now_s: Callable[[], float] | None = None) -> TransportContext:
    """The context of what connects, by a profile that encrypts; raises TlsError. now_s: what says which of
    the server's certificates have ended (Unix seconds) where that is not the machine's clock."""
    files = _Files(
        table.profile,
        table.certificate_file,
        table.key_file,
        table.ca_file,
        "ca_file",
        now_s=now_s,
        crl=table.crl_file,
    )
    return TransportContext(files, is_server=False, server_name=table.server_name)


def timeless_context(*, profile: str, ca_file: Path, server_name: str) -> TransportContext:
    """The context of what connects without a certificate of its own and without a clock: for what is signed
    besides, by a key that is pinned. Raises TlsError."""
    files = _Files(profile, "", "", str(ca_file), "ca_file", now_s=lambda: -math.inf)
    return TransportContext(files, is_server=False, server_name=server_name)


def own_context(table: ServerTls) -> TransportContext:
    """The context of a command that speaks to the listener of this table on the same machine: it takes just
    the listener's own certificate, and shows it; raises TlsError."""
    files = _Files(table.profile, table.certificate_file, table.key_file, "", "client_ca_file", is_own=True)
    return TransportContext(files, is_server=False)


def certificate_shown(connection: asyncio.BaseTransport | None) -> bytes | None:
    """The DER of the certificate of a transport's peer; None where the line is plain or it showed none."""
    wrapped = None if connection is None else connection.get_extra_info("ssl_object")
    der = None if wrapped is None else wrapped.getpeercert(binary_form=True)
    return der if isinstance(der, bytes) else None


def certified_uris(connection: asyncio.BaseTransport | None) -> frozenset[str] | None:
    """The URIs in the certificate of a transport's peer; None where the line is plain or it showed none."""
    der = certificate_shown(connection)
    return None if der is None else _uris(der)


@functools.lru_cache(maxsize=1_024)
def _uris(der: bytes) -> frozenset[str]:
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):
        return frozenset()
    return frozenset(names.value.get_values_for_type(x509.UniformResourceIdentifier))


def _verified_chain(connection: ssl.SSLObject) -> list[bytes]:
    """From the peer's certificate to its CA; public in the standard library from 3.13 on."""
    public = getattr(connection, "get_verified_chain", None)
    if public is not None:
        return list(public())
    chain = connection._sslobj.get_verified_chain()  # type: ignore[attr-defined]
    return [one.public_bytes(_DER) for one in chain]


def _own_certificate(files: _Files) -> bytes:
    return _certificates("certificate_file", files.certificate)[0].public_bytes(Encoding.DER)


# --- files --------------------------------------------------------------------------------------------------


def _state(files: _Files) -> tuple[object, ...]:
    """What changes when a file is replaced or written."""
    state: list[object] = []
    for path in files.paths():
        try:
            found = os.stat(path)
            state.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode))
        except OSError as problem:
            state.append(problem.errno)
    return tuple(state)


def _made(files: _Files, *, is_server: bool) -> ssl.SSLContext | SSL.Context:
    """The context of files that were looked through first; raises TlsError."""
    if files.certificate:
        chain = _certificates("certificate_file", files.certificate)
        _check_key_file(files.key)
        _check_kind(files, chain[0])
        _tell_of_end(files.certificate, chain[0], now_s=_now_s(files))
    if files.authority:
        _check_authorities(files, _certificates(files.authority_option, files.authority))
    if files.profile == "intl":
        return _of_library(files, is_server=is_server)
    return _of_pyopenssl(files, is_server=is_server)


def _revocations(files: _Files) -> Revocations | None:
    """The lists of a table that has some; raises TlsError."""
    if not files.crl:
        return None
    of_sm2 = files.profile in SM2_PROFILES

    def authorities() -> list[x509.Certificate]:
        try:
            found = _certificates(files.authority_option, files.authority)
        except TlsError as problem:
            raise CrlError(str(problem)) from None
        return [one for one in found if is_sm2(one) == of_sm2]

    try:
        return Revocations(
            files.crl, ca_file=files.authority, authorities=authorities, now_s=lambda: _now_s(files)
        )
    except CrlError as problem:
        raise TlsError(f"crl_file = {files.crl}: {problem}") from None


def _of_library(files: _Files, *, is_server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslobject_class = _Plain
    try:
        if files.certificate:
            with _open_key(files) as key:
                context.load_cert_chain(files.certificate, key)
    except ssl.SSLError as problem:
        raise TlsError(_key_fault(files, problem.reason or str(problem))) from None
    except OSError as problem:
        raise TlsError(_unreadable("key_file", files.key, problem)) from None
    if files.authority:
        try:
            context.load_verify_locations(files.authority)
        except OSError as problem:
            raise TlsError(_authority_fault(files, str(problem))) from None
        context.verify_mode = ssl.CERT_REQUIRED
        if files.now_s is not None:
            context.verify_flags |= _NO_CHECK_TIME
    elif files.is_own:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the certificate itself is compared
    if is_server:
        context.num_tickets = 0
    return context


def _of_pyopenssl(files: _Files, *, is_server: bool) -> SSL.Context:
    suite = _SUITES[files.profile]
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    if not allow_only(context, groups=suite.groups, signatures=suite.signatures):
        raise TlsError(
            f"profile = {files.profile}: {SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()} does not have"
            f" {suite.groups}; install the cryptography and pyOpenSSL of requirements.lock"
        )
    context.set_tls13_ciphersuites(suite.ciphers)
    try:
        if files.certificate:
            context.use_certificate_chain_file(files.certificate)
            with _open_key(files) as key:
                context.use_privatekey_file(key)
            context.check_privatekey()
    except SSL.Error as problem:
        raise TlsError(_key_fault(files, _reason(problem))) from None
    if files.authority:
        try:
            context.load_verify_locations(files.authority)
        except SSL.Error as problem:
            raise TlsError(_authority_fault(files, _reason(problem))) from None
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        if files.now_s is not None and (store := context.get_cert_store()) is not None:
            store.set_flags(_NO_CHECK_TIME)
        context.set_verify_depth(CHAIN_DEPTH_MAX)
    if is_server:
        context.set_session_id(b"edgegw")
    return context


def _certificates(option: str, path: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one; raises TlsError."""
    try:
        with open(path, "rb") as file:
            found = x509.load_pem_x509_certificates(file.read(FILE_BYTES_MAX))
    except OSError as problem:
        raise TlsError(_unreadable(option, path, problem)) from None
    except ValueError:
        found = []
    if not found:
        raise TlsError(f"{option} = {path}: it holds no certificate; give a PEM file that begins with one")
    return found


def _check_key_file(path: str) -> None:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            body = file.read(FILE_BYTES_MAX)
    except OSError as problem:
        raise TlsError(_unreadable("key_file", path, problem)) from None
    if mode & _OTHERS_MAY:
        raise TlsError(f"key_file = {path}: others may read it (mode {mode:04o}); run chmod 600 {path}")
    if _PASSPHRASE in body:
        raise TlsError(
            f"key_file = {path}: it has a passphrase, and nobody is there to type it; store the key without"
        )


@contextmanager
def _open_key(files: _Files) -> Iterator[str]:
    """The path of the key as OpenSSL reads it: of a sealed one a file that is in memory alone. Raises
    TlsError."""
    try:
        with open(files.key, "rb") as file:
            if not is_sealed(file.read(FILE_BYTES_MAX)):
                yield files.key
                return
        if files.sealed_keys is None:
            raise TlsError(
                f"key_file = {files.key}: it is sealed, and nothing here opens it; give an open key"
            )
        body = files.sealed_keys(files.key)
    except (KeyFileError, PlaceAway) as problem:
        raise TlsError(f"key_file = {problem}; {problem.hint}") from None
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as memory:
            memory.write(body)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _check_kind(files: _Files, certificate: x509.Certificate) -> None:
    """SM2's certificates belong to SM2's profiles and no other."""
    of_sm2 = is_sm2(certificate)
    if of_sm2 != (files.profile in SM2_PROFILES):
        has, fits = ("on the curve of SM2", "gm or gm-pq") if of_sm2 else ("not one of SM2", "intl or pq")
        raise TlsError(
            f"certificate_file = {files.certificate}: its key is {has}, and profile = {files.profile}; give"
            f" another certificate, or profile {fits}"
        )
    if of_sm2 and certificate.signature_algorithm_oid.dotted_string != _SM2_SIGNATURE:
        raise TlsError(
            f"certificate_file = {files.certificate}: it is not signed with SM2 and SM3; profile ="
            f" {files.profile} needs a CA of SM2"
        )


def _check_authorities(files: _Files, authorities: list[x509.Certificate]) -> None:
    """One of another kind certifies nobody whom the profile takes."""
    of_sm2 = files.profile in SM2_PROFILES
    if all(is_sm2(authority) != of_sm2 for authority in authorities):
        has = "no CA with a key of SM2" if of_sm2 else "no CA but with a key of SM2"
        raise TlsError(
            f"{files.authority_option} = {files.authority}: it holds {has}, and profile = {files.profile};"
            " give the CA that certifies by this profile"
        )


def is_sm2(certificate: x509.Certificate) -> bool:
    """Whether a certificate is for a key of SM2, rather than of another curve or RSA."""
    return _SM2_KEY in certificate.tbs_certificate_bytes


def _tell_of_end(path: str, certificate: x509.Certificate, *, now_s: float) -> None:
    """An end, or a beginning that is still to come, is said and stops nothing: the box pays on without its
    line, its clock may be wrong, and a renewed file is taken up by itself."""
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now_s >= ends.timestamp():
        _log.error(
            "certificate_expired", problem=f"certificate_file = {path}: it ended at {ends}", hint=_RENEW
        )
    elif now_s < begins.timestamp():
        _log.error(
            "certificate_not_begun",
            problem=f"certificate_file = {path}: it begins at {begins}",
            hint="Set the machine's clock; if that is right, have another certificate issued.",
        )
    elif now_s >= ends.timestamp() - SOON_S:
        _log.warning("certificate_ends_soon", file=path, ends=str(ends), hint=_RENEW)


_RENEW: Final = "Renew it: put the new certificate and key in the same files; no restart is needed."


def _now_s(files: _Files) -> float:
    return time.time() if files.now_s is None else files.now_s()


def expiry_faults(option: str, path: str) -> list[str]:
    """What `edgegw config check` says of a certificate's time, a line or none; raises TlsError."""
    certificate = _certificates(option, path)[0]
    now_s = time.time()
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now_s >= ends.timestamp():
        return [f"{option} = {path}: it expired at {ends}; renew it"]
    if now_s < begins.timestamp():
        return [f"{option} = {path}: it is not valid before {begins}; check the machine's clock"]
    return []


def _key_fault(files: _Files, reason: str) -> str:
    said = reason.lower().replace("_", " ")
    if "mismatch" in said or "no certificate assigned" in said:
        return (
            f"key_file = {files.key}: it is not the key of {files.certificate}; put the two that were made"
            " together side by side"
        )
    return (
        f"key_file = {files.key}: it holds no private key in PEM that profile = {files.profile} can use"
        f" ({said}); give the certificate's own"
    )


def _authority_fault(files: _Files, reason: str) -> str:
    return (
        f"{files.authority_option} = {files.authority}: OpenSSL cannot use it ({reason}); give the CA's own"
    )


def _today() -> int:
    return int(time.time() // 86_400)


def _reason(problem: Exception) -> str:
    said = problem.args[0] if problem.args else None
    return "; ".join(str(entry[-1]) for entry in said) if isinstance(said, list) else str(problem)


def _unreadable(option: str, path: str, problem: OSError) -> str:
    return f"{option} = {path}: it cannot be read ({problem.strerror}); check the path and who may read it"


def _text(host: str | bytes | None) -> str | None:
    return host.decode() if isinstance(host, bytes) else host
