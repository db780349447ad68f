"""Money asked back from boxes: before the centre declines for lack of it, and where it lies idle (DESIGN §4).

Boxes never wait for each other here. Whoever wants money writes a row for each box that is to give it; that
box's own next beat makes a directive of its rows, and the replay of its answer marks them as done. So a row
is added by the beat that wants and changed and deleted by the beat of the box that gives, and neither needs a
lock that the other holds. The one who wants asks again and finds the money, or that nobody can give more.

Boxes that are away are not asked: they could not answer. Nothing here moves money: the journal record of the
box that gives it back does (`hub.replay`). Leaves out how much is wanted (`core.allowance`) and who gets it
(`hub.grants`, `hub.stand_ins`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from edgegw.core.allowance import HOUR_NS, Due, Holder, to_recall
from edgegw.core.site import AllowanceRule, Site
from edgegw.hub import schema
from edgegw.hub.books import Page
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.receive import ACTIVE

ONLINE_NS: Final = 3_000_000_000
"""A box that was heard within so long can answer; it speaks each `heartbeat_ms`, half a second by default."""
STAND_IN_WAIT_NS: Final = 700_000_000
"""A stand-in waits so long for other boxes' answers: a late decline reaches the merchant within a second."""
SEAL_WAIT_NS: Final = 3_000_000_000
"""A seal waits so long: nobody stands at a counter for it, and every box speaks several times meanwhile."""
CENTRE: Final = ""
"""Wants money as a box does where none speaks for it."""
KEPT_NS: Final = 10_000_000_000
"""A row older than this is over, answered or not: nobody waits for it any more."""
AGAIN_MS: Final = 50
"""A box for which others are asked comes back after so long."""
SEEN_STEP_NS: Final = HOUR_NS // 6
"""A payment is noted again after so long: a row for an account and box is written six times an hour."""
IDLE_LOOK_NS: Final = 60_000_000_000
IDLE_MAX: Final = 200
"""Accounts asked back in one beat; the next look has the rest."""


class Row(NamedTuple):
    """One box that is asked for money of one account, and who wants it."""

    box: str
    for_box: str
    key: str
    account_id: str
    currency: str
    amount_minor: int
    asked_ns: int
    incarnation: int
    """Of the directive that says it; 0: none yet."""
    seq: int
    done: bool


def stand_in_key(epoch: int, seq: int) -> str:
    """Under which a stand-in wants money; an ask does under its own id."""
    return f"stand-in {epoch}/{seq}"


