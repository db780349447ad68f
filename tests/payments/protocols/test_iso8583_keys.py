"""Terminals' MAC keys follow one another: no message in flight is lost, no key that was followed stays good,
and whatever ends the process half-way, the next start goes on."""

import asyncio
import multiprocessing
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import GCM

from edgegw.__main__ import main
from edgegw.access.keystore import OPEN_FILES, Keystore
from edgegw.access.places.passphrase import Passphrase
from edgegw.payments.iso8583.fields import Message
from edgegw.payments.iso8583.mac import WRONG_MAX, WrongMacs, encode_with_mac
from edgegw.payments.iso8583.terminal_keys import TerminalKeys, file_of, store_key, terminal_key_files
from edgegw.payments.protocols import iso8583
from edgegw.payments.protocols.iso8583 import Iso8583Server, Options, start
from edgegw.payments.vault import SecretFileError
from tests.payments.protocols.iso8583_branch import (
    CODEC,
    PAYMENT,
    SIGN_ON,
    TERMINAL_KEY,
    Branch,
    MemoryGateway,
    Terminal,
    branch,
    changed,
    hmac_sm3,
    write_keys,
)
from tests.waiting import until

NAME = "T0000009"
MASTER = bytes(range(40, 72))
GRACE_S = 100
ROUNDS = 24


def _opened(field: str, *, asked: Message, master: bytes = MASTER) -> tuple[int, bytes]:
    """What a terminal reads of field 48, by other code than the box's; raises InvalidTag."""
    assert field[:2] == "01"
    number, sealed = field[2:6], bytes.fromhex(field[6:])
    key = hmac_sm3(master, b"edgegw terminal key encryption")[:16]
    opening = Cipher(SM4(key), GCM(sealed[:12], sealed[-16:])).decryptor()
    bound = [b"edgegw terminal key", NAME.encode(), number.encode(), asked.fields[7].encode()]
    opening.authenticate_additional_data(b"\0".join([*bound, asked.fields[11].encode()]))
    return int(number), opening.update(sealed[12:-16]) + opening.finalize()


def _signed(raw: bytes, key: bytes, *, version: int = 0) -> bytes:
    """A message of the terminal under a key, which it names if it has a number."""
    names = {53: f"{version:016d}"} if version else {}
    return encode_with_mac(key, CODEC.decode(changed(raw, {41: NAME, **names})), CODEC)


def _payment(key: bytes, trace: int, *, version: int = 0) -> bytes:
    return _signed(changed(PAYMENT, {42: "M2".ljust(15), 11: f"{trace:06d}"}), key, version=version)


def _asks(key: bytes, *, version: int = 0, trace: int = 500) -> bytes:
    return _signed(changed(SIGN_ON, {70: "161", 11: f"{trace:06d}"}), key, version=version)


async def _code(terminal: Terminal, raw: bytes) -> str:
    return (await terminal.ask(raw)).fields[39]


def _with_master(directory: Path) -> None:
    (directory / "terminals").mkdir()
    store_key(directory / "terminals", OPEN_FILES, NAME, 0, MASTER)


def _keys(server: Iso8583Server) -> TerminalKeys:
    return server._terminals.authenticity.keys


async def _given(terminal: Terminal, raw: bytes) -> tuple[int, bytes]:
    answer = await terminal.ask(raw)
    assert answer.fields[39] == "00", answer
    return _opened(answer.fields[48], asked=CODEC.decode(raw))


