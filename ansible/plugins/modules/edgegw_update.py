#!/usr/bin/python
"""Brings a machine to another version of the program, on trial, and back when it is not well there."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edgegw_update
short_description: Switch a machine to another version on trial
version_added: "0.1.0"
description:
  - On a plain server it lets C(current) point to a version that M(edgegw.fleet.edgegw_program) has installed,
    restarts the service, and judges it by its health on the machine itself. Where it is not well in time, the
    version before is put back and started. Both happen on the machine, in one call, so that a lost
    connection leaves no machine between two versions.
  - On a flashed appliance the box's own update agent fetches the signed bundle from the hub, with slots,
    trial and way back of its own; the role reboots the box and asks for the verdict with O(verify).
  - The line to the centre plays no part, but for a box that took payments before and takes none after.
options:
  version:
    description: The version that the machine is to have.
    type: str
    required: true
  kind:
    description: V(program) for a plain server, V(appliance) for a flashed one.
    type: str
    choices: [program, appliance]
    default: program
  verify:
    description: For O(kind=appliance), after the reboot; waits for the agent's verdict instead of installing.
    type: bool
    default: false
  unit:
    description: The service that is restarted.
    type: str
    default: edgegw.service
  folder:
    description: The box's folder; empty for a service that is no box, which is judged by its service alone.
    type: path
    default: /var/lib/edgegw
  root:
    description: Where versions lie.
    type: path
    default: /opt/edgegw
  health_s:
    description: How long the new version has to be well.
    type: int
    default: 90
  fetch_s:
    description: How long an appliance may take to fetch and write the version; a slow line needs an hour.
    type: int
    default: 7200
  settle_s:
    description: How long it must stay well, and run as the same process, before it counts.
    type: int
    default: 5
attributes:
  check_mode:
    support: full
    description: Says whether the version would change.
author:
  - the edgegw authors
"""

EXAMPLES = r"""
- name: Try version 0.2.0 on this box
  edgegw.fleet.edgegw_update:
    version: 0.2.0
"""

RETURN = r"""
outcome:
  description: >-
    V(unchanged), V(updated), V(installed) (an appliance waits for its reboot), V(trial) (its trial runs, from
    an earlier call), V(rolled_back), or V(failed) when the way back did not help either.
  returned: always
  type: str
before:
  description: The version in use before.
  returned: always
  type: str
after:
  description: The version in use now.
  returned: always
  type: str
reason:
  description: Why it was rolled back.
  returned: when it was
  type: str
health:
  description: The box's last word, as running, ready and reason.
  returned: on a plain server
  type: dict
"""

import json
import signal
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgegw.fleet.plugins.module_utils.program import (
    Health,
    box_health,
    point,
    run,
    service_state,
    wait_for,
)

ASK_SECONDS = 5
"""Between two questions to an appliance's agent: each starts a program, beside a box that is starting."""


class Machine:
    """What the module looks at and changes on a plain server."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.root, self.unit = Path(module.params["root"]), module.params["unit"]
        self.folder = module.params["folder"] or ""
        self.last = Health(False, False, "not looked at")

    def version(self) -> str:
        """The version in use."""
        link = self.root / "current"
        return link.readlink().name if link.is_symlink() else ""

    def health(self) -> Health:
        """Of the box by its own word; of another service by the service manager's."""
        if self.folder:
            self.last = box_health(self.folder, self.unit)
        else:
            state = service_state(self.unit)
            self.last = Health(state == "active", state == "active", f"{self.unit} is {state}")
        return self.last

    def process(self) -> str:
        """The number of the service's main process, and how often it was started anew."""
        shown = ["systemctl", "show", "--property=MainPID,NRestarts", self.unit]
        return run(shown).out

    def switch(self, version: str) -> None:
        """Use another version from now on."""
        point(self.root / "current", version)
        run(["systemctl", "reset-failed", self.unit])
        run(["systemctl", "restart", "--no-block", self.unit])

    def well(self, *, was: Health, pid: str) -> str:
        """Wait for the version to be well; why it is not, or nothing."""
        params = self.module.params

        def is_well() -> bool:
            if self.process() == pid:
                return False
            said = self.health()
            # What kept it from paying before does not speak against the new version.
            return said.is_well or (said.running and was.running and not was.ready)

        if not wait_for(is_well, params["health_s"]):
            return f"not well within {params['health_s']} s: {self.last.reason or 'it did not restart'}"
        since = self.process()
        time.sleep(params["settle_s"])
        if not is_well():
            return f"well at first, then not: {self.last.reason}"
        if self.process() != since:
            return "well at first, then it ended and was started again"
        return ""


