"""A box that runs takes up the checkpoint key that somebody has laid beside the one in use (`edgegw keys
rotate`): journalled at once, whether the line is up or not.

A key that waits while the box clears nothing begins its next epoch instead (`app`). Leaves out the files
(`access.checkpoint_keys`) and the record (`Pen.change_key`).
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from edgegw.access.checkpoint_keys import CheckpointKeys
from edgegw.access.key_files import KeyFileError
from edgegw.access.places import PlaceAway
from edgegw.core.key_policy import CHECKPOINT, KeyChange
from edgegw.ledger.writer import Pen
from edgegw.own import signer

LOOK_S: Final = 1.0

_log: Final = structlog.get_logger("edgegw")


class Rotation:
    """See the module; `run` is its task."""

    def __init__(self, pen: Pen, keys: CheckpointKeys, *, bank: str, box: str) -> None:
        self._pen = pen
        self._keys = keys
        self._bank, self._box = bank, box

    async def run(self) -> None:
        """Look each second; raises what the pen raises."""
        said = ""
        while True:
            try:
                await self.look()
                said = ""
            except (KeyFileError, PlaceAway) as problem:
                if str(problem) != said:
                    said = str(problem)
                    _log.error("key_not_taken_up", problem=said, hint=problem.hint)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Take up the key that waits, if one does and the box may write. Raises KeyFileError, PlaceAway and
        what the pen raises."""
        following = await asyncio.to_thread(self._keys.look)
        if following is None or not self._pen.epoch or not self._pen.mode.clears:
            return
        text = following.public.text()
        if self._pen.checkpoint_key != text:
            sign = signer(following, bank=self._bank, box=self._box)
            one = await self._pen.change_key(self._statement, key=text, sign=sign)
            _log.info("checkpoint_key_changed", seq=one.seq, key=text)
        await asyncio.to_thread(self._keys.settle, text)

    def _statement(self, old: str, epoch: int, seq: int) -> str:
        following = self._keys.following
        return self._keys.statement(
            KeyChange(
                purpose=CHECKPOINT,
                bank=self._bank,
                box=self._box,
                epoch=epoch,
                seq=seq,
                old=old,
                new="" if following is None else following.public.text(),
            )
        )
