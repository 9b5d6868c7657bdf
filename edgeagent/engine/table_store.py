"""Tables of costs kept between starts: one for each model file, processor, llama.cpp and context.

Imports no llama.cpp, so that `doctor` may show what is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeagent.engine.costs import SIZES, Costs
from edgeagent.engine.identity import processor, sha256_of
from edgeagent.engine.quantizer import CPU_LIBRARY, library
from edgeagent.engine.tables import K_TYPES, Measured, Setting, Table
from edgeagent.engine.versions import versions
from edgeagent.messages import Json

log = logging.getLogger(__name__)

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Owner:
    """What a table is kept for."""

    model: str
    """SHA-256 of the GGUF file."""
    processor: str
    engine: str
    """Commit of llama.cpp, and the size of its kernels: a build with other flags has another."""
    n_ctx: int
    n_threads: int
    """What was asked for; 0 where nothing was."""

    @property
    def file_name(self) -> str:
        """Name of its file in the folder of tables."""
        said = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:32] + ".json"


def owner(model: Path, cache_dir: Path, n_ctx: int, n_threads: int | None) -> Owner:
    """Return whose table is wanted; reads the whole model file the first time, 0.7 s per GB."""
    return Owner(*_who(model, cache_dir), n_ctx, n_threads or 0)


def read(cache_dir: Path, whose: Owner) -> Table | None:
    """Return the table that is kept; None if there is none, or what is there is not one."""
    path = cache_dir / "costs" / whose.file_name
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return _table(record) if record["owner"] == dataclasses.asdict(whose) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return None


def age_s(cache_dir: Path, whose: Owner, now: float) -> float:
    """Return for how long the table has been kept; infinite where there is none."""
    try:
        return now - (cache_dir / "costs" / whose.file_name).stat().st_mtime
    except OSError:
        return math.inf


def write(cache_dir: Path, whose: Owner, table: Table) -> None:
    """Keep the table; a disk that is full or read-only only costs another measurement."""
    folder = cache_dir / "costs"
    path = folder / whose.file_name
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    record = {"format": FORMAT, "owner": dataclasses.asdict(whose), **dataclasses.asdict(table)}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
        os.replace(partial, path)
    except OSError as exc:
        log.warning("costs are not kept, file=%s reason=%r", path.name, str(exc))
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def kept(model: Path, cache_dir: Path) -> Iterator[tuple[Owner, Table]]:
    """Yield the tables kept for the model on this device with this llama.cpp, newest first."""
    who = _who(model, cache_dir)
    paths = sorted((cache_dir / "costs").glob("*.json"), key=_time_of, reverse=True)
    for path in paths:
        try:
            whose = Owner(**json.loads(path.read_text(encoding="utf-8"))["owner"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if (whose.model, whose.processor, whose.engine) != who or path.name != whose.file_name:
            continue
        table = read(cache_dir, whose)
        if table is not None:
            yield whose, table


def _who(model: Path, cache_dir: Path) -> tuple[str, str, str]:
    kernels = library().with_name(CPU_LIBRARY)
    size = kernels.stat().st_size if kernels.is_file() else 0
    engine = f"{versions()['llama.cpp']} {size}"
    return sha256_of(model, cache_dir / "prefixes"), processor(), engine


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _table(record: dict[str, Json]) -> Table:
    if record["format"] != FORMAT:
        raise ValueError("written by another version")
    costs = record["costs"]
    return Table(
        _setting(record["setting"]),
        None
        if costs is None
        else Costs(
            _figures(costs["ms"]), _figure(costs["row_ms"], 0.0), _figure(costs["drift"], 0.0)
        ),
        str(record["reason"]),
        int(record["depth"]),
        tuple(
            Measured(
                _setting(one["setting"]),
                tuple(None if ms is None else _figure(ms) for ms in one["ms"]),
                _figure(one["drift"], 0.0),
            )
            for one in record["tried"]
        ),
    )


def _setting(record: dict[str, Json]) -> Setting:
    made = Setting(**record)
    is_sane = (
        type(made.n_threads) is int
        and 1 <= made.n_threads <= 1024
        and type(made.flash_attention) is bool
        and made.k_type in K_TYPES
    )
    if not is_sane:
        raise ValueError(f"no such setting: {made}")
    return made


def _figures(values: list[Json]) -> tuple[float, ...]:
    if len(values) != len(SIZES):
        raise ValueError(f"{len(values)} figures for {len(SIZES)} sizes")
    return tuple(_figure(value) for value in values)


def _figure(value: Json, least: float = 1e-6) -> float:
    if type(value) not in (int, float) or not least <= value < 1e9:
        raise ValueError(f"{value!r} is no time")
    return float(value)