async def test_a_key_changes_without_losing_a_message_in_flight(tmp_path: Path) -> None:
    """A payment under the old key that is decided after the change is answered under the old key; both are
    good, and each answer is under the key of its question."""
    _with_master(tmp_path)
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        assert await _code(terminal, _signed(SIGN_ON, TERMINAL_KEY)) == "00"
        version, fresh = await _given(terminal, _asks(TERMINAL_KEY))
        assert (version, fresh == TERMINAL_KEY) == (2, False)
        here.gateway.gate.clear()
        await terminal.send(_payment(TERMINAL_KEY, 1))
        await until(lambda: here.gateway.events["received"] == 3, "the payment")
        assert await _code(terminal, _signed(SIGN_ON, fresh, version=2)) == "00"
        here.gateway.gate.set()
        raw = await terminal.receive_raw()
        assert CODEC.decode(raw).fields[39] == "00"
        assert raw[-16:] == hmac_sm3(TERMINAL_KEY, raw[:-16])[:8].hex().upper().encode()
        await terminal.send(_payment(fresh, 2))
        raw = await terminal.receive_raw()
        assert CODEC.decode(raw).fields[39] == "00"
        assert raw[-16:] == hmac_sm3(fresh, raw[:-16])[:8].hex().upper().encode()
        assert await _code(terminal, _payment(TERMINAL_KEY, 3, version=1)) == "00"
        assert await _code(terminal, _payment(TERMINAL_KEY, 4, version=2)) == "63"
        assert await _code(terminal, _payment(fresh, 4, version=7)) == "63"


async def test_an_answer_with_a_key_opens_for_its_question_alone(tmp_path: Path) -> None:
    """Played back to another question, altered, or at a terminal with another master key it opens nothing;
    asked again before its first use it is the same key."""
    _with_master(tmp_path)
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        asked = _asks(TERMINAL_KEY)
        field = (await terminal.ask(asked)).fields[48]
        first = _opened(field, asked=CODEC.decode(asked))
        later = CODEC.decode(_asks(TERMINAL_KEY, trace=501))
        flipped = field[:-1] + ("0" if field[-1] != "0" else "1")
        for sealed, question, master in (
            (field, later, MASTER),
            (flipped, CODEC.decode(asked), MASTER),
            (field[:2] + "0003" + field[6:], CODEC.decode(asked), MASTER),
            (field, CODEC.decode(asked), bytes(32)),
        ):
            with pytest.raises(InvalidTag):
                _opened(sealed, asked=question, master=master)
        assert await _given(terminal, _asks(TERMINAL_KEY, trace=502)) == first
        assert first[1].hex() not in repr(field).lower()


async def test_who_has_no_right_mac_gets_no_key(tmp_path: Path) -> None:
    """Nor one without a master key; nor one that asks and asks: it gets a new version a minute at most."""
    _with_master(tmp_path)
    store_key(tmp_path / "terminals", OPEN_FILES, "T2", 1, MASTER)
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        for raw in (
            _asks(MASTER),
            changed(SIGN_ON, {70: "161", 41: NAME}),
            _asks(TERMINAL_KEY, version=9999),
        ):
            answer = await terminal.ask(raw)
            assert (answer.fields[39], answer.fields.get(48)) == ("63", None)
        keyed = CODEC.decode(changed(SIGN_ON, {70: "161", 41: "T2      "}))
        assert await _code(terminal, encode_with_mac(MASTER, keyed, CODEC)) == "12"
        assert await _code(terminal, changed(SIGN_ON, {70: "161"})) == "12"
        bare = changed(SIGN_ON, {70: "161", 7: None})
        assert await _code(terminal, _signed(bare, TERMINAL_KEY)) == "30"
        _, fresh = await _given(terminal, _asks(TERMINAL_KEY))
        assert await _code(terminal, _signed(SIGN_ON, fresh)) == "00"
        assert await _code(terminal, _asks(fresh)) == "96"


async def test_a_terminal_that_lost_its_keys_asks_under_its_master_key(tmp_path: Path) -> None:
    """So does one that has none yet, and one whose box came back from an older image; nothing else is heard
    under it."""
    _with_master(tmp_path)
    request_key = hmac_sm3(MASTER, b"edgegw terminal key request")
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        assert await _code(terminal, _payment(request_key, 1, version=9999)) == "63"
        assert await _code(terminal, _signed(SIGN_ON, request_key, version=9999)) == "63"
        version, fresh = await _given(terminal, _asks(request_key, version=9999))
        assert version == 2
        assert await _code(terminal, _signed(SIGN_ON, fresh, version=2)) == "00"


