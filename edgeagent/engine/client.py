"""The parent's side of the engine: owns the worker process and speaks with it.

Refuses to know llama.cpp: nothing of it is imported into this process, so that an abort, an
exhausted memory or a print to the terminal stays in the worker.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from edgeagent import errors
from edgeagent.engine import waiting
from edgeagent.engine.protocol import Failed, Finished, Kind, Request
from edgeagent.engine.tables import Table
from edgeagent.errors import EdgeAgentError, EngineDied, ModelLoadError
from edgeagent.events import Prefilled, Token
from edgeagent.manifest import Dialect
from edgeagent.messages import Call, Conversation, Tool, Usage, Verdict

Cancel: TypeAlias = threading.Event
"""Set from any thread; polled at least every 20 ms."""
Poll: TypeAlias = Callable[[], bool]
Tuning: TypeAlias = Literal["kept", "again", "none"]

N_FLAG = 2
POLL_S = 0.02
CLOSE_S = 2.0
MAX_LOG = 1 << 20
WORKER = "edgeagent.engine.worker"
PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which model to run, and how."""

    path: Path
    dialect: Dialect
    n_ctx: int | None = None
    """Tokens of context; None takes the model's own, at most 8192."""
    n_threads: int | None = None
    """None takes the physical cores this process may use."""
    cache_dir: Path | None = None
    """Where prefilled prefixes are kept; None keeps none."""
    cache_bytes: int = 2 << 30
    """Most that they may take there, those of all models together; 0 keeps none."""
    is_parking: bool = False
    """Whether `close` keeps the conversation there too, for whoever goes on with it."""
    log_file: Path = Path("/dev/null")
    """Gets everything that llama.cpp prints."""
    context_limit: int | None = None
    """Most tokens of prompt and answer, where a model was trained on less than n_ctx."""
    n_outputs: int = 1
    """Rows of logits that one pass may give; `meter` asks for more."""
    tuning: Tuning = "kept"
    """What passes cost here: `kept` measures where `cache_dir` has no table for model and device,
    once and for at most a few seconds; `again` measures in full; `none` runs with the defaults, so
    that builds are compared under one setting."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What was loaded."""

    name: str
    quant: str
    n_ctx: int
    n_params: int
    size_bytes: int
    load_ms: float
    prefix_source: str
    """Where the warm prefix came from: `none`, `context`, `disk` or `prefilled`."""
    table: Table | None = None
    """What it runs with; None where another engine than ours runs it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is shown."""

    policy: str
    tools: tuple[Tool, ...]
    """All tools, always the same, so that the prefix never changes."""
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class StepRule:
    """What one step may do."""

    offered: frozenset[str]
    """Names that the grammar offers at the branch."""
    defer_threshold: float | None
    """Probability at which the verdict is to defer; None lets greedy decide."""
    on_defer: frozenset[str] | None
    """None: decode the deferral call. A set: on that verdict read the same logits again and
    offer only these names."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """What the model did in one step."""

    calls: tuple[Call, ...]
    text: str
    """Plain words, only in the dialect `parallel_or_text`; else empty."""
    verdict: Verdict | None
    usage: Usage
    stop: Literal["complete", "cancelled"]


class Engine:
    """A local model in its own process.

    Used from one thread at a time; a second one waits for the lock.
    """

    def __init__(self, options: EngineOptions, worker: str = WORKER) -> None:
        """Prepare; the process, which runs the module `worker`, starts with `start`."""
        self.options = options
        self._worker = worker
        self.facts: ModelFacts | None = None
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        """Guards the next two, for an instant at a time."""
        self._n_wanted = 0
        """Requests that somebody waits for."""
        self._is_preparing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._flag = mmap.mmap(-1, N_FLAG)

    @property
    def is_alive(self) -> bool:
        """Whether the worker runs and has its model loaded."""
        return self.facts is not None and self._is_running()

    def start(self) -> ModelFacts:
        """Load the model, or say at once what is loaded; starts a dead worker again.

        Blocks for the load, 0.3 to 3 s. The first start of a model on a device also measures what
        passes cost: 0.3 s for nano, 4 s for 1.7B on two cores, 12 s at most before it gives up.

        Raises:
            ModelLoadError: the file cannot be run on this machine.
            TemplateError: its chat template is missing or cannot carry tools.
        """
        with self._held():
            if self.facts is not None and self._is_running():
                return self.facts
            self._stop()
            self._spawn()
            try:
                said = list(self._ask(Request("load", (self.options,))))
            except EngineDied as exc:
                raise ModelLoadError(
                    f"loading {self.options.path} ended the engine: {exc.args[0]}; "
                    "use another build of the model"
                ) from exc
            except EdgeAgentError:
                self._stop()
                raise
            facts: ModelFacts = said[-1].value
            self.facts = facts
            return facts

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Return if every tool's schema can be enforced.

        Raises:
            SchemaRefused: the grammar cannot enforce a tool's schema.
            EngineDied: the worker is gone; `start` it again.
        """
        with self._held():
            for _ in self._ask(Request("check", (tuple(tools),))):
                pass

    def warm(self, policy: str, tools: Sequence[Tool], cancel: Cancel) -> Iterator[Prefilled]:
        """Bring the prefix of every prompt, system and tools, into the context.

        From disk where it was kept, in milliseconds; else by a prefill, which is then kept.
        `facts.prefix_source` says which.

        Raises:
            EngineDied: the worker is gone; `start` it again.
        """
        with self._held():
            request = Request("warm", (policy, tuple(tools)))
            with closing(self._ask(request, cancel.is_set)) as answer:
                for said in answer:
                    if isinstance(said, Prefilled):
                        yield said
                    elif self.facts is not None:
                        self.facts = replace(self.facts, prefix_source=said.value)

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: Cancel
    ) -> Iterator[Prefilled | Token | StepDone]:
        """Yield progress, then pieces of one step's answer, then the step itself.

        Holds the engine until exhausted or closed. A set `cancel` ends it with a `StepDone` whose
        stop is `cancelled`, within milliseconds; the context stays usable.

        Raises:
            ContextFull: prompt and reserve do not fit; nothing was read.
            EngineDied: the worker is gone; `start` it again and repeat the step.
            TemplateError: the template refuses this conversation.
        """
        with self._held():
            # Left half way, the answer is thrown away here: an interrupt then would be lost in a
            # generator that nobody closes.
            request = Request("step", (prompt, rule))
            with closing(self._ask(request, cancel.is_set)) as answer:
                yield from (said for said in answer if not isinstance(said, Finished))

    def prepare(self, prompt: Prompt, cancel: Cancel) -> None:
        """Read what is certain of a prompt whose last message is still being typed.

        Changes what the next step costs and nothing else. Gives way at once to any other request,
        and returns without having read where the engine is not running or is needed. Blocks until
        it has read.

        Raises:
            EngineDied: the worker is gone; `start` it again.
            TemplateError: the template refuses this conversation.
        """
        with self._gate:
            if self._n_wanted or not self._lock.acquire(blocking=False):
                return
            self._is_preparing = True
        try:
            if self.is_alive:
                request = Request("prepare", (prompt,))
                for _ in self._ask(request, lambda: cancel.is_set() or self._n_wanted > 0):
                    pass
        finally:
            with self._gate:
                self._is_preparing = False
            self._lock.release()

    def ask(self, kind: Kind, *args: Any) -> Any:
        """Return the worker's answer to a request that has one; `meter` asks.

        Raises:
            EngineDied: the worker is gone; `start` it again.
        """
        with self._held():
            return list(self._ask(Request(kind, args)))[-1].value

    def close(self) -> None:
        """End the worker; takes at most 2 s, and 2 more where it parks. `start` starts it again."""
        self._flag[0] = 1
        # Whoever left a step half read holds the lock and will not come back for it.
        locked = self._lock.acquire(timeout=CLOSE_S / 2)
        try:
            if locked and self.options.is_parking and self.is_alive:
                self._park()
            self._stop()
        finally:
            if locked:
                self._lock.release()

    def _park(self) -> None:
        """Have the worker keep the conversation, if it can in the time there is."""
        with suppress(EngineDied, EOFError, OSError):
            self._send(Request("park", ()))
            if self._pipe is not None and self._pipe.poll(CLOSE_S):
                self._pipe.recv()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the engine for a request that somebody waits for; what is prepared gives way."""
        with self._gate:
            self._n_wanted += 1
            if self._is_preparing:
                self._flag[0] = 1
        try:
            with self._lock:
                yield
        finally:
            with self._gate:
                self._n_wanted -= 1

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **waiting.ENVIRONMENT,
            **os.environ,
            # Else ggml starts a debugger on itself when it aborts.
            "GGML_NO_BACKTRACE": "1",
            "PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), *_python_path()]),
        }
        # Both processes map the same two bytes; llama.cpp reads them between its operations.
        with tempfile.TemporaryFile() as shared, self._open_log() as log:
            shared.truncate(N_FLAG)
            self._flag = mmap.mmap(shared.fileno(), N_FLAG)
            descriptors = (theirs.fileno(), shared.fileno())
            self._process = subprocess.Popen(
                # -P keeps a json.py in the current folder from being imported.
                [sys.executable, "-P", "-m", self._worker, *map(str, descriptors)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=descriptors,
                # Ctrl-C in the terminal is the app's affair.
                process_group=0,
            )
        theirs.close()
        self._pipe = Connection(ours.detach())

    def _open_log(self) -> BinaryIO:
        path = self.options.log_file
        path.parent.mkdir(parents=True, exist_ok=True)
        is_long = path.is_file() and path.stat().st_size > MAX_LOG
        return path.open("wb" if is_long else "ab")

    def _ask(
        self, request: Request, is_cancelled: Poll = lambda: False
    ) -> Generator[Any, None, None]:
        """Send a request and yield what comes back, the `Finished` included."""
        self._flag[0] = 0
        finished = False
        try:
            self._send(request)
            while not finished:
                said = self._receive(is_cancelled)
                if isinstance(said, Failed):
                    finished = True
                    raise _error(said)
                finished = isinstance(said, Finished)
                yield said
        except KeyboardInterrupt:
            self._abandon()
            raise
        finally:
            if not finished:
                self._drain()

    def _send(self, request: Request) -> None:
        if self._pipe is None:
            raise EngineDied("the engine is not running; start it first")
        try:
            self._pipe.send(request)
        except OSError as exc:
            raise self._died() from exc

    def _receive(self, is_cancelled: Poll) -> Any:
        pipe = self._pipe
        if pipe is None:
            raise EngineDied("the engine was closed during the step; start it again")
        try:
            while True:
                if is_cancelled():
                    self._flag[0] = 1
                if pipe.poll(POLL_S):
                    return pipe.recv()
        except (EOFError, OSError) as exc:
            raise self._died() from exc

    def _drain(self) -> None:
        """Stop a request that nobody listens to any more."""
        self._flag[0] = 1
        try:
            while self._pipe is not None:
                if isinstance(self._receive(lambda: False), Finished | Failed):
                    return
        except EngineDied:
            return
        except KeyboardInterrupt:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """End a worker whose last word may have been lost, or half read: none would follow it."""
        self._flag[0] = 1
        self._stop()

    def _died(self) -> EngineDied:
        status = self._process.wait(CLOSE_S) if self._process else None
        self._stop()
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        return EngineDied(
            f"the engine's process ended with {how}; the conversation is kept, "
            f"and {self.options.log_file} has its last words"
        )

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _stop(self) -> None:
        self.facts = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # the worker ends itself on this
            try:
                self._process.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _error(failed: Failed) -> EdgeAgentError:
    made: EdgeAgentError = getattr(errors, failed.kind)(*failed.args)
    return made


def _python_path() -> list[str]:
    """Return what was set, so that an installation found only through it is found again."""
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
