#!/usr/bin/python
"""Keeps on the controller what became of each host in a rollout, and stops it where it must not go on."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_rollout
short_description: Record a rollout and decide whether it goes on
version_added: "0.1.0"
description:
  - Ansible forgets hosts that it could not reach, and its own limits do not count them. This record does, one
    file a host, so it outlives a controller that is killed. A later run of the same version goes on from it.
options:
  directory:
    description: Where records lie on the controller.
    type: path
    required: true
  version:
    description: The version that is rolled out.
    type: str
    required: true
  action:
    description: >-
      V(check) fails where the version was stopped; V(note) keeps one host's outcome; V(gate) fails, and stops
      the version for later runs, where it must not go on; V(report) tells every host's outcome; V(again)
      takes the stop back, and forgets the hosts that were not well.
    type: str
    choices: [check, note, gate, report, again]
    required: true
  host:
    description: The host, for V(note).
    type: str
  outcome:
    description: What became of it.
    type: str
    choices: [updated, unchanged, rolled_back, failed, unreachable]
  before:
    description: The version that it had.
    type: str
    default: ""
  reason:
    description: Why, where it is not well.
    type: str
    default: ""
  canary:
    description: The host, or the batch, goes first.
    type: bool
    default: false
  hosts:
    description: The hosts that count, for V(gate) and V(report).
    type: list
    elements: str
    default: []
  failed_max:
    description: So many hosts beside canaries may fail before it stops.
    type: int
    default: 0
  unreachable_percent_max:
    description: It stops when a larger share of the hosts that were tried could not be reached.
    type: int
    default: 20
attributes:
  check_mode:
    support: full
    description: Writes nothing.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Stop where the canary is not well
  edgegw.fleet.edgegw_rollout:
    directory: rollouts
    version: 0.2.0
    action: gate
    canary: true
    hosts: [branch-1]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
outcomes:
  description: Each host's record, by name.
  returned: for V(gate) and V(report)
  type: dict
missing:
  description: Hosts that are not at the version, each with why.
  returned: for V(report)
  type: list
  elements: str
"""

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import write_whole

STOPPED = "stopped.json"
WELL = ("updated", "unchanged")


class Rollout:
    """The record of one version."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.version = module.params["version"]
        self.folder = Path(module.params["directory"]).expanduser() / self.version

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Keep a record, whole; nothing in check mode."""
        if self.module.check_mode:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_whole(self.folder / name, json.dumps({**record, "at": at}, indent=1) + "\n")

    def read(self, name: str) -> dict[str, Any]:
        """A record; empty where there is none."""
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def check(self) -> None:
        """Fail where the version was stopped."""
        stopped = self.read(STOPPED)
        if stopped:
            self.module.fail_json(
                msg=f"version = {self.version}: its rollout was stopped at {stopped['at']}:"
                f" {stopped['reason']}."
                " Roll out a mended version, or this one again with -e update_again=true"
            )
        self.module.exit_json(changed=False)

    def again(self) -> None:
        """Take the stop back, and what it was drawn from: else the first batch would stop by it again."""
        was = self.read(STOPPED)
        if was and not self.module.check_mode:
            for path in self.folder.glob("*.json"):
                if path.name != STOPPED and self.read(path.name).get("outcome") not in WELL:
                    path.unlink()
            (self.folder / STOPPED).unlink()
        self.module.exit_json(changed=bool(was))

    def note(self) -> None:
        """Keep what became of a host."""
        params = self.module.params
        record = {name: params[name] for name in ("host", "outcome", "before", "reason", "canary")}
        known = self.read(f"{params['host']}.json")
        same = {name: known.get(name) for name in record} == record
        if params["outcome"] == "unchanged" and known.get("outcome") == "updated":
            same = True
        if not same:
            self.write(f"{params['host']}.json", record)
        self.module.exit_json(changed=False)

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Of the hosts that count, those that were tried."""
        found = {host: self.read(f"{host}.json") for host in self.module.params["hosts"]}
        return {host: record for host, record in found.items() if record}

    def gate(self) -> None:
        """Fail where the rollout must not go on."""
        outcomes = self.outcomes()
        why = self._why_not(outcomes)
        if why:
            self.write(STOPPED, {"version": self.version, "reason": why})
            self.module.fail_json(msg=f"the rollout of {self.version} stops here: {why}", outcomes=outcomes)
        self.module.exit_json(changed=False, outcomes=outcomes)

    def _why_not(self, outcomes: dict[str, dict[str, Any]]) -> str:
        params = self.module.params
        canary = params["canary"]
        bad = [
            f"{host}: {record['outcome']}, {record['reason']}"
            for host, record in outcomes.items()
            if record["outcome"] not in (*WELL, "unreachable")
        ]
        away = [host for host, record in outcomes.items() if record["outcome"] == "unreachable"]
        if canary and bad:
            return "the canary is not well there: " + "; ".join(bad)
        # In check mode nothing is written down, so nobody was away either.
        if canary and away and len(away) == len(outcomes):
            return f"no canary could be reached ({', '.join(away)}), so nobody has tried it"
        if len(bad) > params["failed_max"]:
            return f"{len(bad)} of {len(outcomes)} hosts are not well there: " + "; ".join(bad)
        if not canary and len(away) * 100 > params["unreachable_percent_max"] * len(outcomes):
            return f"{len(away)} of {len(outcomes)} hosts could not be reached: {', '.join(away)}"
        return ""

    def report(self) -> None:
        """Tell every host's outcome, and who is not at the version."""
        outcomes, missing = self.outcomes(), []
        for host in self.module.params["hosts"]:
            record = outcomes.get(host)
            if record is None:
                missing.append(f"{host} (not tried)")
            elif record["outcome"] not in WELL:
                missing.append(f"{host} ({record['outcome']}: {record['reason']})")
        self.module.exit_json(changed=False, outcomes=outcomes, missing=missing)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "action": {
                "type": "str",
                "choices": ["check", "note", "gate", "report", "again"],
                "required": True,
            },
            "host": {"type": "str"},
            "outcome": {
                "type": "str",
                "choices": ["updated", "unchanged", "rolled_back", "failed", "unreachable"],
            },
            "before": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
            "canary": {"type": "bool", "default": False},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "failed_max": {"type": "int", "default": 0},
            "unreachable_percent_max": {"type": "int", "default": 20},
        },
        required_if=[("action", "note", ["host", "outcome"])],
        supports_check_mode=True,
    )
    rollout = Rollout(module)
    getattr(rollout, module.params["action"])()


if __name__ == "__main__":
    main()
