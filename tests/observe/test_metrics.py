"""Metrics: counted once, described each, read at the scrape."""

from edgegw.observe.metrics import GAUGES, Metrics, described


def lines(metrics: Metrics) -> list[str]:
    return metrics.exposition()[0].decode().splitlines()


def test_a_repeat_is_not_counted_as_a_payment() -> None:
    """Retransmissions that count make turnover out of a bad line."""
    metrics = Metrics()
    for repeat in (False, True, True):
        metrics.decided(
            kind="payment", outcome="cleared", cleared_by="allowance", reason="", repeat=repeat, seconds=0.01
        )
    found = lines(metrics)
    assert 'edgegw_payments_total{cleared_by="allowance",kind="payment",outcome="cleared"} 1.0' in found
    assert "edgegw_repeats_total 2.0" in found
    assert "edgegw_payment_seconds_count 3.0" in found


def test_refusals_are_counted_by_reason_and_the_undecided_by_code() -> None:
    """A rush of one reason is how an operator sees what is wrong."""
    metrics = Metrics()
    metrics.decided(
        kind="payment",
        outcome="refused",
        cleared_by="",
        reason="insufficient_funds",
        repeat=False,
        seconds=0.01,
    )
    metrics.unanswered(code="overloaded")
    found = lines(metrics)
    assert 'edgegw_refusals_total{reason="insufficient_funds"} 1.0' in found
    assert 'edgegw_unanswered_total{code="overloaded"} 1.0' in found


def test_gauges_are_read_at_the_scrape_and_modes_exclude_each_other() -> None:
    """A gauge that was read once is a lie an hour later."""
    metrics, depth = Metrics(), [1]
    metrics.watch("edgegw_queue_depth", lambda: depth[0])
    metrics.mode("active", ("active", "offline"))
    metrics.mode("offline", ("active", "offline"))
    metrics.committed(records=7, seconds=0.002)
    depth[0] = 5
    found = lines(metrics)
    assert "edgegw_queue_depth 5.0" in found
    assert 'edgegw_mode{mode="active"} 0.0' in found
    assert 'edgegw_mode{mode="offline"} 1.0' in found
    assert "edgegw_batch_records_sum 7.0" in found


def test_every_metric_is_described() -> None:
    """A name without a sentence is asked about in the night."""
    names = [name for name, _, text in described() if text.endswith(".")]
    assert len(names) == len(set(names)) == len(described())
    assert set(GAUGES) < set(names)