class Recalls:
    """The rows that one beat of a box has to do with."""

    def __init__(self, connection: Connection, *, box: str, now_ns: int) -> None:
        self._connection = connection
        self._box = box
        self._now_ns = now_ns
        self._mine = self._rows(schema.recall.c.box == box)
        self.again = False
        """Whether somebody of this box waits for money now."""
        self.gives = False
        """Whether this box can be told now to give back itself."""
        self._waited_for: set[str] = set()

    @property
    def wanted(self) -> set[str]:
        """The accounts that are wanted from here, or waited for here: nothing of them is handed out to this
        box unasked meanwhile."""
        return {row.account_id for row in self._mine if not self._is_over(row)} | self._waited_for

    @property
    def is_due(self) -> bool:
        """Whether this box is to be told something, or rows of it are over."""
        return any(not row.incarnation or self._is_over(row) for row in self._mine)

    def _rows(self, *where: ColumnElement[bool]) -> list[Row]:
        columns = [schema.recall.c[name] for name in Row._fields]
        return [Row(*row) for row in self._connection.execute(select(*columns).where(*where))]

    def _is_over(self, row: Row) -> bool:
        return row.asked_ns + KEPT_NS <= self._now_ns

    def tell(self, log: DirectiveLog) -> None:
        """Direct this box to give back what others want, and forget what is over."""
        table = schema.recall
        mine = table.c.box == self._box
        if any(self._is_over(row) for row in self._mine):
            self._connection.execute(delete(table).where(mine, table.c.asked_ns <= self._now_ns - KEPT_NS))
        fresh = [row for row in self._mine if not row.incarnation and not self._is_over(row)]
        for account_id in sorted({row.account_id for row in fresh}):
            rows = [row for row in fresh if row.account_id == account_id]
            seq = log.recall(
                account_id=account_id,
                currency=rows[0].currency,
                amount_minor=sum(row.amount_minor for row in rows),
                reason="wanted elsewhere",
            )
            # These and no others: another box's beat may have added one of this account meanwhile, and its
            # amount is not in this directive.
            told = update(table).where(
                mine, table.c.for_box == bindparam("whose"), table.c.key == bindparam("which")
            )
            self._connection.execute(
                told.values(incarnation=log.incarnation, seq=seq),
                [{"whose": row.for_box, "which": row.key} for row in rows],
            )

    def ask_others(
        self, page: Page, *, key: str, wanted_minor: int, own_minor: int = 0, wait_ns: int = KEPT_NS
    ) -> bool:
        """Let other boxes give back wanted_minor of an account for this one, under a key of its own; whether
        that may still come. own_minor: what this box holds itself and can give back as well. wait_ns: counted
        from the first time that this key asked."""
        rows = self._rows(schema.recall.c.for_box == self._box, schema.recall.c.key == key)
        asked = {row.box for row in rows}
        if rows and min(row.asked_ns for row in rows) + wait_ns <= self._now_ns:
            return False
        holders = self._holders(page)
        if self.gives and own_minor > 0:
            holders.append(Holder(self._box, own_minor, is_home=False))
        waiting = any(not row.done and row.box in {one.box for one in holders} for row in rows)
        if not waiting:
            if page.account_id in self._waited_for:
                wanted_minor += page.available_minor  # whoever waits already counts on that
            dues = to_recall(wanted_minor, (one for one in holders if one.box not in asked))
            self._ask(dues, page, key=key)
            waiting = bool(dues)
        if waiting:
            self.again = True
            self._waited_for.add(page.account_id)
        return waiting

    def _ask(self, dues: Sequence[Due], page: Page, *, key: str) -> None:
        fresh = [
            Row(
                box=due.box,
                for_box=self._box,
                key=key,
                account_id=page.account_id,
                currency=page.currency,
                amount_minor=due.amount_minor,
                asked_ns=self._now_ns,
                incarnation=0,
                seq=0,
                done=False,
            )
            for due in dues
        ]
        if fresh:
            self._connection.execute(insert(schema.recall), [row._asdict() for row in fresh])
        self._mine += [row for row in fresh if row.box == self._box]

    def _holders(self, page: Page) -> list[Holder]:
        """The other boxes that hold some of an account and can answer."""
        held, box = schema.outstanding.c, schema.box.c
        rows = self._connection.execute(
            select(held.box, held.amount_minor)
            .join(schema.box, (box.box == held.box) & (box.epoch == held.epoch))
            .where(
                held.account_id == page.account_id,
                held.amount_minor > 0,
                held.in_doubt.is_(False),
                held.box != self._box,
                box.state == ACTIVE,
                box.taking_back.is_(False),
                box.incarnation > 0,
                box.beat_at_ns > self._now_ns - ONLINE_NS,
            )
        )
        return [Holder(row.box, row.amount_minor, is_home=row.box == page.home) for row in rows]


def mark_answered(connection: Connection, *, box: str, incarnation: int, seq: int) -> None:
    """The box's journal has this recall: whoever waits for it looks again."""
    table = schema.recall
    connection.execute(
        update(table)
        .where(table.c.box == box, table.c.incarnation == incarnation, table.c.seq == seq)
        .values(done=True)
    )


# --- what was seen where ------------------------------------------------------------------------------------


def follows_use(site: Site) -> bool:
    """Whether the site's settings ask at all where accounts pay."""
    return any(rule.seen_days or rule.idle_hours for rule in site.allowances)


