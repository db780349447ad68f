"""The vault's file: a random token for each card, numbers that a copied file does not give, cards that are
gone when they were destroyed."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edgegw.access.keystore import OPEN_FILES
from edgegw.core.book import Book
from edgegw.core.cards import ONE_NAME
from edgegw.core.counts import StandIn
from edgegw.payments.cards import Cards
from edgegw.payments.vault import Lookups
from edgegw.payments.vault_file import PORTION, VaultFailed, VaultFile
from edgegw.payments.vault_keys import KeyFolder
from tests.payments.protocols.iso8583_branch import PAN, POOR_PAN, VAULT_KEY

LOOKUPS = Lookups(VAULT_KEY)
LOOKUP, POOR = LOOKUPS.lookup(PAN), LOOKUPS.lookup(POOR_PAN)
BECAUSE = {"by": "mei", "reason": "test"}


def keys_in(folder: Path) -> KeyFolder:
    """The vault keys of a box, lying open."""
    return KeyFolder(OPEN_FILES, folder / "keys", owner="bank/box/vault")


def opened(folder: Path) -> VaultFile:
    """One more connection to the vault of a folder, which it makes."""
    return VaultFile.open(folder / "vault.db", keys_in(folder), create=True)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[VaultFile]:
    """A vault's file with a first key version."""
    file = opened(tmp_path)
    yield file
    file.close()


def copied(folder: Path) -> Path:
    """A copy of the vault and its WAL, as a backup takes it."""
    to = folder / "copy"
    to.mkdir()
    for path in folder.glob("vault.db*"):
        if not path.name.endswith("-shm"):
            (to / path.name).write_bytes(path.read_bytes())
    return to


def rotate(vault: VaultFile) -> None:
    """A whole rotation."""
    vault.begin_rotation()
    after = ""
    while portion := vault.rotate_portion(after):
        after = portion.last
    vault.end_rotation(**BECAUSE)


def test_a_card_keeps_its_token_and_two_boxes_have_two(tmp_path: Path, vault: VaultFile) -> None:
    """A second token would give its limits twice; one token at all boxes could be computed anywhere."""
    first = vault.mint({LOOKUP: PAN, POOR: ""})
    assert vault.mint({LOOKUP: "", POOR: POOR_PAN}) == first
    assert len(set(first.values())) == 2
    assert vault.card(first[LOOKUP]) == (LOOKUP, PAN)
    assert vault.card(first[POOR]) == (POOR, POOR_PAN), "the number came later than the lookup"
    other = tmp_path / "other"
    other.mkdir()
    with_other = opened(other)
    assert with_other.mint({LOOKUP: PAN})[LOOKUP] != first[LOOKUP]
    with_other.close()


def test_two_processes_that_meet_a_card_at_once_give_it_one_token(tmp_path: Path, vault: VaultFile) -> None:
    """Also while a rotation is under way, when rows hang on two versions."""
    second = opened(tmp_path)
    token = vault.mint({LOOKUP: PAN})[LOOKUP]
    second.begin_rotation()
    assert vault.mint({LOOKUP: ""})[LOOKUP] == token
    second.rotate_portion()
    assert vault.mint({LOOKUP: ""})[LOOKUP] == token
    second.end_rotation(**BECAUSE)
    assert vault.card(token) == (LOOKUP, PAN)
    second.close()


def test_a_copied_file_gives_nothing_without_its_keys(tmp_path: Path, vault: VaultFile) -> None:
    """Whoever takes the disk's files must have the keystore's place as well, and must not change a row."""
    token = vault.mint({LOOKUP: PAN})[LOOKUP]
    vault.mint({POOR: POOR_PAN})
    written = b"".join(path.read_bytes() for path in tmp_path.glob("vault.db*"))
    for secret in (PAN.encode(), bytes.fromhex(LOOKUP), LOOKUP.encode(), bytes.fromhex(PAN)):
        assert secret not in written
    vault._db.execute(
        "UPDATE card SET sealed = (SELECT sealed FROM card WHERE token <> ?) WHERE token = ?", (token, token)
    )
    with pytest.raises(VaultFailed, match="altered"):
        vault.card(token)


