"""The machine's TPM 2.0: the secret is sealed under its storage key and, where the settings name PCRs, to
them.

Through the programs of tpm2-tools, which the distribution builds and mends; the secret goes through pipes
and, between TPM and program, through a salted session that encrypts it: who listens on the bus hears
nothing. Only the TPM that sealed it opens it. Needs a resource manager (/dev/tpmrm0) and an owner hierarchy
without a password.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edgegw.access.places import PlaceAway, PlaceRefuses

_SECONDS_MAX: Final = 60
"""A slow discrete TPM makes a storage key in about two."""
_FOLDER: Final = "edgegw-tpm-"
_RETURN_CODE: Final = re.compile(r"\((0x[0-9A-Fa-f]{1,8})\)")
_PCRS: Final = re.compile(r"(sha256:\d{1,2}(,\d{1,2})*)?")
# TPM 2.0 part 2, clause 6.6.3: codes of format one, without the number of the parameter or session.
_FORMAT_ONE: Final = 0x080
_FORMAT_ONE_MASK: Final = 0x0BF
_POLICY_FAIL: Final = 0x09D
_AUTH_FAIL: Final = 0x08E
_BAD_AUTH: Final = 0x0A2
_LOCKOUT: Final = 0x921
# noda: it has no password that could be guessed. Without it each loss of power counts as a wrong one, and a
# TPM that has seen a few shuts everything that hangs on this key.
_PARENT: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"


class _Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pcrs: str
    """`sha256:0,7`, or "" where only the TPM counts."""
    public: bytes
    private: bytes


class _Failed(Exception):
    def __init__(self, said: str) -> None:
        super().__init__(said)
        codes = _RETURN_CODE.findall(said)
        number = int(codes[-1], 16) & 0xFFF if codes else 0
        self.code = number & _FORMAT_ONE_MASK if number & _FORMAT_ONE else number


class Tpm2:
    """The place `tpm2`."""

    def __init__(self, *, tcti: str, pcrs: Sequence[int]) -> None:
        self._tcti = tcti
        self._pcrs = f"sha256:{','.join(map(str, sorted(pcrs)))}" if pcrs else ""

    def seal(self, secret: bytes) -> bytes:
        """A slot's content that this TPM alone opens; raises PlaceAway and PlaceRefuses."""
        with self._parent() as tools:
            words = ["-a", "fixedtpm|fixedparent|noda" + ("" if self._pcrs else "|userwithauth")]
            try:
                if self._pcrs:
                    with tools.session("--policy-session"):
                        tools.run("tpm2_policypcr", "-Q", "-S", "session", "-l", self._pcrs, "-L", "policy")
                    words += ["-L", "policy"]
                with tools.session("--hmac-session", "--enable-decrypt"):
                    sealing = ("-Q", "-C", "parent", "-P", "session:session", "-i", "-", "-u", "public")
                    tools.run("tpm2_create", *sealing, "-r", "private", *words, given=secret)
            except _Failed as problem:
                raise PlaceRefuses(
                    f"the TPM does not seal ({problem})",
                    hint="see keys.tpm2.pcrs, and that it has a sha256 bank",
                ) from None
            slot = _Slot(pcrs=self._pcrs, public=tools.read("public"), private=tools.read("private"))
        return msgspec.json.encode(slot)

    def open(self, slot: bytes) -> bytes:
        """The secret; raises PlaceAway and PlaceRefuses."""
        try:
            held = msgspec.json.decode(slot, type=_Slot)
            if not _PCRS.fullmatch(held.pcrs):
                raise ValueError("its PCRs are none")
        except ValueError as wrong:
            raise PlaceRefuses(
                f"it is no slot of this place ({wrong})", hint="restore it from its backup"
            ) from None
        with self._parent() as tools:
            tools.write("public", held.public)
            tools.write("private", held.private)
            try:
                tools.run("tpm2_load", "-Q", "-C", "parent", "-u", "public", "-r", "private", "-c", "sealed")
            except _Failed as problem:
                if problem.code == _LOCKOUT:
                    raise _refusal(problem, held.pcrs) from None
                raise PlaceRefuses(
                    f"this machine's TPM did not seal it, or it was altered ({problem})",
                    hint="sealed keys do not move to other hardware: enrol this box anew, with new keys",
                ) from None
            try:
                with tools.session("--policy-session" if held.pcrs else "--hmac-session"):
                    if held.pcrs:
                        tools.run("tpm2_policypcr", "-Q", "-S", "session", "-l", held.pcrs)
                    return tools.run("tpm2_unseal", "-c", "sealed", "-p", "session:session")
            except _Failed as problem:
                raise _refusal(problem, held.pcrs) from None

    def clear(self) -> None:
        """Have the TPM forget all that it ever sealed, for whomever; raises PlaceAway and PlaceRefuses."""
        with _own_folder() as folder:
            try:
                _Tools(folder, self._tcti).run("tpm2_clear", "-Q")
            except _Failed as problem:
                raise PlaceRefuses(
                    f"the TPM does not clear itself ({problem})", hint="clear it in the firmware's setup"
                ) from None

    @contextmanager
    def _parent(self) -> Iterator[_Tools]:
        """The tools in a folder of their own that has the storage key's context; raises PlaceAway."""
        with _own_folder() as folder:
            tools = _Tools(folder, self._tcti)
            try:
                kind = ("-C", "o", "-G", "ecc", "-g", "sha256", "-a", _PARENT)
                tools.run("tpm2_createprimary", "-Q", *kind, "-c", "parent")
            except _Failed as problem:
                if problem.code in (_AUTH_FAIL, _BAD_AUTH):
                    raise PlaceRefuses(
                        "the TPM's owner hierarchy has a password", hint="clear it: tpm2_changeauth -c owner"
                    ) from None
                raise PlaceAway(
                    f"keys.tpm2.tcti = {self._tcti}: the TPM does not answer ({problem})",
                    hint="See that the device is there (dmesg), and that the box's user is in the group tss.",
                ) from None
            yield tools


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A new private folder, gone at the end; those of processes that were killed go with it."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with _held(left) as is_left:
            if is_left:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        with tempfile.TemporaryDirectory(prefix=_FOLDER, ignore_cleanup_errors=True) as made:
            folder = Path(made)
            with _held(folder) as is_mine:
                if is_mine and folder.exists():  # another process may have taken it for one that was left
                    yield folder
                    return


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether the folder is this user's and no living process holds it; then it is held until the end."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = os.fstat(descriptor).st_uid == os.geteuid()
        except BlockingIOError:
            is_held = False
        yield is_held
    finally:
        os.close(descriptor)


