#!/usr/bin/python
"""Makes on the controller what machines without internet install: the wheel and its needs, in one archive."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_release
short_description: Make the archives from which machines install edgegw offline
version_added: "0.1.0"
description:
  - Runs on the controller. Builds the wheel from O(project), fetches the wheels that its lock pins, each held
    to its hash, and packs them with their list of hashes into one archive for each version of Python.
  - Only this step needs a package index; it uses the settings of the user's pip.
  - The same inputs give the same bytes. An archive that is there is left alone, unless the wheel has changed.
options:
  project:
    description: The checkout of the program.
    type: path
    required: true
  destination:
    description: The folder of archives.
    type: path
    required: true
  wheel:
    description: A wheel that was built elsewhere; without it the project's is built.
    type: path
  requirements:
    description: The runtime's lock, with hashes; without it, it is drawn from the project's lock.
    type: path
  pythons:
    description: The versions of Python on the machines. Debian 12 has 3.11, Debian 13 has 3.13.
    type: list
    elements: str
    default: ["3.11", "3.13"]
attributes:
  check_mode:
    support: full
    description: Says which archives are there already.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Make the archives
  edgegw.fleet.edgegw_release:
    project: "{{ playbook_dir }}/../.."
    destination: "{{ playbook_dir }}/../releases"
  delegate_to: localhost
"""

RETURN = r"""
version:
  description: The version of the wheel.
  returned: always
  type: str
manifest:
  description: The file that names version and archives; C(program_release) of the roles.
  returned: always
  type: str
archives:
  description: For each version of Python (as cp313) the file and its SHA-256.
  returned: always
  type: dict
"""

import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import run, write_whole

MACHINE = "x86_64"
# Debian 12 has glibc 2.36: wheels for anything up to it run on both.
GLIBC_MINORS = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36)


def tag(python: str) -> str:
    """`3.13` as wheels write it."""
    return "cp" + python.replace(".", "")


def lock_of_runtime(module: AnsibleModule, project: Path, folder: Path) -> Path:
    """What the program itself needs, as the project's lock pins it."""
    if module.params["requirements"]:
        return Path(module.params["requirements"])
    found = folder / "runtime.txt"
    words = ["pip", "compile", "pyproject.toml", "--constraint", "requirements.lock", "--universal"]
    words += ["--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--quiet"]
    words += ["--no-emit-find-links", "--no-header", "--no-annotate", "--system-certs"]
    done = run([project / ".venv/bin/uv", *words, "--output-file", found], folder=str(project))
    if done.code:
        module.fail_json(
            msg=f"project = {project}: its lock cannot be read; run `make setup` there: {done.told}"
        )
    return found


def wheel_of(module: AnsibleModule, project: Path, folder: Path) -> Path:
    """The wheel, given or built; the build takes a second and needs no index."""
    if module.params["wheel"]:
        wheel = Path(module.params["wheel"])
        if not wheel.is_file():
            module.fail_json(msg=f"wheel = {wheel}: there is none; give the path of a .whl file")
        return wheel
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    python = project / ".venv/bin/python"
    done = run(
        [
            "env",
            "PIP_REQUIRE_HASHES=0",
            "SOURCE_DATE_EPOCH=315532800",
            python,
            "-m",
            "pip",
            *words,
            "--wheel-dir",
            folder,
            project,
        ]
    )
    wheel = next(folder.glob("edgegw-*.whl"), None)
    if done.code or wheel is None:
        module.fail_json(msg=f"project = {project}: no wheel; run `make setup` there: {done.told}")
    return wheel


def download(module: AnsibleModule, project: Path, lock: Path, python: str, folder: Path) -> None:
    """Fetch every wheel for one version of Python; what has no fitting wheel or hash is an error."""
    words = ["download", "--quiet", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    words += ["--implementation", "cp", "--python-version", python]
    for abi in (tag(python), "abi3", "none"):
        words += ["--abi", abi]
    for name in (*(f"manylinux_2_{minor}" for minor in GLIBC_MINORS), "manylinux2014", "manylinux2010"):
        words += ["--platform", f"{name}_{MACHINE}"]
    words += ["--platform", f"manylinux1_{MACHINE}", "--platform", f"linux_{MACHINE}"]
    done = run([project / ".venv/bin/python", "-m", "pip", *words, "--dest", folder, "--requirement", lock])
    if done.code:
        module.fail_json(msg=f"pythons = {python}: not every wheel could be fetched: {done.told}")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack(wheels: Path, requirements: str, archive: Path) -> None:
    """Write the archive, the same bytes for the same files."""
    beside = archive.with_name(f".{archive.name}.new")
    with tarfile.open(beside, "w", format=tarfile.PAX_FORMAT) as tar:
        files = {f"wheels/{path.name}": path.read_bytes() for path in wheels.glob("*.whl")}
        for name, content in sorted({**files, "requirements.txt": requirements.encode()}.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    beside.replace(archive)


def inputs(lock: Path, wheel: Path) -> str:
    """What an archive is made of, in one line, kept beside it."""
    return f"{digest(lock)} {digest(wheel)}\n"


def make(module: AnsibleModule, folder: Path) -> dict[str, object]:
    """The archives; which were made anew."""
    project, place = Path(module.params["project"]).resolve(), Path(module.params["destination"])
    lock, wheel = lock_of_runtime(module, project, folder), wheel_of(module, project, folder)
    named = re.match(r"edgegw-([^-]+)-py3-none-any\.whl\Z", wheel.name)
    if not named:
        module.fail_json(
            msg=f"wheel = {wheel.name}: it is none of edgegw; write edgegw-VERSION-py3-none-any.whl"
        )
    version, archives, changed = named[1], {}, False
    for python in module.params["pythons"]:
        archive = place / f"edgegw-{version}-{tag(python)}-{MACHINE}.tar"
        stamp = archive.with_suffix(".made-of")
        if not archive.exists() or not stamp.exists() or stamp.read_text() != inputs(lock, wheel):
            changed = True
            if module.check_mode:
                continue
            place.mkdir(parents=True, exist_ok=True)
            wheels = folder / python
            wheels.mkdir()
            cached = place / "wheels" / f"{digest(lock)[:16]}-{tag(python)}"
            if not cached.exists():
                download(module, project, lock, python, wheels)
                cached.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(wheels, cached.with_suffix(".new"), dirs_exist_ok=True)
                cached.with_suffix(".new").replace(cached)
            else:
                shutil.copytree(cached, wheels, dirs_exist_ok=True)
            shutil.copy(wheel, wheels)
            own = f"edgegw=={version} --hash=sha256:{digest(wheel)}\n"
            pack(wheels, lock.read_text(encoding="utf-8") + own, archive)
            stamp.write_text(inputs(lock, wheel))
        archives[tag(python)] = {"file": str(archive), "sha256": digest(archive)}
    manifest = place / f"edgegw-{version}.json"
    text = json.dumps({"version": version, "archives": archives}, indent=1, sort_keys=True) + "\n"
    if not manifest.exists() or manifest.read_text(encoding="utf-8") != text:
        changed = True
        if not module.check_mode:
            place.mkdir(parents=True, exist_ok=True)
            write_whole(manifest, text)
    return {"changed": changed, "version": version, "archives": archives, "manifest": str(manifest)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "path", "required": True},
            "destination": {"type": "path", "required": True},
            "wheel": {"type": "path"},
            "requirements": {"type": "path"},
            "pythons": {"type": "list", "elements": "str", "default": ["3.11", "3.13"]},
        },
        supports_check_mode=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = make(module, Path(folder))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
