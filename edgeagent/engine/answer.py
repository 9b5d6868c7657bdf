"""An answer under way: its tokens, its grammar state, and a way to end it that fits the budget.

Knows no logits: it is told a token and says what follows from it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine.closing import Closer
from edgeagent.engine.copying import Copying
from edgeagent.engine.state import State

FEW = 8
"""Tokens that are asked for one by one; beyond, all are computed at once."""
AMPLE = 64
"""Tokens of room beyond the plan from which on any plan will do."""
N_STUCK = 64
N_PERIOD = 8
"""Tokens: so many at the end that repeat with at most this period are a loop."""


class Answer:
    """Tokens that the grammar allows, and always enough room to close.

    At any moment `tokens` followed by `plan` is a complete answer of at most `budget` tokens.
    """

    def __init__(
        self,
        state: State,
        tokens: list[int],
        plan: list[int],
        budget: int,
        closer: Closer,
        ends: Collection[int],
    ) -> None:
        """Go on from `tokens`, which `state` is behind."""
        assert len(tokens) + len(plan) <= budget, (len(tokens), len(plan), budget)
        self.state = state
        self.tokens = tokens
        self.plan = plan
        self.budget = budget
        self.is_done = state.is_stopped
        self._closer = closer
        self._ends = ends

    def take(self, token: int) -> list[int]:
        """Write a token that the grammar allows and what it forces; return what was written.

        A token after which the answer could not be closed within the budget is not taken; the
        plan is, and the answer is done.
        """
        if token in self._ends:
            self.is_done = True
            return []
        if not self.state.take(token):
            return self.close()
        run = [token, *self.state.force()]
        rest = self._rest(run)
        if rest is None:
            return self.close()
        self.plan = rest
        self.tokens += run
        self.is_done = self.state.is_stopped
        return run

    def close(self) -> list[int]:
        """End the answer by its plan; return what was written. The state is of no more use."""
        run = self.plan
        self.tokens += run
        self.plan, self.is_done = [], True
        return run

    def _rest(self, run: list[int]) -> list[int] | None:
        room = self.budget - len(self.tokens) - len(run)
        if room < 0:
            return None
        if self.state.is_stopped:
            return None if self.state.is_broken else []
        if self.plan[: len(run)] == run:
            return self.plan[len(run) :]
        # Inside a string the old plan closes the longer one too.
        if len(self.plan) <= room and self.state.ends(self.plan, self._closer):
            return self.plan
        # Where room is short the plan is what will be written: then it is not pieced together.
        tail = self.plan if len(self.plan) + AMPLE <= room else ()
        return self._closer.plan(self.state.matcher, room, self.tokens + run, tail)


class Allowed:
    """What the grammar allows next, asked token by token; whole only where it must be.

    A token costs 0.5 us, all of 151,936 cost 35 us and sometimes 200.
    """

    def __init__(self, state: State, n_tokens: int, copying: Copying | None = None) -> None:
        """Ask `state`, which has to stay where it is as long as this is asked.

        Tokens that `copying` does not take count only where it takes none.
        """
        self._state = state
        self._n_tokens = n_tokens
        self._copying = copying
        self._tokens: NDArray[np.intp] | None = None

    def has(self, token: int) -> bool:
        """Tell whether the token may come next; an end of turn may where the answer may end."""
        return self._state.has(token)

    def tokens(self) -> NDArray[np.intp]:
        """Return every token that the grammar takes next."""
        if self._tokens is None:
            self._tokens = self._state.allowed(self._n_tokens)
        return self._tokens

    def best(self, row: NDArray[np.float32]) -> int:
        """Return the likeliest token that may come next."""
        best = int(row.argmax())
        if self.has(best) and self._copies(best):
            return best
        tokens = self.tokens()
        if not tokens.size:
            # A grammar past its limits allows nothing; the answer then refuses any and closes.
            return best
        if self._copying is None:
            return int(tokens[int(row[tokens].argmax())])
        likeliest = tokens[np.argsort(-row[tokens], kind="stable")].tolist()
        return int(next(filter(self._copies, likeliest), likeliest[0]))

    def is_close(self, row: NDArray[np.float32], best: int, distance: float) -> bool:
        """Tell whether another token that may come is nearly as likely as `best`, the likeliest."""
        near = np.flatnonzero(row > row[best] - distance)
        if near.size < 2:
            return False
        if near.size > FEW:
            near = near[np.isin(near, self.tokens())]
            return sum(map(self._copies, near.tolist())) > 1
        return sum(self.has(token) and self._copies(token) for token in near.tolist()) > 1

    def _copies(self, token: int) -> bool:
        return self._copying is None or self._copying.takes(token)


def is_stuck(tokens: Sequence[int]) -> bool:
    """Tell whether the answer repeats itself without end.

    Small models fall into loops that only the budget would stop: 300 tokens of `1111`, a minute
    on a small board. The window is long enough for any rule of dashes.
    """
    tail = list(tokens[-N_STUCK:])
    return len(tail) == N_STUCK and any(
        tail[period:] == tail[:-period] for period in range(1, N_PERIOD + 1)
    )
