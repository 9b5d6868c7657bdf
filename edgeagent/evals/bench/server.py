"""A running OpenAI-compatible server, llama-server above all, asked for the recorded answers.

Its history is the record, but what it writes is its own: nothing can make a server write given
words without changing its prompt. It is stopped after as many tokens as the record has. What
depends on how the server was started (`-fa off -np 1 -t N --jinja`) cannot be asked for here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeagent import reach, wire
from edgeagent.engine.client import Prompt
from edgeagent.engine.replay import Cost
from edgeagent.errors import RemoteBroken
from edgeagent.messages import Json, Tool, UserMessage

if TYPE_CHECKING:
    import httpx2

PATIENCE_S = 600.0
CONNECT_S = 3.0
BEST: dict[str, Json] = {
    "cache_prompt": True,
    "id_slot": 0,
    "temperature": 0.0,
    "samplers": ["top_k"],
    "top_k": 1,
    "parallel_tool_calls": False,
    "chat_template_kwargs": {"enable_thinking": False},
}
"""What a request can ask of llama-server to be as fast as it can: one slot whose context is kept,
the likeliest token without a chain of samplers, no thoughts."""


class _Told(BaseModel):
    # Servers add fields of their own; what we do not know we do not read.
    model_config = ConfigDict(extra="ignore")


class _Delta(_Told):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(_Told):
    delta: _Delta | None = None
    message: _Delta | None = None


class _Details(_Told):
    cached_tokens: int | None = None


class _Usage(_Told):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Timings(_Told):
    """llama-server's own clock."""

    cache_n: int = 0
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    draft_n: int = 0


class _Chunk(_Told):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Json = None


@dataclass(slots=True)
class _Heard:
    """What came back, and when."""

    started: float
    first: float | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None


class Served:
    """An open connection to a server; use it in a `with` block."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.host = reach.host_of(url)
        self.model = ""
        self._key = key
        self._client: httpx2.Client | None = None
        self._n_warmed = 0

    def __enter__(self) -> Self:
        """Ask which model is served.

        Raises:
            RemoteError: nobody answers, or nothing is served.
        """
        import httpx2  # 100 ms, and only --server needs it

        self.model = reach.models(self.url, self._key, CONNECT_S).name
        self._client = reach.opened(timeout=httpx2.Timeout(PATIENCE_S, connect=CONNECT_S))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()

    def warm(self, policy: str, tools: tuple[Tool, ...], *, is_best: bool) -> None:
        """Have policy and tools read, as the app does before the customer has written."""
        self._n_warmed += 1
        self._heard(Prompt(policy, tools, (UserMessage("Hello."),)), 1, is_best)

    def ask(self, prompt: Prompt, n_tokens: int, *, is_best: bool) -> Cost:
        """Return what an answer of at most so many tokens took.

        The first message ends with the number of the repetition: a server that keeps what it
        has read on the side would else have the whole conversation from the last time.

        Raises:
            RemoteError: it does not answer, or tells no number of tokens.
        """
        first, *rest = prompt.conversation
        if isinstance(first, UserMessage):
            first = UserMessage(f"{first.text} ({self._n_warmed})")
        heard = self._heard(replace(prompt, conversation=(first, *rest)), n_tokens, is_best)
        total_ms = (time.perf_counter() - heard.started) * 1000
        first_ms = ((heard.first or heard.started) - heard.started) * 1000
        if (told := heard.timings) is not None:
            # What the network and the server's own parsing take counts as part of the reading.
            return Cost(
                n_prompt=told.cache_n + told.prompt_n,
                n_prefilled=told.prompt_n,
                prefill_ms=max(0.0, total_ms - told.predicted_ms),
                n_decoded=told.predicted_n,
                n_sampled=told.predicted_n,
                n_drafted=told.draft_n,
                decode_ms=told.predicted_ms,
                first_token_ms=first_ms,
            )
        if heard.usage is None or not heard.usage.completion_tokens:
            raise RemoteBroken(f"{self.host} does not tell how many tokens it wrote")
        cached = heard.usage.prompt_tokens_details
        return Cost(
            n_prompt=heard.usage.prompt_tokens,
            n_prefilled=heard.usage.prompt_tokens - ((cached and cached.cached_tokens) or 0),
            prefill_ms=first_ms,
            n_decoded=heard.usage.completion_tokens,
            n_sampled=heard.usage.completion_tokens,
            n_drafted=0,
            decode_ms=total_ms - first_ms,
            first_token_ms=first_ms,
        )

    def _heard(self, prompt: Prompt, n_tokens: int, is_best: bool) -> _Heard:
        body = {
            **wire.request_body(self.model, prompt.policy, prompt.tools, prompt.conversation),
            "tool_choice": "required",
            "max_tokens": max(1, n_tokens),
            "stream_options": {"include_usage": True},
            **(BEST if is_best else {}),
        }
        heard = _Heard(time.perf_counter())
        for payload in wire.payloads(self._chunks(body)):
            if payload.strip() == b"[DONE]":
                break
            try:
                chunk = _Chunk.model_validate_json(payload)
            except ValidationError as exc:
                raise RemoteBroken(f"{self.host} answers with what is no chat completion") from exc
            if chunk.error:
                raise RemoteBroken(f"{self.host} failed: {wire.explained(chunk.error)}")
            heard.usage = chunk.usage or heard.usage
            heard.timings = chunk.timings or heard.timings
            if heard.first is None and any(map(_says_something, chunk.choices or ())):
                heard.first = time.perf_counter()
        return heard

    def _chunks(self, body: dict[str, Json]) -> Iterator[bytes]:
        import httpx2

        assert self._client is not None, "asked before it was opened"
        headers = {
            "user-agent": reach.USER_AGENT,
            "content-type": "application/json",
            "accept-encoding": "identity",
            **({"authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        raw = json.dumps(body).encode()
        url = f"{self.url}/chat/completions"
        try:
            with self._client.stream("POST", url, content=raw, headers=headers) as response:
                if response.status_code != 200:
                    said = wire.complaint(response.read())
                    raise reach.from_status(response.status_code, response.headers, self.host, said)
                yield from response.iter_bytes()
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as exc:
            raise reach.from_transport(exc, self.host) from exc


def _says_something(choice: _Choice) -> bool:
    said = choice.delta or choice.message
    return said is not None and bool(said.content or said.reasoning_content or said.tool_calls)
