"""What a box must refuse: bundles and repositories as a thief, a careless centre or a broken disk makes them.

The bundles are real ones with a small content: nothing of them may ever start. Leaves out who refuses them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from edgegw.commands.release_keys import signer_of
from edgegw.update.repository import Repository
from firmware import keys
from firmware.bundle import write_bundle
from firmware.disk import Made
from firmware.image import Image
from firmware.keys import SIGNER, Keys
from firmware.layout import MIB

REVOKED: Final = "revoked"
"""A signer of the lab's bundles that every image built here believes no more."""
_ESP_BYTES: Final = 64 << 10


def with_revoked(found: Keys) -> Keys:
    """The lab's keys with a revoked signer among them; before the image is built, which carries the list."""
    if not found.key(REVOKED).exists():
        keys.new_signer(found, REVOKED)
        keys.revoke(found, [REVOKED])
    return found


class Forger:
    """Makes bundles like those of an image, and signs them with what it has."""

    def __init__(self, folder: Path, image: Image, *, tools: Path, found: Keys) -> None:
        self.folder, self._tools = folder, tools
        self._facts = json.loads(image.facts.read_bytes())
        shutil.copytree(found.folder, folder / "keys")
        self.keys = Keys(folder / "keys")
        keys.new_signer(self.keys, "expired", expired=True)
        self.strangers = Keys(folder / "strangers")
        keys.make(self.strangers)

    def bundle(
        self,
        version: str,
        *,
        manifest_version: str = "",
        for_compatible: str = "",
        signer: str = SIGNER,
        found: Keys | None = None,
        security_epoch: int | None = None,
    ) -> Path:
        """A bundle, and beside it what a centre says of it: `version`, and this compatible and epoch."""
        work = self.folder / version
        work.mkdir()
        root, esp = work / "root", work / "esp"
        root.write_bytes(os.urandom(MIB))
        esp.write_bytes(os.urandom(_ESP_BYTES))
        path = work / f"edgegw-{version}-cloud.raucb"
        made = Made(
            profile="cloud",
            version=manifest_version or version,
            tools=self._tools,
            keys=found or self.keys,
            epoch=1_700_000_000,
            said={},
        )
        write_bundle(
            path, root=root, esp=esp, made=made, work=work, for_compatible=for_compatible, signer=signer
        )
        facts = {**self._facts, "version": version}
        if security_epoch is not None:
            facts["security_epoch"] = security_epoch
        path.with_suffix(".json").write_text(json.dumps(facts))
        return path


def flip_in(path: Path) -> None:
    """Change one byte in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        was = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([was ^ 0xFF]))


def name_by_stolen_online_key(published: Path, online: Path) -> None:
    """Publish, by the hub's key alone, releases that another key has signed."""
    repository, own = Repository(published), signer_of(online.read_bytes(), lambda: b"")
    targets, snapshot, timestamp = repository.targets(), repository.snapshot(), repository.timestamp()
    targets.signed.version += 1
    targets.sign(CryptoSigner(Ed25519PrivateKey.generate()))
    body = targets.to_bytes()
    (repository.metadata / f"{targets.signed.version}.targets.json").write_bytes(body)
    snapshot.signed.version += 1
    meta = snapshot.signed.meta["targets.json"]
    meta.version, meta.length = targets.signed.version, len(body)
    meta.hashes = {"sha256": hashlib.sha256(body).hexdigest()}
    snapshot.sign(own)
    body = snapshot.to_bytes()
    (repository.metadata / f"{snapshot.signed.version}.snapshot.json").write_bytes(body)
    timestamp.signed.version += 1
    meta = timestamp.signed.snapshot_meta
    meta.version, meta.length = snapshot.signed.version, len(body)
    meta.hashes = {"sha256": hashlib.sha256(body).hexdigest()}
    timestamp.sign(own)
    (repository.metadata / "timestamp.json").write_bytes(timestamp.to_bytes())
