#!/usr/bin/python
"""Installs versions of the program from an archive, offline, and says which one is in use."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_program
short_description: Install a version of edgegw beside the others
version_added: "0.1.0"
description:
  - Makes a virtual environment for one version below O(root) from an archive that
    M(edgegw.fleet.edgegw_release) has made. Nothing is downloaded; every wheel is held to its hash.
  - A version is there whole or not at all. O(activate) lets the link C(current) point to it, in one step.
  - To change the version of a box that runs, use M(edgegw.fleet.edgegw_update), which goes back by itself.
options:
  version:
    description: The version, as the archive's name has it.
    type: str
    required: true
  archive:
    description: The archive on the machine; not needed where the version is there already.
    type: path
  sha256:
    description: What the archive's bytes must hash to. A version once installed never takes other bytes.
    type: str
    required: true
  root:
    description: Where versions lie.
    type: path
    default: /opt/edgegw
  python:
    description: The interpreter of the virtual environment.
    type: path
    default: /usr/bin/python3
  activate:
    description: V(first) lets C(current) point to it where it points nowhere yet; V(always) in any case.
    type: str
    choices: [never, first, always]
    default: first
  keep:
    description: How many versions stay, those in use and before it among them. The oldest go.
    type: int
    default: 3
attributes:
  check_mode:
    support: full
    description: Says what would be installed and linked.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Install version 0.2.0 beside the one in use
  edgegw.fleet.edgegw_program:
    version: 0.2.0
    archive: /var/cache/edgegw/edgegw-0.2.0-cp313-x86_64.tar
    sha256: "{{ program_sha256 }}"
    activate: never
"""

RETURN = r"""
current:
  description: The version in use; empty where there is none.
  returned: always
  type: str
previous:
  description: The version that was in use before this call.
  returned: always
  type: str
versions:
  description: Every version that is there whole.
  returned: always
  type: list
  elements: str
"""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import point, run, write_whole

COMPLETE = ".complete"
MEMBER = re.compile(r"requirements\.txt\Z|wheels/[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl\Z")
NAME = re.compile(r"[0-9][0-9A-Za-z.+!_-]*\Z")


def versions(root: Path) -> list[str]:
    """The versions that are there whole, the oldest first."""
    marks = sorted(root.glob(f"*/{COMPLETE}"), key=lambda mark: mark.stat().st_mtime_ns)
    return [mark.parent.name for mark in marks if not mark.parent.is_symlink()]


def current(root: Path) -> str:
    """The version that the link points to."""
    link = root / "current"
    return link.readlink().name if link.is_symlink() else ""


def install(module: AnsibleModule, root: Path, place: Path) -> None:
    """Make the version's environment, and mark it once it is whole."""
    archive = Path(module.params["archive"] or "")
    if not archive.is_file():
        module.fail_json(msg=f"archive = {archive}: it is not on this machine; copy it there first")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != module.params["sha256"]:
        module.fail_json(
            msg=f"archive = {archive}: its SHA-256 is {digest}, not {module.params['sha256']}; copy it again"
        )
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    if place.exists():
        shutil.rmtree(place)
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacked-") as unpacked:
        unpack(module, archive, Path(unpacked))
        _environment(module, place, Path(unpacked))
    # The mark must not outlive its files: a power cut soon after would leave a version that seems whole.
    os.sync()
    write_whole(place / COMPLETE, digest + "\n")


def unpack(module: AnsibleModule, archive: Path, folder: Path) -> None:
    """Write the files of an archive: wheels and their list, and nothing that has another name."""
    (folder / "wheels").mkdir()
    with tarfile.open(archive) as tar:
        for entry in tar:
            # Debian 12's tarfile has no filters.
            source = tar.extractfile(entry) if entry.isreg() and MEMBER.match(entry.name) else None
            if source is None:
                module.fail_json(msg=f"archive = {archive}: {entry.name} does not belong there; make it anew")
            with (folder / entry.name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _environment(module: AnsibleModule, place: Path, unpacked: Path) -> None:
    made = run([module.params["python"], "-m", "venv", "--without-pip", str(place)])
    if made.code:
        module.fail_json(msg=f"python = {module.params['python']}: no virtual environment: {made.told}")
    pip = next(unpacked.glob("wheels/pip-*.whl"), None)
    if pip is None:
        module.fail_json(msg="archive: there is no pip in it; make it with playbooks/release.yml")
    words = ["install", "--quiet", "--no-index", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    words += ["--find-links", str(unpacked / "wheels"), "--requirement", str(unpacked / "requirements.txt")]
    # pip runs out of its own wheel, so the machine needs none.
    done = run(
        [
            "env",
            f"PYTHONPATH={pip}",
            "PIP_CONFIG_FILE=/dev/null",
            "PIP_ROOT_USER_ACTION=ignore",
            str(place / "bin/python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            *words,
        ]
    )
    if done.code:
        shutil.rmtree(place, ignore_errors=True)
        module.fail_json(msg=f"version = {module.params['version']}: it cannot be installed: {done.told}")


def prune(module: AnsibleModule, root: Path, keep_also: set[str]) -> list[str]:
    """Remove the oldest versions beyond `keep`; which they were."""
    there = versions(root)
    gone = [one for one in there if one not in keep_also]
    gone = gone[: max(0, len(there) - max(2, module.params["keep"]))]
    if not module.check_mode:
        for one in gone:
            shutil.rmtree(root / one)
    return gone


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "sha256": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/opt/edgegw"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "activate": {"type": "str", "choices": ["never", "first", "always"], "default": "first"},
            "keep": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    version, root = module.params["version"], Path(module.params["root"])
    if not NAME.match(version):
        module.fail_json(msg=f"version = {version}: it is no version; write it as 0.1.0")
    place, before, changed = root / version, current(root), False
    mark = place / COMPLETE
    if not mark.exists():
        changed = True
        if not module.check_mode:
            install(module, root, place)
    elif mark.read_text(encoding="utf-8").strip() != module.params["sha256"]:
        module.fail_json(
            msg=f"version = {version}: other bytes of it are installed; give a new build another version"
        )
    activate = module.params["activate"]
    now = before
    if version != before and (activate == "always" or (activate == "first" and not before)):
        changed, now = True, version
        if not module.check_mode:
            point(root / "current", version)
    gone = prune(module, root, {version, before, now, previous_of(root)})
    module.exit_json(
        changed=changed or bool(gone), current=now, previous=before, versions=versions(root), removed=gone
    )


def previous_of(root: Path) -> str:
    """The version that an update has left, to which it may go back."""
    link = root / "previous"
    return link.readlink().name if link.is_symlink() else ""


if __name__ == "__main__":
    main()