async def _offered(here: Branch, terminal: Terminal) -> Message:
    await _keys(here.server).keep()
    for connection in here.server._terminals.places:
        await connection.invite()
    return await terminal.receive()


async def test_the_box_asks_a_terminal_to_change_and_takes_no_answer_for_it(tmp_path: Path) -> None:
    """A key that a person has made waits; the signed-on terminal hears 162 under its key, once a minute, and
    the key is in use only when the terminal has used it."""
    _with_master(tmp_path)
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        assert await _code(terminal, _signed(SIGN_ON, TERMINAL_KEY)) == "00"
        store_key(tmp_path / "terminals", OPEN_FILES, NAME, 2, bytes(range(32)))
        asked = await _offered(here, terminal)
        assert (asked.mti, asked.fields[70], asked.get(41)) == ("0800", "162", NAME)
        assert asked.fields[64 if 64 in asked.fields else 128]
        for connection in here.server._terminals.places:
            await connection.invite()
        await terminal.send(_signed(changed(SIGN_ON, {70: "162"}), TERMINAL_KEY).replace(b"0800", b"0810", 1))
        assert await _given(terminal, _asks(TERMINAL_KEY)) == (2, bytes(range(32)))
        ring = _keys(here.server).ring(NAME)
        assert ring is not None
        assert ring.active == 1
        assert await _code(terminal, _payment(bytes(range(32)), 1)) == "00"
        assert (ring.active, ring.waiting) == (2, None)
        assert here.gateway.events["key_offered"] == 1


async def test_wrong_macs_are_counted_and_become_one_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody who tries is told of once an hour, whatever it sends, and the terminal itself goes on."""
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        for trace in range(WRONG_MAX + 5):
            assert await _code(terminal, _payment(bytes(32), trace)) == "63"
        assert here.gateway.events["mac_wrong"] == WRONG_MAX + 5
        assert here.gateway.events["mac_alarm"] == 1
        assert sum("many wrong MACs" in one.message for one in caplog.records) == 1
        assert await _code(terminal, _signed(SIGN_ON, TERMINAL_KEY)) == "00"
    now_s = 0.0
    macs = WrongMacs(mono_s=lambda: now_s)
    assert not any(macs.note("T1") for _ in range(WRONG_MAX - 1))
    now_s = 700.0
    assert not macs.note("T1")


# -- files -------------------------------------------------------------------------------------------------


class _Disk:
    """A directory of keys, and starts of a box on it; its clocks are turned by hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.wall_s = 1_790_000_000.0
        self.mono_s = 1_000.0

    def start(self) -> TerminalKeys:
        """A process that begins on what is on the disk."""
        return TerminalKeys(
            self.directory,
            OPEN_FILES,
            grace_s=GRACE_S,
            now_s=lambda: self.wall_s,
            mono_s=lambda: self.mono_s,
        )

    def store(self, version: int) -> bytes:
        key = bytes([version]) * 32
        store_key(self.directory, OPEN_FILES, NAME, version, key)
        return key

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.mono_s += seconds

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


def _good(keys: TerminalKeys) -> list[int]:
    ring = keys.ring(NAME)
    assert ring is not None
    return [one.number for one in ring.good()]


def _use(keys: TerminalKeys, version: int) -> None:
    ring = keys.ring(NAME)
    assert ring is not None
    keys.used(ring, ring.versions[version])


