"""The server on a real socket: lives of terminals, and everything that can be wrong with a line."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from edgegw.core.records import Kind, WindowClosed
from edgegw.core.site import Site
from edgegw.payments.iso8583.fields import Codec, Message
from edgegw.payments.iso8583.mac import encode_with_mac
from edgegw.payments.problems import Unanswered
from edgegw.payments.protocols import discover
from edgegw.payments.protocols.iso8583 import Options, start
from edgegw.payments.vault import SecretFileError
from tests.payments.protocols.iso8583_branch import (
    CODEC,
    DAY_NS,
    ECHO,
    FUNDS_MINOR,
    PAN,
    PAYMENT,
    POOR_PAN,
    SIGN_ON,
    TERMINAL_KEY,
    MemoryGateway,
    branch,
    changed,
    hmac_sm3,
    packed,
    write_keys,
)
from tests.waiting import until

REVERSAL_DATA = "020000012311210930150000012345600000000000"


def stan(number: int) -> bytes:
    """A payment of one minor unit with a trace of its own."""
    return changed(PAYMENT, {4: "000000000001", 11: f"{number:06d}"})


async def test_the_folder_finds_it_with_its_options() -> None:
    """A protocol that is not discovered is not served."""
    adapter = discover()["iso8583"]
    assert adapter.options is Options
    assert "ISO 8583" in adapter.documentation


async def test_a_payment_is_answered_as_the_standard_says(tmp_path: Path) -> None:
    """The literal answer: 0x0E = 37 38 39, 0xD0 = 41 42 44; record 1/36 is approval 000010."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.send(PAYMENT)
        assert await terminal.receive_raw() == packed("""
            0210 723800010ED08000
            16 6222021234567890 000000 000000012345 1121093015 000123 173015 1121
            06 123456 112117000123 000010 00 T0000001 M00000000000001 09 allowance 156
        """)
        assert here.gateway.available("card-a") == FUNDS_MINOR - 12_345
        assert here.gateway.available("shop-1") == 12_345


async def test_a_repeat_gets_the_first_answer_and_pays_once(tmp_path: Path) -> None:
    """The answer was lost on the way; a second debit would be the worst reply to that."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        first = await terminal.ask(PAYMENT)
        again = await terminal.ask(PAYMENT)
        repeat = await terminal.ask(changed(PAYMENT, {7: "1121093100"}, mti="0201"))
        other_line = await (await here.signed_on()).ask(PAYMENT)
        assert first == again == other_line
        assert (repeat.mti, repeat.fields[38], repeat.fields[39]) == ("0210", first.fields[38], "00")
        assert here.gateway.available("shop-1") == 12_345


async def test_the_same_trace_with_another_amount_is_refused(tmp_path: Path) -> None:
    """Approved with the old amount, the terminal would book the new one."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(PAYMENT)
        answer = await terminal.ask(changed(PAYMENT, {4: "000000099999"}))
        assert (answer.fields[39], answer.fields[44]) == ("94", "id_reused amount_minor")
        assert here.gateway.available("shop-1") == 12_345


async def test_an_old_message_that_comes_again_is_not_approved(tmp_path: Path) -> None:
    """A recorded message, played back after the horizon, must not look like money."""
    async with branch(tmp_path, replay_horizon_days=7) as here:
        terminal = await here.signed_on()
        assert (await terminal.ask(PAYMENT)).fields[39] == "00"
        # The box's own time and the wall clock: whichever is later counts.
        here.gateway.book.at_ns = max(here.gateway.book.at_ns, here.gateway.at_ns) + 8 * DAY_NS
        answer = await terminal.ask(PAYMENT)
        assert (answer.fields[39], answer.fields[44]) == ("94", "beyond replay horizon")
        assert 38 not in answer.fields


