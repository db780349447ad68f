"""A branch's network of its own: what is said there and to whom, by real processes and a stranger's mDNS.

Run inside a network namespace with nothing but loopback (`tests/lab/test_discovery.py`); never on a real one.
"""

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from edgegw.discovery.messages import Advert, Order, Report, Way
from tests.mirror.branch import MirroredBranch
from tests.ports import free_ports
from tests.processes import Process
from tests.waiting import wait_until

GROUP = ("224.0.0.251", 5353)
DISCOVERY = '[discovery]\ninterfaces = ["lo"]\n'
PLAIN = '[mirror.tls]\nprofile = "plain"\n'
PTR, SRV, TXT, A = 12, 33, 16, 1


def wire_name(name: str) -> bytes:
    """A name on the wire."""
    labels = name.rstrip(".").split(".")
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def read_name(packet: bytes, at: int) -> tuple[str, int]:
    """A name of a packet, pointers followed, and where what comes after it begins."""
    labels, end = [], 0
    while size := packet[at]:
        if size & 0xC0:
            end = end or at + 2
            at = struct.unpack_from(">H", packet, at)[0] & 0x3FFF
            continue
        labels.append(packet[at + 1 : at + 1 + size].decode())
        at += size + 1
    return ".".join(labels), end or at + 1


class Listener:
    """A client that shares no code with the product: asks by multicast, and keeps what it hears."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("", GROUP[1]))
        member = socket.inet_aton(GROUP[0]) + socket.inet_aton(address)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        self._socket.settimeout(0.05)
        # (name, type) to (ttl, data)
        self.heard: dict[tuple[str, int], tuple[int, bytes]] = {}
        self.everything = b""

    def ask(self, name: str = "_edgegw._tcp.local") -> None:
        """Ask who is listed."""
        question = struct.pack(">6H", 0, 0, 1, 0, 0, 0) + wire_name(name) + struct.pack(">2H", PTR, 1)
        self._socket.sendto(question, GROUP)

    def hear(self) -> None:
        """Take what there is."""
        try:
            while True:
                packet = self._socket.recv(9_000)
                self.everything += packet
                if packet[2] & 0x80:
                    self._take(packet)
        except TimeoutError:
            pass

    def _take(self, packet: bytes) -> None:
        counts, at = struct.unpack_from(">4H", packet, 4), 12
        for _ in range(counts[0]):
            at = read_name(packet, at)[1] + 4
        for _ in range(sum(counts[1:])):
            name, at = read_name(packet, at)
            kind, _, ttl, size = struct.unpack_from(">2HIH", packet, at)
            at += 10
            body = packet[at : at + size]
            if kind == PTR:
                body = read_name(packet, at)[0].encode()
            self.heard[(name + ":" + body.decode() if kind == PTR else name, kind)] = (ttl, body)
            at += size

    def listed(self, instance: str) -> bool:
        """Whether this instance is listed, by the newest word."""
        self.hear()
        name = f"_edgegw._tcp.local:{instance}._edgegw._tcp.local"
        return self.heard.get((name, PTR), (0, b""))[0] > 0

    def port(self, instance: str) -> int:
        """The port of its SRV record."""
        body = self.heard[(f"{instance}._edgegw._tcp.local", SRV)][1]
        return int(struct.unpack_from(">H", body, 4)[0])

    def text(self, instance: str) -> dict[str, str]:
        """Its TXT record."""
        body, found = self.heard[(f"{instance}._edgegw._tcp.local", TXT)][1], {}
        while body:
            key, _, value = body[1 : 1 + body[0]].decode().partition("=")
            found[key], body = value, body[1 + body[0] :]
        return found

    def wait_for(self, instance: str, *, listed: bool = True) -> None:
        """Ask until it is listed, or until it has said goodbye."""
        asked_s = 0.0

        def is_so() -> bool:
            nonlocal asked_s
            if listed and time.monotonic() - asked_s > 0.3:
                asked_s = time.monotonic()
                self.ask()
            return self.listed(instance) == listed

        wait_until(is_so, f"{instance} to be {'listed' if listed else 'gone'}")


@pytest.fixture
def client() -> Listener:
    """A till that looks for a gateway."""
    return Listener()


class Speaker:
    """The speaking process alone."""

    def __init__(self, folder: Path, name: str, *host: str) -> None:
        self.log = folder / f"{name}-{secrets.token_hex(2)}.jsonl"
        self.process = subprocess.Popen(
            [*host, sys.executable, "-P", "-m", "edgegw.discovery.multicast"],
            stdin=subprocess.PIPE,
            stdout=self.log.open("wb"),
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        )

    def order(self, name: str, *, port: int = 8443, interfaces: tuple[str, ...] = ("lo",)) -> None:
        """Say this."""
        ways = {"http": Way(port=port, profile="intl")}
        advert = Advert(kind="box", bank="b1", name=name, ways=ways)
        order = Order(interfaces=interfaces, bank="b1", advert=advert)
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")
        self.process.stdin.flush()

    def report(self) -> Report:
        """Its newest."""
        lines = self.log.read_bytes().split(b"\n")[:-1]
        return msgspec.json.decode(lines[-1], type=Report) if lines else Report()

    def wait_for(self, instance: str) -> None:
        """Until it is listed under this name."""
        whole = f"{instance}._edgegw._tcp.local."
        wait_until(lambda: self.report().instance == whole, f"it to be listed as {instance}")

    def end(self) -> None:
        """Close its input, as a box does that ends or is killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)