async def test_a_process_that_dies_at_any_step_goes_on_at_the_next_start(tmp_path: Path) -> None:
    """Made, used, followed, ended: what is good after a kill is what was good before, and no old key comes
    back."""
    disk = _Disk(tmp_path)
    disk.store(1)
    keys = disk.start()
    ring = keys.ring(NAME)
    assert ring is not None
    made = await keys.begin(ring)
    assert made.number == 2
    keys = disk.start()  # killed before the answer left: the same key waits
    ring = keys.ring(NAME)
    assert ring is not None
    assert (await keys.begin(ring)).key == made.key
    assert _good(keys) == [1, 2]
    _use(keys, 2)
    keys = disk.start()  # killed after the first use, before it was on disk: the next use counts
    assert _good(keys) == [1, 2]
    _use(keys, 2)
    await keys.keep()
    assert disk.names() == [f"{NAME}.2.key", f"{NAME}.until-{int(disk.wall_s) + GRACE_S}.key"]
    disk.passes(GRACE_S - 1)
    keys = disk.start()
    assert sorted(_good(keys)) == [1, 2]
    disk.passes(2)
    keys = disk.start()  # killed before the ended key was removed: it is not good all the same
    await keys.keep()
    assert _good(keys) == [2]
    assert disk.names() == [f"{NAME}.2.key"]


async def test_an_old_key_dies_after_the_grace_and_not_before(tmp_path: Path) -> None:
    """Also in a process that lives on, and where the wall clock was set back meanwhile."""
    disk = _Disk(tmp_path)
    disk.store(1)
    keys = disk.start()
    disk.store(2)
    await keys.keep()
    _use(keys, 2)
    await keys.keep()
    disk.passes(GRACE_S - 1)
    await keys.keep()
    assert sorted(_good(keys)) == [1, 2]
    disk.wall_s -= 10 * 86_400
    keys = disk.start()
    disk.passes(GRACE_S + 1)
    await keys.keep()
    assert _good(keys) == [2]


async def test_a_revoked_key_is_bad_without_a_restart_and_none_is_not_keyless(tmp_path: Path) -> None:
    """A file that is taken away ends its key within a look; a terminal whose files are all gone must send a
    MAC all the same."""
    disk = _Disk(tmp_path)
    disk.store(1)
    disk.store(2)
    keys = disk.start()
    file_of(tmp_path, NAME, 1).path.unlink()
    await keys.keep()
    assert _good(keys) == [2]
    file_of(tmp_path, NAME, 2).path.unlink()
    await keys.keep()
    assert _good(keys) == []


async def test_a_bad_file_beside_running_keys_stops_nothing(tmp_path: Path) -> None:
    """Misnamed or unreadable files are told, and those that are known stay good; a start takes neither."""
    disk = _Disk(tmp_path)
    disk.store(1)
    keys = disk.start()
    for name in (
        f"{NAME}.1.key",
        f"{NAME}.02.key",
        "T0000001.kye",
        f"{NAME}.master.until-1.key",
        f"{NAME}.2.key",
    ):
        (tmp_path / name).write_text("rubbish")
        await keys.keep()
        assert _good(keys) == [1]
        with pytest.raises(SecretFileError, match=name.replace(".", r"\.")):
            disk.start()
        (tmp_path / name).unlink()
    (tmp_path / f".{NAME}.key.0123456789abcdef").write_text("a draft of a process that was killed")
    assert [found.version for found in terminal_key_files(tmp_path)] == [1]
    assert list(terminal_key_files(tmp_path / "none")) == []


