"""Agents that understand nothing: the floors that a model has to beat."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from edgeagent.calls import new_id
from edgeagent.engine.client import ModelFacts, Prompt, StepDone, StepRule
from edgeagent.events import Prefilled, Token
from edgeagent.messages import RESPOND, TRANSFER, Call, Json, Tool, Usage


class Null:
    """A local tier that does the same at every step; the floor that a model has to beat."""

    def __init__(self, name: str, arguments: Mapping[str, Json]) -> None:
        self._name = name
        self._arguments = arguments

    @property
    def facts(self) -> ModelFacts | None:
        """Nothing is known of it."""
        return None

    @property
    def is_alive(self) -> bool:
        """It cannot die."""
        return True

    def start(self) -> ModelFacts:
        """Return empty facts."""
        return ModelFacts("null", "", 0, 0, 0, 0.0, "none")

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Return; its one call is known to be valid."""

    def warm(
        self, policy: str, tools: Sequence[Tool], cancel: threading.Event
    ) -> Iterator[Prefilled]:
        """Yield nothing."""
        return iter(())

    def prepare(self, prompt: Prompt, cancel: threading.Event) -> None:
        """Return; there is nothing to read."""

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        """Yield the one call."""
        call = Call(new_id(), self._name, self._arguments)
        yield StepDone((call,), "", None, Usage(), "complete")

    def close(self) -> None:
        """Return; there is nothing to end."""


NULLS = {
    "always hand off": (TRANSFER, {"summary": "The customer needs help."}),
    "always refuse": (RESPOND, {"message": "I am sorry, I cannot do that."}),
}
"""Agents that understand nothing."""