async def test_a_lack_of_funds_is_said_in_the_fields_own_codes(tmp_path: Path) -> None:
    """A terminal knows no reasons, only field 39; the word in field 44 is for people."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        answer = await terminal.ask(changed(PAYMENT, {2: POOR_PAN}))
        assert (answer.fields[39], answer.fields[44]) == ("91", "stand_in_not_offered")
        assert 38 not in answer.fields
        assert here.gateway.available("shop-1") == 0


async def test_a_hold_is_taken_by_its_completion(tmp_path: Path) -> None:
    """A completion that is booked as a payment takes the money twice."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        assert (await terminal.ask(changed(PAYMENT, {}, mti="0100"))).fields[39] == "00"
        assert here.gateway.available("shop-1") == 0
        held = "010000012311211730150000012345600000000000"
        later = {4: "000000010000", 11: "000500", 12: "190000", 90: held}
        answer = await terminal.ask(changed(PAYMENT, later, mti="0220"))
        assert (answer.mti, answer.fields[39]) == ("0230", "00")
        assert here.gateway.available("shop-1") == 10_000
        assert here.gateway.available("card-a") == FUNDS_MINOR - 10_000
        assert await terminal.ask(changed(PAYMENT, later, mti="0221")) == answer


async def test_a_completion_of_a_hold_that_is_gone_is_booked_all_the_same(tmp_path: Path) -> None:
    """The goods are gone with the customer: an advice cannot be refused because a hold expired."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(changed(PAYMENT, {}, mti="0100"))
        await terminal.ask(changed(PAYMENT, {}, mti="0400"))
        held = "010000012311211730150000012345600000000000"
        later = changed(PAYMENT, {11: "000500", 12: "190000", 90: held}, mti="0220")
        answer = await terminal.ask(later)
        assert answer.fields[39] == "00"
        assert here.gateway.available("shop-1") == 12_345
        assert await terminal.ask(later) == answer
        assert here.gateway.available("shop-1") == 12_345


async def test_an_advice_of_a_payment_that_was_cleared_moves_nothing_twice(tmp_path: Path) -> None:
    """The 0210 was lost, the terminal let the customer go and reports it with the same trace."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        first = await terminal.ask(PAYMENT)
        advised = await terminal.ask(changed(PAYMENT, {}, mti="0220"))
        assert (advised.mti, advised.fields[39], advised.fields[38]) == ("0230", "00", first.fields[38])
        assert here.gateway.available("shop-1") == 12_345


async def test_an_advice_of_a_payment_that_was_refused_is_booked_and_can_be_reversed(tmp_path: Path) -> None:
    """It happened although it was refused: money moved outside, and it can move back."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        poor = {2: POOR_PAN}
        assert (await terminal.ask(changed(PAYMENT, poor))).fields[39] == "91"
        advised = await terminal.ask(changed(PAYMENT, poor, mti="0220"))
        assert (advised.fields[39], advised.fields[44]) == ("00", "stand_in")
        assert here.gateway.available("shop-1") == 12_345
        assert await terminal.ask(changed(PAYMENT, poor, mti="0221")) == advised
        assert (await terminal.ask(changed(PAYMENT, poor, mti="0420"))).fields[39] == "00"
        assert here.gateway.available("shop-1") == 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {11: "000900", 90: REVERSAL_DATA},
        {11: "000900", 12: "180000", 90: REVERSAL_DATA.replace("1121093015", "1121173015")},
    ],
)
async def test_a_reversal_gives_the_money_back_once(tmp_path: Path, fields: dict[int, str | None]) -> None:
    """Whichever of the field's ways names the original; a repeated reversal gives nothing more."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(PAYMENT)
        reversal = changed(PAYMENT, fields, mti="0400")
        first = await terminal.ask(reversal)
        assert (first.mti, first.fields[39]) == ("0410", "00")
        assert here.gateway.available("card-a") == FUNDS_MINOR
        assert await terminal.ask(changed(reversal, {}, mti="0401")) == first
        assert here.gateway.available("card-a") == FUNDS_MINOR


