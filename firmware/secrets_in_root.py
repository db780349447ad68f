"""What a finished root must not hold: an image is the same on all boxes, and whoever has one has read it.

    secrets_in(tree) -> ["/etc/machine-id: the name of one machine", ...]

Finds keys, passwords, tokens, seeds, and what names one machine, by place, by name and by content. Leaves out
removing them (`firmware.finish`): what is found here is a fault of the build.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_BYTES_MAX: Final = 4 << 20
"""Longer files are programs and data; a secret in one of them would have a place or a name of this page."""
_NO_MACHINE: Final = ("", "uninitialized")

_PLACES: Final = (
    ("etc/ssh/ssh_host_*", "a host key; each box makes its own"),
    ("etc/ssl/private/*", "a private key's place"),
    ("etc/krb5.keytab", "a Kerberos key"),
    ("etc/wireguard/*", "a tunnel's key"),
    ("etc/apt/auth.conf", "credentials of an archive"),
    ("etc/apt/auth.conf.d/*", "credentials of an archive"),
    ("etc/credstore*/*", "a credential"),
    ("usr/lib/credstore*/*", "a credential"),
    ("var/lib/systemd/random-seed", "a random seed; each box makes its own"),
    ("var/lib/systemd/credential.secret", "the key of systemd's credentials"),
    ("var/lib/dbus/machine-id", "the name of one machine"),
    ("var/lib/ssh/*", "keys of one machine"),
    ("var/lib/edgegw/*", "what belongs to one box"),
    ("var/lib/edgegw-*/*", "what belongs to one box"),
    ("boot/**/random-seed", "a random seed"),
    ("root/.*", "what the build, or a person, left in root's home"),
    ("root/*", "what the build, or a person, left in root's home"),
    ("home/*", "somebody's home"),
)
"""Places where nothing may be: a pattern below the root, and what it would be."""

_NAMES: Final = re.compile(
    r"^(id_(rsa|dsa|ecdsa|ed25519)(_sk)?|\.netrc|_netrc|\.pypirc|\.git-credentials|\.pgpass|authorized_keys"
    r"|.*\.(p12|pfx|jks|keytab|ppk|kek\.[a-z0-9]+)|claim\.json|swtpm.*\.permall|tpm2-00\.permall)\Z"
)

_CONTENTS: Final = (
    (
        (b"PRIVATE KEY-----",),
        re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=:,\-\s]{48}"),
        "a private key",
    ),
    ((b"PuTTY-User-Key",), re.compile(rb"PuTTY-User-Key-File-[23]: "), "a private key"),
    ((b"AGE-SECRET-KEY",), re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{20}"), "a private key"),
    ((b"AKIA", b"ASIA"), re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), "a cloud's access key"),
    ((b"ghp_", b"gho_", b"ghs_", b"ghu_"), re.compile(rb"\bgh[opsu]_[A-Za-z0-9]{36}\b"), "a token"),
    ((b"pypi-AgE",), re.compile(rb"pypi-AgE[A-Za-z0-9_\-]{40}"), "a token"),
    (
        (b".eyJ",),
        re.compile(rb"\beyJ[A-Za-z0-9_\-]{12,}\.eyJ[A-Za-z0-9_\-]{12,}\.[A-Za-z0-9_\-]{20,}"),
        "a signed token",
    ),
)
"""What a file must have somewhere to be looked at closely, how it looks then, and what it is."""
_IN_SETTINGS: Final = (
    (re.compile(rb"://[^/\s:@\"'<>]+:[^/\s@\"'<>]{3,}@"), "an address with a password"),
    (
        re.compile(rb"(?im)^\s*(?:password|passwd|secret|api_?key|token)\s*[=:]\s*[\"']?[^\s\"'#;]{6,}"),
        "a password",
    ),
)
"""Only below /etc: programs and their documents are full of examples."""
_EXAMPLES: Final = frozenset({"/etc/security/namespace.init", "/etc/ssl/openssl.cnf"})
"""Debian's own files, whose passwords are examples."""
_PUBLISHED: Final = "known_answers."
"""The self-tests' module, and its bytecode: its key is a standard's example and protects nothing."""


def secrets_in(root: Path) -> list[str]:
    """One line for each thing below a root that must not be in an image: its path and what it is."""
    found: dict[str, str] = {}
    for pattern, what in _PLACES:
        for path in root.glob(pattern):
            if path.is_symlink() or not path.is_dir() or any(path.iterdir()):
                found.setdefault(_shown(root, path), what)
    found.update(_machine(root))
    for shown, what in _passwords(root):
        found.setdefault(shown, what)
    for path in _files(root):
        what = _judged(path, PurePosixPath(_shown(root, path)))
        if what:
            found.setdefault(_shown(root, path), what)
    return [f"{path}: {what}" for path, what in sorted(found.items())]


def _shown(root: Path, path: Path) -> str:
    return f"/{path.relative_to(root)}"


def _machine(root: Path) -> Iterator[tuple[str, str]]:
    path = root / "etc/machine-id"
    if path.is_file() and path.read_text(encoding="ascii", errors="replace").strip() not in _NO_MACHINE:
        yield "/etc/machine-id", "the name of one machine"


def _passwords(root: Path) -> Iterator[tuple[str, str]]:
    """Accounts with a password, or with none to be asked for."""
    for name in ("etc/shadow", "etc/shadow-", "etc/gshadow"):
        path = root / name
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) > 1 and fields[0] and fields[1][:1] not in ("!", "*"):
                if not fields[1] and name == "etc/gshadow":
                    continue  # a group without a password cannot be joined by one
                yield f"/{name}", f"{fields[0]} has {'a password' if fields[1] else 'no password at all'}"


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _judged(path: Path, place: PurePosixPath) -> str:
    """What a file is that must not be there; "" for any other."""
    if _NAMES.match(path.name):
        return "a file of secrets, by its name"
    if path.name.startswith(_PUBLISHED) or path.stat().st_size > _BYTES_MAX:
        return ""
    content = path.read_bytes()
    if content.startswith(b"\x7fELF") or ".dist-info" in place.parent.name:
        return ""  # libraries test themselves with keys, and packages' descriptions show tokens
    for marks, pattern, what in _CONTENTS:
        if any(mark in content for mark in marks) and pattern.search(content):
            return what
    if place.parts[1] == "etc" and str(place) not in _EXAMPLES:
        return next((what for pattern, what in _IN_SETTINGS if pattern.search(content)), "")
    return ""
