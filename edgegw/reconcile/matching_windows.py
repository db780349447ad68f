"""Boxes' closed windows: against the records in them, and against what the hub has of them."""

from __future__ import annotations

from typing import Final

from edgegw.reconcile.breaks import on_sides, write_breaks
from edgegw.reconcile.workspace import SEQ_BITS, Workspace

_PLACE: Final = {
    "box": "one.box",
    "epoch": "one.epoch",
    "seq": f"one.place & {(1 << SEQ_BITS) - 1}",
    **on_sides("one.place"),
}
_COUNTED: Final = """(SELECT box, epoch, window, max(place) AS place, participant, currency,
        sum(said) AS said, sum(counted) AS counted FROM (
        SELECT box, epoch, window, place, participant, currency, net_minor AS said, 0 AS counted
        FROM {said}
        UNION ALL SELECT net.box, net.epoch, net.window, closed.place, net.participant, net.currency, 0,
            net.net_minor FROM window_net AS net JOIN window_closed AS closed USING (box, epoch, window))
    GROUP BY box, epoch, window, participant, currency HAVING sum(said) <> sum(counted))"""
"""Participants of closed windows of whom somebody says otherwise than the records."""


def match_windows(workspace: Workspace) -> None:
    """What a window's record says of itself, then what the hub says of it."""
    _positions(workspace)
    _at_hub(workspace)


def _positions(workspace: Workspace) -> None:
    """A window that is pruned in part, or is not of one history, is not judged by its records."""
    write_breaks(
        workspace,
        "positions_not_zero",
        """FROM (SELECT box, epoch, window, place, currency, sum(net_minor) AS sum_minor FROM window_position
            GROUP BY place, currency HAVING sum_minor <> 0) AS one""",
        amount_minor="abs(one.sum_minor)",
        currency="one.currency",
        detail="'window ' || one.window || ': its positions in ' || one.currency || ' sum to '"
        " || one.sum_minor",
        **_PLACE,
    )
    judged = """JOIN whole_epoch USING (box, epoch)
        WHERE NOT EXISTS (SELECT 1 FROM break WHERE break.class = 'positions_not_zero'
            AND one.place IN (break.journal_place, break.hub_place))"""
    write_breaks(
        workspace,
        "position_differs",
        f"""FROM (
            SELECT box, epoch, window, place, currency, sum(abs(said - counted)) / 2 AS amount_minor,
                group_concat(participant || ': ' || said || ' said, ' || counted || ' by the records', '; ')
                    AS detail FROM {_COUNTED.format(said="window_position")}
            GROUP BY box, epoch, window, place, currency) AS one
        {judged}""",
        amount_minor="one.amount_minor",
        currency="one.currency",
        detail="'window ' || one.window || ': ' || one.detail",
        **_PLACE,
    )
    write_breaks(
        workspace,
        "position_differs",
        f"""FROM (SELECT closed.*, coalesce(counted.transfers, 0) AS counted FROM window_closed AS closed
            LEFT JOIN window_transfers AS counted USING (box, epoch, window)) AS one
        {judged} AND one.counted <> one.transfers""",
        detail="'window ' || one.window || ': ' || one.transfers || ' transfers said, ' || one.counted"
        " || ' by the records'",
        **_PLACE,
    )


def _at_hub(workspace: Workspace) -> None:
    """Of epochs with one history, of which all records are known. A window that a seal has ended has no day
    and no record."""
    closed = """FROM window_closed AS one JOIN whole_epoch USING (box, epoch)
        JOIN hub_epoch USING (box, epoch) LEFT JOIN hub_window AS theirs ON theirs.box = one.box
            AND theirs.epoch = one.epoch AND theirs.window = one.window AND theirs.state <> 'open'"""
    held = f"one.place & {(1 << SEQ_BITS) - 1} < hub_epoch.size"
    hub = """json_object('state', theirs.state, 'business_date', theirs.business_date,
        'transfers', theirs.transfers)"""
    write_breaks(
        workspace,
        "window_missing_at_hub",
        f"{closed} WHERE {held} AND theirs.window IS NULL",
        detail="'window ' || one.window || ' of ' || one.business_date || ' is not closed at the hub'",
        **_PLACE,
    )
    write_breaks(
        workspace,
        "window_only_at_hub",
        """FROM hub_window AS theirs JOIN whole_epoch USING (box, epoch)
        WHERE theirs.state <> 'open' AND theirs.business_date <> '' AND NOT EXISTS (
            SELECT 1 FROM window_closed AS one WHERE one.box = theirs.box AND one.epoch = theirs.epoch
            AND one.window = theirs.window)""",
        box="theirs.box",
        epoch="theirs.epoch",
        detail="'window ' || theirs.window || ' of ' || theirs.business_date || ' is ' || theirs.state"
        " || ' at the hub, and no record closes it'",
        hub=hub,
    )
    write_breaks(
        workspace,
        "window_differs",
        f"""{closed} LEFT JOIN window_transfers AS counted ON counted.box = one.box
            AND counted.epoch = one.epoch AND counted.window = one.window
        LEFT JOIN (SELECT box, epoch, window, max(currency) AS currency, sum(abs(said - counted)) AS unlike,
                group_concat(participant || ': ' || counted || ' by the records, ' || said || ' at the hub',
                    '; ') AS detail
            FROM {_COUNTED.format(said="(SELECT *, NULL AS place FROM hub_position)")}
            GROUP BY box, epoch, window) AS net ON net.box = one.box AND net.epoch = one.epoch
            AND net.window = one.window
        WHERE {held} AND theirs.business_date <> '' AND (theirs.business_date <> one.business_date
            OR theirs.transfers <> coalesce(counted.transfers, 0) OR net.unlike)""",
        amount_minor="coalesce(net.unlike, 0)",
        currency="coalesce(net.currency, '')",
        detail="'window ' || one.window || ': ' || concat_ws('; ',"
        " iif(theirs.business_date <> one.business_date, 'of ' || one.business_date || ', of '"
        " || theirs.business_date || ' at the hub', NULL), iif(theirs.transfers <>"
        " coalesce(counted.transfers, 0), coalesce(counted.transfers, 0) || ' transfers by the records, '"
        " || theirs.transfers || ' at the hub', NULL), net.detail)",
        hub=hub,
        **{name: value for name, value in _PLACE.items() if name != "hub_place"},
    )
