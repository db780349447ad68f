"""Logs: one JSON object a line on stderr and in a file, from our own code and from libraries alike; no card
number ever leaves through them.

Field names: `at` (UTC, ISO 8601), `level`, `logger`, `event`, `trace_id` where a request is behind it, and
what the event says."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from edgegw.core.card_numbers import mask_card_numbers

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def _without_card_numbers(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: _masked(value) for name, value in event.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask_card_numbers(value)
    if isinstance(value, Mapping):
        return {str(name): _masked(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner) for inner in value]
    if isinstance(value, int | float | None):
        return value
    return mask_card_numbers(str(value))


def _line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {
        "at": event.pop("timestamp", ""),
        "level": event.pop("level", ""),
        "event": event.pop("event", ""),
    }
    return _encode({**first, **event}).decode()


FILES: Final = 4
"""The log's file and its older ones share its bytes."""


class LogFile(logging.Handler):
    """The lines in a file as well, for whoever comes to the box: box.jsonl, older ones in box.jsonl.1 and on.

    Never more than bytes_max, and nothing while the disk has better use for its space (`may_write` says so
    for a number of bytes): then the older files go and the lines are counted.
    """

    def __init__(self, path: Path, *, bytes_max: int, may_write: Callable[[int], bool]) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.dropped = 0
        """Lines that were not written since the last one that was."""
        self._path = path
        self._each_bytes = bytes_max // FILES
        self._may_write = may_write

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line; what the disk does not take is counted and never raised."""
        line = self.format(record).encode() + b"\n"
        try:
            if not self._may_write(len(line)):
                self._shed()
                return
            if self.dropped:
                line = b'{"event":"log_lines_dropped","lines":%d}\n' % self.dropped + line
            self._rotate(len(line))
            with self._path.open("ab") as file:
                file.write(line)
            self.dropped = 0
        except OSError:
            self.dropped += 1

    def _shed(self) -> None:
        self.dropped += 1
        for number in range(1, FILES):
            self._older(number).unlink(missing_ok=True)

    def _rotate(self, more_bytes: int) -> None:
        if not self._path.exists() or self._path.stat().st_size + more_bytes <= self._each_bytes:
            return
        for number in range(FILES - 1, 0, -1):
            newer = self._older(number - 1)
            if newer.exists():
                newer.replace(self._older(number))

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def set_up_logs(*, level: str = "info", stream: TextIO | None = None, file: LogFile | None = None) -> None:
    """Send all logs of this process to `stream` (stderr by default) as JSON lines, and to a file as well if
    one is given; call once, at the start."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _without_card_numbers,
        _line,
    ]
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr if stream is None else stream)]
    handlers += [] if file is None else [file]
    for handler in handlers:
        handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers = handlers
    root.setLevel(level.upper())
