"""A machine with two slots as the agent sees it: a firmware in files, RAUC's programs as a script, a clock.

The script says and does what rauc 1.13 says and does with the EFI backend: an installation ends with the
other slot as the next boot, once; mark-good puts the running slot first. The real one is the lab's.
"""

import copy
import dataclasses
import itertools
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from edgegw.config.update import UpdateTable
from edgegw.update.agent import Agent, Order, Outcome
from edgegw.update.bundle import BundleFile
from edgegw.update.choosing import Offer, Rollout
from edgegw.update.epoch import VARIABLE, EpochVariable
from edgegw.update.health import Answer
from edgegw.update.machine import Image, Surroundings
from edgegw.update.rauc import Rauc
from edgegw.update.repository import Keys, Life, Repository
from edgegw.update.sources import FolderSource, Source
from edgegw.update.state import State, Store
from edgegw.update.trial import Verdict, judge
from edgegw.update.windows import BoxWord

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
COMPATIBLE = "edgegw-x86_64-cloud"
SCHEMA = 6
ALL_DAY = UpdateTable(begins="00:00", ends="00:00", bundle_bytes_max=1 << 20, commit_seconds=10)
WELL = Answer(alive=True, ready=True)
UNWELL = Answer(alive=False, said="the ledger does not open")

RAUC = """
cd "$1" || exit 1
booted=$(cat booted)
case $booted in a) other=b ;; *) other=a ;; esac
case "$2 $3" in
"status --detailed")
    primary=rootfs.0
    [ "$(cat next 2>/dev/null || cat first)" = b ] && primary=rootfs.1
    a=inactive; b=inactive; eval $booted=booted
    printf '{"compatible":"edgegw-x86_64-cloud","variant":"","booted":"%s","boot_primary":"%s","slots":[' \\
        $booted $primary
    printf '{"rootfs.1":{"class":"rootfs","bootname":"b","state":"%s"}},' $b
    printf '{"esp.0":{"class":"esp","bootname":null,"state":"active"}},'
    printf '{"rootfs.0":{"class":"rootfs","bootname":"a","state":"%s"}}]}' $a ;;
"info --output-format=json")
    sed -n 's/^manifest //p' "$4" | grep . || { echo "signature verification failed" >&2; exit 1; } ;;
install*)
    echo installing; echo "  0% Installing"
    [ -e refuse ] && { echo "100% Installing failed."; echo "LastError: $(cat refuse)"; exit 1; }
    cp "$3" slot-$other; echo $other > next; echo "100% Installing done." ;;
"status mark-good")
    echo $booted > first ;;
*) echo "unknown command" >&2; exit 1 ;;
esac
"""


def key() -> CryptoSigner:
    """A fresh key for releases."""
    return CryptoSigner(Ed25519PrivateKey.generate())


class Releases:
    """A centre with its keys."""

    def __init__(self, folder: Path, *, now: datetime = NOON) -> None:
        self.root, self.signer, self.online = key(), key(), key()
        self.repository = Repository(folder / "releases")
        self._bundles = folder / "built"
        self._bundles.mkdir(exist_ok=True)
        keys = Keys(root=[self.root], targets=[self.signer], online=self.online)
        self.repository.create(keys, Life(now))
        self.first_root = (self.repository.metadata / "1.root.json").read_bytes()

    def elsewhere(self, folder: Path) -> "Releases":
        """The same centre with its repository as it is now, in another folder, where it goes on by itself."""
        shutil.copytree(self.repository.folder, folder)
        other = copy.copy(self)
        other.repository = Repository(folder)
        return other

    @property
    def source(self) -> FolderSource:
        """The repository as a box reads it."""
        return FolderSource(self.repository.folder)

    def bundle(self, version: str, *, filling: bytes = b"an image", manifest: str = "") -> Path:
        """A bundle as the script's RAUC reads it."""
        said = manifest or f'{{"compatible":"{COMPATIBLE}","version":"{version}"}}'
        path = self._bundles / f"edgegw-{version}-cloud.raucb"
        path.write_bytes(filling * 64 + f"\nmanifest {said}\n".encode())
        return path

    def release(
        self,
        version: str,
        *,
        epoch: int = 1,
        readable_from: int = SCHEMA,
        rollout: Rollout | None = None,
        filling: bytes = b"an image",
        manifest: str = "",
        now: datetime = NOON,
    ) -> Path:
        """Publish a release; its bundle."""
        offer = Offer(
            version=version,
            compatible=COMPATIBLE,
            security_epoch=epoch,
            schema=SCHEMA,
            readable_from=readable_from,
            rollout=rollout or Rollout(),
        )
        path = self.bundle(version, filling=filling, manifest=manifest)
        self.repository.add(path, offer, signers=[self.signer], online=self.online, life=Life(now))
        return path


