#!/usr/bin/python
"""Publishes the settings of a site at the hub, which is the only way by which they reach boxes."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_site
short_description: Publish a site's settings at the hub
version_added: "0.1.0"
description:
  - Runs on the hub. Checks the file first. The same content again changes nothing; other content needs a
    higher version. No box is touched, each takes the settings from the hub.
options:
  src:
    description: The site's settings on the hub, .json or .toml.
    type: path
    required: true
  canaries:
    description: Boxes that get the version first; with none all get it.
    type: list
    elements: str
    default: []
  bake_minutes:
    description: Healthy at the canaries for so long, it goes to all by itself; 0 leaves that to a person.
    type: int
    default: 0
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
    description: Checks the settings and says whether they would be published.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Publish the site
  edgegw.fleet.edgegw_site:
    src: /var/lib/edgegw/site.json
    canaries: [branch-1]
    bake_minutes: 30
"""

RETURN = r"""
said:
  description: What the hub said.
  returned: always
  type: str
newest:
  description: The newest version at the hub; 0 where there is none.
  returned: always
  type: int
"""

import json
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import PROGRAM, USER, Done, run

SOUND = re.compile(r": sound; version ([0-9]+),")
"""What `edgegw site check` says of settings of either form."""


def edgegw(module: AnsibleModule, *words: str) -> Done:
    """Run a command of the hub's."""
    params = module.params
    folder = str(Path(params["settings"]).parent)
    return run([params["program"], *words, "--hub", params["settings"]], user=params["user"], folder=folder)


def versions(module: AnsibleModule) -> list[tuple[int, str]]:
    """Number and digest of what is published."""
    done = edgegw(module, "site", "versions", "--json")
    if done.code:
        module.fail_json(msg=f"settings = {module.params['settings']}: the hub does not tell: {done.told}")
    return [(one["version"], one["digest"]) for one in json.loads(done.out)["versions"]]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "canaries": {"type": "list", "elements": "str", "default": []},
            "bake_minutes": {"type": "int", "default": 0},
            "settings": {"type": "path", "default": "/var/lib/edgegw/hub.toml"},
            **USER,
            **PROGRAM,
        },
        supports_check_mode=True,
    )
    src = module.params["src"]
    checked = edgegw(module, "site", "check", src)
    if checked.code:
        module.fail_json(msg=f"src = {src}: {checked.told}")
    before = versions(module)
    newest = max((number for number, _ in before), default=0)
    if module.check_mode:
        said = SOUND.search(checked.out)
        changed = said is not None and int(said[1]) > newest
        module.exit_json(changed=changed, said=checked.told, newest=newest)
    words = ["site", "publish", src]
    if module.params["canaries"]:
        words += ["--canary", ",".join(module.params["canaries"])]
        words += ["--bake-minutes", str(module.params["bake_minutes"])]
    done = edgegw(module, *words)
    if done.code:
        module.fail_json(msg=f"src = {src}: the hub does not publish it: {done.told}")
    after = versions(module)
    newest = max((number for number, _ in after), default=0)
    module.exit_json(changed=before != after, said=done.told, newest=newest)


if __name__ == "__main__":
    main()