def test_after_a_shredding_and_a_rotation_no_copy_gives_the_card(tmp_path: Path, vault: VaultFile) -> None:
    """A customer's right to be forgotten ends not at the live file; every backup has the row."""
    tokens = vault.mint({LOOKUP: PAN, POOR: POOR_PAN})
    row = vault._db.execute(
        "SELECT found_by, data_key, sealed FROM card WHERE token = ?", (tokens[LOOKUP],)
    ).fetchone()
    before = copied(tmp_path)
    assert vault.shred(tokens[LOOKUP], **BECAUSE)
    assert not vault.shred(tokens[LOOKUP], **BECAUSE)
    assert (vault.find(LOOKUP), vault.card(tokens[LOOKUP])) == (None, None)
    live = b"".join(path.read_bytes() for path in tmp_path.glob("vault.db*"))
    assert row is not None
    for secret in row:
        assert isinstance(secret, bytes)
        assert secret not in live, "secret bytes stay in a free page or in the WAL"
    rotate(vault)
    with pytest.raises(VaultFailed, match="cannot be read"):
        VaultFile.open(before / "vault.db", keys_in(tmp_path))
    assert vault.card(tokens[POOR]) == (POOR, POOR_PAN)
    assert vault.mint({LOOKUP: PAN})[LOOKUP] != tokens[LOOKUP]
    assert vault.unknown({tokens[LOOKUP], "never"}) == ["never"]


def test_a_rotation_that_was_killed_anywhere_goes_on_and_destroys_nothing_too_early(
    tmp_path: Path, vault: VaultFile
) -> None:
    """A key that is destroyed while a card hangs on it is a card lost; one that stays opens old copies."""
    lookups = {
        LOOKUPS.lookup(f"62220200{number:08d}"): f"62220200{number:08d}" for number in range(PORTION + 9)
    }
    tokens = vault.mint(lookups)
    assert vault.begin_rotation() == 2
    first = vault.rotate_portion()
    assert first is not None
    with pytest.raises(VaultFailed, match="9 cards hang on older"):
        vault.end_rotation(**BECAUSE)
    keys_in(tmp_path).create(3)  # killed between the key's file and its row
    vault.close()
    again = opened(tmp_path)
    assert again.begin_rotation() == 2
    assert again.counts().behind == 9
    rotate(again)
    rotate(again)
    assert keys_in(tmp_path).numbers() == [4]
    assert again.counts()[:2] == (len(lookups), len(lookups))
    assert {token: again.card(token) for token in tokens.values()} == {
        tokens[lookup]: (lookup, number) for lookup, number in lookups.items()
    }
    again.close()


async def test_many_that_meet_new_cards_at_once_get_one_token_each(tmp_path: Path, vault: VaultFile) -> None:
    """Terminals repeat at once what is slow, and a commit is slow."""
    cards = Cards(vault, opened(tmp_path))
    asked = [cards.tokens([LOOKUP, POOR]) for _ in range(20)] + [cards.tokens([POOR]) for _ in range(20)]
    found = await asyncio.gather(*asked, cards.tokens([LOOKUP]))
    assert {tuple(sorted(one.items())) for one in found[:20]} == {tuple(sorted(found[0].items()))}
    assert found[-1][LOOKUP] == found[0][LOOKUP]
    assert cards.lookup(found[0][POOR]) == POOR
    await cards.keep(POOR, POOR_PAN)
    assert vault.card(found[0][POOR]) == (POOR, POOR_PAN)
    cards.close()


async def test_what_is_no_lookup_is_an_error_and_nobody_waits_for_ever(
    tmp_path: Path, vault: VaultFile
) -> None:
    """A till that waits without end is a till that is switched off and on, and pays twice."""
    cards = Cards(vault, opened(tmp_path))
    with pytest.raises(ValueError, match="hexadecimal"):
        await cards.tokens(["no lookup"])
    assert await cards.tokens([LOOKUP])
    cards.close()


