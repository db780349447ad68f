"""The box's metrics: one registry, every metric with a sentence of help; the reference lists them from here.

Owns names, labels and buckets. What is measured comes in by the narrow methods that the parts call
(`decided`, `unanswered`, `committed`) or, for what simply *is*, by functions that are read at a scrape
(`watch`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from edgegw.observe.checks import Level
from edgegw.observe.health import Standing

_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_RECORDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

GAUGES: Final[dict[str, str]] = {
    "edgegw_queue_depth": "Payments admitted and not yet answered.",
    "edgegw_line_up": "1 while the centre can be asked, else 0.",
    "edgegw_clears": "1 while the box takes payments, else 0.",
    "edgegw_offline_seconds": "How long the line has been down; 0 while it is up.",
    "edgegw_epoch": "The journal's running epoch.",
    "edgegw_journal_records": "Records in the running epoch's journal.",
    "edgegw_cosigned_records": "Records of the running epoch that the centre has in its books.",
    "edgegw_waiting_records": "Records that the centre does not have yet.",
    "edgegw_lacking_records": "Records of the box's own past that are still to come back.",
    "edgegw_mirror_up": "1 while the mirror answers, else 0.",
    "edgegw_mirror_durability": "1 while answers wait for the mirror's cosignature, else 0.",
    "edgegw_mirror_lag_records": "Records of the running epoch that the mirror does not have yet.",
    "edgegw_mirror_lag_seconds": "For how long the oldest record that the mirror lacks is on the disk.",
    "edgegw_stand_ins_waiting": "Payments cleared at the branch's risk that wait for the centre's word.",
    "edgegw_notices_unacknowledged": "Notices that their clients have not acknowledged.",
    "edgegw_notices_oldest_seconds": "For how long the oldest of them waits; 0 without one.",
    "edgegw_window": "The open clearing window's number.",
    "edgegw_site_version": "Version of the site's settings in force.",
    "edgegw_replica_well": "1 while litestream's copy of the ledger follows it, else 0.",
    "edgegw_replica_alarm": "1 while the copy is dead, stuck, silent, malformed or without room, else 0.",
    "edgegw_replica_txid": "What litestream has read of the ledger, in its own numbers.",
    "edgegw_replica_replicated_txid": "What of that is at the target.",
    "edgegw_replica_lag_records": "Records of the running epoch that are not known to be at the target.",
    "edgegw_replica_lag_seconds": "Age of the oldest change of the ledger that is not at the target.",
    "edgegw_replica_lag_bytes": "What waits on the box's disk to be copied to the target.",
    "edgegw_replica_wal_bytes": "Length of the ledger's WAL, used again or not.",
    "edgegw_replica_restarts": "How often litestream has ended by itself since the box's start.",
    "edgegw_replica_drill_well": "1 if the last restore drill found the copy well, else 0.",
    "edgegw_replica_drill_age_seconds": "How long ago the copy was last restored and checked; NaN for never.",
    "edgegw_certificate_days": "Days until the box's own certificate ends; NaN without enrolment.",
    "edgegw_discovery_listed": "1 while the box is listed on its network by multicast DNS, else 0.",
    "edgegw_discovery_peers": "Boxes and mirrors of the bank that say on the network that they are there.",
    "edgegw_discovery_restarts": "How often the process that speaks multicast DNS was started again.",
    "edgegw_disk_free_bytes": "Free bytes on the ledger's disk.",
    "edgegw_vault_open": "1 while payments with a card are decided, 0 while the vault is lost or failed.",
}
"""Gauges that the app fills by `watch`: name to help."""


disable_created_metrics()  # type: ignore[no-untyped-call]  # their times would double every counter's lines


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._payments = Counter(
            "edgegw_payments",
            "Decided requests, by kind, outcome and what funded them; repeats are not counted.",
            ("kind", "outcome", "cleared_by"),
            registry=self.registry,
        )
        self._refusals = Counter(
            "edgegw_refusals", "Refused requests, by the reason's code.", ("reason",), registry=self.registry
        )
        self._repeats = Counter(
            "edgegw_repeats", "Requests that were answered with their first answer.", registry=self.registry
        )
        self._unanswered = Counter(
            "edgegw_unanswered",
            "Requests that left without a decision, by problem code.",
            ("code",),
            registry=self.registry,
        )
        self._protocol_events = Counter(
            "edgegw_protocol_events",
            "What happened at a way in and is no decision: connections, bad frames, rejections of its own.",
            ("protocol", "event"),
            registry=self.registry,
        )
        self._latency = Histogram(
            "edgegw_payment_seconds",
            "From admission to the answer on disk, the centre's time included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "edgegw_batch_records", "Records written by one COMMIT.", buckets=_RECORDS, registry=self.registry
        )
        self._commit = Histogram(
            "edgegw_commit_seconds",
            "Signing the checkpoint, COMMIT and fsync of one batch.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._mode = Gauge(
            "edgegw_mode", "1 for the line's mode, 0 for the others.", ("mode",), registry=self.registry
        )
        self._disk = Gauge(
            "edgegw_disk_bytes",
            "Bytes on the ledger's disk by what they are: ledger, its reserve, log, copies and drills.",
            ("kind",),
            registry=self.registry,
        )
        self.machine = MachineHealth()
        self.registry.register(self.machine)
        self._payment_children: dict[tuple[str, str, str], Counter] = {}

    def decided(
        self, *, kind: str, outcome: str, cleared_by: str, reason: str, repeat: bool, seconds: float
    ) -> None:
        """A decision left the gateway; reason is a refusal's code or ""."""
        self._latency.observe(seconds)
        if repeat:
            self._repeats.inc()
            return
        labels = (kind, outcome, cleared_by)
        child = self._payment_children.get(labels)
        if child is None:  # Looking a child up by its labels costs more than counting.
            child = self._payment_children[labels] = self._payments.labels(*labels)
        child.inc()
        if reason:
            self._refusals.labels(reason).inc()

    def unanswered(self, *, code: str) -> None:
        """A request left without a decision."""
        self._unanswered.labels(code).inc()

    def protocol_event(self, *, protocol: str, event: str) -> None:
        """A way in had something that is no decision."""
        self._protocol_events.labels(protocol, event).inc()

    def committed(self, *, records: int, seconds: float) -> None:
        """A batch is on disk."""
        self._batch.observe(records)
        self._commit.observe(seconds)

    def mode(self, mode: str, modes: tuple[str, ...]) -> None:
        """The line is in `mode`, one of `modes`."""
        for name in modes:
            self._mode.labels(name).set(1 if name == mode else 0)

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Read a gauge of GAUGES by a function at every scrape; it must be quick and must not raise."""
        Gauge(name, GAUGES[name], registry=self.registry).set_function(read)

    def watch_disk(self, kind: str, read: Callable[[], float]) -> None:
        """Read the bytes of one kind of data by a function at every scrape."""
        self._disk.labels(kind).set_function(read)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class MachineHealth:
    """The machine's health as gauges, one of each check and subject; of a check that knows no value, none."""

    def __init__(self) -> None:
        self.standings: Callable[[], Sequence[Standing]] = tuple
        """How the machine stands; read at a scrape."""

    def collect(self) -> Iterator[Metric]:
        """Level and value of each standing."""
        labels = ("check", "subject")
        level = GaugeMetricFamily(
            "edgegw_health_level",
            "What is done about one thing that is watched of the machine: 0 nothing, 1 it is told,"
            " 2 telemetry is shed, 3 work that can wait does, 4 new payments are refused.",
            labels=labels,
        )
        value = GaugeMetricFamily(
            "edgegw_health_value",
            "What was read of it, in the check's unit; missing while it is unknown.",
            labels=labels,
        )
        for one in self.standings():
            of = (one.check, one.subject)
            level.add_metric(of, Level[one.level.upper()] if one.level != "unknown" else 0)
            if one.value is not None:
                value.add_metric(of, one.value)
        yield level
        yield value


def described() -> list[tuple[str, str, str]]:
    """Every metric as (name, type, help), for the reference."""
    fixed = [(family.name, family.type, family.documentation) for family in Metrics().registry.collect()]
    return sorted([*fixed, *((name, "gauge", text) for name, text in GAUGES.items())])
