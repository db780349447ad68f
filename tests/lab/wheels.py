"""Other versions of the product's wheel, so that an update has something to come to."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path


def other_version(
    wheel: Path, version: str, folder: Path, changes: Mapping[str, bytes] | None = None
) -> Path:
    """The same wheel under another version; with other content of some files, by their names in it."""
    _, before, *rest = wheel.stem.split("-")
    made = folder / ("-".join(["edgegw", version, *rest]) + ".whl")
    old, new = f"edgegw-{before}.dist-info/", f"edgegw-{version}.dist-info/"
    listed = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            name = entry.filename.replace(old, new)
            if name.endswith("/RECORD"):
                continue
            content = (changes or {}).get(name, source.read(entry))
            if name == new + "METADATA":
                content = content.replace(
                    f"\nVersion: {before}\n".encode(), f"\nVersion: {version}\n".encode()
                )
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            listed.append(f"{name},sha256={digest},{len(content)}\n")
            target.writestr(name, content)
        target.writestr(new + "RECORD", "".join([*listed, f"{new}RECORD,,\n"]))
    return made
