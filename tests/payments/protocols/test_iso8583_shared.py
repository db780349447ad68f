"""Messages that this project did not write (moov-io/iso8583, Apache-2.0), where their folder is there."""

import os
from pathlib import Path

import pytest

from edgegw.payments.iso8583 import messages
from edgegw.payments.iso8583.fields import Codec, FrameError, Message, problems
from tests.payments.protocols.iso8583_branch import ECHO, SIGN_ON, branch, changed

FOLDER = Path(
    os.environ.get(
        "EDGEGW_ISO8583_MESSAGES", Path(__file__).resolve().parents[4] / "shared" / "data" / "iso8583"
    )
)
needs_messages = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no foreign messages; name their folder in EDGEGW_ISO8583_MESSAGES"
)
CODEC = Codec("hex")

WELL_FORMED = (
    "financial_transaction_message",
    "financial_transaction_message_response",
    "iso_reversal_message",
    "iso_reversal_message_advice",
    "iso_reversal_message_advice_unexpected_field",
    "iso_reversal_message_response",
    "iso_reversal_repeat_message",
    "iso_reversal_repeat_message_response",
    "network_management_message",
    "network_management_message_response",
)
EVERY = sorted(path.stem for path in FOLDER.glob("*.dat")) if FOLDER.is_dir() else []


def foreign(name: str) -> bytes:
    """The bytes of one message."""
    return (FOLDER / f"{name}.dat").read_bytes()


def judged(message: Message) -> messages.Rejection | None:
    """What the adapter says to the form of a message."""
    role = messages.role_of(message.mti)
    assert role is not None
    return messages.malformed(message, role)


@needs_messages
@pytest.mark.parametrize(
    "name", [*WELL_FORMED, "iso_reversal_message_error_date", "iso_reversal_message_advice_missing_field"]
)
def test_a_foreign_message_is_encoded_to_the_same_bytes(name: str) -> None:
    """Whoever checks a MAC over re-encoded bytes sees every difference."""
    raw = foreign(name)
    message = CODEC.decode(raw)
    assert CODEC.encode(message) == raw
    assert (problems(message) == []) == (name != "iso_reversal_message_error_date")


@needs_messages
def test_the_advice_without_its_acquirer_is_refused_for_that() -> None:
    """Without field 32 it has no identity, and its repeat would be booked again."""
    with_it = judged(CODEC.decode(foreign("iso_reversal_message_advice")))
    without = judged(CODEC.decode(foreign("iso_reversal_message_advice_missing_field")))
    assert without is not None
    assert without.code == "30"
    assert "F32" in without.word
    assert with_it is None or "F32" not in with_it.word


@needs_messages
def test_the_unexpected_fields_are_not_what_it_is_refused_for() -> None:
    """Documented choice: well-formed fields that are not needed are ignored."""
    rejection = judged(CODEC.decode(foreign("iso_reversal_message_advice_unexpected_field")))
    assert rejection is not None
    assert rejection.word == "missing F41"


@needs_messages
def test_the_impossible_date_is_refused_with_field_value_and_mend() -> None:
    """9099 would otherwise become the date of an identity."""
    rejection = judged(CODEC.decode(foreign("iso_reversal_message_error_date")))
    assert rejection is not None
    assert (rejection.code, rejection.word) == ("30", "F13 9099 not MMDD")
    assert "field 13 (local date) is '9099', not MMDD; send it as a possible MMDD" in rejection.text


@needs_messages
def test_the_truncated_message_is_refused_as_truncated() -> None:
    """Read as far as it goes, it would reverse something."""
    with pytest.raises(FrameError, match="truncated in field 55") as caught:
        CODEC.decode(foreign("error_message"))
    assert (caught.value.partial.mti, caught.value.partial.fields[11]) == ("0400", "100331")


@needs_messages
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bitmap", ["hex", "binary"])
async def test_no_foreign_message_ends_the_connection_or_moves_money(
    tmp_path: Path, name: str, bitmap: str
) -> None:
    """EBCDIC, BCD, hex lengths, a page of JSON: answered or dropped, and the next message is heard."""
    codec = Codec(bitmap)  # type: ignore[arg-type]
    async with branch(tmp_path, bitmap=bitmap, frame_bytes_max=9_999) as here:
        terminal = await here.connect()
        switch_on = codec.encode(CODEC.decode(changed(SIGN_ON, {41: None})))
        echo = codec.encode(CODEC.decode(ECHO))
        await terminal.send(switch_on)
        raw = foreign(name)
        for start in range(0, len(raw), 9_999):
            await terminal.send(raw[start : start + 9_999])
        await terminal.send(echo)
        answers = []
        while not answers or answers[-1].fields.get(70) != "301":
            answers.append(codec.decode(await terminal.receive_raw()))
        assert answers[0].fields[39] == "00"
        assert len(answers) <= 3
        assert here.gateway.requests == []
        assert here.gateway.events["failed"] == here.gateway.events["closed"] == 0
