"""The stand-alone verifier and keys that follow each other: which heads, records and receipts it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgegw import verifier
from edgegw.access.keys import SigningKey
from edgegw.core import journal
from edgegw.core.export import journal_lines
from edgegw.core.key_policy import sign_change
from tests.core.authors import BANK, BOX
from tests.core.test_key_policy import (
    CHANGE,
    FIRST,
    NOTE,
    RECORDS,
    SECOND,
    Forger,
    checkpoint,
    record,
    said,
)

ONE_SIGNATURE = NOTE.rsplit("\n", 2)[0] + "\n"
ELSEWHERE = sign_change(said(epoch=2), old=FIRST, new=SECOND)
LATER = sign_change(said(seq=CHANGE + 1), old=FIRST, new=SECOND)
FORGED = sign_change(said(), old=FIRST, new=Forger(SECOND))


def problem(path: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the verifier finds wrong by the first key; "" for nothing."""
    verifier.main(["--box-key", FIRST.public.text(), "--json", *arguments, str(path)])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return "" if found["verified"] else str(found["problem"])


@pytest.mark.parametrize(
    ("key", "size", "keys", "changes", "expected"),
    [
        pytest.param(SECOND, 12, [NOTE], {}, "", id="the new key, behind its record"),
        pytest.param(FIRST, CHANGE, [], {}, "", id="the old key, up to it"),
        pytest.param(FIRST, 12, [NOTE], {}, "not by", id="the old key beyond its range"),
        pytest.param(FIRST, 12, [], {}, "beside the checkpoint", id="the old key, its end not told"),
        pytest.param(SECOND, 4, [NOTE], {}, "not by", id="the new key before its record"),
        pytest.param(SECOND, 12, [], {}, "not by", id="the new key, unexplained"),
        pytest.param(
            SECOND, 12, [ONE_SIGNATURE], {"note": ONE_SIGNATURE}, "two signatures", id="one signature"
        ),
        pytest.param(SECOND, 12, [FORGED], {"note": FORGED}, "is not signed by", id="a forged signature"),
        pytest.param(SECOND, 12, [ELSEWHERE], {"note": ELSEWHERE}, "not for", id="of another epoch"),
        pytest.param(SECOND, 12, [LATER], {"note": LATER}, "record 6", id="of another record"),
        pytest.param(SECOND, 12, [NOTE], {"note": LATER}, "record 6", id="another one beside than inside"),
        pytest.param(FIRST, 12, [], {"note": ""}, "statement", id="a key without a statement"),
    ],
)
def test_a_journal_is_that_of_the_key_of_its_size(
    key: SigningKey,
    size: int,
    keys: list[str],
    changes: dict[str, str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Records and tree are sound in each of these; only whose word they are differs."""
    bodies = [*RECORDS[:CHANGE], record(CHANGE, **changes), *RECORDS[CHANGE + 1 :]][:size]
    leaves = journal.chain(journal.FIRST_PREVIOUS, bodies)
    origin = journal.journal_origin(bank=BANK, box=BOX, epoch=1)
    lines = journal_lines(
        origin,
        zip(bodies, leaves, strict=True),
        checkpoint=checkpoint(key, size, bodies),
        cosignatures=[],
        keys=keys,
    )
    path = tmp_path / "a.journal"
    path.write_bytes(b"".join(lines))
    found = problem(path, "journal", capsys=capsys)
    assert (expected in found) if expected else not found, found
