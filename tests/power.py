"""Lets the power fail at a chosen step: operations on files, or what a test names, work only so often."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Failed(BaseException):
    """The power is gone; nothing in the product catches it."""


class Outcome:
    """Whether the power failed before the work was done."""

    failed = False


class Power:
    """Counts steps while it is to fail; else everything works."""

    def __init__(self, patch: pytest.MonkeyPatch, *operations: str) -> None:
        """operations: the names of functions of `os` that are steps."""
        self._patch = patch
        self._left: int | None = None
        self.watch(os, *operations)

    def watch(self, owner: object, *names: str, also_after: bool = False) -> None:
        """Make these functions steps too; also_after: the power may fail once they are done as well."""
        for name in names:
            self._patch.setattr(owner, name, self._step(getattr(owner, name), also_after=also_after))

    def _step(self, work: Callable[..., Any], *, also_after: bool) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            self._spend()
            result = work(*arguments, **named)
            if also_after:
                self._spend()
            return result

        return step

    def _spend(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Failed

    @contextmanager
    def fails_after(self, steps: int) -> Iterator[Outcome]:
        """Let so many steps be done within the block, and end the block at the next one."""
        outcome, self._left = Outcome(), steps
        try:
            yield outcome
        except Failed:
            outcome.failed = True
        finally:
            self._left = None
