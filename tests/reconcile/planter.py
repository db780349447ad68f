"""Plants breaks into copies of the three sides as an outsider would: SQL on files, edits of text.

Each plant takes victims that no other plant has, and says what must be found: a class, and the columns that
name it. It shares no code with what finds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

from tests.reconcile.media import Body, Edit, ExportedFile, LedgerFile, Medium, edited, execute, query
from tests.reconcile.sides import FIRST_DAY, FORK_SEQ, OPEN_DAY, SECOND_DAY, CoreLine, Sides

Expected = dict[str, Any]
NORTH, SOUTH = "north", "south"


class Planter:
    """The sides that are being spoiled. `medium` is which form of the real box's journal is used."""

    def __init__(self, sides: Sides, medium: str, chance: Random) -> None:
        self.sides = sides
        self.north: Medium = LedgerFile(sides.ledger / "ledger.db")
        if medium == "file":
            self.north = ExportedFile(sides.journal)
        self.south = ExportedFile(sides.south)
        self.chance = chance
        self.south_path = sides.south
        self._records = self.north.bodies()
        ((self._held,),) = query(
            sides.hub, "SELECT size FROM journal_head WHERE box = ? AND epoch = 1", NORTH
        )
        self._used: set[int] = set()
        self._lines = {line.request_id: line for line in sides.core if line.channel == "edgegw"}

    # -- victims -----------------------------------------------------------------------------------------

    def _take(self, wanted: Callable[[Body], bool]) -> Body:
        found = [
            record
            for record in self._records
            if record["seq"] < self._held and record["seq"] not in self._used and wanted(record)
        ]
        record = self.chance.choice(found)
        self._used.add(record["seq"])
        return record

    def _payment(self) -> Body:
        """A payment from allowance between customers."""
        return self._take(
            lambda r: (
                r["type"] == "transfer"
                and r["request"]["kind"] == "payment"
                and r["cleared_by"] != "stand_in"
                and len(r["legs"]) == 1
                and r["request"]["id"] not in self._reversed()
            )
        )

    def _reversed(self) -> set[str]:
        return {
            r["request"]["original_id"]
            for r in self._records
            if r["type"] == "transfer" and r["request"]["kind"] == "reversal"
        }

    def _line(self, record: Body) -> CoreLine:
        return self._lines[record["request"]["id"]]

    def _change_line(self, line: CoreLine, **changes: Any) -> None:
        self.sides.core[self.sides.core.index(line)] = replace(line, **changes)

    def _hub_edit(self, box: str, seq: int, edit: Edit) -> None:
        place = (box, seq)
        ((raw,),) = query(
            self.sides.hub, "SELECT body FROM record WHERE box = ? AND epoch = 1 AND seq = ?", *place
        )
        changed = execute(
            self.sides.hub,
            "UPDATE record SET body = ? WHERE box = ? AND epoch = 1 AND seq = ?",
            edited(raw, edit),
            *place,
        )
        assert changed == 1

    def _found(self, name: str, record: Body, **more: Any) -> list[Expected]:
        expected = {"class": name, "box": record["box"], "place": f"1/{record['seq']}"}
        if "request" in record:
            expected |= {"request_id": record["request"]["id"], "client": record["client"]}
        return [expected | more]

    def _money(self, record: Body) -> dict[str, Any]:
        return {"amount_minor": record["legs"][0][2], "currency": "CNY"}

    # -- journal and hub ---------------------------------------------------------------------------------

    def missing_at_hub(self) -> list[Expected]:
        """A row of the hub is gone."""
        record = self._payment()
        gone = execute(
            self.sides.hub, "DELETE FROM record WHERE box = ? AND epoch = 1 AND seq = ?", NORTH, record["seq"]
        )
        assert gone == 1
        return self._found("missing_at_hub", record, **self._money(record), hub=None)

    def missing_in_journal(self) -> list[Expected]:
        """A record is cut out of the journal."""
        record = self._payment()
        self.north.delete(record["seq"])
        return self._found("missing_in_journal", record, **self._money(record), journal=None)

    def sequence_gap(self) -> list[Expected]:
        """A record is gone on both sides."""
        found = [r for r in self.south.bodies() if r["type"] == "refusal"]
        record = self.chance.choice(found)
        self.south.delete(record["seq"])
        execute(
            self.sides.hub, "DELETE FROM record WHERE box = ? AND epoch = 1 AND seq = ?", SOUTH, record["seq"]
        )
        return [{"class": "sequence_gap", "box": SOUTH, "place": f"1/{record['seq']}"}]

    def record_differs(self) -> list[Expected]:
        """One side's bytes or leaf are changed, where no money stands."""

        def edit(body: Body) -> None:
            body["mono_ns"] += 1

        record = self._payment()
        way = self.chance.choice(("journal", "hub", "leaf"))
        if way == "journal":
            self.north.edit(record["seq"], edit)
        elif way == "hub":
            self._hub_edit(NORTH, record["seq"], edit)
        else:
            execute(
                self.sides.hub,
                "UPDATE record SET leaf = zeroblob(32) WHERE box = ? AND epoch = 1 AND seq = ?",
                NORTH,
                record["seq"],
            )
        return self._found("record_differs", record)

    def history_forked(self) -> list[Expected]:
        """A clone's journal instead of the one that the hub holds."""
        self.south_path = self.sides.forked_south
        return [{"class": "history_forked", "box": SOUTH, "place": f"1/{FORK_SEQ}"}]

    def chain_broken(self) -> list[Expected]:
        """Both sides' bytes are changed alike."""

        def edit(body: Body) -> None:
            body["mono_ns"] += 1

        record = self._payment()
        self.north.edit(record["seq"], edit)
        self._hub_edit(NORTH, record["seq"], edit)
        return self._found("chain_broken", record)

    def head_not_as_signed(self) -> list[Expected]:
        """A signature, or the hub's root, is another one."""
        if self.chance.random() < 0.5:
            self.north.spoil_head()
        else:
            execute(self.sides.hub, "UPDATE journal_head SET root = zeroblob(32) WHERE box = ?", NORTH)
        return [{"class": "head_not_as_signed", "box": NORTH}]

    # -- one payment, told otherwise ---------------------------------------------------------------------

    def _told_otherwise(self, name: str, edit: Edit, record: Body, **cells: Any) -> list[Expected]:
        """At the hub, in the journal or in the core."""
        way = self.chance.choice(("core", "hub", "journal"))
        if way == "core":
            self._change_line(self._line(record), **cells)
        elif way == "hub":
            self._hub_edit(NORTH, record["seq"], edit)
        else:
            self.north.edit(record["seq"], edit)
        return self._found(name, record)

    def amount_differs(self) -> list[Expected]:
        """One side has another amount."""
        record = self._payment()
        amount_minor = record["legs"][0][2] + 7

        def edit(body: Body) -> None:
            body["request"]["amount_minor"] = body["legs"][0][2] = amount_minor

        return self._told_otherwise("amount_differs", edit, record, amount_minor=amount_minor)

    def currency_differs(self) -> list[Expected]:
        """One side has another currency."""

        def edit(body: Body) -> None:
            body["request"]["currency"] = "EUR"

        return self._told_otherwise("currency_differs", edit, self._payment(), currency="EUR")

    def account_differs(self) -> list[Expected]:
        """One side pays somebody else."""

        def edit(body: Body) -> None:
            body["request"]["credit_account_id"] = body["legs"][0][1] = "FARSHOP"

        return self._told_otherwise("account_differs", edit, self._payment(), credit="FARSHOP")

    def direction_swapped(self) -> list[Expected]:
        """One side takes the money from the payee."""
        record = self._payment()
        debit, credit = record["legs"][0][:2]

        def edit(body: Body) -> None:
            body["request"] |= {"debit_account_id": credit, "credit_account_id": debit}
            body["legs"][0][:2] = [credit, debit]

        return self._told_otherwise("direction_swapped", edit, record, debit=credit, credit=debit)

    def status_differs(self) -> list[Expected]:
        """A payment has another fate at one side, in one of six ways."""
        ways = (
            self._held_in_core,
            self._refused_and_posted,
            self._open_hold_posted,
            self._voided_hold_still_held,
            self._stand_in_waits_again,
            self._hold_forgotten,
        )
        return self.chance.choice(ways)()

    def _held_in_core(self) -> list[Expected]:
        record = self._payment()
        self._change_line(self._line(record), status="held")
        return self._found("status_differs", record)

    def _refused_and_posted(self) -> list[Expected]:
        record = self._take(lambda r: r["type"] == "refusal")
        line = CoreLine(OPEN_DAY, record["request"]["id"], NORTH, "A", "SHOP", 77)
        self.sides.core.append(line)
        return self._found("status_differs", record, amount_minor=77)

    def _hold(self, *, is_open: bool) -> Body:
        resolved = {
            r["request"]["original_id"]
            for r in self._records
            if r["type"] == "transfer" and r["request"]["kind"] in ("post", "void")
        }
        voided = {
            r["request"]["original_id"]
            for r in self._records
            if r["type"] == "transfer" and r["request"]["kind"] == "void"
        }
        return self._take(
            lambda r: (
                r["type"] == "transfer"
                and r["request"]["kind"] == "hold"
                and (r["request"]["id"] not in resolved if is_open else r["request"]["id"] in voided)
            )
        )

    def _open_hold_posted(self) -> list[Expected]:
        record = self._hold(is_open=True)
        amount_minor = record["legs"][0][2]
        self.sides.core.append(CoreLine(OPEN_DAY, record["request"]["id"], NORTH, "A", "SHOP", amount_minor))
        return self._found("status_differs", record, amount_minor=amount_minor)

    def _voided_hold_still_held(self) -> list[Expected]:
        record = self._hold(is_open=False)
        amount_minor = record["legs"][0][2]
        self.sides.core.append(
            CoreLine(FIRST_DAY, record["request"]["id"], NORTH, "A", "SHOP", amount_minor, "held")
        )
        return self._found("status_differs", record, amount_minor=amount_minor)

    def _stand_in_waits_again(self) -> list[Expected]:
        rows = query(self.sides.hub, "SELECT seq FROM stand_in WHERE box = ? AND state = 'confirmed'", NORTH)
        seq = self.chance.choice([row[0] for row in rows if row[0] not in self._used])
        self._used.add(seq)
        execute(
            self.sides.hub,
            "UPDATE stand_in SET state = 'waiting', settled = 0 WHERE box = ? AND seq = ?",
            NORTH,
            seq,
        )
        return self._found("status_differs", self._records[seq])

    def _hold_forgotten(self) -> list[Expected]:
        record = self._hold(is_open=True)
        gone = execute(
            self.sides.hub,
            "DELETE FROM box_hold WHERE box = ? AND transfer_id = ?",
            NORTH,
            f"{1 << 96 | record['seq'] << 32 | 1:032x}",
        )
        assert gone == 1
        return self._found("status_differs", record)

    # -- the core ----------------------------------------------------------------------------------------

    def box_differs(self) -> list[Expected]:
        """The core has it under another branch."""
        record = self._payment()
        self._change_line(self._line(record), box=SOUTH)
        return self._found("box_differs", record)

    def business_date_differs(self) -> list[Expected]:
        """The core has booked it a day late, or early."""
        closed = {r["window"] for r in self._records if r["type"] == "window"}
        record = self._payment()
        while record["window"] not in closed:
            record = self._payment()
        line = self._line(record)
        other = FIRST_DAY if line.value_date == SECOND_DAY else SECOND_DAY
        self._change_line(line, value_date=other)
        return self._found("business_date_differs", record, **self._money(record))

    def missing_in_core(self) -> list[Expected]:
        """The core has forgotten one: a payment, or what a hold was posted with."""
        record = (
            self._payment()
            if self.chance.random() < 0.7
            else self._take(lambda r: r["type"] == "transfer" and r["request"]["kind"] == "post")
        )
        self.sides.core.remove(self._line(record))
        return self._found("missing_in_core", record, **self._money(record), core=None)

    def only_in_core(self) -> list[Expected]:
        """A posting that nobody asked for."""
        id = f"{self.chance.getrandbits(100):032x}"
        self.sides.core.append(CoreLine(OPEN_DAY, id, NORTH, "A", "SHOP", 9_999))
        return [
            {
                "class": "only_in_core",
                "request_id": id,
                "amount_minor": 9_999,
                "currency": "CNY",
                "journal": None,
                "hub": None,
            }
        ]

    def duplicate_in_core(self) -> list[Expected]:
        """The core has booked one twice, or its file has one line twice."""
        record = self._payment()
        line = self._line(record)
        if self.chance.random() < 0.5:
            number = self.sides.core.index(line)
            line = replace(line, reference=f"twice-{number}")
            self.sides.core[number] = line
        self.sides.core.append(line)
        return [
            {
                "class": "duplicate_in_core",
                "request_id": record["request"]["id"],
                **self._money(record),
            }
        ]

    def reversed_only_here(self) -> list[Expected]:
        """The core has not heard that the money went back."""
        record = self._take(
            lambda r: (
                r["type"] == "transfer" and r["request"]["kind"] == "reversal" and r["legs"][0][0] == "SHOP"
            )
        )
        self.sides.core.remove(self._line(record))
        return self._found("reversed_only_here", record, **self._money(record), core=None)

    def reversed_only_in_core(self) -> list[Expected]:
        """The core has taken one back by itself."""
        record = self._payment()
        self._change_line(self._line(record), status="reversed")
        return self._found("reversed_only_in_core", record, **self._money(record))

    # -- the centre's word and books ---------------------------------------------------------------------

    def identity_misfiled(self) -> list[Expected]:
        """A column beside the bytes is another one."""
        record = self._payment()
        others = (("request_id", f"{9_000_077:032x}"), ("client", "somebody"), ("request_id", None))
        column, value = self.chance.choice(others)
        changed = execute(
            self.sides.hub,
            f"UPDATE record SET {column} = ? WHERE box = ? AND epoch = 1 AND seq = ?",
            value,
            NORTH,
            record["seq"],
        )
        assert changed == 1
        return self._found("identity_misfiled", record, **self._money(record))

    def directive_not_from_hub(self) -> list[Expected]:
        """The hub has no such word any more, or another one."""
        first = "SELECT min(seq) FROM directive WHERE box = ? AND type = 'confirm'"
        where = f"box = ? AND type = 'confirm' AND seq = ({first})"
        words = ("DELETE FROM directive", "UPDATE directive SET type = 'freeze'")
        changed = execute(self.sides.hub, f"{self.chance.choice(words)} WHERE {where}", NORTH, NORTH)
        assert changed == 1
        return [{"class": "directive_not_from_hub", "box": NORTH, "account_id": "B"}]

    def late_decline_not_told(self) -> list[Expected]:
        """The hub believes that a box has heard of a late decline, and it has not."""
        told = execute(
            self.sides.hub,
            "UPDATE stand_in SET settled = 1 WHERE box = ? AND state = 'declined'",
            SOUTH,
        )
        assert told == 1
        return [
            {
                "class": "late_decline_not_told",
                "box": SOUTH,
                "request_id": f"{3_000_000:032x}",
                "amount_minor": 800,
                "currency": "CNY",
            }
        ]

    def grant_not_from_hub(self) -> list[Expected]:
        """The hub has no such grant any more, or a smaller one."""
        rows = query(
            self.sides.hub,
            "SELECT incarnation, seq, body FROM directive WHERE box = ? AND type = 'grant'",
            NORTH,
        )
        incarnation, seq, raw = self.chance.choice(rows)
        body = json.loads(raw)
        place = (NORTH, incarnation, seq)
        where = "WHERE box = ? AND incarnation = ? AND seq = ?"
        difference = body["amount_minor"]
        if self.chance.random() < 0.5:
            execute(self.sides.hub, f"DELETE FROM directive {where}", *place)
        else:
            difference = 3
            less = edited(raw, lambda said: said.update(amount_minor=said["amount_minor"] - 3))
            execute(self.sides.hub, f"UPDATE directive SET body = ? {where}", less, *place)
        return [
            {
                "class": "grant_not_from_hub",
                "box": NORTH,
                "account_id": body["account_id"],
                "amount_minor": difference,
            }
        ]

    def _outstanding(self, name: str, account_id: str, amount_minor: int) -> list[Expected]:
        changed = execute(
            self.sides.hub,
            "UPDATE outstanding SET amount_minor = amount_minor + ? WHERE box = ? AND account_id = ?",
            amount_minor,
            NORTH,
            account_id,
        )
        if not changed:
            here = {"box": NORTH, "epoch": 1, "account_id": account_id, "amount_minor": amount_minor}
            self._insert("outstanding", here)
        execute(
            self.sides.hub,
            "UPDATE account SET available_minor = available_minor - ? WHERE account_id = ?",
            amount_minor,
            account_id,
        )
        found = {"class": name, "box": NORTH, "account_id": account_id, "currency": "CNY"}
        return [found | {"amount_minor": abs(amount_minor)}]

    def _insert(self, table: str, values: dict[str, object]) -> None:
        """A row of the hub's; columns that are not named are 0."""
        columns = [row[1] for row in query(self.sides.hub, f"PRAGMA table_info({table})")]
        marks = ", ".join("?" * len(columns))
        row = [values.get(name, 0) for name in columns]
        assert execute(self.sides.hub, f"INSERT INTO {table} VALUES({marks})", *row) == 1

    def returned_not_at_hub(self) -> list[Expected]:
        """The hub has not taken back what the box has returned."""
        return self._outstanding("returned_not_at_hub", "FAR", self.chance.randint(1, 800))

    def outstanding_differs(self) -> list[Expected]:
        """The hub believes that less is at the box, or more where nothing was returned."""
        amount_minor = self.chance.choice((-5, -60, 11))
        return self._outstanding("outstanding_differs", "SHOP", amount_minor)

    def balance_differs(self) -> list[Expected]:
        """A counter of the hub's is another one."""
        column = self.chance.choice(("credits_posted", "debits_posted"))
        execute(
            self.sides.hub,
            f"UPDATE box_balance SET {column} = {column} + 13 WHERE box = ? AND account_id = 'CAFE'",
            NORTH,
        )
        return [
            {
                "class": "balance_differs",
                "box": NORTH,
                "account_id": "CAFE",
                "amount_minor": 13,
                "currency": "CNY",
            }
        ]

    def books_torn(self) -> list[Expected]:
        """Money is written into an account of the hub by hand."""
        if self.chance.random() < 0.5:
            execute(
                self.sides.hub, "UPDATE account SET balance_minor = balance_minor + 17 WHERE account_id = 'C'"
            )
            return [{"class": "books_torn", "account_id": "C", "amount_minor": 17, "currency": "CNY"}]
        execute(
            self.sides.hub,
            "UPDATE account SET balance_minor = balance_minor + 19, available_minor = available_minor + 19"
            " WHERE account_id = 'C'",
        )
        return [{"class": "books_torn", "account_id": "", "amount_minor": 19, "currency": "CNY"}]

    def _window(self) -> Body:
        return self._take(lambda r: r["type"] == "window" and len(r["positions"]) > 1)

    def _both(self, seq: int, edit: Edit) -> None:
        self.north.edit(seq, edit)
        self._hub_edit(NORTH, seq, edit)

    def position_differs(self) -> list[Expected]:
        """A window's record gives one participant another's money, or counts a transfer too many."""
        record = self._window()
        if self.chance.random() < 0.5:

            def move(body: Body) -> None:
                body["positions"][0][2] += 23
                body["positions"][1][2] -= 23

            self._both(record["seq"], move)
            return self._found("position_differs", record, amount_minor=23, currency="CNY")

        def count(body: Body) -> None:
            body["transfers"] += 1

        self._both(record["seq"], count)
        return self._found("position_differs", record)

    def positions_not_zero(self) -> list[Expected]:
        """A window's record makes money."""
        record = self._window()

        def edit(body: Body) -> None:
            body["positions"][0][2] += 29

        self._both(record["seq"], edit)
        return self._found("positions_not_zero", record, amount_minor=29, currency="CNY")

    def _closed(self) -> tuple[Body, tuple[object, ...]]:
        """A window, and its place at the hub."""
        record = self._window()
        return record, (NORTH, 1, record["window"])

    def window_missing_at_hub(self) -> list[Expected]:
        """The hub's row of a window is gone, or open again."""
        record, place = self._closed()
        where = "WHERE box = ? AND epoch = ? AND number = ?"
        words = ("DELETE FROM clearing_window", "UPDATE clearing_window SET state = 'open'")
        assert execute(self.sides.hub, f"{self.chance.choice(words)} {where}", *place) == 1
        return self._found("window_missing_at_hub", record, amount_minor=0)

    def window_only_at_hub(self) -> list[Expected]:
        """Somebody has made a window at the hub."""
        values = {"box": NORTH, "epoch": 1, "number": 4_711, "state": "compared"}
        self._insert("clearing_window", values | {"business_date": "2030-02-01", "difference": ""})
        return [{"class": "window_only_at_hub", "box": NORTH, "journal": None}]

    def window_differs(self) -> list[Expected]:
        """The hub's figures of a window are other ones."""
        record, place = self._closed()
        where = "WHERE box = ? AND epoch = ? AND number = ?"
        sets, amount_minor = self.chance.choice(
            (
                ("clearing_window SET transfers = transfers + 1", 0),
                ("clearing_window SET business_date = '2030-03-03'", 0),
                ("window_position SET net_minor = net_minor + 31 * (participant = 'shops')", 31),
            )
        )
        assert execute(self.sides.hub, f"UPDATE {sets} {where}", *place) >= 1
        return self._found("window_differs", record, amount_minor=amount_minor)

    def _posting(self, reference: str) -> CoreLine:
        return next(line for line in self.sides.core if line.reference == reference)

    def posting_not_in_core(self) -> list[Expected]:
        """The core has not sent what the hub has booked."""
        line = self._posting("opening-0")
        self.sides.core.remove(line)
        found = {"class": "posting_not_in_core", "account_id": line.credit, "core": None}
        return [found | {"amount_minor": line.amount_minor, "currency": "CNY"}]

    def posting_not_at_hub(self) -> list[Expected]:
        """The core has sent more than the hub has booked."""
        line = replace(self._posting("opening-3"), reference="opening-77", amount_minor=66)
        self.sides.core.append(line)
        return [{"class": "posting_not_at_hub", "account_id": line.credit, "amount_minor": 66, "hub": None}]

    def posting_differs(self) -> list[Expected]:
        """The core has sent another amount, or to somebody else."""
        line = self._posting("opening-1")
        found = {"class": "posting_differs", "amount_minor": 8, "currency": "CNY"}
        if self.chance.random() < 0.5:
            self._change_line(line, amount_minor=line.amount_minor + 8)
            return [found]
        self._change_line(line, credit="C")
        return [found | {"amount_minor": line.amount_minor, "account_id": "C"}]

    def suspense_aged(self) -> list[Expected]:
        """An item that nobody looks at."""
        record = self._payment()
        values = {"box": NORTH, "epoch": 1, "seq": record["seq"], "detail": "planted"}
        values |= {"owner": "bank", "reason": "advice_uncovered", "state": "open"}
        self._insert("suspense_item", values)
        return self._found("suspense_aged", record, **self._money(record))


PLANTS: Final = (
    "missing_at_hub",
    "missing_in_journal",
    "sequence_gap",
    "record_differs",
    "history_forked",
    "chain_broken",
    "head_not_as_signed",
    "amount_differs",
    "currency_differs",
    "account_differs",
    "direction_swapped",
    "status_differs",
    "box_differs",
    "business_date_differs",
    "missing_in_core",
    "only_in_core",
    "duplicate_in_core",
    "reversed_only_here",
    "reversed_only_in_core",
    "identity_misfiled",
    "late_decline_not_told",
    "directive_not_from_hub",
    "grant_not_from_hub",
    "returned_not_at_hub",
    "outstanding_differs",
    "balance_differs",
    "books_torn",
    "position_differs",
    "positions_not_zero",
    "window_missing_at_hub",
    "window_only_at_hub",
    "window_differs",
    "posting_not_in_core",
    "posting_not_at_hub",
    "posting_differs",
    "suspense_aged",
)
APART: Final = (("sequence_gap", "history_forked"), ("late_decline_not_told", "history_forked"))
"""Plants that take the same victim: a clone's journal has no record of what the other two touch."""