async def test_sealed_keys_follow_one_another_as_open_ones_do(tmp_path: Path) -> None:
    """Made, renamed and read again under the machine's key-encryption key; the file of another terminal does
    not open."""
    words = tmp_path / "words"
    words.write_text("correct horse battery staple")
    words.chmod(0o600)
    places = {"passphrase": Passphrase(str(words), memory_kib=64)}
    keystore = Keystore(owner="box-1", place="passphrase", directory=tmp_path, places=places)
    folder = tmp_path / "terminals"
    store_key(folder, keystore, NAME, 1, TERMINAL_KEY)
    keys = TerminalKeys(folder, keystore, grace_s=GRACE_S)
    ring = keys.ring(NAME)
    assert ring is not None
    made = await keys.begin(ring)
    keys.used(ring, made)
    await keys.keep()
    assert all(b"SEALED" in path.read_bytes() for path in folder.iterdir())
    again = TerminalKeys(folder, keystore, grace_s=GRACE_S).ring(NAME)
    assert again is not None
    assert {one.number: one.key for one in again.good()} == {1: TERMINAL_KEY, 2: made.key}
    file_of(folder, NAME, 2).path.rename(folder / "T1.key")
    with pytest.raises(SecretFileError, match=f"terminal key of {NAME}.2"):
        TerminalKeys(folder, keystore, grace_s=GRACE_S)


# -- a process that is killed ------------------------------------------------------------------------------


def _be_a_way_in(directory: str) -> None:
    """In a process of its own: serve until killed; the port stands in a file, keys are looked at often."""
    iso8583.LOOK_EACH_S = 0.02  # type: ignore[misc]

    async def run() -> None:
        path = Path(directory)
        options = Options(
            port=0,
            vault_key_file=str(path / "vault.key"),
            terminal_keys_directory=str(path / "keys"),
            terminal_key_grace_s=1,
        )
        server = await start(MemoryGateway(), options)
        (path / "draft").write_text(server.addresses[0].rpartition(":")[2])
        (path / "draft").replace(path / "port")
        await asyncio.Event().wait()

    asyncio.run(run())


class _Killed:
    """A way in that is started anew and killed as often as a test wants."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: multiprocessing.process.BaseProcess | None = None

    async def connect(self) -> Terminal:
        """A connection to a fresh process."""
        port = self.directory / "port"
        port.unlink(missing_ok=True)
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload([__name__])
        self.process = processes.Process(target=_be_a_way_in, args=(str(self.directory),), daemon=True)
        self.process.start()
        await until(port.exists, "the way in to be open")
        return Terminal(*await asyncio.open_connection("127.0.0.1", int(port.read_text())))

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.join(10)


async def _answer(terminal: Terminal) -> Message:
    """The next answer; what the box asks by itself is passed over."""
    while (message := await terminal.receive()).mti == "0800":
        pass
    return message


@pytest.mark.slow
async def test_a_terminal_is_always_heard_though_the_box_is_killed_at_any_moment(tmp_path: Path) -> None:
    """It asks for keys, gets them or not, uses them or not, and the process dies in between: one of the two
    keys that the terminal may know is good at each start, and what was followed long ago is not."""
    write_keys(tmp_path)
    folder = tmp_path / "keys"
    store_key(folder, OPEN_FILES, NAME, 1, TERMINAL_KEY)
    store_key(folder, OPEN_FILES, NAME, 0, MASTER)
    chance = random.Random(83)
    box = _Killed(tmp_path)
    known: list[tuple[int, bytes]] = [(1, TERMINAL_KEY)]
    changes = 0
    for number in range(ROUNDS):
        terminal = await box.connect()
        used, key = known[0]
        await terminal.send(_signed(SIGN_ON, key, version=used))
        assert (await _answer(terminal)).fields[39] == "00", number
        if chance.random() < 0.8:
            await terminal.send(_asks(key, version=used, trace=number))
            if chance.random() < 0.3:  # it dies while it makes the key, or before the answer is read
                if chance.random() < 0.5:
                    await until(lambda: len(list(folder.iterdir())) >= 3, "the key to be made")
            else:
                answer = await _answer(terminal)
                raw = _asks(key, version=used, trace=number)
                assert answer.fields[39] == "00", (number, answer)
                fresh = _opened(answer.fields[48], asked=CODEC.decode(raw))
                if chance.random() < 0.8:
                    await terminal.send(_payment(fresh[1], number, version=fresh[0]))
                    assert (await _answer(terminal)).fields[39] == "00"
                    known.insert(0, fresh)
                    changes += 1
                    if chance.random() < 0.5:
                        await until(lambda: bool(list(folder.glob("*until*"))), "the old key's end")
        box.kill()
        terminal.writer.close()
    terminal = await box.connect()

    async def is_heard(version: int, key: bytes) -> bool:
        await terminal.send(_signed(SIGN_ON, key, version=version))
        return (await _answer(terminal)).fields[39] == "00"

    assert await is_heard(*known[0])
    old = known[1:]

    def are_gone() -> bool:
        live = [file_of(folder, NAME, number).path for number, _ in old]
        return not list(folder.glob("*until*")) and not any(path.exists() for path in live)

    await until(are_gone, "the old keys' files to be gone")
    assert not [number for number, key in old if await is_heard(number, key)]
    assert await is_heard(*known[0])
    assert changes > ROUNDS // 4
    box.kill()
    terminal.writer.close()


# -- commands ----------------------------------------------------------------------------------------------


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["keys", "terminal", *map(str, arguments)])


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A box's settings with terminals."""
    path = tmp_path / "box.toml"
    path.write_text(
        f"""
        bank = "testbank"
        box = "box-1"
        [hub]
        key_file = "hub.pub"
        [[hub.addresses]]
        url = "http://127.0.0.1:1"
        [iso8583]
        terminal_keys_directory = "{tmp_path}/terminals"
        """
    )
    return path


