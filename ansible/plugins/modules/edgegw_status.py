#!/usr/bin/python
"""Says how a box is, and waits until it runs or takes payments."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_status
short_description: Ask a box how it is
version_added: "0.1.0"
description:
  - Asks on the machine itself, by the file that a running box keeps and its readiness.
  - With O(full) the ledger is read as C(edgegw status --json) reads it. Changes nothing.
options:
  wait_for:
    description: What to wait for; V(nothing) tells how it is now.
    type: str
    choices: [nothing, running, ready]
    default: nothing
  timeout_s:
    description: How long to wait.
    type: int
    default: 60
  full:
    description: Read the ledger, too; takes a second or two.
    type: bool
    default: false
  folder:
    description: The box's folder.
    type: path
    default: /var/lib/edgegw
  unit:
    description: The box's service.
    type: str
    default: edgegw.service
extends_documentation_fragment:
  - edgegw.fleet.program
  - edgegw.fleet.program.user
attributes:
  check_mode:
    support: full
    description: The same; where it would wait it tells how it is.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Wait until the box takes payments
  edgegw.fleet.edgegw_status:
    wait_for: ready
"""

RETURN = r"""
health:
  description: Whether it runs, whether it takes payments (ready), and why not (reason).
  returned: always
  type: dict
version:
  description: The version in use, of a flashed appliance its image's.
  returned: always
  type: str
status:
  description: What C(edgegw status --json) says.
  returned: with O(full)
  type: dict
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import (
    PROGRAM,
    USER,
    box_health,
    run,
    wait_for,
)

IMAGE = Path("/usr/lib/edgegw/image.json")
"""What a flashed appliance runs; a plain server has no such file."""


def version_in_use(program: Path, *, image: Path = IMAGE) -> str:
    """Of an appliance its image's, of a server that to which `current` points; empty where neither is."""
    if image.exists():
        return str(json.loads(image.read_text(encoding="utf-8"))["version"])
    link = program.parent.parent
    return link.readlink().name if link.is_symlink() else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "wait_for": {"type": "str", "choices": ["nothing", "running", "ready"], "default": "nothing"},
            "timeout_s": {"type": "int", "default": 60},
            "full": {"type": "bool", "default": False},
            "folder": {"type": "path", "default": "/var/lib/edgegw"},
            "unit": {"type": "str", "default": "edgegw.service"},
            **USER,
            **PROGRAM,
        },
        supports_check_mode=True,
    )
    params = module.params
    health = box_health(params["folder"], params["unit"])

    def is_there() -> bool:
        nonlocal health
        health = box_health(params["folder"], params["unit"])
        return health.ready or (params["wait_for"] == "running" and health.running)

    version = version_in_use(Path(params["program"]))
    wanted = params["wait_for"]
    if wanted != "nothing" and not module.check_mode and not wait_for(is_there, params["timeout_s"]):
        module.fail_json(
            msg=f"wait_for = {wanted}: not within {params['timeout_s']} s: {health.reason};"
            f" `journalctl -u {params['unit']}` on the machine says more",
            health=health.as_dict,
            version=version,
        )
    result = {"changed": False, "health": health.as_dict, "version": version}
    if params["full"]:
        words = [params["program"], "status", str(Path(params["folder"], "box.toml")), "--json"]
        done = run(words, user=params["user"], folder=params["folder"])
        try:
            result["status"] = json.loads(done.out)
        except ValueError:
            module.fail_json(msg=f"folder = {params['folder']}: the box does not tell how it is: {done.told}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
