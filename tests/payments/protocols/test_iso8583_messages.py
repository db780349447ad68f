"""Messages as bytes, their identities and what they ask for: literal vectors, computed by hand."""

import datetime

import pytest

from edgegw.core.reasons import Reason
from edgegw.core.records import Kind
from edgegw.core.site import TerminalRule
from edgegw.payments.iso8583 import messages
from edgegw.payments.iso8583.fields import Codec, FrameError, Message, problems
from edgegw.payments.iso8583.identity import Family, Trace, nearest_date
from edgegw.payments.iso8583.mac import encode_with_mac, is_authentic
from edgegw.payments.iso8583.messages import Directory, Interpreter, Proposal, Rejection, Role
from edgegw.payments.vault import Lookups
from tests.payments.protocols.iso8583_branch import (
    CODEC,
    PAN,
    PAYMENT,
    SIGN_ON,
    TERMINAL_KEY,
    VAULT_KEY,
    changed,
    hmac_sm3,
    site,
)

BUSINESS_DATE = datetime.date(2026, 11, 20)


def test_the_literal_payment_is_read_field_by_field() -> None:
    """A shift by one byte turns an amount into another."""
    message = CODEC.decode(PAYMENT)
    assert message == Message(
        "0200",
        {
            2: "6222021234567890",
            3: "000000",
            4: "000000012345",
            7: "1121093015",
            11: "000123",
            12: "173015",
            13: "1121",
            32: "123456",
            37: "112117000123",
            41: "T0000001",
            42: "M00000000000001",
            49: "156",
        },
    )
    assert problems(message) == []
    assert CODEC.encode(message) == PAYMENT


@pytest.mark.parametrize(
    ("bitmap", "raw"),
    [
        ("hex", b"0800822000000000000000000000000000001121093000000001"),
        (
            "binary",
            b"0800" + bytes.fromhex("8220000000000000 0000000000000000") + b"1121093000000001",
        ),
    ],
)
def test_an_empty_secondary_bitmap_survives(bitmap: str, raw: bytes) -> None:
    """A peer compares or signs the bytes: a bitmap that disappears breaks both."""
    codec = Codec(bitmap)  # type: ignore[arg-type]
    message = codec.decode(raw)
    assert message.fields == {7: "1121093000", 11: "000001"}
    assert codec.encode(message) == raw


def test_binary_bitmaps_mean_the_same_fields() -> None:
    """Half of all terminals send them; the fields behind must not move."""
    raw = b"0200" + bytes.fromhex("7238000108C08000") + PAYMENT[20:]
    assert Codec("binary").decode(raw) == CODEC.decode(PAYMENT)
    assert Codec("binary").encode(CODEC.decode(PAYMENT)) == raw


