"""Reading a settings file: TOML bytes to a table, with the line of what is no TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgegw.config.options import SettingsError


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables; raises SettingsError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SettingsError(
            str(path), [f"it cannot be read: {problem.strerror}; give the path of the settings"]
        ) from None
    except (ValueError, RecursionError) as problem:
        raise SettingsError(str(path), [f"it is no TOML: {problem}"]) from None
