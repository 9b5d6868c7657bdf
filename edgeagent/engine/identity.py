"""Which model and which processor this is: what anything kept on disk is kept for.

Imports no llama.cpp, so that `doctor` may ask too.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

_NAMES = ("model name", "Model", "Hardware", "CPU implementer", "CPU part", "uarch", "isa")
"""What /proc/cpuinfo calls a processor or a board, by architecture."""


def sha256_of(model: Path, folder: Path) -> str:
    """Return the model file's SHA-256, from the last time if the file was not touched since.

    The time of change is part of that: a copy may keep size, date and path of another build.
    Costs 0.7 s per GB the first time; `folder` keeps what was found.
    """
    stat = model.stat()
    seen = (
        f"{model.resolve()} {stat.st_dev}:{stat.st_ino} {stat.st_size} "
        f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
    )
    cache = folder / "hashes.json"
    known = _read_hashes(cache)
    if seen not in known:
        with model.open("rb") as file:
            known[seen] = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = cache.with_suffix(f".{os.getpid()}.tmp")
            partial.write_text(json.dumps(dict(list(known.items())[-32:])), encoding="utf-8")
            os.replace(partial, cache)
        except OSError:
            pass  # hashed again at the next start
    return known[seen]


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what tells this processor from others, the cores that may be used included."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = dict.fromkeys(
        value.strip()
        for name, _, value in (line.partition(":") for line in lines)
        if name.strip() in _NAMES
    )
    name = ", ".join(said) or platform.processor() or "unknown"
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return f"{platform.machine()}, {name}, {len(allowed) or os.cpu_count()} cores"


def _read_hashes(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {seen: text for seen, text in known.items() if isinstance(text, str)}