def test_text_that_is_not_ascii_survives() -> None:
    """Merchant names are written in Latin-1 by many switches."""
    raw = b"08000020000000200000000001" + "Café Zürich".encode("latin-1").ljust(40)
    message = CODEC.decode(raw)
    assert message.get(43) == "Café Zürich"
    assert CODEC.encode(message) == raw


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "bitmap is cut short"),
        (b"02", "bitmap is cut short"),
        (b"0200723800", "bitmap is cut short"),
        (b"020072 8000108C0800G", "primary bitmap is not 16 hex digits"),
        (b"02007 38000108C08000" + PAYMENT[20:], "primary bitmap is not 16 hex digits"),
        (b"08008220000000000000000", "secondary bitmap is cut short"),
        (b"0800822000000000000080000000000000001121093000000001", "field 65"),
        (PAYMENT[:-1], "truncated in field 49"),
        (PAYMENT[:30], "truncated in field 2"),
        (PAYMENT + b"9", "1 bytes follow"),
        (PAYMENT.replace(b"16622202", b"-1622202", 1), "field 2"),
        (PAYMENT.replace(b"16622202", b"99622202", 1), "field 2"),
        (b"08000000000100000000 6123456", "field 32"),
        (b"08000000000100000000+6123456", "field 32"),
        (b"080000000000000100001_00123456789", "field 48"),
    ],
)
def test_bytes_that_are_no_message_are_refused_with_the_place(raw: bytes, said: str) -> None:
    """An operator who is told "bad message" has to guess; signs and blanks in lengths pass Python's int()."""
    with pytest.raises(FrameError, match=said) as caught:
        CODEC.decode(raw)
    assert len(caught.value.word) <= 25
    assert PAN not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "value", "said"),
    [
        (13, "9099", "field 13 (local date) is '9099', not MMDD"),
        (13, "0230", "field 13 (local date) is '0230', not MMDD"),
        (13, "0431", "not MMDD"),
        (13, "0000", "not MMDD"),
        (12, "240000", "field 12 (local time) is '240000', not hhmmss"),
        (12, "236000", "not hhmmss"),
        (12, "235960", "not hhmmss"),
        (7, "1301093015", "not MMDDhhmmss"),
        (7, "1121250000", "not MMDDhhmmss"),
        (15, "1132", "not MMDD"),
        (73, "270229", "not YYMMDD"),
        (4, "00000001234x", "not digits"),
        (11, "00012 ", "not digits"),
        (28, "X00000100", "not C or D and digits"),
        (64, "00000000000000zz", "not hex digits"),
        (41, "T00\x0000", "not plain text"),
        (2, "62220212345678ab", "(16 characters, not shown)"),
        (14, "2613", "(4 characters, not shown)"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_value_and_mend(number: int, value: str, said: str) -> None:
    """An impossible date that gets through becomes an identity that no repeat finds again."""
    [problem] = problems(Message("0200", {number: value}))
    assert said in problem.text
    assert "; send it as" in problem.text
    assert problem.word.startswith(f"F{number} ")
    assert len(problem.word) <= 25


def test_a_leap_day_is_possible() -> None:
    """The 29th of February has no year in the message; which one it is comes later."""
    assert problems(Message("0200", {13: "0229"})) == []


# -- MAC -----------------------------------------------------------------------


def test_the_mac_is_the_one_that_another_implementation_gives() -> None:
    """Terminals compute it with their own library: one byte more or less covered and none of them gets in."""
    message = CODEC.decode(changed(PAYMENT, {41: "T0000009"}))
    raw = encode_with_mac(TERMINAL_KEY, message, CODEC)
    assert raw[4:20] == b"7238000108C08001"
    assert raw[-16:] == hmac_sm3(TERMINAL_KEY, raw[:-16])[:8].hex().upper().encode()
    assert is_authentic(TERMINAL_KEY, raw, CODEC.decode(raw), CODEC)


def test_the_mac_of_a_message_with_two_bitmaps_is_field_128_also_in_binary() -> None:
    """A MAC in field 64 would leave everything behind it open to change."""
    codec = Codec("binary")
    message = CODEC.decode(SIGN_ON)
    raw = encode_with_mac(TERMINAL_KEY, message, codec)
    assert raw[19] == 0x01
    assert raw[-8:] == hmac_sm3(TERMINAL_KEY, raw[:-8])[:8]
    assert is_authentic(TERMINAL_KEY, raw, codec.decode(raw), codec)


@pytest.mark.parametrize("position", [0, 25, 60, -20, -17, -1])
def test_a_changed_byte_breaks_the_mac(position: int) -> None:
    """That is what it is for."""
    raw = bytearray(encode_with_mac(TERMINAL_KEY, CODEC.decode(PAYMENT), CODEC))
    raw[position] = ord("8") if raw[position] != ord("8") else ord("3")
    try:
        message = CODEC.decode(bytes(raw))
    except FrameError:
        return
    assert not is_authentic(TERMINAL_KEY, bytes(raw), message, CODEC)


def test_a_mac_before_other_fields_does_not_count() -> None:
    """Whoever may add field 90 behind the MAC redirects a reversal."""
    signed = CODEC.decode(encode_with_mac(TERMINAL_KEY, CODEC.decode(PAYMENT), CODEC))
    raw = CODEC.encode(Message("0200", signed.fields | {90: "0" * 42}))
    assert not is_authentic(TERMINAL_KEY, raw, CODEC.decode(raw), CODEC)
    assert not is_authentic(TERMINAL_KEY, PAYMENT, CODEC.decode(PAYMENT), CODEC)


# -- identities ----------------------------------------------------------------

TRACE = Trace(
    acquirer="123456",
    terminal="T0000001",
    merchant="M00000000000001",
    stan="000123",
    rrn="112117000123",
    local=datetime.datetime.fromisoformat("2026-11-21T17:30:15"),
)


def test_an_identity_begins_with_its_time_and_every_part_counts() -> None:
    """Ids in order of time keep the index small; a part that is left out makes two payments one."""
    # 2026-11-21 17:30:15 is 1 795 282 215 seconds after 1970-01-01 00:00:00: 20 778 days and 63 015 seconds.
    assert 20_778 * 86_400 + 63_015 == 1_795_282_215
    first = TRACE.id(Family.ORIGINAL)
    assert len(first) == 32
    assert first[:12] == f"{1_795_282_215_000:012x}"
    others = [
        Trace(**{name: getattr(TRACE, name) for name in TRACE.__struct_fields__} | {part: value})
        for part, value in [
            ("acquirer", "123457"),
            ("terminal", "T0000002"),
            ("merchant", "M2"),
            ("stan", "000124"),
            ("rrn", ""),
            ("local", datetime.datetime.fromisoformat("2026-11-21T17:30:16")),
        ]
    ]
    ids = [first, *(other.id(Family.ORIGINAL) for other in others)]
    ids += [TRACE.id(Family.ADVICE), TRACE.id(Family.REVERSAL)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("month_day", "business_date", "expected"),
    [
        ("1231", "2027-01-01", "2026-12-31"),
        ("0101", "2026-12-31", "2027-01-01"),
        ("0615", "2026-11-20", "2026-06-15"),
        ("0515", "2026-11-20", "2027-05-15"),
        ("0229", "2028-03-01", "2028-02-29"),
        ("0229", "2027-11-01", "2028-02-29"),
    ],
)
def test_a_date_gets_the_year_nearest_to_the_business_date(
    month_day: str, business_date: str, expected: str
) -> None:
    """Around New Year a message would else come from the future, and its repeat would miss it."""
    found = nearest_date(month_day, business_date=datetime.date.fromisoformat(business_date))
    assert found == datetime.date.fromisoformat(expected)


def test_a_leap_day_without_a_leap_year_around_is_no_date() -> None:
    """It must be refused with a reason, not raise."""
    assert nearest_date("0229", business_date=datetime.date(2026, 6, 1)) is None


# -- what a message asks for ---------------------------------------------------

DIRECTORY = Directory(site())
INTERPRETER = Interpreter(Lookups(VAULT_KEY), hold_timeout_s=604_800)


def proposed(raw: bytes) -> Proposal | Rejection:
    """What the interpreter makes of a message whose form is right."""
    message = CODEC.decode(raw)
    role = messages.role_of(message.mti)
    assert role is not None
    assert messages.malformed(message, role) is None
    terminal = messages.terminal_of(message, DIRECTORY)
    assert isinstance(terminal, TerminalRule)
    return INTERPRETER.proposal(
        message, role, terminal=terminal, directory=DIRECTORY, business_date=BUSINESS_DATE
    )


def test_a_payment_debits_the_card_and_credits_the_terminal() -> None:
    """The other way round, every sale would pay the customer."""
    proposal = proposed(PAYMENT)
    assert isinstance(proposal, Proposal)
    request = proposal.request
    assert (request.kind, request.debit_account_id, request.credit_account_id) == (
        Kind.PAYMENT,
        "card-a",
        "shop-1",
    )
    assert (request.amount_minor, request.currency, request.advice) == (12_345, "CNY", False)
    assert request.id == TRACE.id(Family.ORIGINAL)
    assert request.card == hmac_sm3(VAULT_KEY, PAN.encode()).hex()
    assert (request.card_mask, request.terminal) == ("622202******7890", "T0000001")
    assert (request.merchant, request.reference) == ("M00000000000001", "112117000123")


@pytest.mark.parametrize("code", ["200000", "210000"])
def test_a_refund_and_cash_paid_in_go_the_other_way(code: str) -> None:
    """A refund that debits the card takes the money twice."""
    proposal = proposed(changed(PAYMENT, {3: code}))
    assert isinstance(proposal, Proposal)
    assert (proposal.request.debit_account_id, proposal.request.credit_account_id) == ("shop-1", "card-a")


@pytest.mark.parametrize(
    "fields",
    [
        {2: None, 35: "6222021234567890=26121010000000000000"},
        {2: None, 35: "6222021234567890D26121010000000000000"},
        {2: None, 45: "B6222021234567890^NOBODY/N^26121010000000000000"},
        {2: PAN, 35: "6222021234567890=26121010000000000000"},
        {49: "CNY"},
        {32: "0000123456"},
        {7: "1122000000"},
        {42: None},
        {52: "0123456789ABCDEF"},
    ],
)
def test_the_same_payment_said_otherwise_is_the_same_request(fields: dict[int, str | None]) -> None:
    """A repeat is sent at another time, and some terminals send the track again instead of the number."""
    assert proposed(changed(PAYMENT, fields)) == proposed(PAYMENT)
    assert proposed(changed(PAYMENT, fields, mti="0201")) == proposed(PAYMENT)


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({4: "000000000000"}, "13", "F4 leaves no amount"),
        ({3: "310000"}, "12", "F3 31 not served"),
        ({49: "840"}, "12", "F49 840 not CNY"),
        ({49: "999"}, "12", "F49 999 not CNY"),
        ({2: "6222021234567891"}, "14", "card not registered"),
        ({2: "6222021234567891", 35: "6222021234567890=2612"}, "14", "F2 F35 F45 differ"),
        ({2: None, 35: "no track"}, "14", "F35 no card number"),
        ({13: "0229"}, "30", "F13 0229 no such day"),
        ({90: "020000012211211730140000012345600000000000"}, "30", "F90 0200 not 0100"),
    ],
)
def test_what_cannot_be_asked_is_rejected_with_its_code(
    fields: dict[int, str | None], code: str, word: str
) -> None:
    """A wrong code sends the cardholder to the wrong counter."""
    rejection = proposed(changed(PAYMENT, fields))
    assert isinstance(rejection, Rejection)
    assert (rejection.code, rejection.word) == (code, word)
    assert PAN not in rejection.text


