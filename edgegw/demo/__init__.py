"""The demo: a hub and a box as real processes, a branch's day of payments, a line that is cut, and a report
that checks it all from outside.

It drives the product only as its clients and operators do: over HTTP, ISO 8583, signals and commands.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run `edgegw demo` with these arguments; its exit code."""
    from edgegw.demo.command import demo

    return int(demo.main(list(arguments), prog_name="edgegw demo", standalone_mode=False) or 0)