async def test_what_another_process_shreds_is_forgotten_in_memory_too(
    tmp_path: Path, vault: VaultFile
) -> None:
    """A running box must not go on writing the token of a card that was destroyed."""
    cards = Cards(vault, opened(tmp_path))
    token = (await cards.tokens([LOOKUP]))[LOOKUP]
    other = opened(tmp_path)
    other.shred(token, **BECAUSE)
    assert (await cards.tokens([LOOKUP]))[LOOKUP] != token
    assert cards.lookup(token) is None
    assert [act.what for act in cards.news(Book(bank="b", box="b"))] == ["shred"]
    assert cards.news(Book(bank="b", box="b")) == []
    other.close()
    cards.close()


async def test_a_card_that_is_shredded_while_its_token_is_fetched_is_not_remembered(
    tmp_path: Path, vault: VaultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the file was true when it was given, and is not when it arrives."""
    cards, other = Cards(vault, opened(tmp_path)), opened(tmp_path)
    token = other.mint({LOOKUP: PAN})[LOOKUP]
    mint = vault.mint

    def overtaken(wanted: Mapping[str, str]) -> dict[str, str]:
        found = mint(wanted)
        opened(tmp_path).shred(token, **BECAUSE)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(vault, "mint", overtaken)
        assert (await cards.tokens([LOOKUP]))[LOOKUP] == token
    assert (await cards.tokens([LOOKUP]))[LOOKUP] != token
    assert cards.lookup(token) is None
    other.close()
    cards.close()


async def test_a_vault_that_does_not_know_what_the_ledger_counts_takes_no_card(
    tmp_path: Path, vault: VaultFile
) -> None:
    """Whoever deletes the vault would have every card's limits anew."""
    token = vault.mint({LOOKUP: PAN})[LOOKUP]
    book = Book(bank="b", box="b")
    book.stand_ins[1] = StandIn("payer", "CNY", 5, "till", "1", card=token)
    lost = tmp_path / "lost"
    lost.mkdir()
    cards = Cards(opened(lost), opened(lost))
    cards.use(book)
    assert (cards.lost, book.cards) == ([token], cards)
    with pytest.raises(VaultFailed, match="does not know 1 cards") as caught:
        await cards.tokens([LOOKUP])
    assert "accept-loss" in caught.value.hint
    with pytest.raises(VaultFailed):
        await cards.keep(LOOKUP, PAN)
    person = opened(lost)
    person.give_up([token], **BECAUSE)
    assert [act.what for act in cards.news(book)] == ["accept-loss"]
    assert (await cards.tokens([LOOKUP]))[LOOKUP] != token
    person.close()
    cards.close()
    well = Cards(vault, opened(tmp_path))
    well.use(book)
    assert (well.lost, well.lookup(token), ONE_NAME.lookup("x")) == ([], LOOKUP, "x")
    well.close()


def test_a_file_that_is_no_vault_and_one_without_keys_are_said(tmp_path: Path, vault: VaultFile) -> None:
    """Of all files beside the ledger this is the one that nobody may replace in silence."""
    vault.mint({LOOKUP: PAN})
    (tmp_path / "text.db").write_text("this is no SQLite file at all, whatever its name says" * 20)
    with pytest.raises(VaultFailed, match="not a database"):
        VaultFile.open(tmp_path / "text.db", keys_in(tmp_path))
    with pytest.raises(VaultFailed, match="there is no vault"):
        VaultFile.open(tmp_path / "none.db", keys_in(tmp_path))
    keys_in(tmp_path).destroy(1)
    with pytest.raises(VaultFailed, match="cannot be read"):
        opened(tmp_path)


def test_another_vaults_key_is_told_at_the_start(tmp_path: Path, vault: VaultFile) -> None:
    """Under it no known card would be found: each would get a new token and its limits anew."""
    token = vault.mint({LOOKUP: PAN})[LOOKUP]
    version = tmp_path / "keys/version-1.key"
    right = version.read_text()
    version.write_text("ab" * 32 + "\n")
    with pytest.raises(VaultFailed, match="another vault's key"):
        opened(tmp_path)
    version.write_text(right)
    again = opened(tmp_path)
    assert again.mint({LOOKUP: ""})[LOOKUP] == token
    again.close()
