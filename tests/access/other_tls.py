"""A peer of the profile `gm` by another code base: BabaSSL's TLS 1.3 with SM2, SM3 and SM4 (RFC 8998).

Run as a program in a process of its own, because the library is no longer kept: `other_tls.py LIBRARY client
PORT CERTIFICATE KEY CA` posts `hello` to a server, `server 0` instead takes one such request and answers it.
It prints what was negotiated and what it received.
"""

from __future__ import annotations

import ctypes
import socket
import sys
from typing import Final

_PEM: Final = 1
_MIN_VERSION, _GROUPS, _SIGNATURES = 123, 92, 98
"""Numbers of SSL_CTX_ctrl, as OpenSSL's headers have them."""
_TLS_1_3: Final = 0x304
_VERIFY_AND_FAIL: Final = 3
_PIECE: Final = 4096
_P, _S, _I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_FUNCTIONS: Final = {
    "TLS_client_method": (_P,),
    "TLS_server_method": (_P,),
    "SSL_CTX_new": (_P, _P),
    "SSL_CTX_ctrl": (ctypes.c_long, _P, _I, ctypes.c_long, _S),
    "SSL_CTX_set_ciphersuites": (_I, _P, _S),
    "SSL_CTX_enable_sm_tls13_strict": (None, _P),
    "SSL_CTX_use_certificate_file": (_I, _P, _S, _I),
    "SSL_CTX_use_PrivateKey_file": (_I, _P, _S, _I),
    "SSL_CTX_load_verify_locations": (_I, _P, _S, _S),
    "SSL_CTX_set_verify": (None, _P, _I, _P),
    "SSL_new": (_P, _P),
    "SSL_set_fd": (_I, _P, _I),
    "SSL_connect": (_I, _P),
    "SSL_accept": (_I, _P),
    "SSL_read": (_I, _P, _S, _I),
    "SSL_write": (_I, _P, _S, _I),
    "SSL_shutdown": (_I, _P),
    "SSL_get_version": (_S, _P),
    "SSL_get_current_cipher": (_P, _P),
    "SSL_CIPHER_get_name": (_S, _P),
    "ERR_get_error": (ctypes.c_ulong,),
    "ERR_error_string": (_S, ctypes.c_ulong, _P),
}


class _Library:
    """The library's functions, each held to its result."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = self._library[name]
            function.restype, function.argtypes = result, arguments
            setattr(self._library, name, function)

    def call(self, name: str, *arguments: object) -> object:
        """What a function gives."""
        return getattr(self._library, name)(*arguments)

    def must(self, name: str, *arguments: object) -> None:
        """Call a function that says 1 when it could; else end with the library's words."""
        result = self.call(name, *arguments)
        if result != 1:
            said = []
            while number := self.call("ERR_get_error"):
                said.append(str(self.call("ERR_error_string", number, None)))
            sys.exit(f"{name}: {result}: {said}")


def main(path: str, role: str, port: str, certificate: str, key: str, ca: str) -> None:
    """Speak once."""
    library = _Library(path)
    context = library.call("SSL_CTX_new", library.call(f"TLS_{role}_method"))
    library.must("SSL_CTX_ctrl", context, _MIN_VERSION, _TLS_1_3, None)
    library.must("SSL_CTX_set_ciphersuites", context, b"TLS_SM4_GCM_SM3")
    library.must("SSL_CTX_ctrl", context, _GROUPS, 0, b"SM2")
    library.must("SSL_CTX_ctrl", context, _SIGNATURES, 0, b"sm2sig_sm3")
    library.call("SSL_CTX_enable_sm_tls13_strict", context)
    library.must("SSL_CTX_use_certificate_file", context, certificate.encode(), _PEM)
    library.must("SSL_CTX_use_PrivateKey_file", context, key.encode(), _PEM)
    library.must("SSL_CTX_load_verify_locations", context, ca.encode(), None)
    library.call("SSL_CTX_set_verify", context, _VERIFY_AND_FAIL, None)
    connected = _connected(role, int(port))
    line = library.call("SSL_new", context)
    library.must("SSL_set_fd", line, connected.fileno())
    library.must("SSL_connect" if role == "client" else "SSL_accept", line)
    cipher = library.call("SSL_CIPHER_get_name", library.call("SSL_get_current_cipher", line))
    print(library.call("SSL_get_version", line), cipher)
    said = (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        if role == "client"
        else b"HTTP/1.1 200 OK\r\nLine: other\r\nUris:\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    )
    if role == "client":
        library.call("SSL_write", line, said, len(said))
    received = b""
    piece = ctypes.create_string_buffer(_PIECE)
    while not received.endswith(b"hello") and (size := library.call("SSL_read", line, piece, _PIECE)):
        if not isinstance(size, int) or size < 0:
            sys.exit(f"SSL_read: {size}")
        received += piece.raw[:size]
    if role == "server":
        library.call("SSL_write", line, said, len(said))
    library.call("SSL_shutdown", line)
    print(received)


def _connected(role: str, port: int) -> socket.socket:
    if role == "client":
        return socket.create_connection(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        return listening.accept()[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
