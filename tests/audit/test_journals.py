"""Journals of which the beginning was pruned, and keys that the hub's links name."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegw import verifier
from edgegw.core import export
from edgegw.core.journal import FIRST_PREVIOUS, Frontier
from tests.audit.edits import line_of
from tests.audit.logs import Author, Log, records

SIZE, COSIGNED = 600, 550
AUTHOR = Author.new()
LOG = Log.of(AUTHOR, list(records(AUTHOR, SIZE, 1)))
HUB_ALONE = ["--hub-key", AUTHOR.hub.public.text()]
BOTH = AUTHOR.arguments(hub=True)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Verify lines as a journal file: the exit code, and the figures."""

    def verify(lines: list[bytes], keys: list[str]) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "journal"
        path.write_bytes(b"".join(lines))
        code = verifier.main([*keys, "--json", "journal", str(path)])
        return code, json.loads(capsys.readouterr().out)

    return verify


def pruned(start: int) -> list[bytes]:
    """The journal from a record on, as it is exported once the others are gone."""
    before = Frontier()
    before.extend(LOG.leaves[:start])
    entries = zip(LOG.records[start:], LOG.leaves[start:], strict=True)
    return list(
        export.journal_lines(
            AUTHOR.origin,
            entries,
            checkpoint=LOG.note(),
            cosignatures=[LOG.cosignature(COSIGNED)],
            before=before,
            previous=LOG.leaves[start - 1] if start else FIRST_PREVIOUS,
        )
    )


@pytest.mark.parametrize("start", [0, 1, 2, 3, 255, 256, 300, 511, COSIGNED, SIZE - 1, SIZE])
def test_what_remains_of_a_pruned_journal_verifies(start: int, run: Callable[..., Any]) -> None:
    """A hash for what is gone must be enough for what is left, cosignature included."""
    keys = HUB_ALONE if start == 0 else BOTH
    code, found = run(pruned(start), keys if start <= COSIGNED else AUTHOR.arguments(hub=False))
    assert (code, found.get("from"), found.get("size")) == (0, start, SIZE), found


def test_edits_of_a_pruned_journal_are_found(run: Callable[..., Any]) -> None:
    """Its records as ever; and what stands for the pruned ones must give the signed root too."""
    rng = random.Random(4)
    for start in (1, 255, 300):
        lines = pruned(start)
        header = json.loads(lines[0])
        for wrong in (
            {"from": start + 1},
            {"from": 0},
            {"previous_leaf": "00" * 32},
            {"peaks": header["peaks"][:-1]},
            {"peaks": [*header["peaks"][:-1], "00" * 32]},
            {"peaks": "x"},
        ):
            assert run([line_of(header | wrong), *lines[1:]], BOTH)[0] == 1, wrong
        places = [number for number, line in enumerate(lines) if line.startswith(b'{"type":')]
        record = rng.randrange(len(places))
        changed = lines.copy()
        changed[places[record]] = changed[places[record]].replace(b'"v":1', b'"v":2')
        code, found = run(changed, BOTH)
        assert (code, found["first_bad_record"]) == (1, start + record)


def test_the_hubs_key_is_enough_where_its_link_is_there(run: Callable[..., Any]) -> None:
    """The hub names the box's key for each epoch; nobody else's word, and no other epoch's, does."""
    lines = LOG.lines(cosigned=COSIGNED)
    assert run(lines, HUB_ALONE)[0] == 0
    assert run(lines, ["--hub-key", Author.new().hub.public.text()])[0] == 1
    assert run([lines[0], *lines[2:]], HUB_ALONE)[0] == 2  # no link: no key
    other = Author.new(epoch=2, hub=AUTHOR.hub)
    foreign = Log.of(AUTHOR, [next(records(other, 1, 1)), *LOG.records[1:]]).lines(cosigned=COSIGNED)
    code, found = run(foreign, HUB_ALONE)
    assert (code, found["first_bad_record"]) == (1, 0)
    assert "not for" in found["problem"]
    own = Author(other.box, other.box)
    forged = Log.of(own, [next(records(own, 1, 1)), *LOG.records[1:]]).lines(cosigned=COSIGNED)
    assert run(forged, HUB_ALONE)[0] == 1


def test_one_key_of_several_must_fit(run: Callable[..., Any]) -> None:
    """A box has a key for each epoch; the auditor gives all that he was told."""
    others = [text for _ in range(3) for text in ("--box-key", Author.new().box.public.text())]
    assert run(LOG.lines(), [*others, *AUTHOR.arguments(hub=False)])[0] == 0
    code, found = run(LOG.lines(), others)
    assert (code, found["place"]) == (1, "checkpoint")
