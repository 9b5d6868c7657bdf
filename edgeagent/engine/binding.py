"""llama-cpp-python's own chat completion made to write recorded calls: what we are held against.

Greedy, with the tools in the prompt and without a grammar, which is its fastest way. Nothing of
our prompt, grammar or loop is used. Runs as a worker process.
"""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edgeagent.engine import playing
from edgeagent.engine.client import EngineOptions, ModelFacts, Prompt
from edgeagent.engine.library import DEFAULT_N_CTX, threads
from edgeagent.engine.memory import peak_bytes
from edgeagent.engine.protocol import Finished
from edgeagent.engine.replay import Cost, Loop
from edgeagent.engine.template import Template
from edgeagent.engine.wire import N_SHORT_ID, probe
from edgeagent.errors import ContextFull, EngineError, ModelLoadError
from edgeagent.events import Prefilled
from edgeagent.manifest import PLACEHOLDER
from edgeagent.messages import (
    RESPOND,
    Call,
    CallMessage,
    Json,
    ResultMessage,
    TextMessage,
    Tool,
    UserMessage,
)

CERTAIN = 1e4
"""Logit that no model gives."""
Message: TypeAlias = dict[str, Json]


class _Script:
    """A logits processor that puts the script's tokens on top, and notes when it was asked."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.asked_at: list[float] = []
        self.prompt: list[int] = []

    def __call__(self, so_far: NDArray[np.intc], row: NDArray[np.single]) -> NDArray[np.single]:
        if not self.asked_at:
            self.prompt = so_far.tolist()
        if len(self.asked_at) < len(self.tokens):
            row[self.tokens[len(self.asked_at)]] = CERTAIN
        self.asked_at.append(time.perf_counter())
        return row


class Binding:
    """A model loaded by llama-cpp-python, with as many threads and as much context as ours."""

    def __init__(self, options: EngineOptions, _: mmap.mmap) -> None:
        """Load the model.

        Raises:
            ModelLoadError: llama-cpp-python cannot load it.
        """
        started = time.perf_counter()
        n_threads, n_threads_batch = threads(options.path.stat().st_size, options.n_threads)
        try:
            self._llama: Any = llama_cpp.Llama(
                str(options.path),
                n_ctx=options.n_ctx or DEFAULT_N_CTX,
                n_threads=n_threads,
                n_threads_batch=n_threads_batch,
                verbose=False,
            )
        except ValueError as exc:
            raise ModelLoadError(f"llama-cpp-python cannot load {options.path}: {exc}") from exc
        self._system = options.dialect.system
        self._by_user = options.dialect.tool_results == "user"
        end = self._text(self._llama.token_eos())
        special = {"bos_token": self._text(self._llama.token_bos()), "eos_token": end}
        template = Template(self._llama.metadata.get("tokenizer.chat_template", ""), special)
        self._wire = probe(template, [end], options.dialect.thinking)
        self.facts = ModelFacts(
            name=options.path.stem,
            quant="",
            n_ctx=self._llama.n_ctx(),
            n_params=0,
            size_bytes=options.path.stat().st_size,
            load_ms=(time.perf_counter() - started) * 1000,
            prefix_source="none",
        )

    def warm(self, policy: str, tools: tuple[Tool, ...]) -> Iterator[Prefilled | Finished]:
        """Read policy and tools; there is no other way than to ask for a token."""
        self._asked(Prompt(policy, tools, (UserMessage("a"),)), _Script(()), 1)
        yield Finished("prefilled")

    def replay(self, loop: Loop, prompt: Prompt, call: Call, tokens: tuple[int, ...]) -> Cost:
        """Answer the prompt with the tokens, and say what it took.

        Raises:
            ContextFull: prompt and answer do not fit.
            EngineError: fewer or other tokens were written.
        """
        before = self._llama.input_ids[: self._llama.n_tokens].tolist()
        script = _Script(tokens)
        cpu, started = time.process_time(), time.perf_counter()
        self._asked(prompt, script, len(tokens))
        cpu, ended = time.process_time() - cpu, time.perf_counter()
        n_prompt = len(script.prompt)
        written = self._llama.input_ids[n_prompt : self._llama.n_tokens].tolist()
        # The last token is chosen and never read.
        if len(script.asked_at) != len(tokens) or written != list(tokens[:-1]):
            raise EngineError(f"llama-cpp-python did not write the recorded call of {call.name}")
        shared = 0
        for old, new in zip(before, script.prompt[:-1], strict=False):
            if old != new:
                break
            shared += 1
        first = script.asked_at[0]
        return Cost(
            n_prompt=n_prompt,
            n_prefilled=n_prompt - shared,
            prefill_ms=(first - started) * 1000,
            n_decoded=len(tokens),
            n_sampled=len(tokens),
            n_drafted=0,
            decode_ms=(ended - first) * 1000,
            first_token_ms=(first - started) * 1000,
            cpu_ms=cpu * 1000,
            peak_bytes=peak_bytes(),
            n_held=self._llama.n_tokens,
            tokens=tuple(tokens),
        )

    def _asked(self, prompt: Prompt, script: _Script, max_tokens: int) -> None:
        try:
            self._llama.create_chat_completion(
                messages=self._messages(prompt),
                tools=[_tool(tool) for tool in prompt.tools],
                tool_choice="auto",
                temperature=0.0,
                max_tokens=max_tokens,
                logits_processor=llama_cpp.LogitsProcessorList([script]),
            )
        except ValueError as exc:
            n_prompt, n_ctx = len(script.prompt), self._llama.n_ctx()
            if "exceed context window" in str(exc):
                raise ContextFull(n_prompt or n_ctx, max_tokens, n_ctx) from exc
            raise EngineError(f"llama-cpp-python: {exc}") from exc

    def _messages(self, prompt: Prompt) -> list[Message]:
        chat: list[Message] = [
            {"role": "system", "content": self._system.replace(PLACEHOLDER, prompt.policy)}
        ]
        for message in prompt.conversation:
            match message:
                case UserMessage(text):
                    chat.append({"role": "user", "content": text})
                case TextMessage(text):
                    chat.append({"role": "assistant", "content": text})
                case CallMessage((Call(_, name, arguments),)) if (
                    name == RESPOND and self._wire.replies_as_text
                ):
                    chat.append({"role": "assistant", "content": arguments.get("message", "")})
                case CallMessage(calls):
                    written = [self._call(call) for call in calls]
                    chat.append({"role": "assistant", "content": "", "tool_calls": written})
                case ResultMessage(name=name) if name != RESPOND:
                    chat.append(self._result(message))
                case _:
                    pass
        return chat

    def _call(self, call: Call) -> Message:
        arguments: Json = dict(call.arguments)
        if self._wire.arguments_as_text:
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _result(self, result: ResultMessage) -> Message:
        if self._by_user:
            return {"role": "user", "content": result.content}
        return {
            "role": "tool",
            "name": result.name,
            "tool_call_id": self._id(result.call_id),
            "content": result.content,
        }

    def _id(self, call_id: str) -> str:
        if not self._wire.short_ids:
            return call_id
        return call_id.replace("_", "")[-N_SHORT_ID:].rjust(N_SHORT_ID, "0")

    def _text(self, token: int) -> str:
        text: str = self._llama._model.token_get_text(token) if token >= 0 else ""
        return text


def _tool(tool: Tool) -> Message:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": function}


if __name__ == "__main__":
    playing.run(Binding)
