"""A running OpenAI-compatible server, llama-server above all, asked for the recorded answers.

Nothing can make a server write given words at the cost of its own: a grammar that leaves one text
would make it choose anew at every token that the model disagrees with. So its history is the
record, its context is brought to where it would be had it written the record itself, and it then
writes as many tokens as the record has, at the same place, in words of its own. The grammar of
the tools holds from where the model opens a call. What depends on how the server was started
(`-fa off -np 1 -t N`) cannot be asked for here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeagent import reach, wire
from edgeagent.engine.client import Prompt
from edgeagent.engine.replay import Cost
from edgeagent.engine.template import Template
from edgeagent.errors import (
    RemoteBroken,
    RemoteError,
    RemoteRefused,
    RemoteTimeout,
    TemplateError,
)
from edgeagent.evals.bench.process import Process, behind
from edgeagent.manifest import PLACEHOLDER, Dialect
from edgeagent.messages import RESPOND, Json, ResultMessage, UserMessage

if TYPE_CHECKING:
    import httpx2

CONNECT_S = 3.0
PATIENCE_S = 600.0
"""How long a server may say nothing, unless the bench knows better."""
ANSWER_BYTES = 4 << 20
"""Of one request that is not streamed; a rendered prompt is some 20 KiB."""
BEST: dict[str, Json] = {
    "cache_prompt": True,
    "temperature": 0.0,
    "samplers": ["top_k"],
    "top_k": 1,
    "parallel_tool_calls": False,
}
"""What a request can ask of llama-server to be as fast as it can: what it has read is kept, and
the likeliest token is taken without a chain of samplers."""


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


class _Rendered(_Told):
    prompt: str


@dataclass(slots=True)
class _Heard:
    """What came back, and when."""

    started: float
    first: float | None = None
    ended: float = 0.0
    usage: _Usage | None = None
    timings: _Timings | None = None


class Served:
    """An open connection to a server; use it in a `with` block."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        dialect: Dialect | None = None,
        *,
        shows_policy: bool = True,
    ) -> None:
        """Talk to `url`; `shows_policy` False leaves out a system message that would be moved."""
        self.url = url.rstrip("/")
        self.host = reach.host_of(url)
        self.offer = reach.Offer("")
        """What it serves, as far as it tells."""
        self.patience_s = PATIENCE_S
        """How long it may say nothing."""
        self.can_be_led = True
        """Whether its context can be brought to where the record is; llama-server's can."""
        self.n_runs = 0
        """Conversations that it has been asked for."""
        self._dialect = dialect or Dialect()
        self._shows_policy = shows_policy
        self._key = key
        self._client: httpx2.Client | None = None
        self._process: Process | None = None

    def __enter__(self) -> Self:
        """Ask which model is served.

        Raises:
            RemoteError: nobody answers, or nothing is served.
        """
        import httpx2  # 100 ms, and only --server needs it

        try:
            self.offer = reach.models(self.url, self._key, CONNECT_S)
        except RemoteError as exc:
            raise _of_bench(exc) from exc
        self._client = reach.opened(timeout=httpx2.Timeout(PATIENCE_S, connect=CONNECT_S))
        self._process = behind(self.url)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()

    def problem(self, n_params: int, size_bytes: int) -> str | None:
        """Return what tells its model from one of these sizes; None where nothing does."""
        for told, own, unit in (
            (self.offer.n_params, n_params, "weights"),
            (self.offer.size_bytes, size_bytes, "bytes of weights"),
        ):
            if told and told != own:
                return f"{self.offer.name!r} has {told:,} {unit} and the model has {own:,}"
        return None

    def lead(self, prompt: Prompt, text: str, *, is_best: bool) -> None:
        """Have the prompt and the recorded answer to it read, as though it had written that.

        Costs what reading takes, outside of any step. A server that cannot be told to leaves
        `can_be_led` False, and reads each answer again when the next step is asked for.

        Raises:
            RemoteError: it does not answer.
        """
        if not self.can_be_led:
            return
        root = self.url.removesuffix("/v1")
        try:
            said = self._whole(f"{root}/apply-template", self._body(prompt, is_best))
            rendered = _Rendered.model_validate_json(said).prompt
            order = {"prompt": rendered + text, "n_predict": 0, "cache_prompt": True}
            self._whole(f"{root}/completion", order)
        except (RemoteRefused, RemoteBroken, ValidationError):
            self.can_be_led = False

    def ask(self, prompt: Prompt, n_tokens: int, *, is_best: bool) -> Cost:
        """Return what an answer of at most so many tokens took.

        Raises:
            RemoteError: it does not answer, or tells no number of tokens.
        """
        cpu_ms = self._process.cpu_ms() if self._process else None
        body = self._body(prompt, is_best) | {
            "max_tokens": max(1, n_tokens),
            "stream_options": {"include_usage": True},
        }
        heard = self._heard(body)
        total_ms = (heard.ended - heard.started) * 1000
        first_ms = ((heard.first or heard.ended) - heard.started) * 1000
        if cpu_ms is not None and self._process is not None:
            after = self._process.cpu_ms()
            cpu_ms = after - cpu_ms if after is not None else None
        n_prompt, n_cached, n_decoded = self._counts(heard)
        decode_ms = heard.timings.predicted_ms if heard.timings else total_ms - first_ms
        return Cost(
            n_prompt=n_prompt,
            n_prefilled=n_prompt - n_cached,
            # What the network and the server's own parsing take counts as part of the reading.
            prefill_ms=max(0.0, total_ms - decode_ms),
            n_decoded=n_decoded,
            n_sampled=n_decoded,
            n_drafted=heard.timings.draft_n if heard.timings else 0,
            decode_ms=decode_ms,
            first_token_ms=first_ms,
            cpu_ms=cpu_ms,
            peak_bytes=self._process.peak_bytes() if self._process else None,
            # The last token is chosen and never read.
            n_held=n_prompt + n_decoded - 1,
        )

    def _counts(self, heard: _Heard) -> tuple[int, int, int]:
        """Return tokens of the prompt, of those that it had in its context, and written ones."""
        if (told := heard.timings) is not None and told.predicted_n > 0:
            return told.cache_n + told.prompt_n, told.cache_n, told.predicted_n
        if heard.usage is None or heard.usage.completion_tokens < 1:
            raise RemoteBroken(f"{self.host} does not tell how many tokens it wrote")
        cached = heard.usage.prompt_tokens_details
        n_cached = (cached and cached.cached_tokens) or 0
        return heard.usage.prompt_tokens, n_cached, heard.usage.completion_tokens

    def _body(self, prompt: Prompt, is_best: bool) -> dict[str, Json]:
        """Return the request for the next call, with the messages that our own prompt is of."""
        policy = self._dialect.system.replace(PLACEHOLDER, prompt.policy)
        told = tuple(
            UserMessage(message.content)
            if isinstance(message, ResultMessage) and self._dialect.tool_results == "user"
            else message
            for message in prompt.conversation
            if not isinstance(message, ResultMessage) or message.name != RESPOND
        )
        body = wire.request_body(self.offer.name, policy, prompt.tools, told)
        if not self._shows_policy:
            body["messages"] = body["messages"][1:]
        body |= {"tool_choice": "none", "ignore_eos": True}
        if is_best:
            body |= BEST
            body["chat_template_kwargs"] = {"enable_thinking": self._dialect.thinking}
        return body

    def _heard(self, body: dict[str, Json]) -> _Heard:
        heard = _Heard(time.perf_counter())
        for payload in wire.payloads(self._sent(f"{self.url}/chat/completions", body)):
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
        heard.ended = time.perf_counter()
        return heard

    def _whole(self, url: str, body: dict[str, Json]) -> bytes:
        said = b""
        for part in self._sent(url, body):
            said += part
            if len(said) > ANSWER_BYTES:
                raise RemoteBroken(f"{self.host} sends more than an answer can be")
        return said

    def _sent(self, url: str, body: dict[str, Json]) -> Iterator[bytes]:
        import httpx2

        assert self._client is not None, "asked before it was opened"
        headers = {
            "user-agent": reach.USER_AGENT,
            "content-type": "application/json",
            "accept-encoding": "identity",
            **({"authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        limits = httpx2.Timeout(self.patience_s, connect=CONNECT_S)
        ends = time.perf_counter() + self.patience_s
        raw = json.dumps(body).encode()
        try:
            with self._client.stream(
                "POST", url, content=raw, headers=headers, timeout=limits
            ) as response:
                if (status := response.status_code) != 200:
                    said = wire.complaint(response.read())
                    raise _of_bench(reach.from_status(status, response.headers, self.host, said))
                for part in response.iter_bytes():
                    yield part
                    if time.perf_counter() > ends:
                        waited = f"in {self.patience_s:.0f} s"
                        raise RemoteTimeout(f"{self.host} did not come to an end {waited}")
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as exc:
            raise reach.from_transport(exc, self.host) from exc


def shows_policy(template: str) -> bool:
    """Return whether a chat template shows the system message.

    Where one does not, llama-server puts it before the customer's first words, and the prompt is
    another than ours.
    """
    mark = "vultures waltz"
    messages = [{"role": "system", "content": mark}, {"role": "user", "content": "a"}]
    try:
        return mark in Template(template, {}).render(messages, [])
    except TemplateError:
        return True


def _of_bench(error: RemoteError) -> RemoteError:
    """Return the error with advice that fits: the larger model's settings name no address here."""
    said, _, advice = str(error).partition("; ")
    if "DEFER_BASE_URL" not in advice:
        return error
    return type(error)(f"{said}; give --server the address of its API, which ends in /v1")


def _says_something(choice: _Choice) -> bool:
    said = choice.delta or choice.message
    return said is not None and bool(said.content or said.reasoning_content or said.tool_calls)
