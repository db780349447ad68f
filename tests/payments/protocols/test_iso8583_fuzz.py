"""Whatever bytes arrive: no crash, no lost connection, no card number outside."""

import asyncio
import io
import logging
import tempfile
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegw.payments.iso8583 import messages
from edgegw.payments.iso8583.fields import Codec, FrameError, Message, problems
from edgegw.payments.iso8583.mac import encode_with_mac, is_authentic
from tests.payments.protocols.iso8583_branch import (
    CODEC,
    ECHO,
    PAN,
    PAYMENT,
    SIGN_ON,
    TERMINAL_KEY,
    branch,
    changed,
)

REVERSAL = changed(PAYMENT, {90: "020000012311211730150000012345600000000000"}, mti="0400")
TRACK = changed(PAYMENT, {2: None, 35: f"{PAN}=26121010000000000000", 52: "0123456789ABCDEF"}, mti="0100")
SEEDS = (PAYMENT, SIGN_ON, REVERSAL, TRACK, changed(PAYMENT, {}, mti="0221"))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A true message with a few bytes changed, put in, taken out, or cut off."""
    raw = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(raw) - 1))
        how = draw(st.sampled_from("=+-<"))
        if how == "=":
            raw[place] = draw(st.integers(0, 255))
        elif how == "+":
            raw[place:place] = draw(st.binary(min_size=1, max_size=20))
        elif how == "-" and len(raw) > 1:
            del raw[place]
        elif how == "<" and place:
            del raw[place:]
    return bytes(raw)


FIELD = st.one_of(
    st.sampled_from(["", "0", " ", "000000", "99999999", "0229", "000000000000", "\x00", "é" * 12, "=", "²"]),
    st.text(st.characters(codec="latin-1"), max_size=60),
)


@st.composite
def assembled(draw: st.DrawFn) -> bytes:
    """A message whose bitmap is right and whose fields have the right length, with any characters in them."""
    seed = CODEC.decode(draw(st.sampled_from(SEEDS)))
    fields = dict(seed.fields)
    for number in draw(st.lists(st.sampled_from([2, 3, 4, 11, 12, 13, 32, 35, 37, 41, 42, 45, 49, 90, 95]))):
        length = len(fields.get(number, ""))
        value = draw(FIELD)
        fields[number] = value[:length].ljust(length, "0") if number in seed.fields else value
    try:
        return CODEC.encode(Message(draw(st.sampled_from(["0100", "0200", "0221", "0401", "0420"])), fields))
    except ValueError:
        return PAYMENT


FRAME = st.one_of(st.binary(max_size=200), mutated(), assembled())


def _read(codec: Codec, raw: bytes) -> tuple[Message, str]:
    """What could be read, and the error's word, empty when all of it could."""
    try:
        return codec.decode(raw), ""
    except FrameError as error:
        return error.partial, error.word


@given(FRAME, st.sampled_from(["hex", "binary"]))
def test_bytes_become_a_message_or_a_frame_error(raw: bytes, bitmap: str) -> None:
    """Any other exception would end the connection of everybody behind the same switch."""
    codec = Codec(bitmap)  # type: ignore[arg-type]
    message, word = _read(codec, raw)
    assert len(word) <= 25
    if not word:
        assert codec.decode(codec.encode(message)) == message
        is_authentic(TERMINAL_KEY, raw, message, codec)
    for problem in problems(message):
        assert len(problem.word) <= 25
        problem.word.encode("ascii")
    if messages.response_mti(message.mti):
        reply = messages.reply(message, code="30", word="é" * 40)
        signed = encode_with_mac(TERMINAL_KEY, reply, codec)
        assert is_authentic(TERMINAL_KEY, signed, codec.decode(signed), codec)


async def _talk(frames: list[bytes]) -> tuple[list[Message], str]:
    """Send frames to a fresh branch, then an echo; all answers, and everything that was written down."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger("edgegw")
    logger.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as directory:
            async with branch(Path(directory)) as here:
                terminal = await here.signed_on()
                for frame in frames:
                    await terminal.send(frame)
                await terminal.send(ECHO)
                answers = [await terminal.receive()]
                while answers[-1].fields.get(11) != "000002":
                    answers.append(await terminal.receive())
                terminal.writer.write_eof()
                while not terminal.reader.at_eof():
                    try:
                        answers.append(await terminal.receive())
                    except asyncio.IncompleteReadError:
                        break
                assert here.gateway.events["failed"] == here.gateway.events["closed"] == 0
                assert here.gateway.events["received"] == 2 + sum(1 for frame in frames if frame)
                requests = b"".join(msgspec.json.encode(request) for _, request in here.gateway.requests)
        return answers, log.getvalue() + requests.decode()
    finally:
        logger.removeHandler(handler)


@settings(max_examples=60)
@given(st.lists(FRAME, max_size=8))
def test_no_frame_ends_a_connection_or_shows_a_card_number(frames: list[bytes]) -> None:
    """Every frame is answered at most once, nothing fails, and the PAN is in no record and no log line."""
    answers, written = asyncio.run(_talk(frames))
    assert len(answers) <= len(frames) + 1
    for answer in answers:
        assert answer.mti[2:] in ("10", "30")
        assert answer.fields[39]
    assert PAN not in written


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=5))
def test_no_stream_of_bytes_stops_the_server(chunks: list[bytes]) -> None:
    """Garbage in place of the length itself: that connection may end, the next one works."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with branch(Path(directory)) as here:
                stranger = await here.connect()
                for chunk in chunks:
                    stranger.writer.write(chunk)
                stranger.writer.write_eof()
                try:
                    await stranger.reader.read()
                except ConnectionResetError:
                    pass
                assert (await (await here.signed_on()).ask(PAYMENT)).fields[39] == "00"
                assert here.gateway.events["failed"] == 0

    asyncio.run(run())
