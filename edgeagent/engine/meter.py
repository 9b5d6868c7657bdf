"""Measuring a build from the app's side: what it makes of given tokens, and how fast it is.

Refuses to know llama.cpp, as `client` does.
"""

from __future__ import annotations

from edgeagent.engine.client import Engine
from edgeagent.engine.readings import Ids, Passage, Readings, Speed


def read(engine: Engine, passage: Passage, at: Ids | None = None) -> Readings:
    """Return the distribution over the next token at each place of the passage.

    `at`, shape (n, k), are the tokens to give probabilities for; None takes the likeliest. The
    engine must have been opened with `n_outputs` of at least `readings.N_ROWS`. Blocks for a
    forward pass over what the passage does not share with the one before.

    Raises:
        EngineDied: the worker is gone; `start` it again.
        TemplateError: the template refuses this conversation.
    """
    found: Readings = engine.ask("read", passage, at)
    return found


def speed(engine: Engine) -> Speed:
    """Return how fast the engine is on this machine as it is now. Blocks for 20 s and a round.

    Raises:
        EngineDied: the worker is gone; `start` it again.
    """
    found: Speed = engine.ask("speed")
    return found