def test_a_hold_has_an_end_and_only_payments_are_held() -> None:
    """A hold that never ends locks a customer's money; a held refund has no meaning."""
    proposal = proposed(changed(PAYMENT, {}, mti="0100"))
    assert isinstance(proposal, Proposal)
    assert (proposal.request.kind, proposal.request.timeout_s) == (Kind.HOLD, 604_800)
    assert isinstance(proposed(changed(PAYMENT, {3: "200000"}, mti="0100")), Rejection)


ORIGINAL_DATA = "020000012311210930150000012345600000000000"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {11: "000777", 90: ORIGINAL_DATA},
        {11: "000777", 32: "777", 90: ORIGINAL_DATA},
    ],
)
def test_a_reversal_finds_its_original_by_field_90_or_its_own_trace(fields: dict[int, str | None]) -> None:
    """Terminals differ in whether a reversal keeps the STAN; a missed original is money not given back."""
    proposal = proposed(changed(PAYMENT, fields, mti="0400"))
    assert isinstance(proposal, Proposal)
    assert proposal.request.kind is Kind.REVERSAL
    assert proposal.request.original_id == TRACE.id(Family.ORIGINAL)
    assert proposal.request.original_client == "iso8583:T0000001"
    assert proposal.request.id not in proposal.originals