def note_seen(connection: Connection, account_ids: Iterable[str], *, box: str, now_ns: int) -> None:
    """Write down that these accounts were used at a box now."""
    wanted = sorted(set(account_ids))
    if not wanted:
        return
    table = schema.box_account
    mine = table.c.box == box
    known = {
        row.account_id: row.seen_ns
        for row in connection.execute(
            select(table.c.account_id, table.c.seen_ns).where(mine, table.c.account_id.in_(wanted))
        )
    }
    old = [name for name, seen_ns in known.items() if seen_ns <= now_ns - SEEN_STEP_NS]
    if old:
        connection.execute(update(table).where(mine, table.c.account_id.in_(old)).values(seen_ns=now_ns))
    fresh = [name for name in wanted if name not in known]
    if fresh:
        row = {"box": box, "seen_ns": now_ns, "recalled_ns": 0}
        connection.execute(insert(table), [{**row, "account_id": name} for name in fresh])


def seen_at(
    connection: Connection, box: str, *, since_ns: int, among: Collection[str] | None
) -> dict[str, tuple[int, int]]:
    """The accounts (all, or among some) that paid at a box since then: when last, and when they were last
    asked back."""
    table = schema.box_account.c
    query = select(table.account_id, table.seen_ns, table.recalled_ns).where(
        table.box == box, table.seen_ns > since_ns
    )
    if among is not None:
        query = query.where(table.account_id.in_(sorted(among)))
    return {row.account_id: (row.seen_ns, row.recalled_ns) for row in connection.execute(query)}


def recall_idle(
    connection: Connection, log: DirectiveLog, *, box: str, epoch: int, site: Site, now_ns: int
) -> None:
    """Direct a box to give back what it holds of accounts that are at home elsewhere and have not paid there
    for `idle_hours`; what was never noted counts from now."""
    for rule in site.allowances:
        if rule.idle_hours:
            idle = _idle(connection, rule, box=box, epoch=epoch, now_ns=now_ns)
            note_seen(
                connection, (name for name, _, is_noted in idle if not is_noted), box=box, now_ns=now_ns
            )
            due = [(name, amount_minor) for name, amount_minor, is_noted in idle if is_noted]
            for account_id, amount_minor in due:
                log.recall(
                    account_id=account_id, currency=rule.currency, amount_minor=amount_minor, reason="idle"
                )
            _note_recalled(connection, [name for name, _ in due], box=box, now_ns=now_ns)


def _idle(
    connection: Connection, rule: AllowanceRule, *, box: str, epoch: int, now_ns: int
) -> Sequence[tuple[str, int, bool]]:
    held, account, seen = schema.outstanding.c, schema.account.c, schema.box_account.c
    before_ns = now_ns - rule.idle_hours * HOUR_NS
    rows = connection.execute(
        select(held.account_id, held.amount_minor, seen.seen_ns)
        .join(schema.account, account.account_id == held.account_id)
        .outerjoin(schema.box_account, (seen.box == held.box) & (seen.account_id == held.account_id))
        .where(
            held.box == box,
            held.epoch == epoch,
            held.amount_minor > 0,
            account.currency == rule.currency,
            account.floor,
            account.home != box,
            func.coalesce(seen.seen_ns, 0) <= before_ns,
            func.coalesce(seen.recalled_ns, 0) <= before_ns,
        )
        .order_by(held.account_id)
        .limit(IDLE_MAX)
    )
    return [(row.account_id, row.amount_minor, row.seen_ns is not None) for row in rows]


def _note_recalled(connection: Connection, account_ids: Sequence[str], *, box: str, now_ns: int) -> None:
    table = schema.box_account
    if account_ids:
        connection.execute(
            update(table)
            .where(table.c.box == box, table.c.account_id.in_(account_ids))
            .values(recalled_ns=now_ns)
        )
