"""The suites that builds can be compared on, and the reference calls that some of them have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeagent.engine.readings import Reference
from edgeagent.errors import EvaluationError
from edgeagent.evals import tft
from edgeagent.evals.airline import Airline
from edgeagent.evals.bfcl.suite import Bfcl
from edgeagent.evals.compare import material
from edgeagent.evals.rows import Options, Suite
from edgeagent.scenarios import job

SUITES: dict[str, Callable[[], Suite]] = {"tft": tft.Tft, "airline": Airline, "bfcl": Bfcl}
NEED_FILES = frozenset({"tft"})
"""Suites that cannot do without `--data` and `--tools`."""


def references(name: str, options: Options) -> Sequence[Reference]:
    """Return the reference calls of a suite, each with what it follows; none where it has none.

    Raises:
        EvaluationError: data or tools are missing or cannot be read.
    """
    if name not in NEED_FILES:
        return ()
    if options.data is None or options.tools is None:
        raise EvaluationError(
            f"{name} needs --data FILE and --tools job_description.json "
            f"(or --data {name}=FILE --tools {name}=FILE)"
        )
    described = job.read(options.tools)
    pairs = tft.read(options.data)[: options.limit]
    return tuple(material.references(pairs, described.policy, described.tools))
