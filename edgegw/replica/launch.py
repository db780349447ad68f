"""Becomes another program that ends when its parent does, even by SIGKILL:
`launch.py PARENT NICE PROGRAM ...`.

A script of the standard library for an interpreter of its own: between fork and exec a process with threads
may run no Python. A litestream that outlives its box reads a COMMIT that the dead pen never finished, and the
copy is malformed from there on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Arrange for the end, then become the program; exits at once if the parent is already gone."""
    parent, nice, program, *rest = arguments
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")
    if os.getppid() != int(parent):
        sys.exit(1)
    os.nice(int(nice))
    os.execv(program, [program, *rest])  # noqa: S606 - which is what this is for


if __name__ == "__main__":
    main(sys.argv[1:])
