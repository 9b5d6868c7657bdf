"""The worker process: one model, one pipe, one request at a time.

Started by `client.Engine`; its standard output and error are the log file from the first moment
on. It ends when its standard input closes, which happens when the parent is gone, however that
came about. An error of ours crosses the pipe; any other ends the process and is in the log file.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from edgeagent.engine import library, tuning
from edgeagent.engine.appending import AppendingWriter
from edgeagent.engine.client import EngineOptions, ModelFacts, Prompt, StepDone, StepRule
from edgeagent.engine.context import Context
from edgeagent.engine.copying import Copying
from edgeagent.engine.decode import Decoder
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.measuring import Meter
from edgeagent.engine.prefix import PrefixStore
from edgeagent.engine.prompt import PromptWriter, continuations, n_shared
from edgeagent.engine.protocol import Failed, Finished, Request
from edgeagent.engine.tables import Table, untuned
from edgeagent.engine.template import Template
from edgeagent.engine.tuning import Subject
from edgeagent.engine.wire import probe
from edgeagent.errors import EdgeAgentError
from edgeagent.events import Prefilled, Token
from edgeagent.messages import Tool, UserMessage


class Worker:
    """A loaded model and what serves it."""

    def __init__(
        self,
        options: EngineOptions,
        flag: mmap.mmap,
        over: Callable[[Context], Context] = lambda context: context,
    ) -> None:
        """Load the model; `over` may put another context over the one that was opened.

        Raises:
            ModelLoadError: the file cannot be run on this machine.
            TemplateError: its chat template is missing or cannot carry tools.
        """
        started = time.perf_counter()
        self._flag = flag
        self._options = options
        address = ctypes.addressof(ctypes.c_char.from_buffer(flag))
        opened = library.open_model(
            options.path, options.n_ctx, options.n_threads, address, options.n_outputs, self._choose
        )
        self._context = context = over(opened.context)
        vocabulary = context.vocabulary
        if options.context_limit is not None:
            context.n_ctx = min(context.n_ctx, options.context_limit)
        special = {
            "bos_token": vocabulary.text_of(vocabulary.begin),
            "eos_token": vocabulary.text_of(vocabulary.end),
        }
        template = Template(opened.template, special)
        ends = [vocabulary.text_of(token) for token in vocabulary.ends]
        wire = probe(template, ends, options.dialect.thinking)
        self._wire = wire
        write = AppendingWriter if options.dialect.append_only else PromptWriter
        self._writer = write(template, vocabulary, wire, options.dialect)
        self._grammars = Grammars(vocabulary, wire, options.dialect.calls)
        prefixes = PrefixStore(
            options.cache_dir, options.path, opened.table.setting.key, options.cache_bytes
        )
        self._decoder = Decoder(
            context, self._grammars, wire, prefixes, self._is_cancelled, opened.table.costs
        )
        self._prefixes: dict[tuple[str, str], list[int]] = {}
        self.meter = Meter(context, self._writer, self._grammars, wire)
        self.facts = ModelFacts(
            opened.name,
            opened.quant,
            context.n_ctx,
            opened.n_params,
            opened.size_bytes,
            (time.perf_counter() - started) * 1000,
            "none",
            opened.table,
        )

    def _choose(self, subject: Subject) -> Table:
        options = self._options
        if options.tuning == "none":
            return untuned(subject.default, "not asked for")
        return tuning.table_for(
            subject, options.path, options.cache_dir, options.n_threads,
            again=options.tuning == "again",
        )  # fmt: skip

    def check(self, tools: tuple[Tool, ...]) -> None:
        """Return if every tool's schema can be enforced.

        Raises:
            SchemaRefused: one cannot.
        """
        self._grammars.check(tools)

    def warm(self, policy: str, tools: tuple[Tool, ...]) -> Iterator[Prefilled | Finished]:
        """Bring the prefix of every prompt into the context."""
        prefix = self._prefix(policy, tools)
        source = yield from self._decoder.warm(prefix, len(prefix))
        yield Finished(source)

    def step(self, prompt: Prompt, rule: StepRule) -> Iterator[Prefilled | Token | StepDone]:
        """Take one step."""
        self._grammars.use(prompt.tools)
        tokens = self._writer.tokens(prompt)
        n_prefix = self._n_prefix(prompt, tokens)
        copying = self.copying(prompt)
        for said in self._decoder.step(tokens, n_prefix, prompt.tools, rule, copying):
            if isinstance(said, StepDone) and isinstance(self._writer, AppendingWriter):
                self._writer.remember(said, self._decoder.written)
            yield said

    def copying(self, prompt: Prompt) -> Copying | None:
        """Return what the model has to copy from the conversation; None if it may invent."""
        dialect = self._options.dialect
        if not dialect.copied_ids and not dialect.copied_words:
            return None
        pieces = self._context.vocabulary.pieces
        return Copying(prompt.conversation, dialect, self._wire, pieces)

    def prepare(self, prompt: Prompt) -> Iterator[Prefilled | Finished]:
        """Read what the prompt begins with, however its last message goes on.

        What turns out otherwise is dropped by the step that finds it, as anything else would be.
        """
        *before, last = prompt.conversation
        assert isinstance(last, UserMessage), "a customer types"
        certain: list[int] | None = None
        for text in continuations(last.text):
            if self._is_cancelled():
                return
            going_on = replace(prompt, conversation=(*before, UserMessage(text)))
            tokens = self._writer.tokens(going_on)
            certain = tokens if certain is None else certain[: n_shared(certain, tokens)]
        assert certain is not None
        goes_back = self._context.can_go_back or certain[: len(self._context.log)] == (
            self._context.log
        )
        if goes_back and len(certain) < self._context.n_ctx:
            n_prefix = self._n_prefix(prompt, certain)
            yield from self._decoder.warm(certain, n_prefix)

    def park(self) -> None:
        """Keep the conversation in the context for the process that goes on with it."""
        for prefix in self._prefixes.values():
            if self._context.log[: len(prefix)] == prefix:
                self._decoder.park(len(prefix))

    def _n_prefix(self, prompt: Prompt, tokens: list[int]) -> int:
        """Return how many of the tokens every prompt begins with."""
        prefix = self._prefix(prompt.policy, prompt.tools)
        return len(prefix) if tokens[: len(prefix)] == prefix else 0

    def _prefix(self, policy: str, tools: tuple[Tool, ...]) -> list[int]:
        key = (policy, repr(tools))
        if key not in self._prefixes:
            self._prefixes = {key: self._writer.prefix(policy, tools)}
        return self._prefixes[key]

    def _is_cancelled(self) -> bool:
        return self._flag[0] != 0


def serve(pipe: Connection, flag: mmap.mmap) -> None:
    """Answer requests until the parent closes the pipe.

    Raises:
        EOFError, ConnectionError: it did.
    """
    worker: Worker | None = None
    while True:
        request: Request = pipe.recv()
        try:
            if request.kind == "load":
                (options,) = request.args
                worker = Worker(options, flag)
                pipe.send(Finished(worker.facts))
                continue
            assert worker is not None, "the first request loads the model"
            for said in _answers(worker, request):
                pipe.send(said)
        except EdgeAgentError as exc:
            pipe.send(Failed(type(exc).__name__, arguments_of(exc)))


def _answers(worker: Worker, request: Request) -> Iterator[Any]:
    match request.kind:
        case "check":
            worker.check(*request.args)
            yield Finished()
        case "warm":
            yield from worker.warm(*request.args)
        case "step":
            yield from worker.step(*request.args)
            yield Finished()
        case "prepare":
            yield from worker.prepare(*request.args)
            yield Finished()
        case "park":
            worker.park()
            yield Finished()
        case "read":
            yield Finished(worker.meter.read(*request.args))
        case "speed":
            yield Finished(worker.meter.speed())
        case "load":
            raise AssertionError("a worker loads one model")


def arguments_of(exc: EdgeAgentError) -> tuple[Any, ...]:
    """Return what the error's class has to be called with to make it again."""
    fields = tuple(vars(exc).values())
    return fields or exc.args


def end_with_parent() -> None:
    """Wait for standard input to close, which the parent's end does, and end the process."""
    while os.read(0, 1):
        pass
    os._exit(0)


def main() -> None:
    """Serve on the file descriptors named on the command line: pipe, abort flag."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    flag = mmap.mmap(int(sys.argv[2]), 2)
    # The parent is gone, or listens no more: either way there is nobody left to serve.
    with contextlib.suppress(EOFError, ConnectionError):
        serve(Connection(int(sys.argv[1])), flag)


if __name__ == "__main__":
    main()