@pytest.fixture
def speaker(tmp_path: Path) -> Iterator[Speaker]:
    """On this host."""
    one = Speaker(tmp_path, "one")
    yield one
    one.process.kill()
    one.process.wait()


@pytest.fixture
def other_host() -> Iterator[tuple[str, ...]]:
    """What runs a command on a second host, 10.77.0.2, that this one, 10.77.0.1, reaches by a cable."""
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    there = ("nsenter", f"--target={sleeper.pid}", "--net")
    try:
        here = os.stat("/proc/self/ns/net").st_ino
        wait_until(lambda: os.stat(f"/proc/{sleeper.pid}/ns/net").st_ino != here, "the other host")
        cable = ("link", "add", "eth-a", "type", "veth", "peer", "name", "eth-b", "netns", str(sleeper.pid))
        subprocess.run(["ip", *cable], check=True)
        for host, device, address in (((), "eth-a", "10.77.0.1/24"), (there, "eth-b", "10.77.0.2/24")):
            subprocess.run([*host, "ip", "addr", "add", address, "dev", device], check=True)
            subprocess.run([*host, "ip", "link", "set", device, "up"], check=True)
        yield there
    finally:
        sleeper.kill()
        sleeper.wait()


def test_two_boxes_of_one_name_are_both_found(
    speaker: Speaker, other_host: tuple[str, ...], tmp_path: Path
) -> None:
    """A name that is taken is no reason to be lost: the second is listed under another, with its own host."""
    one, two, client = speaker, Speaker(tmp_path, "two", *other_host), Listener("10.77.0.1")
    one.order("box-1", port=8443, interfaces=("eth-a",))
    one.wait_for("box-1")
    two.order("box-1", port=9443, interfaces=("10.77.0.2",))
    two.wait_for("box-1-2")
    client.wait_for("box-1")
    client.wait_for("box-1-2")
    assert (client.port("box-1"), client.port("box-1-2")) == (8443, 9443)
    wait_until(lambda: [peer.instance for peer in one.report().peers] == ["box-1-2"], "one to see the other")
    assert one.report().peers[0].addresses == ("10.77.0.2",)
    two.end()
    client.wait_for("box-1-2", listed=False)


AVAHI = """[server]
allow-interfaces=eth-b
use-ipv6=no
enable-dbus=yes
[rlimits]
"""


