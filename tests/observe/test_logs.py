"""Logs: one JSON object a line, from our code and from libraries, and no card number in any of it."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edgegw.observe.logs import LogFile, set_up_logs

PAN = "4111111111111111"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    stream = io.StringIO()
    set_up_logs(level="debug", stream=stream)
    yield stream
    root.handlers, root.level = before
    structlog.reset_defaults()


def read(lines: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_every_line_is_one_json_object_that_says_when_who_and_what(lines: io.StringIO) -> None:
    """A line that a program cannot read is not found on the day it is needed."""
    structlog.get_logger("edgegw.test").warning("line_lost", trace_id="ab", tries=3)
    logging.getLogger("library").error("broken %s", "pipe")
    ours, theirs = read(lines)
    assert (ours["event"], ours["level"], ours["logger"], ours["tries"]) == (
        "line_lost",
        "warning",
        "edgegw.test",
        3,
    )
    assert ours["at"].endswith("Z")
    assert (theirs["event"], theirs["logger"]) == ("broken pipe", "library")


def test_an_exception_is_one_line_with_its_trace(lines: io.StringIO) -> None:
    """A trace over twenty lines is twenty broken JSON objects."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        structlog.get_logger("edgegw.test").exception("request_failed")
    [line] = read(lines)
    assert "ValueError: two\nlines" in line["exception"]


def test_no_card_number_leaves_through_a_log(lines: io.StringIO) -> None:
    """A card number in a log is in every backup of the log."""
    log = structlog.get_logger("edgegw.test")
    log.info(f"paid with {PAN}", value=PAN, nested={"a": [PAN]}, number=1)
    try:
        raise ValueError(PAN)
    except ValueError:
        log.exception("failed", error=ValueError(PAN))
    logging.getLogger("library").info("got %s", PAN)
    assert PAN not in lines.getvalue()
    assert len(read(lines)) == 3


def test_a_log_file_keeps_the_newest_lines_within_its_bytes(tmp_path: Path) -> None:
    """Who comes to the box reads what it said last; a log without an end would be what fills its disk."""
    file = LogFile(tmp_path / "log" / "box.jsonl", bytes_max=8_000, may_write=lambda _: True)
    for number in range(500):
        file.emit(logging.makeLogRecord({"msg": f"line {number:04} {'x' * 50}"}))
    kept = sorted((tmp_path / "log").iterdir())
    assert [path.name for path in kept] == ["box.jsonl", "box.jsonl.1", "box.jsonl.2", "box.jsonl.3"]
    assert sum(path.stat().st_size for path in kept) <= 8_000
    text = "".join(path.read_text() for path in (*reversed(kept[1:]), kept[0]))
    numbers = [int(line.split()[1]) for line in text.splitlines()]
    assert numbers == list(range(numbers[0], 500))
    assert len(numbers) > 90
