"""What a machine said of its end counts for its own box, and nobody else's."""

import time
from collections.abc import Callable

import pytest

from edgegw.access.keys import SigningKey
from edgegw.commands.hub_backup import _destroyed
from edgegw.errors import OperatingError
from edgegw.hub.identities import PINNED, bind
from edgegw.reset_statement import FORMAT, EndOfJournal, Statement, sign
from tests.hub import simulated_box
from tests.hub.places import Place

NOW_NS = time.time_ns()
END = EndOfJournal(epoch=1, size=5, root="00", centre_size=5, exported=False)


@pytest.fixture
def said(place: Place) -> Callable[[str], list[str]]:
    """What is wrong with a statement of east's device, made in the name of a box."""
    device = SigningKey("b1/east", simulated_box.PrivateKey.generate())
    database = place.open()
    database.transact(lambda c: bind(c, "east", device.public, origin=PINNED, now_ns=NOW_NS))

    def read(box: str) -> list[str]:
        statement = Statement(
            format=FORMAT,
            bank="b1",
            box=box,
            device_key=device.public.text(),
            version="1",
            at_s=1,
            journals=(END,),
        )
        return database.transact(lambda c: _destroyed(c, sign(statement, device))[2])

    return read


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_no_device_speaks_for_another_box(said: Callable[[str], list[str]]) -> None:
    """A person would write off what that box still holds."""
    assert said("east") == ["epoch 1: the hub holds 0 records and had signed for 5"]
    with pytest.raises(OperatingError, match="the device of east has signed it in the name of west"):
        said("west")