@pytest.mark.parametrize(("mti", "code"), [("0400", "25"), ("0420", "00")])
async def test_a_reversal_that_overtakes_its_payment_wins(tmp_path: Path, mti: str, code: str) -> None:
    """The terminal has given up already: a payment that is cleared after that is never fetched."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        kept = await terminal.ask(changed(PAYMENT, {}, mti=mti))
        assert (kept.fields[39], kept.fields[44]) == (code, "kept")
        late = await terminal.ask(PAYMENT)
        assert (late.fields[39], late.fields[44]) == ("12", "already_reversed")
        assert here.gateway.available("shop-1") == 0


# -- who may speak -------------------------------------------------------------


async def test_nobody_pays_before_signing_on_and_after_signing_off(tmp_path: Path) -> None:
    """A terminal that was taken out of service must be put back on purpose."""
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        assert (await terminal.ask(ECHO)).fields[39] == "00"
        refused = await terminal.ask(PAYMENT)
        assert (refused.fields[39], refused.fields[44]) == ("58", "sign on first")
        signed_on = await terminal.ask(SIGN_ON)
        assert (signed_on.mti, signed_on.fields[39], signed_on.fields[70]) == ("0810", "00", "001")
        assert (await terminal.ask(PAYMENT)).fields[39] == "00"
        assert (await terminal.ask(changed(SIGN_ON, {70: "002"}))).fields[39] == "00"
        assert (await terminal.ask(stan(7))).fields[39] == "58"
        assert len(here.gateway.requests) == 1


async def test_a_switch_signs_on_for_all_terminals_without_a_key(tmp_path: Path) -> None:
    """It speaks for many; a terminal with a key still has to show it."""
    async with branch(tmp_path) as here:
        switch = await here.connect()
        await switch.ask(changed(SIGN_ON, {41: None}))
        second = {41: "T2      ", 42: "M2".ljust(15)}
        assert (await switch.ask(PAYMENT)).fields[39] == "00"
        assert (await switch.ask(changed(PAYMENT, second))).fields[39] == "00"
        assert (await switch.ask(changed(SIGN_ON, {41: "T2      ", 70: "002"}))).fields[39] == "00"
        assert (await switch.ask(changed(PAYMENT, second | {11: "000124"}))).fields[39] == "58"
        keyed = changed(PAYMENT, {41: "T0000009", 42: "M2".ljust(15)})
        assert (await switch.ask(keyed)).fields[39] == "63"
        signed = encode_with_mac(TERMINAL_KEY, CODEC.decode(keyed), CODEC)
        assert (await switch.ask(signed)).fields[39] == "58"


@pytest.mark.parametrize(
    ("fields", "code"),
    [({41: "T9999999"}, "58"), ({42: "M2".ljust(15)}, "03"), ({41: "T2      "}, "03")],
)
async def test_unknown_terminals_and_borrowed_names_are_refused(
    tmp_path: Path, fields: dict[int, str | None], code: str
) -> None:
    """Money would go to whichever account the stranger named."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        assert (await terminal.ask(changed(PAYMENT, fields))).fields[39] == code
        assert here.gateway.requests == []


async def test_a_terminal_with_a_key_needs_a_right_mac_and_gets_one(tmp_path: Path) -> None:
    """Without it, whoever sits on the line pays with what he reads there."""
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        sign_on = CODEC.decode(changed(SIGN_ON, {41: "T0000009"}))
        await terminal.send(encode_with_mac(TERMINAL_KEY, sign_on, CODEC))
        raw = await terminal.receive_raw()
        assert raw[-16:] == hmac_sm3(TERMINAL_KEY, raw[:-16])[:8].hex().upper().encode()
        bare = changed(PAYMENT, {41: "T0000009", 42: "M2".ljust(15)})
        good = encode_with_mac(TERMINAL_KEY, CODEC.decode(bare), CODEC)
        assert (await terminal.ask(bare)).fields[39] == "63"
        assert (await terminal.ask(good.replace(b"000000012345", b"000000912345"))).fields[39] == "63"
        wrong = encode_with_mac(bytes(32), CODEC.decode(bare), CODEC)
        assert (await terminal.ask(wrong)).fields[39] == "63"
        assert here.gateway.requests == []
        await terminal.send(good)
        raw = await terminal.receive_raw()
        assert CODEC.decode(raw).fields[39] == "00"
        assert raw[-16:] == hmac_sm3(TERMINAL_KEY, raw[:-16])[:8].hex().upper().encode()


async def test_no_refusal_is_signed_for_whoever_asks_in_a_terminal_s_name(tmp_path: Path) -> None:
    """On the terminal's own line it would be the answer to a payment that was booked: paid, and told that it
    was not."""
    named = {41: "T0000009", 42: "M2".ljust(15)}
    bare = changed(PAYMENT, named)
    strange = [
        bare,
        encode_with_mac(bytes(32), CODEC.decode(bare), CODEC),
        changed(PAYMENT, named | {4: None}),
        changed(SIGN_ON, {41: "T0000009"}),
    ]
    async with branch(tmp_path) as here:
        stranger = await here.connect()
        for raw in strange:
            await stranger.send(raw)
            answer = await stranger.receive_raw()
            assert CODEC.decode(answer).fields[39] != "00"
            assert answer[-16:] != hmac_sm3(TERMINAL_KEY, answer[:-16])[:8].hex().upper().encode()
        await stranger.send(encode_with_mac(TERMINAL_KEY, CODEC.decode(strange[2]), CODEC))
        answer = await stranger.receive_raw()
        assert CODEC.decode(answer).fields[39] == "30"
        assert answer[-16:] == hmac_sm3(TERMINAL_KEY, answer[:-16])[:8].hex().upper().encode()


