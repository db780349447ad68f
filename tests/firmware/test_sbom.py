"""What is in an image, told in a form that other programs read."""

import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from firmware import lockfile
from firmware.product import PACKAGES, Product
from firmware.roots import Root
from firmware.sbom import STUB, bill

COPYRIGHT = "Format: dep5\n\nFiles: *\nLicense: GPL-2+\n\nFiles: debian/*\nLicense: MIT\n"


@pytest.fixture
def product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Product:
    """A product with the cloud profile's lock, one text of a licence and one Python package."""
    monkeypatch.setenv("EDGEGW_BUILD", str(tmp_path / "build"))
    tree = tmp_path / "tree"
    (tree / "usr/share/doc/chrony").mkdir(parents=True)
    (tree / "usr/share/doc/chrony/copyright").write_text(COPYRIGHT)
    package = tree / PACKAGES / "lamp_post-1.2.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: lamp_post\nVersion: 1.2\nLicense-Expression: MIT\n\nText\n")
    (tmp_path / "build/wheels").mkdir(parents=True)
    listed = {"files": {"lamp_post-1.2-py3-none-any.whl": "ab" * 32}}
    (tmp_path / "build/wheels/x.json").write_text(json.dumps(listed))
    (tmp_path / "root.squashfs").write_bytes(b"packed")
    tools = Root(name="tools", key="k", path=tmp_path / "tools", lock=lockfile.read_lock("tools"))
    base = Root(name="appliance-cloud", key="k", path=tmp_path, lock=lockfile.read_lock("appliance-cloud"))
    return Product(
        profile="cloud",
        key="0123",
        version="1.0",
        epoch=1_700_000_000,
        tree=tree,
        squashfs=tmp_path / "root.squashfs",
        kernel=tmp_path / "vmlinuz",
        kernel_version="6",
        base=base,
        tools=tools,
    )


def test_every_package_is_told_with_its_hash_and_its_licence(product: Product) -> None:
    """A hole in a library is found in the field by the name, version and hash in this list, or not at all."""
    text = bill(product, version="1.0+1")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = {part["bom-ref"]: part for part in json.loads(text)["components"]}
    for package in product.base.lock.packages:
        told = parts[f"deb:{package.name}"]
        assert told["version"] == package.version
        assert told["hashes"] == [{"alg": "SHA-256", "content": package.sha256}]
    licences = [entry["license"]["name"] for entry in parts["deb:chrony"]["licenses"]]
    assert licences == ["GPL-2+", "MIT"]
    assert parts["pypi:lamp-post"]["hashes"][0]["content"] == "ab" * 32
    stub = next(package for package in product.tools.lock.packages if package.name == STUB)
    assert parts[f"deb:{STUB}"]["hashes"] == [{"alg": "SHA-256", "content": stub.sha256}]
    assert len(parts) == len(product.base.lock.packages) + 2


def test_the_list_of_one_image_has_the_same_bytes_twice(product: Product) -> None:
    """The list is signed with the image: one that bears the time of its making cannot be built again."""
    assert bill(product, version="1.0+1") == bill(product, version="1.0+1")