def test_a_reversal_with_a_time_of_its_own_also_looks_by_the_time_of_field_90() -> None:
    """Some terminals write their clock there and not the transmission time."""
    sent = "020000012311211730150000012345600000000000"
    proposal = proposed(changed(PAYMENT, {11: "000777", 12: "173200", 90: sent}, mti="0420"))
    assert isinstance(proposal, Proposal)
    assert proposal.request.original_id != TRACE.id(Family.ORIGINAL)
    assert TRACE.id(Family.ORIGINAL) in proposal.originals
    assert proposal.request.advice


def test_a_partial_reversal_gives_back_what_was_not_spent() -> None:
    """Field 95 says what really was spent: 45.00 of 123.45 leaves 78.45."""
    proposal = proposed(changed(PAYMENT, {95: "000000004500" + "0" * 30}, mti="0400"))
    assert isinstance(proposal, Proposal)
    assert proposal.request.amount_minor == 7_845


def test_a_completion_takes_the_hold_that_it_names() -> None:
    """As a payment it would take the money a second time while the hold stands."""
    held = "010000012311211730150000012345600000000000"
    proposal = proposed(changed(PAYMENT, {11: "000500", 12: "190000", 90: held}, mti="0220"))
    assert isinstance(proposal, Proposal)
    assert proposal.request.kind is Kind.POST
    assert TRACE.id(Family.ORIGINAL) in proposal.originals
    assert proposal.instead is not None
    assert (proposal.instead.kind, proposal.instead.advice) == (Kind.PAYMENT, True)


