"""Where finished comparisons lie: written by `compare`, listed and opened by the app."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgeagent import paths
from edgeagent.errors import UsageError

REPORT = "report.json"
N_KEPT = 50


def remember(folder: Path) -> None:
    """Note that the folder holds a report, so that the app can list it."""
    here = str(folder.resolve())
    known = [here, *(line for line in _listed() if line != here)][:N_KEPT]
    file = _file()
    partial = file.with_name(f"{file.name}.{os.getpid()}.part")
    partial.write_text("\n".join(known) + "\n", encoding="utf-8")
    os.replace(partial, file)


def folders() -> list[Path]:
    """Return the folders that still hold a report, the newest first."""
    return [folder for line in _listed() if ((folder := Path(line)) / REPORT).is_file()]


def read(folder: Path) -> dict[str, Any]:
    """Return the report in a folder, or in its file.

    Raises:
        UsageError: there is none, or it is not one.
    """
    file = folder if folder.is_file() else folder / REPORT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(
            f"there is no report in {folder} ({exc.strerror or exc}); "
            "make one: edgeagent compare BUILD… --out DIR"
        ) from exc
    except ValueError as exc:
        raise UsageError(f"{file} is not JSON: {exc}; compare again") from exc
    if not isinstance(found, dict) or not {"table", "builds", "flips", "prompts"} <= found.keys():
        raise UsageError(f"{file} is not a report of edgeagent compare")
    return found


def _file() -> Path:
    return paths.data_dir() / "comparisons"


def _listed() -> list[str]:
    try:
        return _file().read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []
