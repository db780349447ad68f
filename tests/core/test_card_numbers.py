"""Stray card numbers: found where they are, not seen where they are not."""

import pytest

from edgegw.core.card_numbers import holds_card_number, is_padded_card_number, mask_card_numbers


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111111",
        "paid with 4111 1111 1111 1111 today",
        "5500-0000-0000-0004",
        "378282246310005",
        "PAN:6011000990139424.",
        "6200000000000000000",
        "４１１１１１１１１１１１１１１１",
        "٤١١١ ١١١١ ١١١١ ١١١١",
    ],
)
def test_a_card_number_is_found(text: str) -> None:
    """One that gets through is in the journal for ever."""
    assert holds_card_number(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4111111111111112",
        "DE89370400440532013000",
        "invoice 2026-11-21 17:03",
        "0000000000000000",
        "41111111111111111111111111111111",
        "1234567890123452",
        "411111111111",
    ],
)
def test_other_digits_are_left_alone(text: str) -> None:
    """An IBAN or an invoice number that is refused as a card number stops honest payments."""
    assert not holds_card_number(text)


def test_masking_leaves_four_digits_of_any_run_as_long_as_a_card_number() -> None:
    """A mistyped card number fails Luhn's check and is one digit from a good one."""
    assert mask_card_numbers("card 4111 1111 1111 1112!") == "card ***************1112!"
    assert mask_card_numbers("at 1795301478376536863") == "at ***************6863"
    assert mask_card_numbers("id 00000000000000000000000000000001") == "id 00000000000000000000000000000001"


@pytest.mark.parametrize("number", ["4111111111111111", "6200000000000000000", "5500000000000004"])
def test_an_id_that_is_a_card_number_filled_up_is_found_and_other_ids_are_not(number: str) -> None:
    """An id stands in the journal for ever, and a till may take what it has at hand."""
    for id in (number.zfill(32), number.ljust(32, "0"), number.rjust(32, "f"), number.center(32, "0")):
        assert is_padded_card_number(id)
    for id in ("0" * 32, f"{7:032x}", "4111111111111112".zfill(32), number + "a" * (32 - len(number))):
        assert not is_padded_card_number(id)
