"""What is in an image, as CycloneDX: every Debian package and every Python package, with hash and licence.

The packages are those of the lock and of the finished tree, not of a scan: the lock is the whole closure.
Leaves out the sources of the packages, which Debian keeps by name and version.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

import msgspec
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from firmware.lockfile import Package
from firmware.places import build_folder, sha256_of
from firmware.product import PACKAGES, Product
from firmware.wheels import Fetched

STUB: Final = "systemd-boot-efi"
"""What a kernel image begins with comes from the tools' root: the box's own has no use for it."""
_NAMESPACE: Final = uuid.UUID("6f0c6f4e-6ff1-4d1c-8a39-6f1f0a6cd2a5")
_LICENCE_LINE: Final = re.compile(r"^License:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_OWN_LICENCE: Final = "Apache-2.0"
_LICENCE_CHARACTERS_MAX: Final = 100
"""A longer text in the field of a name is the licence itself."""


def bill(product: Product, *, version: str) -> str:
    """The CycloneDX document, as JSON, of an image of this version; the same bytes for the same product."""
    name = f"edgegw-{version}-{product.profile}"
    image = Component(
        name="edgegw-appliance",
        version=version,
        type=ComponentType.FIRMWARE,
        bom_ref=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256_of(product.squashfs))],
        licenses=[DisjunctiveLicense(id=_OWN_LICENCE)],
    )
    document = Bom(serial_number=uuid.uuid5(_NAMESPACE, f"{name} {product.key}"))
    document.metadata.component = image
    document.metadata.timestamp = datetime.datetime.fromtimestamp(product.epoch, tz=datetime.UTC)
    parts = [*_debian(product), *_python(product.tree)]
    for part in parts:
        document.components.add(part)
    document.register_dependency(image, parts)
    return JsonV1Dot6(document).output_as_string(indent=1)


def write_bill(product: Product, *, version: str) -> Path:
    """Write the document of an image of this version to the build's `out` folder; its path."""
    path = build_folder("out") / f"edgegw-{version}-{product.profile}.sbom.json"
    path.write_text(bill(product, version=version) + "\n", encoding="utf-8")
    return path


def _debian(product: Product) -> Iterator[Component]:
    for package in product.base.lock.packages:
        yield _package(package, product.base.lock.suite, product.tree)
    tools = product.tools
    for package in tools.lock.packages:
        if package.name == STUB:
            yield _package(package, tools.lock.suite, tools.path)


def _package(package: Package, suite: str, tree: Path) -> Component:
    qualifiers = {"arch": package.architecture, "distro": suite}
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"deb:{package.name}",
        purl=PackageURL("deb", "debian", package.name, package.version, qualifiers=qualifiers),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
        licenses=[DisjunctiveLicense(name=name) for name in debian_licences(tree, package)],
        properties=[Property(name="edgegw:archive-path", value=package.path)],
    )


def debian_licences(tree: Path, package: Package) -> list[str]:
    """The names of the licences in a package's copyright file; the file itself where it has no such names."""
    path = tree / "usr/share/doc" / package.name / "copyright"
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    names = sorted({name for name in _LICENCE_LINE.findall(text) if len(name) <= _LICENCE_CHARACTERS_MAX})
    return names or [f"see /usr/share/doc/{package.name}/copyright"]


def _python(tree: Path) -> Iterator[Component]:
    digests: dict[tuple[str, str], str] = {}
    for listed in sorted(build_folder("wheels").glob("*.json")):
        for file, digest in msgspec.json.decode(listed.read_bytes(), type=Fetched).files.items():
            name, version = file.split("-")[:2]
            digests[_plain(name), version] = digest
    for path in sorted((tree / PACKAGES).glob("*.dist-info/METADATA")):
        said = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
        name, version = _plain(str(said["Name"])), str(said["Version"])
        found = digests.get((name, version))
        licence = str(said["License-Expression"] or said["License"] or "").splitlines()[:1]
        classes = [
            str(line).rsplit(" :: ", 1)[1] for line in said.get_all("Classifier", []) if "License ::" in line
        ]
        named = [text for text in licence if 0 < len(text) <= _LICENCE_CHARACTERS_MAX] or classes
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=f"pypi:{name}",
            purl=PackageURL("pypi", None, name, version),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=found)] if found else [],
            licenses=[DisjunctiveLicense(name=text) for text in sorted(set(named))],
        )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