async def test_new_site_settings_take_effect_without_a_restart(tmp_path: Path) -> None:
    """A terminal that was taken off the list must not go on until the next reboot."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        assert here.gateway.site is not None
        here.gateway.site = Site(bank="testbank", version=2, currencies=here.gateway.site.currencies)
        assert (await terminal.ask(PAYMENT)).fields[39] == "58"
        here.gateway.site = None
        assert (await terminal.ask(PAYMENT)).fields[39] == "91"


# -- what was not decided ------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "field_39"),
    [
        ("overloaded", "96"),
        ("storage_full", "96"),
        ("not_clearing", "91"),
        ("stopping", "91"),
        ("not_decided", "96"),
    ],
)
async def test_a_box_that_cannot_decide_says_so_and_the_trace_stays_free(
    tmp_path: Path, code: str, field_39: str
) -> None:
    """A full disk is no decline: the same message is decided once there is room."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        here.gateway.unanswered = Unanswered(code, "no")
        answer = await terminal.ask(PAYMENT)
        assert (answer.fields[39], answer.fields[44]) == (field_39, code)
        here.gateway.unanswered = None
        assert (await terminal.ask(PAYMENT)).fields[39] == "00"


async def test_an_unknown_outcome_is_answered_with_silence(tmp_path: Path) -> None:
    """A decline would let the terminal forget a payment that may be on disk; after silence it repeats it."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        here.gateway.unanswered = Unanswered("outcome_unknown", "the disk failed")
        await terminal.send(PAYMENT)
        assert (await terminal.ask(ECHO)).fields[70] == "301"
        here.gateway.unanswered = None
        assert (await terminal.ask(PAYMENT)).fields[39] == "00"


# -- the line ------------------------------------------------------------------


async def test_two_hundred_messages_in_flight_are_all_answered_once(tmp_path: Path) -> None:
    """A switch sends without waiting; an answer that is lost or swapped is a reversal."""
    async with branch(tmp_path) as here:
        switch = await here.signed_on()
        here.gateway.gate.clear()
        numbers = range(1_000, 1_200)
        for number in numbers:
            await switch.send(stan(number))
        await until(lambda: here.gateway.events["received"] == 201, "all messages to be read")
        here.gateway.gate.set()
        answers = [await switch.receive() for _ in numbers]
        assert {answer.fields[11] for answer in answers} == {f"{number:06d}" for number in numbers}
        assert {answer.fields[39] for answer in answers} == {"00"}
        assert len({answer.fields[38] for answer in answers}) == 200
        assert here.gateway.available("shop-1") == 200


async def test_a_slow_decision_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """One payment that waits for the centre must not stop a shop's other tills."""
    async with branch(tmp_path) as here:
        switch = await here.signed_on()
        here.gateway.gate.clear()
        await switch.send(PAYMENT)
        assert (await switch.ask(ECHO)).fields[70] == "301"
        here.gateway.gate.set()
        assert (await switch.receive()).fields[11] == "000123"


async def test_more_in_flight_than_allowed_waits_in_the_socket(tmp_path: Path) -> None:
    """Otherwise one peer fills the box's memory; what waits is answered later, not lost."""
    async with branch(tmp_path, in_flight_max=4) as here:
        switch = await here.signed_on()
        here.gateway.gate.clear()
        for number in range(10):
            await switch.send(stan(number))
        await until(lambda: here.gateway.events["received"] == 5, "four messages to be in flight")
        here.gateway.gate.set()
        answers = [await switch.receive() for _ in range(10)]
        assert {answer.fields[11] for answer in answers} == {f"{number:06d}" for number in range(10)}


