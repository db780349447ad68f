"""The hub's word that it holds records too must never be ahead of its disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine, event

from edgegw.core.messages import PackageVerdict
from tests.hub.world import NORTH, World


@contextmanager
def commits_fail() -> Iterator[None]:
    """No COMMIT succeeds inside."""

    def fail(_: Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    event.listen(Engine, "commit", fail)
    try:
        yield
    finally:
        event.remove(Engine, "commit", fail)


def test_a_push_whose_commit_fails_is_neither_kept_nor_cosigned(world: World) -> None:
    """A cosignature over what a failed COMMIT has thrown away lets a box forget what nobody else holds."""
    box = world.box(NORTH)
    held = world.row("SELECT size FROM journal_head WHERE box = 'north'")
    box.refuse("0" * 32)
    package = box.package(box.held, len(box.bodies))
    box.talk = world.hub._exchange
    with commits_fail(), pytest.raises(sqlite3.OperationalError):
        box.beat(push=package)
    assert world.row("SELECT size FROM journal_head WHERE box = 'north'") == held
    assert box.beat(push=package).push is PackageVerdict.ACCEPTED
    assert world.hub_key.public.check_cosignature(box.cosignature).checkpoint.size == len(box.bodies)
