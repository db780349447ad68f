"""What simply *is* of a running box, as numbers that are read at a scrape: by the names of
`observe.metrics.GAUGES`. Leaves out what other parts count themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgegw.core.records import Durability
from edgegw.ledger.coverage import Coverage
from edgegw.payments.backlog import Backlog
from edgegw.payments.service import Gateway
from edgegw.renewal import Renewal
from edgegw.uplink.status import LineStatus


def gauges_of(
    gateway: Gateway,
    *,
    line: Callable[[], LineStatus | None],
    coverage: Callable[[], Coverage | None],
    backlog: Callable[[], Backlog | None],
    renewal: Renewal | None,
    now_ns: Callable[[], int],
) -> dict[str, Callable[[], float]]:
    """Name to a function that reads it; now_ns is the box's own time, and what is None is not there yet."""

    def of_line(read: Callable[[LineStatus], int]) -> int:
        status = line()
        return 0 if status is None else read(status)

    def mirror(read: Callable[[Coverage], float]) -> float:
        found = coverage()
        return 0 if found is None else read(found)

    def notices(read: Callable[[Backlog], float]) -> float:
        found = backlog()
        return 0 if found is None else read(found)

    def offline_seconds() -> float:
        since_ns = gateway.book.offline_since_ns
        return max(0, now_ns() - since_ns) / 1e9 if since_ns else 0

    def cosigned() -> int:
        return max(0, gateway.book.seq + 1 - of_line(lambda status: status.waiting))

    return {
        "edgegw_mirror_up": lambda: mirror(lambda found: int(found.up)),
        "edgegw_mirror_durability": lambda: mirror(lambda found: int(found.state is not Durability.LOCAL)),
        "edgegw_mirror_lag_seconds": lambda: mirror(lambda found: found.lag_ns / 1e9),
        "edgegw_mirror_lag_records": lambda: mirror(
            lambda found: found.lag_records(epoch=gateway.book.epoch, size=gateway.book.seq + 1)
        ),
        "edgegw_queue_depth": lambda: gateway.queue_depth,
        "edgegw_line_up": lambda: int(gateway.line_up),
        "edgegw_clears": lambda: int(gateway.ready),
        "edgegw_offline_seconds": offline_seconds,
        "edgegw_epoch": lambda: gateway.book.epoch,
        "edgegw_journal_records": lambda: gateway.book.seq + 1,
        "edgegw_cosigned_records": cosigned,
        "edgegw_waiting_records": lambda: of_line(lambda status: status.waiting),
        "edgegw_lacking_records": lambda: of_line(lambda status: status.lacking),
        "edgegw_stand_ins_waiting": lambda: len(list(gateway.book.stand_ins.items())),
        "edgegw_notices_unacknowledged": lambda: notices(lambda found: found.notices),
        "edgegw_notices_oldest_seconds": lambda: notices(lambda found: found.oldest_seconds),
        "edgegw_window": lambda: gateway.book.window,
        "edgegw_site_version": lambda: gateway.book.site_version,
        "edgegw_certificate_days": lambda: math.nan if renewal is None else renewal.status.days_left,
    }