async def test_a_sender_that_drips_is_understood_and_one_that_stops_is_cut_off(tmp_path: Path) -> None:
    """Radio terminals send byte by byte; a peer that never finishes must not hold a slot for ever."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        for byte in len(PAYMENT).to_bytes(2, "big") + PAYMENT:
            terminal.writer.write(bytes([byte]))
            await terminal.writer.drain()
            await asyncio.sleep(0)
        assert (await terminal.receive()).fields[39] == "00"
    async with branch(tmp_path, frame_timeout_ms=50) as here:
        for beginning in (b"\x00", b"\x00\x50" + PAYMENT[:40]):
            terminal = await here.connect()
            terminal.writer.write(beginning)
            assert await terminal.ended()
        assert here.gateway.events["closed"] == 2


async def test_a_silent_peer_and_one_too_many_cost_nothing(tmp_path: Path) -> None:
    """Port scanners open connections and say nothing; the terminals behind them must get in, and none that
    has signed on is closed for another."""
    async with branch(tmp_path, connections_max=2) as here:
        terminals = [await here.signed_on() for _ in range(2)]
        assert await (await here.connect()).ended()
        assert here.gateway.events["connection_refused"] == 1
        assert [(await one.ask(ECHO)).fields[39] for one in terminals] == ["00", "00"]
    async with branch(tmp_path, idle_timeout_ms=50, connections_max=2) as here:
        silent = [await here.connect(), await here.connect()]
        assert [await one.ended() for one in silent] == [True, True]
        await until(lambda: not here.server._serving, "their places to be free")
        assert await (await here.connect()).ended()
        assert (here.gateway.events["connected"], here.gateway.events["connection_refused"]) == (3, 0)


async def test_strangers_that_hold_all_places_give_way_to_terminals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent ones, half a frame, an echo, a sign-on for nobody and a wrong MAC keep no terminal out; who has
    signed on, and a message that is being decided, are never cut."""
    async with branch(tmp_path, connections_max=7) as here:
        kept = await here.signed_on()
        strangers = [await here.connect() for _ in range(2)]
        strangers[1].writer.write(b"\x00\x50" + PAYMENT[:40])
        for said in (ECHO, changed(SIGN_ON, {41: None}), changed(SIGN_ON, {41: "T0000009"})):
            strangers.append(await here.connect())
            await strangers[-1].ask(said)
        deciding = await here.connect()
        assert (await deciding.ask(changed(SIGN_ON, {41: None}))).fields[39] == "00"
        here.gateway.gate.clear()

        async def window(_: int) -> None:
            await here.gateway.gate.wait()

        monkeypatch.setattr(here.gateway, "window", window)
        await deciding.send(PAYMENT)
        await until(lambda: here.gateway.events["received"] == 6, "the payment to be read")
        came = [await here.signed_on() for _ in range(5)]
        assert [await one.ended() for one in strangers] == [True] * 5
        assert here.gateway.events["connection_gave_way"] == 5
        assert await (await here.connect()).ended()
        here.gateway.gate.set()
        assert (await deciding.receive()).fields[39] == "00"
        assert [(await one.ask(ECHO)).fields[39] for one in (kept, *came)] == ["00"] * 6


async def test_connections_beyond_what_it_takes_fill_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reaches the port could else push all that matters out of the log."""
    monkeypatch.setattr("edgegw.payments.protocols.iso8583._LOGGED_EACH_MINUTE_MAX", 5)
    async with branch(tmp_path, connections_max=1) as here:
        silent = [await here.connect() for _ in range(30)]
        assert all([await one.ended() for one in silent[:-1]])
        assert (await silent[-1].ask(SIGN_ON)).fields[39] == "00"
        for _ in range(30):
            assert await (await here.connect()).ended()
    lines = [one.message for one in caplog.records]
    assert 0 < len([one for one in lines if "was refused" in one or "needed its place" in one]) <= 2 * 5


async def test_a_half_closed_peer_still_gets_its_answers(tmp_path: Path) -> None:
    """Some clients send, shut their half and read: the payment is made, so its answer is owed."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        here.gateway.gate.clear()
        await terminal.send(PAYMENT)
        terminal.writer.write_eof()
        await until(lambda: here.gateway.events["received"] == 2, "the payment to be read")
        here.gateway.gate.set()
        assert (await terminal.receive()).fields[39] == "00"
        assert await terminal.ended()


