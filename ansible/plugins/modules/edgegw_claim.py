#!/usr/bin/python
"""Has the hub make the one-time claim with which a machine becomes a box."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_claim
short_description: Make a box's claim at the hub
version_added: "0.1.0"
description:
  - Runs on the hub. The claim is a secret until it is used; give the task C(no_log). The hub keeps none.
  - A box that has a device already gets no claim unless O(replaces) says that this machine takes its place.
options:
  box:
    description: The box's name.
    type: str
    required: true
  branch:
    description: Where it stands; the box must say the same.
    type: str
    default: ""
  hosts:
    description: Names and addresses under which the box serves its branch; they stand in its certificate.
    type: list
    elements: str
    default: []
  replaces:
    description: The machine takes the place of the box's present one, which is fenced once the claim is used.
    type: bool
    default: false
  hours:
    description: How long the claim may be used.
    type: int
    default: 1
  settings:
    description: The hub's settings.
    type: path
    default: /var/lib/edgegw/hub.toml
extends_documentation_fragment:
  - edgegw.fleet.program
  - edgegw.fleet.program.user
attributes:
  check_mode:
    support: full
    description: Makes no claim.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Make the claim
  edgegw.fleet.edgegw_claim:
    box: branch-1
    branch: Harbour Street
  delegate_to: hub1
  no_log: true
  register: claim
"""

RETURN = r"""
claim:
  description: The claim's text, a secret; empty in check mode.
  returned: always
  type: str
"""

import json
import os
import pwd
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import PROGRAM, USER, run


def has_device(module: AnsibleModule) -> bool:
    """Whether a machine speaks for the box already."""
    params = module.params
    words = [params["program"], "hub", "ca", "list", "--json", "--hub", params["settings"]]
    done = run(words, user=params["user"], folder=str(Path(params["settings"]).parent))
    if done.code:
        module.fail_json(
            msg=f"settings = {params['settings']}: the hub's devices cannot be listed: {done.told}"
        )
    return any(one["box"] == params["box"] and one["state"] == "live" for one in json.loads(done.out))


def make_claim(module: AnsibleModule) -> str:
    """The claim, through a file that nobody else may read and that is gone afterwards."""
    params = module.params
    with tempfile.TemporaryDirectory(dir="/run", prefix="edgegw-claim-") as folder:
        os.chown(folder, pwd.getpwnam(params["user"]).pw_uid, -1)
        file = Path(folder, "claim.json")
        words = ["hub", "ca", "claim", params["box"], "--out", str(file), "--hours", str(params["hours"])]
        if params["branch"]:
            words += ["--branch", params["branch"]]
        for host in params["hosts"]:
            words += ["--host", host]
        if params["replaces"]:
            words.append("--replaces")
        words += ["--hub", params["settings"]]
        home = str(Path(params["settings"]).parent)
        done = run([params["program"], *words], user=params["user"], folder=home)
        if done.code:
            module.fail_json(msg=f"box = {params['box']}: the hub makes no claim: {done.told}")
        if not file.exists():
            module.fail_json(
                msg=f"box = {params['box']}: it waits for a second person; approve it by `edgegw orders"
                " approve` at the hub, and bring it to the box by hand"
            )
        return file.read_text(encoding="utf-8").strip()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "box": {"type": "str", "required": True},
            "branch": {"type": "str", "default": ""},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "replaces": {"type": "bool", "default": False},
            "hours": {"type": "int", "default": 1},
            "settings": {"type": "path", "default": "/var/lib/edgegw/hub.toml"},
            **USER,
            **PROGRAM,
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True, claim="")
    if has_device(module) and not module.params["replaces"]:
        module.fail_json(
            msg=f"box = {module.params['box']}: another machine speaks for it already; give it another name,"
            " or set box_replaces: true if this machine takes that one's place, which is fenced then"
        )
    module.exit_json(changed=True, claim=make_claim(module))


if __name__ == "__main__":
    main()
