#!/usr/bin/python
"""Gives a machine its identity as a box, by a claim."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_enrol
short_description: Enrol a box with its claim
version_added: "0.1.0"
description:
  - The box makes its keys and the hub certifies them. The first settings are written from the claim.
  - A box that is enrolled is left alone. Killed or without an answer, the same task goes on with the
    same keys.
options:
  claim:
    description: The claim's text. It reaches the program on its standard input.
    type: str
    required: true
  branch:
    description: Where the box stands; a claim for another branch is refused.
    type: str
    default: ""
  place:
    description: Where the keys are to lie.
    type: str
    choices: [files, tpm2, systemd]
    default: files
  folder:
    description: The box's folder.
    type: path
    default: /var/lib/edgegw
extends_documentation_fragment:
  - edgegw.fleet.program
  - edgegw.fleet.program.user
attributes:
  check_mode:
    support: full
    description: Says whether the box would be enrolled.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Enrol
  edgegw.fleet.edgegw_enrol:
    claim: "{{ claim.claim }}"
    branch: Harbour Street
"""

RETURN = r"""
said:
  description: What the program said.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import (
    PROGRAM,
    USER,
    Done,
    run,
    wait_for,
)

CANNOT = 3
"""The program's exit code where something is away."""
REFUSED = "the hub refuses ("
"""What it says where the hub has answered all the same."""
ANSWER_SECONDS_MAX = 60
PAUSE_SECONDS = 5


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "claim": {"type": "str", "required": True, "no_log": True},
            "branch": {"type": "str", "default": ""},
            "place": {"type": "str", "choices": ["files", "tpm2", "systemd"], "default": "files"},
            "folder": {"type": "path", "default": "/var/lib/edgegw"},
            **USER,
            **PROGRAM,
        },
        supports_check_mode=True,
    )
    params, folder = module.params, Path(module.params["folder"])
    if (folder / "secrets/box.pem").exists():
        module.exit_json(changed=False, said="it is enrolled")
    if module.check_mode:
        module.exit_json(changed=True, said="it would be enrolled")
    words = [params["program"], "enroll", "--config", str(folder / "box.toml"), "--claim", "-"]
    words += ["--place", params["place"]]
    if params["branch"]:
        words += ["--branch", params["branch"]]

    def is_answered() -> bool:
        nonlocal done
        done = run(words, user=params["user"], folder=str(folder), text=params["claim"] + "\n")
        return done.code != CANNOT or REFUSED in done.told

    done = Done(CANNOT, "", "")
    # Where a line breaks before the answer, nobody knows whether the claim is used: the hub repeats what it
    # has answered for this one alone, and the next run would bring another.
    wait_for(is_answered, ANSWER_SECONDS_MAX, pause_s=PAUSE_SECONDS)
    if done.code:
        module.fail_json(msg=f"claim: the box is not enrolled: {done.told}")
    module.exit_json(changed=True, said=done.told)


if __name__ == "__main__":
    main()
