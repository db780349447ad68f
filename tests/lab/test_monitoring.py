"""What the monitoring role writes, read by Prometheus' own checker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.skips import RULES, needs

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "ansible"
PLAY = """- hosts: localhost
  connection: local
  gather_facts: false
  roles: [edgegw.fleet.monitoring]
"""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600), needs(RULES)]


def test_rules_and_targets_are_what_prometheus_reads(tmp_path: Path) -> None:
    """An alert that does not parse is an alert that never comes; and the second run writes nothing."""
    promtool = shutil.which("promtool")
    assert promtool is not None
    subprocess.run([str(ROOT / ".ci" / "setup-ansible")], check=True, timeout=600)
    (tmp_path / "play.yml").write_text(PLAY)
    wanted = {
        "monitoring_folder": str(tmp_path / "prometheus"),
        "monitoring_boxes": ["10.99.0.11:8443"],
        "monitoring_hubs": ["10.99.0.10:9100"],
        "monitoring_promtool": promtool,
        "monitoring_service": "",
    }
    (tmp_path / "prometheus").mkdir()
    command = [
        str(ROOT / ".venv-ansible/bin/ansible-playbook"),
        "-i",
        "localhost,",
        str(tmp_path / "play.yml"),
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    said = ""
    for _ in range(2):
        done = subprocess.run(
            [*command, "-e", json.dumps(wanted)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
    assert "changed=0" in said
    rules = (tmp_path / "prometheus/rules/edgegw.yml").read_text()
    subprocess.run([promtool, "check", "rules", str(tmp_path / "prometheus/rules/edgegw.yml")], check=True)
    # A rule about a metric that nothing tells would be silent for ever.
    reference = (ROOT / "REFERENCE.md").read_text()
    for word in {
        word.strip("()").split("{")[0]
        for line in rules.splitlines()
        if "expr:" in line
        for word in line.split()
    }:
        if word.startswith("edgegw_"):
            assert f"`{word}`" in reference, word
