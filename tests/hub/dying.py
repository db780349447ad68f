"""A hub process that takes one message and dies at the COMMIT of its decision: a part of `test_cluster`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.hub import postgresql
from edgegw.hub.app import Hub
from edgegw.hub.keyring import Keyring
from tests.hub.conftest import hashed_signatures
from tests.hub.simulated_box import BANK
from tests.simulator.seams import HashedPrivate, HashedPublic


class Asked(msgspec.Struct):
    """What the test hands over."""

    url: str
    password_file: str
    hub: bytes
    boxes: dict[str, bytes]
    data: bytes
    moment: str


def main(file: Path) -> None:
    """Take the message; this function does not return."""
    asked = msgspec.msgpack.decode(file.read_bytes(), type=Asked)
    with hashed_signatures():
        private = HashedPrivate(b"")
        private.public = HashedPublic(asked.hub)
        boxes = {name: VerifyingKey(name, HashedPublic(point)) for name, point in asked.boxes.items()}  # type: ignore[arg-type]
        keyring = Keyring(BANK, SigningKey("hub", private), boxes)  # type: ignore[arg-type]
        target = postgresql.Target(asked.url, Path(asked.password_file))
        hub = Hub(postgresql.PostgresDatabase(target, workers=1), keyring)
        commit = postgresql._commit

        async def dies(connection: AsyncConnection) -> None:
            if asked.moment == "before":
                die()
            if asked.moment == "within":
                # The COMMIT goes out when it is first waited for; its answer is read a turn of the loop
                # later.
                asyncio.get_running_loop().call_soon(die)
            await commit(connection)
            die()

        postgresql._commit = dies
        hub._exchange(asked.data)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
