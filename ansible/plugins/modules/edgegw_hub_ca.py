#!/usr/bin/python
"""Gives a hub its key, its certificate authority and the certificate of its listeners, each once."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_hub_ca
short_description: Make a hub's key, its CA and its listeners' certificate
version_added: "0.1.0"
description:
  - Each is made once and then left alone; the certificate is renewed, with the same key, before it ends, or
    when it lacks one of O(hosts).
options:
  settings:
    description: The hub's settings, whether they are in force already or not.
    type: path
    required: true
  bank:
    description: The bank's name.
    type: str
    required: true
  folder:
    description: The hub's folder.
    type: path
    default: /var/lib/edgegw
  kind:
    description: V(p256) for the profiles intl and pq, V(sm2) for gm and gm-pq.
    type: str
    choices: [p256, sm2]
    default: p256
  hosts:
    description: Names and addresses by which boxes reach the hub.
    type: list
    elements: str
    required: true
  days_left_min:
    description: The certificate is renewed when it ends within so many days.
    type: int
    default: 30
extends_documentation_fragment:
  - edgegw.fleet.program
  - edgegw.fleet.program.user
attributes:
  check_mode:
    support: full
    description: Says what would be made.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Make what the hub signs and serves with
  edgegw.fleet.edgegw_hub_ca:
    settings: /var/lib/edgegw/hub.toml
    bank: mybank
    hosts: [hub.bank.internal]
"""

RETURN = r"""
made:
  description: What was made or renewed, of key, ca and certificate.
  returned: always
  type: list
  elements: str
public_key:
  description: The hub's public key, which boxes pin; empty in check mode before there is one.
  returned: always
  type: str
"""

import json
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import PROGRAM, USER, run

DAY_S = 86_400


class Ca:
    """The hub's commands, and what is there."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.folder = Path(module.params["folder"])
        self.made: list[str] = []

    def edgegw(self, *words: object, hub: bool = True) -> str:
        """Run a command of the hub's; what it printed."""
        params = self.module.params
        more = ["--hub", params["settings"]] if hub else []
        done = run([params["program"], *words, *more], user=params["user"], folder=str(self.folder))
        if done.code:
            self.module.fail_json(msg=f"edgegw {' '.join(str(word) for word in words)}: {done.told}")
        return done.out

    def is_sound(self) -> bool:
        """Whether the newest certificate lives long enough and has every host."""
        if not (self.folder / "hub.crt").exists():
            return False
        hosts = self.module.params["hosts"]
        newest: dict[str, int] = {}
        for device in json.loads(self.edgegw("hub", "ca", "list", "--json")):
            if not device["box"]:
                one = device["certificates"][0]
                newest[one["name"]] = max(
                    newest.get(one["name"], 0), one["ends_s"] if not one["revoked_s"] else 0
                )
        ends_s = newest.get(hosts[0], 0)
        enough = ends_s - time.time() > self.module.params["days_left_min"] * DAY_S
        kept = self.folder / "hub.hosts"
        return enough and kept.exists() and kept.read_text(encoding="utf-8").split() == hosts

    def make(self) -> None:
        """Make what is not there."""
        params, check = self.module.params, self.module.check_mode
        secrets = self.folder / "secrets"
        if not (secrets / "hub.pem").exists():
            self.made.append("key")
            if not check:
                self.edgegw(
                    "keygen", "hub", "--bank", params["bank"], "--out", secrets / "hub.pem", hub=False
                )
        if not (secrets / f"ca-{params['kind']}.crt").exists():
            self.made.append("ca")
            if not check:
                self.edgegw("hub", "ca", "init", "--kind", params["kind"])
        if self.made and check:
            self.made.append("certificate")
        elif not self.is_sound():
            self.made.append("certificate")
            if not check:
                hosts = [word for host in params["hosts"] for word in ("--host", host)]
                words = ["hub", "ca", "certificate", "--kind", params["kind"], *hosts]
                self.edgegw(*words, "--out", self.folder / "hub.crt", "--key-out", secrets / "hub.key")
                (self.folder / "hub.hosts").write_text("\n".join(params["hosts"]) + "\n", encoding="utf-8")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "path", "required": True},
            "bank": {"type": "str", "required": True},
            "folder": {"type": "path", "default": "/var/lib/edgegw"},
            **USER,
            "kind": {"type": "str", "choices": ["p256", "sm2"], "default": "p256"},
            "hosts": {"type": "list", "elements": "str", "required": True},
            "days_left_min": {"type": "int", "default": 30},
            **PROGRAM,
        },
        supports_check_mode=True,
    )
    if not module.params["hosts"]:
        module.fail_json(
            msg="hosts = []: no box could check the hub; give the name or address that they dial"
        )
    ca = Ca(module)
    ca.make()
    public = ca.folder / "secrets/hub.pub"
    key = public.read_text(encoding="utf-8").strip() if public.exists() else ""
    module.exit_json(changed=bool(ca.made), made=ca.made, public_key=key)


if __name__ == "__main__":
    main()