class _Tools:
    """The programs, run in one private folder whose files' names they are given."""

    def __init__(self, folder: Path, tcti: str) -> None:
        self._folder = folder
        self._environment = {**os.environ, "TPM2TOOLS_TCTI": tcti, "TSS2_LOG": "all+none"}

    def run(self, program: str, *words: str, given: bytes = b"") -> bytes:
        """What a program prints; raises _Failed with what it says, and PlaceAway where it cannot run."""
        done = self._done(program, *words, given=given)
        if program in ("tpm2_createprimary", "tpm2_load", "tpm2_startauthsession", "tpm2_create"):
            # Their objects stay in the TPM's few places where no resource manager takes them out.
            self._done("tpm2_flushcontext", "-t")
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            told = [
                line.removeprefix("ERROR: ") for line in lines if not line.startswith("ERROR: Unable to run")
            ]
            raise _Failed(told[-1] if told else f"{program} ended with {done.returncode}")
        return done.stdout

    @contextmanager
    def session(self, kind: str, *more: str) -> Iterator[None]:
        """A session, salted with the storage key, that encrypts what it answers (and what more says)."""
        self.run("tpm2_startauthsession", "-Q", kind, "-S", "session", "--tpmkey-context", "parent")
        try:
            self.run("tpm2_sessionconfig", "session", "--enable-encrypt", *more)
            yield
        finally:
            self._done("tpm2_flushcontext", "session")

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        (self._folder / name).write_bytes(content)

    def _done(self, program: str, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [program, *words],
                cwd=self._folder,
                env=self._environment,
                input=given,
                capture_output=True,
                check=False,
                timeout=_SECONDS_MAX,
            )
        except FileNotFoundError:
            raise PlaceAway(
                f"{program} is not installed",
                hint="Install the TPM's programs; on Debian: apt install tpm2-tools.",
            ) from None
        except subprocess.TimeoutExpired:
            raise PlaceAway(f"the TPM did not answer {program} within {_SECONDS_MAX} seconds") from None


def _refusal(problem: _Failed, pcrs: str) -> PlaceRefuses:
    if problem.code == _POLICY_FAIL:
        return PlaceRefuses(
            f"the PCRs {pcrs} are not as when it was sealed: the firmware or what it boots changed",
            hint="boot what it was sealed under; before a wanted change move the keys to another place,"
            " and back after it",
        )
    if problem.code == _LOCKOUT:
        return PlaceRefuses(
            "the TPM is locked after wrong passwords", hint="wait, or tpm2_dictionarylockout --clear-lockout"
        )
    return PlaceRefuses(f"the TPM does not open it ({problem})", hint="restore it from its backup")