@dataclasses.dataclass
class Appliance:
    """A machine on which version 1.0.0 was flashed into slot a."""

    folder: Path
    root: bytes
    source: Source
    table: UpdateTable = ALL_DAY
    now: datetime = NOON
    box: BoxWord | None = None
    answers: Callable[[str], Answer] = lambda _: WELL
    """What the box says, by the version that runs."""
    name: str = "bank/box-1"
    restarts: int = 0
    """Restarts that were ordered."""

    def __post_init__(self) -> None:
        self.firmware, self.image = self.folder / "firmware", self.folder / "image"
        self.efi = self.folder / "efi"
        for folder in (self.firmware, self.image, self.efi):
            folder.mkdir(parents=True, exist_ok=True)
        (self.firmware / "rauc").write_text(RAUC, encoding="ascii")
        for name, body in {"booted": "a", "first": "a", "slot-a": ""}.items():
            (self.firmware / name).write_text(body, encoding="ascii")
        (self.image / "update-root.json").write_bytes(self.root)
        self.versions = {"a": Image(version="1.0.0", compatible=COMPATIBLE, security_epoch=1)}
        self._boots = itertools.count(1)
        self.boot_id = f"boot-{next(self._boots)}"
        self.room_bytes, self.keep_free_bytes = self.table.bundle_bytes_max, 0

    @property
    def slot(self) -> str:
        """The slot that runs."""
        return (self.firmware / "booted").read_text(encoding="ascii").strip()

    @property
    def first(self) -> str:
        """The slot that is first in the boot order."""
        return (self.firmware / "first").read_text(encoding="ascii").strip()

    @property
    def runs(self) -> Image:
        """The image that runs."""
        return self.versions[self.slot]

    @property
    def state(self) -> State:
        """What the agent remembers."""
        return Store(self.folder / "state").read()

    @property
    def epoch_variable(self) -> int:
        """What the firmware remembers."""
        return EpochVariable(self.efi).read()

    def forget_firmware(self) -> None:
        """A firmware that was reset."""
        (self.efi / VARIABLE).unlink(missing_ok=True)

    def here(self) -> Surroundings:
        """What the agent touches."""
        return Surroundings(
            image=self.runs,
            rauc=Rauc(("sh", str(self.firmware / "rauc"), str(self.firmware))),
            store=Store(self.folder / "state"),
            bundle=BundleFile(
                self.folder / "state", room_bytes=self.room_bytes, keep_free_bytes=self.keep_free_bytes
            ),
            variable=EpochVariable(self.efi),
            table=self.table,
            root_file=self.image / "update-root.json",
            schema=SCHEMA,
            box_name=self.name,
            now_s=self.now.timestamp,
            boot_id=lambda: self.boot_id,
            box=lambda: self.box,
            ask=lambda: self.answers(self.runs.version),
            restart=self._restart,
        )

    def _restart(self) -> None:
        self.restarts += 1

    def look(
        self,
        *,
        by_hand: bool = False,
        restart: bool = True,
        source: Source | None = None,
        version: str = "",
    ) -> Outcome:
        """The agent looks once."""
        order = Order(by_hand=by_hand, restart=restart, version=version)
        return Agent(self.here()).look(source or self.source, order)

    def boot(self) -> None:
        """Power comes, for whatever reason: the firmware takes the next boot, once, else the first."""
        order = self.firmware / "next"
        slot = (order if order.exists() else self.firmware / "first").read_text(encoding="ascii").strip()
        order.unlink(missing_ok=True)
        (self.firmware / "booted").write_text(slot, encoding="ascii")
        self.boot_id = f"boot-{next(self._boots)}"
        written = self.firmware / f"slot-{slot}"
        for line in written.read_bytes().splitlines():
            if line.startswith(b"manifest "):
                version = msgspec.json.decode(line.removeprefix(b"manifest "))["version"]
                self.versions[slot] = Image(version=version, compatible=COMPATIBLE, security_epoch=1)

    def judge(self) -> Verdict:
        """The commit service of this boot."""
        return judge(self.here(), pause=lambda _: None)

    def update(self) -> Sequence[str]:
        """Look, restart, judge, and restart again where it is left; how each ended."""
        ends: list[str] = [self.look().end]
        if ends[0] == "restarts":
            self.boot()
            ends.append(self.judge())
            if ends[-1] == "left":
                self.boot()
                ends.append(self.judge())
        return ends
