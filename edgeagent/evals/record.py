"""The record of a run: everything that its numbers depend on, so that they can be had again.

Files are named as a person knows them and told apart by their hashes; where they lie on this
machine is nobody's business and is left out, but for what the person typed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from edgeagent import manifest
from edgeagent.engine.versions import versions as engine_versions
from edgeagent.errors import UsageError
from edgeagent.messages import Json

PACKAGE = Path(__file__).parents[1]


def make(
    files: Mapping[str, Path],
    *,
    seed: int,
    prompts: Iterable[str] = (),
    settings: Mapping[str, Json] | None = None,
    argv: Sequence[str] | None = None,
) -> dict[str, Json]:
    """Return the record of a run that read `files`, role to path, a folder counting as one file.

    `settings` are the choices that change numbers and stand in no file. `argv` is what was typed
    after `edgeagent`; None takes this process's own. Reads every file whole: 0.6 s per GB.

    Raises:
        UsageError: a file cannot be read.
    """
    typed = sys.argv[1:] if argv is None else argv
    return {
        "command": shlex.join(["edgeagent", *typed]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "settings": dict(settings or {}),
        "files": {role: of_file(path) for role, path in files.items()},
        "prompts_sha256": hash_of(prompts),
        "versions": versions(),
        "machine": machine(),
    }


def of_file(path: Path) -> dict[str, Json]:
    """Return name, bytes and sha256 of a file, or of everything in a folder.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file())
            parts = [f"{file.relative_to(path).as_posix()} {_sha256(file)}" for file in inside]
            size, digest = sum(file.stat().st_size for file in inside), hash_of(parts)
        else:
            size, digest = path.stat().st_size, _sha256(path)
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror or exc}") from exc
    return {"name": path.name, "size_bytes": size, "sha256": digest}


def hash_of(texts: Iterable[str]) -> str:
    """Return one sha256 for texts in their order; no two lists of texts share theirs."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions of what computes a number here, `code` being our own sources' hash."""
    return {
        "edgeagent": _version("edgeagent"),
        "code": code_sha256(),
        **engine_versions(),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
    }


@cache
def code_sha256() -> str:
    """Return one hash for the package's sources: a checkout changes without its version."""
    sources = sorted(PACKAGE.rglob("*.py"))
    return hash_of(f"{file.relative_to(PACKAGE).as_posix()} {_sha256(file)}" for file in sources)


def machine() -> dict[str, Json]:
    """Return the processor that the speeds were measured on, and how many of it."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "n_cpus": len(allowed) if allowed else os.cpu_count(),
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip().lower(), value.strip())
    # Boards name themselves under "model", processors under "model name".
    return facts.get("model name") or facts.get("model") or platform.processor()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "a checkout that is not installed"


def _sha256(path: Path) -> str:
    return manifest.sha256(path)