def test_mandatory_fields_are_named_all_at_once() -> None:
    """One at a time, a technician needs as many tries as there are fields."""
    message = CODEC.decode(changed(PAYMENT, {2: None, 32: None, 41: None}))
    rejection = messages.malformed(message, Role.PAYMENT)
    assert rejection == Rejection(
        "30", "missing F2 F32 F41", "mandatory in 0200 and missing: F2, F32, F41; send them"
    )


def test_every_reason_has_a_response_code() -> None:
    """A reason without one would be an answer that is never sent."""
    assert set(messages.RESPONSE_CODES) == set(Reason)
    assert all(
        len(code) == 2 and code.isdigit() and code != "00" for code in messages.RESPONSE_CODES.values()
    )
    expected = {
        Reason.INSUFFICIENT_FUNDS: "51",
        Reason.EXCEEDS_PAYMENT_LIMIT: "61",
        Reason.EXCEEDS_VELOCITY: "65",
        Reason.STAND_IN_ABOVE_FLOOR: "91",
        Reason.LEDGER_REFUSED: "96",
        Reason.ORIGINAL_NOT_FOUND: "25",
    }
    assert {reason: messages.RESPONSE_CODES[reason] for reason in expected} == expected


@pytest.mark.parametrize(
    ("mti", "answer"),
    [
        ("0100", "0110"),
        ("0101", "0110"),
        ("0200", "0210"),
        ("0201", "0210"),
        ("0220", "0230"),
        ("0221", "0230"),
        ("0400", "0410"),
        ("0401", "0410"),
        ("0420", "0430"),
        ("0421", "0430"),
        ("0800", "0810"),
        ("0500", "0510"),
        ("0210", ""),
        ("0810", ""),
        ("0240", ""),
        ("1200", ""),
        ("02x0", ""),
        ("", ""),
    ],
)
def test_answers_have_the_right_type_and_answers_get_none(mti: str, answer: str) -> None:
    """Two peers that answer answers never stop."""
    assert messages.response_mti(mti) == answer


@pytest.mark.parametrize(
    ("place", "code"), [("1/0", "000000"), ("1/36", "000010"), ("7/2176782335", "ZZZZZZ")]
)
def test_an_approval_code_counts_in_base_36(place: str, code: str) -> None:
    """Six digits alone would come round within a day of rush hours."""
    assert messages.approval_code(place) == code