def test_a_terminal_is_given_keys_by_commands(settings: Path, tmp_path: Path) -> None:
    """add, rotate, list and revoke leave the files that a box reads; no command prints a key, overwrites one
    or leaves a terminal without any."""
    out = tmp_path / "out.key"
    added = _run("add", settings, NAME, "--out", out)
    assert added.exit_code == 0, added.output
    master = out.read_text().strip()
    assert out.stat().st_mode & 0o077 == 0
    assert master not in added.output
    assert _run("add", settings, NAME, "--out", tmp_path / "x").exit_code == 2
    for version in (1, 2):
        assert _run("rotate", settings, NAME).exit_code == 0, version
    assert "waits" in _run("rotate", settings, NAME).output
    shown = _run("list", settings)
    states = [tuple(line.split()[1:3]) for line in shown.output.splitlines()]
    assert sorted(states) == [("1", "in"), ("2", "waits"), ("master", "master")]
    assert added.output.split()[-1] in shown.output
    assert _run("revoke", settings, NAME, 7).exit_code == 2
    for version in ("2", "1"):
        assert _run("revoke", settings, NAME, version).exit_code == 0
    last = _run("revoke", settings, NAME, "master")
    assert last.exit_code == 2
    assert "without a MAC" in last.output
    out.unlink()
    assert "--out" in _run("rotate", settings, "T1").output
    assert _run("rotate", settings, "T1", "--out", out).exit_code == 0
    assert out.read_text() == (tmp_path / "terminals/T1.key").read_text()
    assert _run("rotate", settings, "../etc").exit_code == 2


async def test_a_running_box_takes_up_what_a_command_made(settings: Path, tmp_path: Path) -> None:
    """The way from a person's command to a terminal's payment under its next key, without a restart."""
    _with_master(tmp_path)
    async with branch(tmp_path) as here:
        terminal = await here.connect()
        assert await _code(terminal, _signed(SIGN_ON, TERMINAL_KEY)) == "00"
        result = await asyncio.to_thread(_run, "rotate", settings, NAME)
        assert result.exit_code == 0, result.output
        await _offered(here, terminal)
        version, fresh = await _given(terminal, _asks(TERMINAL_KEY))
        assert await _code(terminal, _payment(fresh, 1, version=version)) == "00"
        await _keys(here.server).keep()
        assert any(".until-" in path.name for path in (tmp_path / "terminals").iterdir())