def test_avahi_finds_the_box_by_its_type(
    speaker: Speaker, other_host: tuple[str, ...], tmp_path: Path
) -> None:
    """What a till's platform has to look for services sees name, address, port and text."""
    if shutil.which("avahi-daemon") is None or shutil.which("avahi-browse") is None:
        pytest.skip("avahi-daemon and avahi-browse are not installed")
    speaker.order("box-1", port=8443, interfaces=("eth-a",))
    speaker.wait_for("box-1")
    bus = f"unix:path={tmp_path}/bus"
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus}
    (tmp_path / "avahi.conf").write_text(AVAHI)
    commands = (
        ("dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={bus}"),
        (*other_host, "avahi-daemon", "--no-drop-root", "--no-chroot", "-f", str(tmp_path / "avahi.conf")),
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, env=environment))
            wait_until((tmp_path / "bus").exists, "the bus")
        browse = (*other_host, "avahi-browse", "--resolve", "--parsable", "--terminate", "_edgegw._tcp")
        found: list[str] = []

        def sees() -> bool:
            done = subprocess.run(browse, env=environment, capture_output=True, text=True, check=False)
            found[:] = [line for line in done.stdout.splitlines() if line.startswith("=;")]
            return bool(found)

        wait_until(sees, "avahi to see the box")
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
    [line] = found
    assert ";box-1;" in line
    assert ";10.77.0.1;8443;" in line
    assert '"http-tls=intl"' in line


def test_what_changes_is_said_anew_and_who_ends_says_goodbye(speaker: Speaker, client: Listener) -> None:
    """Another port, another address of the machine, and the end: a till never keeps what is over."""
    one = speaker
    one.order("box-1", port=8443)
    client.wait_for("box-1")
    one.order("box-1", port=9443)
    wait_until(lambda: client.listed("box-1") and client.port("box-1") == 9443, "the other port")
    subprocess.run(["ip", "addr", "add", "127.7.7.7/8", "dev", "lo"], check=True)
    try:
        wait_until(lambda: one.report().addresses == ("127.0.0.1", "127.7.7.7"), "the other address")
        client.wait_for("box-1")
        wait_until(
            lambda: client.listed("box-1") and socket.inet_aton("127.7.7.7") in client.everything, "it"
        )
    finally:
        subprocess.run(["ip", "addr", "del", "127.7.7.7/8", "dev", "lo"], check=True)
    one.end()
    client.wait_for("box-1", listed=False)


def lying_packet(number: int) -> bytes:
    """A response that lists a mirror and many boxes that are not there."""
    records = []
    for one in range(20):
        kind = "_edgegw-mirror._tcp.local" if one % 2 else "_edgegw._tcp.local"
        name = f"liar-{number}-{one}.{kind}"
        host = f"host-{number}-{one}.local"
        text = b"".join(
            bytes([len(word)]) + word.encode()
            for word in ("v=1", "bank=b1", f"mirror=liar-{one}", "exchange=1", "exchange-tls=plain")
        )
        server = struct.pack(">3H", 0, 0, 1) + wire_name(host)
        for of, type_, body in (
            (kind, PTR, wire_name(name)),
            (name, SRV, server),
            (name, TXT, text),
            (host, A, socket.inet_aton("127.0.0.1")),
        ):
            records.append(wire_name(of) + struct.pack(">2HIH", type_, 1, 4_500, len(body)) + body)
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def flood(stop: threading.Event, sent: list[int]) -> None:
    """As fast as this goes, until told."""
    way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    way.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    packets = [lying_packet(number) for number in range(500)]
    while not stop.is_set():
        for packet in packets:
            way.sendto(packet, GROUP)
            sent[0] += 1
            if stop.is_set():
                return


def test_a_flood_of_lies_takes_neither_memory_nor_processor(speaker: Speaker) -> None:
    """20 false listings a packet, as fast as they can be sent: the speaker keeps its share and its list."""
    one = speaker
    one.order("box-1")
    one.wait_for("box-1")
    stop, sent = threading.Event(), [0]
    pouring = threading.Thread(target=flood, args=(stop, sent), daemon=True)
    process = psutil.Process(one.process.pid)
    before, began_s = sum(process.cpu_times()[:2]), time.monotonic()
    pouring.start()
    wait_until(lambda: time.monotonic() - began_s > 10, "ten seconds of it")
    used = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began_s)
    resident = process.memory_info().rss
    stop.set()
    pouring.join()
    seen = len(one.report().peers)
    print(f"flood: {sent[0]} packets, {used:.0%} of a core, {resident >> 20} MB, {seen} peers")
    assert sent[0] > 10_000
    assert used < 0.4
    assert resident < 128 << 20
    assert seen <= 64
    assert one.process.poll() is None


