#!/usr/bin/python
"""Writes the program's own systemd units, so that servers and appliances run under the same ones."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_units
short_description: Install the units that the program brings
version_added: "0.1.0"
description:
  - Has the program write its units for a role (C(edgegw units install)), and lets what differed
    count at once.
options:
  role:
    description: What the machine is.
    type: str
    choices: [box, hub, mirror]
    required: true
  destination:
    description: The root below which the files go.
    type: path
    default: /
extends_documentation_fragment:
  - edgegw.fleet.program
attributes:
  check_mode:
    support: full
    description: Says which files differ; where the program is not installed yet, that they would.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Install the units of a box
  edgegw.fleet.edgegw_units:
    role: box
"""

RETURN = r"""
files:
  description: The files that differed.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import PROGRAM, run

APPLIED = (
    ("sysusers.d", ["systemd-sysusers"]),
    ("tmpfiles.d", ["systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/edgegw.conf"]),
    ("systemd/system", ["systemctl", "daemon-reload"]),
    ("sysctl.d", ["systemctl", "restart", "systemd-sysctl.service"]),
)
"""What makes a kind of file count at once."""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "choices": ["box", "hub", "mirror"], "required": True},
            "destination": {"type": "path", "default": "/"},
            **PROGRAM,
        },
        supports_check_mode=True,
    )
    params = module.params
    program, root = params["program"], params["destination"]
    if module.check_mode and not Path(program).exists():
        module.exit_json(changed=True, files=[])
    words = [program, "units", "install", root, "--role", params["role"]]
    done = run([*words, "--check"] if module.check_mode else words)
    if done.code and not (module.check_mode and done.code == 1):
        module.fail_json(msg=f"role = {params['role']}: the program writes no units: {done.told}")
    files = [line for line in done.out.splitlines() if line.strip()]
    if not module.check_mode and root == "/":
        for part, command in APPLIED:
            if any(part in file for file in files):
                applied = run(command)
                if applied.code:
                    module.fail_json(msg=f"role = {params['role']}: {' '.join(command)}: {applied.told}")
    module.exit_json(changed=bool(files), files=files)


if __name__ == "__main__":
    main()