def update_program(module: AnsibleModule) -> dict[str, Any]:
    """The result for a plain server."""
    machine, version = Machine(module), module.params["version"]
    before = machine.version()
    if before == version:
        return {"changed": False, "outcome": "unchanged", "before": before, "after": before}
    if not (machine.root / version / ".complete").exists() and not module.check_mode:
        module.fail_json(msg=f"version = {version}: it is not installed below {machine.root}; stage it first")
    if module.check_mode:
        return {"changed": True, "outcome": "updated", "before": before, "after": version}
    # The way back must be walked to its end, whoever hangs up meanwhile.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    was, pid = machine.health(), machine.process()
    if before:
        point(machine.root / "previous", before)
    machine.switch(version)
    reason = machine.well(was=was, pid=pid)
    said = {"before": before, "health": machine.last.as_dict}
    if not reason:
        return {"changed": True, "outcome": "updated", "after": version, **said}
    if not before:
        return {"changed": True, "outcome": "failed", "after": version, "reason": reason, **said}
    pid = machine.process()
    machine.switch(before)
    again = machine.well(was=was, pid=pid)
    said["health"] = machine.last.as_dict
    outcome = "failed" if again else "rolled_back"
    reason += f"; {before} again: {again}" if again else ""
    return {"changed": True, "outcome": outcome, "after": before, "reason": reason, **said}


def update_status(module: AnsibleModule) -> dict[str, Any]:
    """What the appliance's agent says of itself."""
    done = run(["edgegw", "update", "status", "--json"])
    try:
        said: dict[str, Any] = json.loads(done.out)
    except ValueError:
        module.fail_json(msg=f"kind = appliance: its update agent does not answer: {done.told}")
    return said


def failure_of(status: dict[str, Any], version: str) -> str:
    """Why the agent has given this version up; nothing where it has not."""
    return next(
        (str(one.get("why", "")) for one in status.get("failed", ()) if one.get("version") == version), ""
    )


def is_on_trial(status: dict[str, Any], version: str) -> bool:
    """Whether the boot that runs is the version's trial, or one that has failed and is being left."""
    if status.get("version") != version:
        return False
    return status.get("phase") == "trial" or bool(failure_of(status, version))


def ordered(module: AnsibleModule) -> dict[str, Any]:
    """How the agent's look for the version ended, in its words. What holds it up for a while is waited for:
    a look of the agent's own, a window that closes."""
    params = module.params
    # The hub may offer a newer one by now; the canaries have tried this one.
    words = ["edgegw", "update", "check", "--now", "--no-reboot", "--json", "--version", params["version"]]
    said: dict[str, Any] = {}

    def has_ended() -> bool:
        nonlocal said
        done = run(words, timeout_s=params["fetch_s"])
        try:
            # Above it are the lines of its log.
            said = json.loads(done.out.strip().splitlines()[-1])
        except (ValueError, IndexError):
            said = {"said": done.told}
        return said.get("end") not in ("busy", "waits")

    wait_for(has_ended, params["fetch_s"], pause_s=ASK_SECONDS)
    return said


def update_appliance(module: AnsibleModule) -> dict[str, Any]:
    """For an appliance: its own agent fetches, checks and installs; the trial begins with a reboot."""
    version, status = module.params["version"], update_status(module)
    before = str(status.get("version", ""))
    if is_on_trial(status, version):
        return {"changed": False, "outcome": "trial", "before": "", "after": before}
    if before == version:
        return {"changed": False, "outcome": "unchanged", "before": before, "after": before}
    if module.check_mode:
        return {"changed": True, "outcome": "updated", "before": before, "after": version}
    said = ordered(module)
    if said.get("end") == "trial":
        return {"changed": False, "outcome": "trial", "before": before, "after": before}
    if said.get("end") == "armed" and said.get("version") == version:
        return {"changed": True, "outcome": "installed", "before": before, "after": before}
    reason = failure_of(update_status(module), version) or str(said.get("said") or "it is not offered")
    return {"changed": False, "outcome": "failed", "before": before, "after": before, "reason": reason}


def verify_appliance(module: AnsibleModule) -> dict[str, Any]:
    """After the reboot: the agent has committed the version, or the box is back on the one before."""
    version = module.params["version"]
    last: dict[str, Any] = {}

    def is_decided() -> bool:
        nonlocal last
        last = update_status(module)
        return last.get("phase") == "idle" and not is_on_trial(last, version)

    decided = wait_for(is_decided, module.params["health_s"], pause_s=ASK_SECONDS)
    now = str(last.get("version", ""))
    said = {"changed": False, "before": now, "after": now}
    if decided and now == version:
        return {"outcome": "updated", **said}
    reason = failure_of(last, version) or f"{now} runs after its trial"
    if not decided:
        reason = f"no verdict within {module.params['health_s']} s ({last.get('phase')}): {reason}"
    return {"outcome": "rolled_back" if decided else "failed", "reason": reason, **said}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["program", "appliance"], "default": "program"},
            "verify": {"type": "bool", "default": False},
            "unit": {"type": "str", "default": "edgegw.service"},
            "folder": {"type": "path", "default": "/var/lib/edgegw"},
            "root": {"type": "path", "default": "/opt/edgegw"},
            "health_s": {"type": "int", "default": 90},
            "fetch_s": {"type": "int", "default": 7200},
            "settle_s": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    if module.params["kind"] == "program":
        module.exit_json(**update_program(module))
    module.exit_json(**(verify_appliance(module) if module.params["verify"] else update_appliance(module)))


if __name__ == "__main__":
    main()
