"""The claim and the messages of enrolment: what bytes are taken, and what each signature stands for."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.core.enrolment import (
    CLAIM,
    CLAIM_BYTES_MAX,
    DEVICE,
    HUB,
    REQUEST_BYTES_MAX,
    Claim,
    Enrol,
    EnrolmentError,
    Renew,
    Signed,
    Wanted,
    decode_claim,
    encode_body,
    encode_claim,
    encode_signed,
    old_role,
    read_reply,
    read_request,
    signed_text,
)

SEED = base64.b64encode(bytes(range(32))).decode()


def a_claim(**changes: object) -> Claim:
    claim = Claim(
        format=1,
        id="0f" * 16,
        bank="bank",
        box="north",
        branch="Harbour Street",
        addresses=("https://hub.bank:8602",),
        profile="intl",
        hub_key="bank/hub+00000000+/w==",
        expires_at_s=1_800_000_000,
        seed=SEED,
    )
    return msgspec.structs.replace(claim, **changes)


def an_enrolment(**changes: object) -> Enrol:
    request = Enrol(
        version=1,
        claim="0f" * 16,
        bank="bank",
        box="north",
        device_key="bank/north+00000000+/w==",
        wanted=(Wanted(kind="p256", public_key=b"key"),),
        nonce=bytes(16),
        clock_s=0,
    )
    return msgspec.structs.replace(request, **changes)


def sent(request: Enrol | Renew) -> bytes:
    return encode_signed(Signed(body=encode_body(request), signatures={}))


def test_a_claim_comes_back_as_it_was_written() -> None:
    """The file and the QR have the same bytes, and nothing of them is lost."""
    assert decode_claim(encode_claim(a_claim())) == a_claim()


def test_a_claim_that_no_qr_code_holds_is_not_written() -> None:
    """Better no claim than one that the technician's phone cannot read."""
    with pytest.raises(EnrolmentError, match="QR"):
        encode_claim(a_claim(authorities=("A" * CLAIM_BYTES_MAX,)))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"seed": "short"},
        {"seed": base64.b64encode(bytes(31)).decode()},
        {"authorities": ("no base64!",)},
        {"box": "../north"},
        {"id": "0F" * 16},
        {"addresses": ()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_damaged_claim_is_refused_without_its_seed_in_the_words(changes: dict[str, object]) -> None:
    """A wrong file says what is wrong with it, and the seed reaches no terminal and no log."""
    body = msgspec.json.encode(a_claim(**changes))
    with pytest.raises(EnrolmentError) as refused:
        decode_claim(body)
    assert SEED not in str(refused.value)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Whoever can reach the port sends what they like: never anything but a refusal comes of it."""
    for read in (decode_claim, read_request, read_reply):
        try:
            read(data)
        except EnrolmentError:
            continue


@given(st.binary(max_size=200))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """The same within the frame of a signed message."""
    for read in (read_request, read_reply):
        try:
            read(encode_signed(Signed(body=body, signatures={"device": b""})))
        except EnrolmentError:
            continue


def test_a_signature_fits_one_role_and_one_direction() -> None:
    """What the device signed is no word of the claim's, of another key's or of the hub's."""
    roles = [CLAIM, DEVICE, HUB, "p256", "sm2", old_role("p256"), old_role("sm2")]
    assert len({signed_text(role, b"body") for role in roles}) == len(roles)


def test_a_request_too_long_is_not_parsed() -> None:
    """Memory is bounded before anything is known of the sender."""
    with pytest.raises(EnrolmentError, match="at most"):
        read_request(b"\x80" * (REQUEST_BYTES_MAX + 1))


def test_two_certificates_of_one_kind_are_refused() -> None:
    """Each key signs as its kind, so two of one kind could stand in for each other."""
    twice = (Wanted(kind="sm2", public_key=b"one"), Wanted(kind="sm2", public_key=b"other"))
    with pytest.raises(EnrolmentError, match="two certificates"):
        read_request(sent(an_enrolment(wanted=twice)))


def test_a_renewal_names_an_old_certificate_for_each_new_one() -> None:
    """Nothing is renewed that was not held."""
    renewal = Renew(
        version=1,
        bank="bank",
        box="north",
        device_key="bank/north+00000000+/w==",
        wanted=(Wanted(kind="sm2", public_key=b"new"),),
        held=(b"one", b"other"),
        nonce=bytes(16),
        clock_s=0,
    )
    with pytest.raises(EnrolmentError, match="held"):
        read_request(sent(renewal))


def test_a_request_is_read_with_its_signatures() -> None:
    """The bytes that were signed are the ones that are checked."""
    signed, request = read_request(sent(an_enrolment()))
    assert request == an_enrolment()
    assert encode_body(request) == signed.body