class FoundBranch(MirroredBranch):
    """Its mirror is found on the network, and nowhere in the settings."""

    process = Process

    def _write_mirror(self, address: str) -> None:
        super()._write_mirror(address)
        path = self.folder / "mirror.toml"
        path.write_text(path.read_text() + DISCOVERY)

    def start_mirror(self) -> None:
        """Run the mirror; the box's settings have its key alone."""
        super().start_mirror()
        self.find_mirror()

    def find_mirror(self) -> None:
        """From the next start of hub and box on."""
        self.more = f'[mirror]\nkey_file = "secrets/mirror.pub"\n{self._rule}{PLAIN}{DISCOVERY}'


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[FoundBranch]:
    """Hub and box; the mirror is not there yet."""
    branch = FoundBranch(tmp_path / "branch")
    branch.find_mirror()
    try:
        branch.start_hub()
        yield branch
    finally:
        branch.end()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Process]:
    """A mirror of the same name with a key of its own, which has every public key of the branch."""
    other = FoundBranch(tmp_path / "impostor")
    for name in ("hub", "device"):
        ours = tmp_path / "branch" / "secrets" / f"{name}.pub"
        (other.folder / "secrets" / f"{name}.pub").write_text(ours.read_text())
    [port] = free_ports(1)
    other._write_mirror(f"127.0.0.1:{port}")
    process = Process("mirror", folder=other.folder, log=tmp_path / "impostor.log")
    process.opened()
    yield process
    process.end(signal.SIGKILL)


def test_an_impostor_is_found_and_refused_and_the_true_mirror_is_used(
    branch: FoundBranch, impostor: Process, client: Listener
) -> None:
    """An address is no proof: who has not the pinned key never counts, and payments wait for nobody."""
    branch.start_box()
    wait_until(lambda: branch.metric("edgegw_discovery_peers") == 1, "the impostor to be seen")
    wait_until(lambda: "mirror-1" in branch.run("peers", branch.path("box.toml")), "it to be listed")
    wait_until(lambda: said(branch) not in ("", "no mirror was found on the network yet"), "it to be tried")
    assert branch.metric("edgegw_mirror_up") == 0
    assert branch.pay("alice", 100).status == 201
    branch.start_mirror()
    wait_until(lambda: branch.metric("edgegw_mirror_up") == 1, "the true mirror")
    kept = (branch.folder / "data" / "mirror_found.txt").read_text()
    assert branch.mirror is not None
    assert kept == f"http://{branch.mirror.opened()['addresses'][0]}"
    # Neither the box nor the mirror has said anything secret, and the box is there for tills.
    client.wait_for("box-1")
    assert client.port("box-1") == branch.http_port
    assert client.text("box-1")["http-tls"] == "plain"
    for secret in branch.folder.glob("secrets/*.pem"):
        assert secret.read_bytes()[40:60] not in client.everything
    assert branch.box is not None
    branch.box.end(signal.SIGKILL)
    client.wait_for("box-1", listed=False)


def said(branch: FoundBranch) -> str:
    """What the box says of its mirror."""
    report = msgspec.json.decode(branch.run("status", branch.path("box.toml"), "--json", code=1))
    return str(report["mirror"]["said"])


def test_payments_do_not_feel_a_flood(branch: FoundBranch) -> None:
    """With and without 20 lies a packet: the box answers, and its mirror link goes on."""
    branch.start_mirror()
    branch.start_box()
    wait_until(lambda: branch.metric("edgegw_mirror_up") == 1, "the mirror to be met")
    quiet = seconds(branch, 40)
    stop, sent = threading.Event(), [0]
    pouring = threading.Thread(target=flood, args=(stop, sent), daemon=True)
    pouring.start()
    wait_until(lambda: sent[0] > 1_000, "the flood")
    flooded = seconds(branch, 40)
    stop.set()
    pouring.join()
    print(f"payment: {quiet * 1e3:.1f} ms, in a flood {flooded * 1e3:.1f} ms, {sent[0]} packets")
    assert branch.metric("edgegw_mirror_up") == 1
    assert flooded < max(0.25, 10 * quiet)


def seconds(branch: FoundBranch, count: int) -> float:
    """The median of so many payments."""
    spent = []
    for _ in range(count):
        began_s = time.monotonic()
        assert branch.pay("alice", 1).status == 201
        spent.append(time.monotonic() - began_s)
    return sorted(spent)[count // 2]
