"""Carries a comparison out: every part of every build, measured once and kept.

Yields what happens; a part that is there already is taken from the cache, so that a run that was
broken off goes on where it stopped. Prints nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

from edgeagent import wiring
from edgeagent.config import Config
from edgeagent.engine import meter
from edgeagent.engine.client import Engine
from edgeagent.engine.readings import N_ROWS, Passage, Readings
from edgeagent.errors import EdgeAgentError, StoreError
from edgeagent.evals import record
from edgeagent.evals.compare import divergence, reading
from edgeagent.evals.compare.builds import Build
from edgeagent.evals.compare.cache import Cache
from edgeagent.evals.compare.divergence import Places
from edgeagent.evals.compare.material import Material
from edgeagent.evals.compare.reading import Incomparable
from edgeagent.evals.rows import Options, Progress, Row, Suite
from edgeagent.messages import Json
from edgeagent.wiring import Local

TEXT, CALLS, SPEED = "text", "calls", "speed"
N_LOADS = 3
"""Times that a build is loaded; the fastest counts, with its file in the system's memory."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared, on what."""

    builds: Sequence[Build]
    """The base first."""
    suites: Sequence[tuple[Suite, Options]]
    material: Material
    n_text: int
    """Places of running text that are read off."""
    config: Config
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """A part is under way."""

    build: str
    part: str
    number: int
    """From 1."""
    total: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A part is done."""

    build: str
    part: str
    is_cached: bool
    seconds: float
    failure: str = ""
    """Why there is nothing to show for it; the other parts go on."""


Happened: TypeAlias = Begun | Progress | Ended


@dataclass(slots=True)
class Found:
    """Everything that was found out of one build."""

    build: Build
    speed: Mapping[str, Json] | None = None
    places: dict[str, Places] = field(default_factory=dict)
    """By `TEXT` and `CALLS`."""
    refused: dict[str, str] = field(default_factory=dict)
    """Part → why its distributions were not compared with the base's."""
    n_cut: dict[str, int] = field(default_factory=dict)
    """Part → passages that did not fit, or that the grammar refused."""
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """By suite."""
    failures: dict[str, str] = field(default_factory=dict)
    """Part → what went wrong."""


