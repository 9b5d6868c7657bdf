"""The parent's side of looking into a model: its activations, tokens and logits.

Like `client`, knows no llama.cpp: the passes run in a process of their own, `activations`, so
that an abort or an exhausted memory there is an error here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeagent import errors
from edgeagent.engine.protocol import Failed
from edgeagent.errors import EdgeAgentError, EngineDied
from edgeagent.messages import Json

WORKER = "edgeagent.engine.activations"
PACKAGE_ROOT = Path(__file__).parents[2]
CLOSE_S = 2.0
LAST_WORDS = 300
"""Characters of the worker's output that an error repeats."""


@dataclass(frozen=True, slots=True)
class Text:
    """Plain words, read as one stream of tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation in OpenAI's layout, read through the model's own template."""

    messages: tuple[Mapping[str, Json], ...]
    tools: tuple[Mapping[str, Json], ...]


Material: TypeAlias = Text | Talk


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read, and how."""

    path: Path
    material: tuple[Material, ...]
    n_chunk: int | None = None
    """Tokens of a plain text that are read in one context; None takes 512, or as many as the
    model was trained on where these are fewer."""
    max_chunks: int | None = None
    """Chunks that are read in all; None reads everything."""
    parse_special: bool = False
    """Whether control tokens spelled in plain text are read as such."""
    call_weight: float = 1.0
    """How often each token of a tool call in a model's answer counts; 1 as any other."""
    n_threads: int | None = None
    """None takes the physical cores this process may use."""
    collects: bool = True
    """False runs the same passes without looking, to tell what looking costs."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """So many tokens were read."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Activations:
    """What drove the model's weights."""

    sums: Mapping[str, npt.NDArray[np.float64]]
    """By the weight's name: the weighted sum of squared inputs over all tokens, shape (n_in,)."""
    n_tokens: int
    weight: float
    """Sum of all tokens' weights; `n_tokens` where no weight was given."""
    n_chunks: int
    n_chunk: int
    """Tokens of a whole chunk of plain text."""
    n_call_tokens: int
    """Tokens of tool calls in answers of the model."""
    cpu_s: float
    """Of all threads, for the passes alone."""


@dataclass(frozen=True, slots=True)
class Question:
    """Texts to be turned into tokens, and tokens to be read."""

    path: Path
    texts: tuple[str, ...] = ()
    """Control tokens in them are found, as in a prompt."""
    tokens: tuple[int, ...] = ()
    """Read in one context; at most some hundred, for each costs a float per token there is."""
    n_read: int = 0
    """Without `tokens`: how many of the texts' own, one after the other, are read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What llama.cpp makes of a question."""

    tokens: tuple[list[int], ...]
    """Of each text, with no token added."""
    read: tuple[int, ...]
    """The tokens that were read."""
    logits: npt.NDArray[np.float32] | None
    """After each of these, shape (len(read), vocabulary); None where there are none."""


def observe(plan: Plan) -> Iterator[Advanced | Activations]:
    """Yield progress, then what was collected; closing the generator ends the process.

    Costs one forward pass over the tokens, in another process.

    Raises:
        ModelLoadError: the file cannot be run on this machine.
        TemplateError: a conversation was given and the model's template cannot render it.
        ConversionError: there is nothing to read, or it asks for tokens the model lacks.
        EngineDied: llama.cpp ended its process.
    """
    return _said(plan)


def ask(question: Question) -> Answer:
    """Return llama.cpp's answer, from a process of its own. Costs a load and one forward pass.

    Raises:
        ModelLoadError: the file cannot be run on this machine.
        EngineDied: llama.cpp ended its process.
    """
    (answer,) = _said(question)
    assert isinstance(answer, Answer)
    return answer


def _said(job: Plan | Question) -> Iterator[Any]:
    """Yield what the worker says to the job, up to its result."""
    with tempfile.TemporaryFile() as log, _worker(log) as (process, pipe):
        try:
            pipe.send(job)
            while True:
                said = pipe.recv()
                if isinstance(said, Failed):
                    raise _error(said)
                yield said
                if not isinstance(said, Advanced):
                    return
        except (EOFError, OSError) as exc:
            status = process.wait(CLOSE_S)
            how = f"signal {-status}" if status < 0 else f"status {status}"
            log.seek(0)
            words = " ".join(log.read().decode("utf-8", "replace").split())[-LAST_WORDS:]
            raise EngineDied(
                f"reading {job.path} ended the engine's process with {how}: {words}"
            ) from exc


@contextmanager
def _worker(log: Any) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    ours, theirs = socket.socketpair()
    set_path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    environment = {
        # Nothing looks here whether the machine is busy (waiting.py), so threads sleep at once.
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        "GGML_NO_BACKTRACE": "1",
        "PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), *set_path]),
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        pass_fds=(theirs.fileno(),),
        process_group=0,
    )
    theirs.close()
    pipe = Connection(ours.detach())
    try:
        yield process, pipe
    finally:
        pipe.close()
        assert process.stdin is not None
        process.stdin.close()  # the worker ends itself on this
        try:
            process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _error(failed: Failed) -> EdgeAgentError:
    made: EdgeAgentError = getattr(errors, failed.kind)(*failed.args)
    return made
