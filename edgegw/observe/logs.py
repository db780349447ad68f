"""Logs: one JSON object a line on stderr, from our own code and from libraries alike; no card number ever
leaves through them.

Field names: `at` (UTC, ISO 8601), `level`, `logger`, `event`, `trace_id` where a request is behind it, and
what the event says."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
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


def set_up_logs(*, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (stderr by default) as JSON lines; call once, at the
    start."""
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
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
