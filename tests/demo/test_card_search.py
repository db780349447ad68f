"""The search for card numbers finds each form in which one can leak, and takes nothing else for one."""

import base64
import gzip
import zlib
from pathlib import Path

import apsw
import pytest

from edgegw.demo.card_search import PIECE_BYTES, CardSearch

NUMBER = "6221917346082578"
SEARCH = CardSearch([NUMBER, "4916283745019637"])
PACKED = bytes.fromhex(NUMBER)
FORMS = {
    "text": NUMBER.encode(),
    "within digits": b"000" + NUMBER.encode() + b"000",
    "with separators": b"6221 9173-4608 2578",
    "in a URL": b"/v1/%36%32%32%31%39%31%37%33%34%36%30%38%32%35%37%38?",
    "in JSON's escapes": "".join(f"\\u{ord(digit):04x}" for digit in NUMBER).encode(),
    "in HTML's entities": "".join(f"&#{ord(digit)};" for digit in NUMBER).encode(),
    "hex": NUMBER.encode().hex().encode(),
    "UTF-16": NUMBER.encode("utf-16"),
    "UTF-16 with blanks": b"x" + " ".join((NUMBER[:4], NUMBER[4:8], NUMBER[8:])).encode("utf-16-be"),
    "packed": b"\x10" + PACKED + b"\x00",
    "packed by half a byte": bytes.fromhex(f"0{NUMBER}f"),
    "an integer": int(NUMBER).to_bytes(8, "little"),
    "backwards": NUMBER[::-1].encode(),
    "gzip": b"log" + gzip.compress(b"a line " * 20 + NUMBER.encode()) + b"more",
    "zlib": b"\0\0" + zlib.compress(NUMBER.encode() * 3),
    "all but the ends": NUMBER[3:13].encode(),
    "seven before a mask": f"{NUMBER[:7]}*****{NUMBER[-4:]}".encode(),
    "five behind a mask": f"{NUMBER[:6]}xxxxx{NUMBER[-5:]}".encode(),
    **{f"base64 at {at}": base64.b64encode(b"x" * at + NUMBER.encode() + b"yz") for at in range(4)},
    "base32": base64.b32encode(NUMBER.encode() + b"tail"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_number_is_found(form: str) -> None:
    """What the search does not see leaks for ever."""
    found = list(SEARCH.in_bytes(b'{"a":"' + FORMS[form] + b'"}'))
    assert {leak.ends_in for leak in found} == {NUMBER[-4:]}, form


@pytest.mark.parametrize(
    "innocent",
    [f"{NUMBER[:6]}******{NUMBER[-4:]}", NUMBER[:9], "6221917300000000", "1732270000123456789", "f" * 64],
)
def test_masks_and_other_numbers_are_no_finds(innocent: str) -> None:
    """A search that is red for a mask would soon be switched off."""
    assert list(SEARCH.in_bytes(f" {innocent}\n".encode() * 3)) == []


def test_a_number_across_two_pieces_and_across_two_pages_is_found(tmp_path: Path) -> None:
    """Files are read in pieces, and SQLite cuts long values into pages."""
    cut = tmp_path / "log"
    cut.write_bytes(b"\0" * (PIECE_BYTES - 7) + NUMBER.encode())
    assert list(SEARCH.in_file(cut))
    database = tmp_path / "some.db"
    connection = apsw.Connection(str(database))
    connection.execute("CREATE TABLE t(body BLOB)")
    for pad in range(16):
        connection.execute(
            "INSERT INTO t VALUES(?)", (b"x" * (4_300 + pad) + NUMBER.encode() + b"y" * 4_000,)
        )
    connection.close()
    assert len(list(SEARCH.in_file(database))) >= 16
    assert list(SEARCH.in_file(tmp_path)) == []