async def test_a_peer_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    """Its answers would pile up in the box's memory."""
    async with branch(tmp_path, write_timeout_ms=50, in_flight_max=10_000) as here:
        host, _, port = here.server.addresses[0].rpartition(":")
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect((host, int(port)))
        deaf.setblocking(False)
        _, writer = await asyncio.open_connection(sock=deaf)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        frame = len(ECHO).to_bytes(2, "big") + ECHO
        try:
            while not here.gateway.events["cut_off"]:
                writer.write(frame * 500)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        await until(lambda: here.gateway.events["cut_off"] > 0, "the deaf peer to be cut off")
        writer.transport.abort()
        await here.signed_on()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00",
        b"garbage that is no message at all",
        b"0200",
        PAYMENT[:-3],
        PAYMENT + b"x",
        b"\xff" * 300,
        b"0210" + PAYMENT[4:],
        b"9999" + PAYMENT[4:],
        bytes(range(256)),
    ],
)
async def test_a_bad_frame_is_answered_or_dropped_and_the_connection_lives_on(
    tmp_path: Path, raw: bytes
) -> None:
    """One till with a fault must not throw out the other tills behind the same switch."""
    async with branch(tmp_path) as here:
        switch = await here.signed_on()
        await switch.send(raw)
        await switch.send(PAYMENT)
        answer = await switch.receive()
        if answer.fields[39] != "00":
            assert (answer.mti, answer.fields[11], answer.fields[39]) == ("0210", "000123", "30")
            answer = await switch.receive()
        assert answer.fields[39] == "00"
        assert here.gateway.events["dropped"] + here.gateway.events["rejected_30"] == 1
        assert here.gateway.events["closed"] == 0


async def test_a_malformed_message_is_answered_with_the_field_at_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Field 44 is for the terminal's screen, the log for the technician: field, value and mend."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        answer = await terminal.ask(changed(PAYMENT, {13: "9099"}))
        assert (answer.fields[39], answer.fields[44]) == ("30", "F13 9099 not MMDD")
        assert (answer.fields[11], 13 in answer.fields) == ("000123", False)
        assert "field 13 (local date) is '9099', not MMDD; send it as a possible MMDD" in caplog.text
        answer = await terminal.ask(changed(PAYMENT, {32: None}, mti="0220"))
        assert (answer.mti, answer.fields[39], answer.fields[44]) == ("0230", "30", "missing F32")
        answer = await terminal.ask(changed(PAYMENT, {}, mti="0300"))
        assert (answer.mti, answer.fields[39], answer.fields[44]) == ("0310", "12", "MTI not served")
        answer = await terminal.ask(changed(SIGN_ON, {70: "101"}))
        assert (answer.fields[39], answer.fields[44]) == ("12", "F70 101 not served")
        assert here.gateway.requests == []


async def test_a_length_that_cannot_be_closes_with_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing behind it can be found: an HTTP client on the wrong port must not be read as payments."""
    async with branch(tmp_path, frame_bytes_max=1_000) as here:
        terminal = await here.signed_on()
        terminal.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await terminal.ended()
        assert "frame_bytes_max is 1000" in caplog.text
        assert here.gateway.events["closed"] == 1
        await here.signed_on()


async def test_a_length_of_zero_keeps_the_line_alive(tmp_path: Path) -> None:
    """Many switches send it every minute; it is no message and gets no answer."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        terminal.writer.write(b"\x00\x00" * 3)
        assert (await terminal.ask(ECHO)).fields[39] == "00"


async def test_ascii_lengths_and_binary_bitmaps_work_too(tmp_path: Path) -> None:
    """The other two habits of the field."""
    codec = Codec("binary")
    async with branch(tmp_path, length_header="ascii", bitmap="binary") as here:
        terminal = await here.connect()
        for message in (CODEC.decode(SIGN_ON), CODEC.decode(PAYMENT)):
            raw = codec.encode(message)
            terminal.writer.write(b"%04d" % len(raw) + raw)
            size = int(await terminal.reader.readexactly(4))
            assert codec.decode(await terminal.reader.readexactly(size)).fields[39] == "00"
        terminal.writer.write(b"00x1")
        assert await terminal.ended()


