#!/usr/bin/python
"""Has a machine say what it can prove of a journal, and compares a journal with the hub's books."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_audit
short_description: Export and verify a journal, or compare journals with the hub
version_added: "0.1.0"
description:
  - V(box) exports the journal and the newest checkpoint, and verifies the journal with the box's key alone.
  - V(hub) compares journals with the hub's books (C(edgegw reconcile)).
  - Nothing at the box or the hub changes.
options:
  side:
    description: Which machine this is.
    type: str
    choices: [box, hub]
    required: true
  box:
    description: The box's name, for V(box).
    type: str
  folder:
    description: The folder of box or hub.
    type: path
    default: /var/lib/edgegw
  work:
    description: A folder for what is written; made where it is missing, for the owner of the program alone.
    type: path
    default: /var/cache/edgegw-audit
extends_documentation_fragment:
  - edgegw.fleet.program
  - edgegw.fleet.program.user
attributes:
  check_mode:
    support: full
    description: Runs nothing.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: See what the box can prove
  edgegw.fleet.edgegw_audit:
    side: box
    box: branch-1
"""

RETURN = r"""
well:
  description: Whether everything held.
  returned: always
  type: bool
said:
  description: The verifier's words, or the comparison's object.
  returned: always
  type: raw
journal:
  description: The exported journal on the machine.
  returned: for V(box)
  type: str
checkpoint:
  description: The newest signed checkpoint.
  returned: for V(box)
  type: str
"""

import json
import os
import pwd
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import PROGRAM, USER, Done, run


class Auditor:
    """The commands of one machine."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.params = module, module.params
        self.work = Path(module.params["work"])
        self.work.mkdir(mode=0o700, exist_ok=True)
        owner = pwd.getpwnam(self.params["user"])
        os.chown(self.work, owner.pw_uid, owner.pw_gid)

    def edgegw(self, *words: object) -> Done:
        """Run a command of the program's."""
        return run([self.params["program"], *words], user=self.params["user"], folder=self.params["folder"])

    def must(self, *words: object) -> str:
        """The same; failing where the command does."""
        done = self.edgegw(*words)
        if done.code:
            self.module.fail_json(msg=f"edgegw {' '.join(map(str, words))}: {done.told}")
        return done.out

    def box(self) -> dict[str, object]:
        """Export, verify, and tell."""
        settings = Path(self.params["folder"], "box.toml")
        journal = self.work / f"{self.params['box']}.journal"
        checkpoint = self.work / f"{self.params['box']}.checkpoint"
        for old in (journal, checkpoint):
            old.unlink(missing_ok=True)
        self.must("journal", "export", settings, "--output", journal)
        self.must("journal", "checkpoint", settings, "--output", checkpoint)
        public = Path(self.params["folder"], "secrets/checkpoint.pub")
        key = public.read_text(encoding="utf-8").strip() if public.exists() else ""
        done = self.edgegw("verify", "--box-key", key, "--json", "journal", journal)
        return {
            "well": done.code == 0,
            "said": done.told,
            "journal": str(journal),
            "checkpoint": checkpoint.read_text(encoding="utf-8"),
        }

    def hub(self) -> dict[str, object]:
        """Compare the journals in the folder of work with the books."""
        settings, journals = Path(self.params["folder"], "hub.toml"), sorted(self.work.glob("*.journal"))
        for journal in journals:
            owner = pwd.getpwnam(self.params["user"])
            os.chown(journal, owner.pw_uid, owner.pw_gid)
        words = [
            "reconcile",
            *journals,
            "--hub",
            settings,
            "--workspace",
            self.work / "reconcile.db",
            "--json",
        ]
        done = self.edgegw(*words)
        try:
            said = json.loads(done.out)
        except ValueError:
            self.module.fail_json(msg=f"folder = {self.params['folder']}: nothing was compared: {done.told}")
        for journal in journals:
            journal.unlink()
        return {"well": bool(said["well"]), "said": said}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "side": {"type": "str", "choices": ["box", "hub"], "required": True},
            "box": {"type": "str"},
            "folder": {"type": "path", "default": "/var/lib/edgegw"},
            "work": {"type": "path", "default": "/var/cache/edgegw-audit"},
            **USER,
            **PROGRAM,
        },
        required_if=[("side", "box", ["box"])],
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(
            changed=False, well=True, said="not looked at in check mode", journal="", checkpoint=""
        )
    auditor = Auditor(module)
    module.exit_json(changed=False, **(auditor.box() if module.params["side"] == "box" else auditor.hub()))


if __name__ == "__main__":
    main()
