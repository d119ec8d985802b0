"""Writing results: folders that must be usable, files that must never be half written."""

import json
import os
from pathlib import Path
from typing import Any

from palestra.envs.errors import UsageError


def writable_folder(path: Path) -> None:
    """Create `path` and check that files can be made in it.

    Raises:
        UsageError: It is a file, or cannot be created or written.
    """
    probe = path / ".writable"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot write to the folder '{path}': {reason}; choose another --out") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)
