"""The process of an engine that replays: what is the same whoever decodes.

Imports neither llama.cpp nor a grammar, so that each engine's start costs its own imports only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeAlias

from edgeagent.engine.client import EngineOptions, ModelFacts, Prompt
from edgeagent.engine.protocol import Failed, Finished, Request
from edgeagent.engine.replay import Cost, Loop
from edgeagent.errors import EdgeAgentError
from edgeagent.events import Prefilled
from edgeagent.messages import Call, Tool


class Player(Protocol):
    """A loaded model that can replay."""

    facts: ModelFacts

    def warm(self, policy: str, tools: tuple[Tool, ...]) -> Iterator[Prefilled | Finished]:
        """Bring the prefix of every prompt into the context."""
        ...

    def replay(self, loop: Loop, prompt: Prompt, call: Call, tokens: tuple[int, ...]) -> Cost:
        """Answer the prompt with the call and say what it took."""
        ...


Make: TypeAlias = Callable[[EngineOptions, mmap.mmap], Player]


def run(make: Make) -> None:
    """Serve on the file descriptors named on the command line: pipe, abort flag."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    flag = mmap.mmap(int(sys.argv[2]), 2)
    # The parent is gone, or listens no more: either way there is nobody left to serve.
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(Connection(int(sys.argv[1])), flag, make)


def _serve(pipe: Connection, flag: mmap.mmap, make: Make) -> None:
    player: Player | None = None
    while True:
        request: Request = pipe.recv()
        try:
            if request.kind == "load":
                player = make(request.args[0], flag)
                pipe.send(Finished(player.facts))
                continue
            assert player is not None, "the first request loads the model"
            for said in _answers(player, request):
                pipe.send(said)
        except EdgeAgentError as exc:
            fields = tuple(vars(exc).values())
            pipe.send(Failed(type(exc).__name__, fields or exc.args))


def _answers(player: Player, request: Request) -> Iterator[Any]:
    if request.kind == "warm":
        yield from player.warm(*request.args)
    else:
        assert request.kind == "replay", request.kind
        yield Finished(player.replay(*request.args))


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)
