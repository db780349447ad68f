"""Files that somebody else lays where this machine reads: on a stick, or in a folder of another user.

A name there may be a pipe, on which reading waits for ever, a device, or a link to another place. Leaves out
what stands in them: nothing of it is believed here.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

_NEVER_ELSEWHERE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_regular(folder: Path, *names: str) -> BinaryIO:
    """Open the regular file folder/names... to read; raises OSError, at once, for anything else and for a
    link at any of the names."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            inner = os.open(name, _NEVER_ELSEWHERE | os.O_DIRECTORY, dir_fd=held)
            os.close(held)
            held = inner
        # A pipe opens at once this way, and is then seen to be one.
        descriptor = os.open(names[-1], _NEVER_ELSEWHERE | os.O_NONBLOCK, dir_fd=held)
    finally:
        os.close(held)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", "/".join(names))
    return os.fdopen(descriptor, "rb")


def is_regular(folder: Path, *names: str) -> bool:
    """Whether `open_regular` opens it."""
    try:
        open_regular(folder, *names).close()
    except OSError:
        return False
    return True