async def test_stopping_answers_what_is_in_flight(tmp_path: Path) -> None:
    """A restart for an update must not turn payments into reversals."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        here.gateway.gate.clear()
        await terminal.send(PAYMENT)
        await until(lambda: here.gateway.events["received"] == 2, "the payment to be read")
        stopping = asyncio.ensure_future(here.server.stop())
        await asyncio.sleep(0)
        here.gateway.gate.set()
        assert (await terminal.receive()).fields[39] == "00"
        await stopping
        assert await terminal.ended()


async def test_a_fault_of_ours_is_logged_without_the_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error's text often quotes its cause, and here the cause is a card."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        here.gateway.unanswered = KeyError(PAN)  # type: ignore[assignment]
        await terminal.send(PAYMENT)
        await until(lambda: here.gateway.events["failed"] == 1, "the fault to be counted")
        assert (await terminal.ask(ECHO)).fields[39] == "00"
        assert "KeyError" in caplog.text
        assert PAN not in caplog.text


async def test_one_peer_cannot_fill_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rubbish is free to send; a log line is not."""
    caplog.set_level(logging.INFO)
    async with branch(tmp_path) as here:
        switch = await here.signed_on()
        for _ in range(300):
            await switch.send(b"rubbish")
        await switch.ask(ECHO)
        assert here.gateway.events["dropped"] == 300
        assert len(caplog.records) <= 110


async def test_a_peer_that_left_costs_no_log_line_for_each_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks much and hangs up could fill the disk with words of the event loop about its own socket."""
    async with branch(tmp_path, in_flight_max=10_000) as here:
        terminal = await here.signed_on()
        here.gateway.gate.clear()
        for number in range(300):
            await terminal.send(changed(PAYMENT, {11: f"{number:06}"}))
        await until(lambda: here.gateway.events["received"] == 301, "all payments to be read")
        terminal.writer.transport.abort()
        await asyncio.sleep(0)
        here.gateway.gate.set()
        await until(lambda: not here.server._serving, "the connection to be given up")
        assert len(here.gateway.requests) == 300
        assert len(caplog.records) <= 110


async def test_the_pin_block_and_the_card_number_stay_at_the_door(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not stored cannot be stolen."""
    caplog.set_level(logging.DEBUG)
    pin_block = "1A2B3C4D5E6F7081"
    track = f"{PAN}=26121010000000000000"
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(changed(PAYMENT, {35: track, 52: pin_block}))
        await terminal.ask(changed(PAYMENT, {35: track, 52: pin_block, 3: "990000"}))
        await terminal.ask(changed(PAYMENT, {2: PAN, 35: "nonsense" + PAN}))
        stored = repr(here.gateway.records)
    for secret in (PAN, pin_block):
        assert secret not in stored
        assert secret not in caplog.text


async def test_the_year_comes_from_the_last_closed_window(tmp_path: Path) -> None:
    """A box whose clock is years off must still give a repeat the same identity."""
    async with branch(tmp_path) as here:
        here.gateway.book.window = 2
        here.gateway.closed_windows[1] = WindowClosed(
            v=1, bank="b", box="b", epoch=1, seq=1, at_ns=1, wall_ns=1, mono_ns=1,
            window=1, business_date="2031-11-20", transfers=0, positions=(), closed_by="test",
        )  # fmt: skip
        terminal = await here.signed_on()
        await terminal.ask(PAYMENT)
        [(client, request)] = here.gateway.requests
        # 21 November 2031, 17:30:15 is 22 604 days and 63 015 seconds after 1970 began.
        assert client == "iso8583:T0000001"
        assert request.kind is Kind.PAYMENT
        assert int(request.id[:12], 16) == (22_604 * 86_400 + 63_015) * 1_000


async def test_a_missing_vault_key_stops_the_start(tmp_path: Path) -> None:
    """Without it every card would be unknown, which looks like a fault of the cards."""
    names = write_keys(tmp_path)
    (tmp_path / "vault.key").unlink()
    with pytest.raises(SecretFileError, match=r"vault\.key"):
        await start(MemoryGateway(), Options(port=0, **names))


async def test_an_unexpected_field_is_ignored_when_it_is_well_formed(tmp_path: Path) -> None:
    """Every switch adds some of its own; refusing them would refuse the switch."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        extra = CODEC.decode(PAYMENT).fields | {14: "2809", 22: "051", 60: "99", 104: "a note"}
        answer = await terminal.ask(CODEC.encode(Message("0200", extra)))
        assert (answer.fields[39], answer.fields[22], 104 in answer.fields) == ("00", "051", False)
