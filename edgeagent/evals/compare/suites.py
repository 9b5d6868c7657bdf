"""The suites that builds can be compared on, and the reference calls that some of them have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgeagent.engine.readings import Reference
from edgeagent.errors import EvaluationError
from edgeagent.evals import tft
from edgeagent.evals.airline import Airline
from edgeagent.evals.bfcl import suite as bfcl
from edgeagent.evals.compare import material
from edgeagent.evals.rows import Options, Suite
from edgeagent.evals.tau_pairs import TauPairs
from edgeagent.evals.tau_pairs import read as read_trajectories
from edgeagent.scenarios import job
from edgeagent.scenarios.airline import backend

SUITES: dict[str, Callable[[], Suite]] = {
    "tft": tft.Tft,
    "tau-pairs": TauPairs,
    "bfcl": bfcl.Bfcl,
    "airline": Airline,
}


def references(name: str, options: Options) -> Sequence[Reference]:
    """Return the reference calls of a suite, each with what it follows; none where it has none.

    Reads the suite's data in any case, so that what cannot be used is known before the work.

    Raises:
        EvaluationError: data or tools are missing or cannot be read.
    """
    match name:
        case "tft":
            return tuple(_of_tft(options))
        case "tau-pairs":
            return tuple(_of_trajectories(options))
        case "bfcl":
            bfcl.load(_needed(options.data, name, "--data"))
    return ()


def _of_tft(options: Options) -> Iterator[Reference]:
    data = _needed(options.data, "tft", "--data")
    described = job.read(_needed(options.tools, "tft", "--tools"))
    pairs = tft.read(data)[: options.limit]
    if not pairs:
        raise EvaluationError(f"{data} has no call of the assistant to ask for")
    yield from material.references((pair, described) for pair in pairs)


def _of_trajectories(options: Options) -> Iterator[Reference]:
    data = _needed(options.data, "tau-pairs", "--data")
    own = job.read(options.tools) if options.tools else None
    described = own or backend.description()
    for pair in read_trajectories(data)[: options.limit]:
        policy = (own is None and pair.policy) or described.policy
        yield from material.references([(pair, job.Job(policy, described.tools))])


def _needed(path: Path | None, name: str, option: str) -> Path:
    if path is None:
        raise EvaluationError(f"{name} needs {option} PATH, or among others {option} {name}=PATH")
    return path