class Comparison:
    """One run of a plan; `found` fills up while `carried_out` is exhausted."""

    def __init__(self, plan: Plan, cache: Cache) -> None:
        self.plan = plan
        self.found = [Found(build) for build in plan.builds]
        self._cache = cache
        self._base: dict[str, list[Readings]] = {}
        self._material = plan.material.sha256
        self._is_cached = False

    def carried_out(self) -> Iterator[Happened]:
        """Do everything, yielding what happens.

        Raises:
            StoreError: a finished part cannot be kept.
        """
        total = sum(len(list(self._parts(found))) for found in self.found)
        number = 0
        for found in self.found:
            for part, work in self._parts(found):
                number += 1
                yield Begun(found.build.label, part, number, total)
                started, self._is_cached, failure = time.monotonic(), False, ""
                try:
                    yield from work()
                except StoreError:
                    raise
                except EdgeAgentError as exc:
                    failure = found.failures[part] = str(exc)
                seconds = time.monotonic() - started
                yield Ended(found.build.label, part, self._is_cached, seconds, failure)

    def _parts(self, found: Found) -> Iterator[tuple[str, Callable[[], Iterator[Progress]]]]:
        yield SPEED, lambda: self._speed(found)
        material = self.plan.material
        if material.texts:
            yield TEXT, lambda: self._read(found, TEXT, material.texts, self.plan.n_text)
        if material.calls:
            yield CALLS, lambda: self._read(found, CALLS, material.calls, None)
        for suite, options in self.plan.suites:
            yield (
                suite.name,
                lambda suite=suite, options=options: self._suite(  # type: ignore[misc]  # bound early
                    found, suite, options
                ),
            )

    def _speed(self, found: Found) -> Iterator[Progress]:
        yield Progress(0, 1)
        key = self._key(found.build, SPEED, record.machine())
        kept = self._cache.read_json(key)
        self._is_cached = kept is not None
        if kept is None:
            loads = []
            with closing(self._engine(found.build)) as engine:
                for _ in range(N_LOADS):
                    engine.close()
                    facts = engine.start()
                    loads.append(facts.load_ms)
                speed = meter.speed(engine)
            busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            kept = {"load_ms": min(loads), "n_ctx": facts.n_ctx, "busy": busy, **asdict(speed)}
            self._cache.write_json(key, kept)
        found.speed = kept

    def _read(
        self, found: Found, part: str, passages: Sequence[Passage], n_most: int | None
    ) -> Iterator[Progress]:
        is_base = found is self.found[0]
        if is_base or part not in self._base:
            # Where the base could not be read, the build's own perplexity is still worth having.
            readings = yield from self._of_base(found, part, passages, n_most)
            if is_base:
                self._base[part] = readings
            else:
                found.refused[part] = "the base could not be read"
            self._take(found, part, reading.alone(readings), sum(r.is_cut for r in readings))
            return
        base = self._base[part]
        refusal = self._refusal(found.build)
        if refusal is None:
            compared = yield from self._of_build(found, part, passages, base)
            if isinstance(compared, Places):
                self._take(found, part, compared, sum(r.is_cut for r in base))
                return
            refusal = compared.reason
        found.refused[part] = refusal
        readings = yield from self._of_base(found, part, passages, n_most)
        self._take(found, part, reading.alone(readings), sum(r.is_cut for r in readings))

    def _take(self, found: Found, part: str, places: Places, n_cut: int) -> None:
        found.places[part], found.n_cut[part] = places, n_cut

    def _refusal(self, build: Build) -> str | None:
        base = self.plan.builds[0]
        if build.tokenizer_sha256 == base.tokenizer_sha256:
            return None
        return (
            f"its tokenizer differs from {base.label}'s ({build.n_vocab:,} tokens, "
            f"there {base.n_vocab:,}), so their distributions cannot be laid side by side"
        )

    def _of_base(
        self, found: Found, part: str, passages: Sequence[Passage], n_most: int | None
    ) -> Generator[Progress, None, list[Readings]]:
        key = self._key(found.build, f"{part} readings", self._material, n_most)
        kept = self._cache.read_arrays(key)
        self._is_cached = kept is not None
        if kept is not None:
            return reading.from_arrays(kept)
        readings: list[Readings] = []
        with closing(self._engine(found.build, N_ROWS)) as engine:
            engine.start()
            for item in reading.of_base(engine, passages, n_most):
                if isinstance(item, Progress):
                    yield item
                else:
                    readings = item
        self._cache.write_arrays(key, reading.as_arrays(readings))
        return readings

    def _of_build(
        self, found: Found, part: str, passages: Sequence[Passage], base: Sequence[Readings]
    ) -> Generator[Progress, None, Places | Incomparable]:
        against = self.plan.builds[0].sha256
        key = self._key(found.build, f"{part} places", self._material, len(base), against)
        kept = self._cache.read_arrays(key)
        self._is_cached = kept is not None
        if kept is not None:
            return divergence.from_arrays(kept)
        result: Places | Incomparable = Incomparable("nothing was read")
        with closing(self._engine(found.build, N_ROWS)) as engine:
            engine.start()
            for item in reading.of_build(engine, passages, base):
                if isinstance(item, Progress):
                    yield item
                else:
                    result = item
        if isinstance(result, Places):
            self._cache.write_arrays(key, divergence.as_arrays(result))
        return result

    def _suite(self, found: Found, suite: Suite, options: Options) -> Iterator[Progress]:
        journal = self._cache.journal(self._key(found.build, suite.name, _as_json(options)))
        rows = journal.rows()
        self._is_cached = journal.is_whole()
        if not self._is_cached:
            done = frozenset(row.id for row in rows)
            with closing(self._engine(found.build)) as engine:
                engine.start()
                local = self._local(found.build, engine)
                for item in suite.run(local, replace(options, done=done)):
                    if isinstance(item, Row):
                        journal.add(item)
                        rows.append(item)
                    else:
                        yield item
            journal.end()
        found.rows[suite.name] = rows

    def _engine(self, build: Build, n_outputs: int = 1) -> Engine:
        return wiring.open_engine(self.plan.config, build.model, n_outputs, "none")

    def _local(self, build: Build, engine: Engine) -> Local:
        model = build.model
        max_tokens = self.plan.config.model.max_tokens
        return Local(model.path.name, engine, model.manifest, build.quant, model.path, max_tokens)

    def _key(self, build: Build, *what: Json) -> str:
        """Return a name for a part that changes with everything that its numbers depend on."""
        model = self.plan.config.model
        depends = [
            build.sha256,
            build.model.manifest.dialect.model_dump(),
            build.model.manifest.defer_threshold,
            model.n_ctx or build.model.manifest.n_ctx,
            model.n_threads,
            model.max_tokens,
            record.versions(),
            *what,
        ]
        return record.hash_of([json.dumps(depends, sort_keys=True)])[:32]


def _as_json(options: Options) -> Json:
    """Return what a suite's rows depend on, files by their hashes."""
    files = [options.data, options.tools]
    hashes = [record.of_file(file)["sha256"] if file else None for file in files]
    return [*hashes, options.limit, options.seed, dict(options.settings)]
