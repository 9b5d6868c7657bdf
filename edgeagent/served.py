"""A model behind an OpenAI-compatible server in the engine's place: `-m http://host:port/v1`.

For instance the llama-server that a model's card starts. There is no grammar and there are no
logits: a call is checked after it was written, one that is not valid is asked for once more, and
a deferral that may not leave is asked again without the tool. Knows no tiers and no permissions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeagent import reach
from edgeagent.config import RemoteConfig
from edgeagent.engine.client import ModelFacts, Prompt, StepDone, StepRule
from edgeagent.errors import ContextFull, EngineError, ModelLoadError, RemoteBroken, RemoteError
from edgeagent.events import Prefilled, Token
from edgeagent.ledger import added
from edgeagent.messages import DEFER, Tool, Verdict
from edgeagent.remote import Remote, RemoteDone

if TYPE_CHECKING:
    from pydantic import SecretStr

PATIENCE_S = 600.0
"""Longest step: reading a long prompt on a processor takes minutes."""
N_CTX = 4096
"""Context that is assumed where the server does not tell."""


class Served:
    """The local tier on a server; opens nothing before `start`."""

    def __init__(
        self, url: str, api_key: SecretStr | None = None, n_ctx: int | None = None
    ) -> None:
        self.facts: ModelFacts | None = None
        self._config = RemoteConfig(
            base_url=url, api_key=api_key, first_byte_s=PATIENCE_S, turn_s=PATIENCE_S
        )
        self._host = reach.host_of(url)
        self._n_ctx = n_ctx
        self._remote: Remote | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the server has answered."""
        return self._remote is not None

    def start(self) -> ModelFacts:
        """Ask the server what it serves; takes the first model of its list.

        Raises:
            ModelLoadError: it is not there, or it serves nothing.
        """
        if self.facts is None or self._remote is None:
            begun = time.monotonic()
            key = self._config.api_key.get_secret_value() if self._config.api_key else None
            try:
                offer = reach.models(f"{self._config.base_url}", key, self._config.connect_s)
            except RemoteError as error:
                raise ModelLoadError(
                    f"no model is served at {self._config.base_url}: {error}; "
                    "start the server, or choose a model on this machine with -m"
                ) from error
            self._remote = Remote(self._config.model_copy(update={"model": offer.name}))
            self.facts = ModelFacts(
                name=offer.name,
                quant="served",
                n_ctx=self._n_ctx or offer.n_ctx or N_CTX,
                n_params=offer.n_params,
                size_bytes=offer.size_bytes,
                load_ms=(time.monotonic() - begun) * 1000,
                prefix_source="none",
            )
        return self.facts

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Take any tool: nothing is enforced here, everything is checked afterwards."""

    def warm(
        self, policy: str, tools: Sequence[Tool], cancel: threading.Event
    ) -> Iterator[Prefilled]:
        """Do nothing: the server keeps its own prefixes."""
        yield from ()

    def prepare(self, prompt: Prompt, cancel: threading.Event) -> None:
        """Do nothing: words that were not sent yet stay on this machine."""

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        """Yield the answer as it is written, then the step.

        A server shows no probabilities: the verdict's is 1 or 0, and no threshold applies.

        Raises:
            ContextFull: the server says that the prompt is too long for it.
            EngineError: it gave no valid call, twice.
        """
        done = yield from self._valid(prompt, rule, rule.offered, cancel)
        has_deferred = any(call.name == DEFER for call in done.calls)
        usage = done.usage
        if has_deferred and rule.on_defer is not None and not cancel.is_set():
            done = yield from self._valid(prompt, rule, rule.on_defer, cancel)
            usage = added(usage, done.usage)
        yield StepDone(
            calls=done.calls,
            text="",
            verdict=Verdict(has_deferred, float(has_deferred), "greedy"),
            usage=usage,
            stop="complete" if done.calls else "cancelled",
        )

    def close(self) -> None:
        """Shut the connections."""
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _valid(
        self, prompt: Prompt, rule: StepRule, offered: frozenset[str], cancel: threading.Event
    ) -> Generator[Token, None, RemoteDone]:
        try:
            return (yield from self._ask(prompt, offered, cancel))
        except RemoteBroken as error:
            self._raise_if_full(error, rule)
        except RemoteError as error:
            raise EngineError(f"the model server at {self._host}: {error}") from error
        try:
            return (yield from self._ask(prompt, offered, cancel))
        except RemoteError as error:
            raise EngineError(f"the model server at {self._host}, twice: {error}") from error

    def _ask(
        self, prompt: Prompt, offered: frozenset[str], cancel: threading.Event
    ) -> Generator[Token, None, RemoteDone]:
        facts = self.start()
        assert self._remote is not None
        tools = [tool for tool in prompt.tools if tool.name in offered]
        for item in self._remote.step(
            prompt.policy, tools, prompt.conversation, PATIENCE_S, cancel
        ):
            if isinstance(item, RemoteDone):
                return replace(item, usage=replace(item.usage, n_ctx=facts.n_ctx))
            yield item
        raise AssertionError("a step ends with RemoteDone or raises")

    def _raise_if_full(self, error: RemoteBroken, rule: StepRule) -> None:
        """Servers say it in words only, each in its own."""
        said = str(error).lower()
        if said.startswith(("400", "413")) and ("context" in said or "too long" in said):
            assert self.facts is not None
            n_ctx = self.facts.n_ctx
            raise ContextFull(n_ctx, rule.max_tokens, n_ctx) from error
