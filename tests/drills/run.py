"""One drill in a folder of its own; what it found, with the ends of the logs."""

from __future__ import annotations

import random
import tempfile
import traceback
from pathlib import Path

from tests.drills.branch import Bank, MirroredBank
from tests.drills.classes import CLASSES, MIRRORED
from tests.postgres_server import fast_folder


def run(name: str, seed: int) -> str:
    """One drill in a folder of its own; what was wrong, "" for nothing."""
    with tempfile.TemporaryDirectory(prefix="edgegw-drill-", dir=fast_folder()) as folder:
        bank = (MirroredBank if name in MIRRORED else Bank)(Path(folder), random.Random(seed))
        try:
            CLASSES[name](bank)
        except Exception:  # noqa: BLE001 - whatever a drill raises is its finding
            logs = sorted(Path(folder).rglob("*.log"), key=lambda log: log.stat().st_mtime_ns)
            tails = [f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-8:]) for log in logs[-4:]]
            return "\n".join([f"{name} seed {seed}", traceback.format_exc(), *tails])
        finally:
            bank.end()
    return ""
