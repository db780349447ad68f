"""What may leave a machine: the program's own words, and nothing that a person or a secret has brought."""

import base64
import hashlib

import pytest

from edgegw.demo.card_search import CardSearch
from edgegw.support.redact import Redactor
from tests.card_leaks import NUMBERS, spaced

# The same in each process that collects the tests.
PLANTED = hashlib.sha256(b"a secret that is planted").digest()
KNOWN = (
    "line down since 2026-11-22T17:13:34.123Z at 10.20.30.40:8443, epoch 3, 512 records wait: box-17 offline"
)


def test_what_helps_is_left_as_it_is() -> None:
    """Times, addresses, counts and the program's own words are why a bundle is of use."""
    assert Redactor(["box-17"]).text(KNOWN) == KNOWN
    assert Redactor().text("https://192.168.100.101:8443 said no") == "https://192.168.100.101:8443 said no"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "form", ["{}", "card {} declined", "pan={}", '{{"a":"{}"}}', "x{}x", "12{}.34", "{}.5"]
)
def test_no_part_of_a_card_comes_through(number: str, form: str) -> None:
    """However it is written, in a text or as a number."""
    redactor = Redactor()
    spellings = (number, spaced(number), spaced(number).replace(" ", "-"), ",".join(number), number[:10])
    out = [redactor.text(form.format(spelling)) for spelling in spellings]
    out += [str(redactor.value(value)) for value in (int(number), float(number), {number: [number]})]
    search = CardSearch(NUMBERS)
    assert not list(search.in_bytes("\n".join(out).encode())), out


@pytest.mark.parametrize(
    "secret",
    [
        "Wei Zhangfei",
        "张伟",
        "Müller-Lüdenscheidt",
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ0aWxsIn0.c2lnbmF0dXJl",
        base64.b64encode(PLANTED).decode(),
        base64.urlsafe_b64encode(PLANTED).decode(),
        PLANTED[:16].hex(),
        "hunter2-Tr0ub4dor",
        "zhangfei@example.org",
        "+8613912345678",
    ],
)
def test_names_and_secrets_become_marks(secret: str) -> None:
    """Nothing of it that is longer than a syllable is left."""
    out = Redactor().text(f"client {secret} has asked, said {secret!r}, token={secret}")
    for start in range(len(secret) - 4):
        assert secret[start : start + 5].lower() not in out.lower().replace("example", "").replace(
            "asked", ""
        ), out
    assert "~" in out


def test_a_mark_is_the_same_in_one_bundle_and_another_in_the_next() -> None:
    """Who helps can follow a client through the log, and can try no list of names against it."""
    one, other = Redactor(), Redactor()
    assert one.text("zhangfei") == one.text("zhangfei") != other.text("zhangfei")


def test_large_counts_are_rounded_and_large_numbers_are_not_told() -> None:
    """A free disk is of use; a number as long as a card is not."""
    redactor = Redactor()
    told = redactor.value(
        {"free_bytes": 70_123_456_789, "amount": 70_123_456_789, "disk_bytes": {"log": 9 * 10**11}}
    )
    assert told == {
        "free_bytes": 70_100_000_000,
        "amount": redactor.mark("70123456789"),
        "disk_bytes": {"log": 9 * 10**11},
    }
