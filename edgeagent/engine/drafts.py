"""Guessing what an answer says next from what has been said: names, dates and numbers are copied.

Knows tokens and the grammar's state, no model. A guess is never wrong by itself: what it stands
for is chosen from the model's own logits, and only the passes that it spares depend on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgeagent.engine.costs import Guess
from edgeagent.engine.prompt import n_shared
from edgeagent.engine.state import State

N_KEY = 2
"""Tokens that a place must share with the end of the text to be looked at."""
N_PLACES = 16
"""Places that are compared, the last ones first."""
LONGEST = 8
"""Shared tokens beyond which more say nothing more."""
LEAST_CHANCE = 0.05
PRIOR = {2: 0.29, 3: 0.35, 4: 0.65, 5: 0.71, 6: 0.76, 7: 0.82, 8: 0.87}
"""How often the next token agreed too, by shared tokens, in tool calls of tau-bench's recorded
airline conversations."""
PRIOR_WEIGHT = 8.0
"""Tries that the prior stands for."""


class Lookup:
    """Where pairs of tokens occur in a text that grows at its end and is cut there."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}

    def follow(self, text: Sequence[int]) -> None:
        """Make the text `text`; costs 0.3 us per token in which the two differ."""
        shared = n_shared(self.text, text)
        while len(self.text) > shared:
            if len(self.text) >= N_KEY:
                ends = self._ends[tuple(self.text[-N_KEY:])]
                ends.pop()
            self.text.pop()
        self.extend(text[shared:])

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens at the end."""
        text = self.text
        for token in tokens:
            text.append(token)
            if len(text) >= N_KEY:
                self._ends.setdefault(tuple(text[-N_KEY:]), []).append(len(text))

    def find(self) -> tuple[int, int]:
        """Return a place before which the text reads as at its end, and how long it does.

        The longest agreement wins, of equal ones the last; (0, 0) where the last pair is new.
        """
        text = self.text
        best, longest = 0, 0
        # The last entry is the end of the text itself.
        for place in self._ends.get(tuple(text[-N_KEY:]), [])[-1 - N_PLACES : -1][::-1]:
            length = N_KEY
            most = min(place, LONGEST)
            while length < most and text[place - 1 - length] == text[-1 - length]:
                length += 1
            if length > longest:
                best, longest = place, length
                if length == LONGEST:
                    break
        return best, longest


class Odds:
    """How often the next token agreed where so many before it did."""

    def __init__(self) -> None:
        self._right = {n: share * PRIOR_WEIGHT for n, share in PRIOR.items()}
        self._tried = dict.fromkeys(PRIOR, PRIOR_WEIGHT)

    def of(self, n: int) -> float:
        """Return the share after `n` shared tokens."""
        n = min(n, LONGEST)
        return self._right[n] / self._tried[n]

    def learn(self, n: int, was_right: bool) -> None:
        """Count one more case."""
        n = min(n, LONGEST)
        self._right[n] += was_right
        self._tried[n] += 1


def guess(
    lookup: Lookup, odds: Odds, state: State, ends: Collection[int], most: int
) -> list[Guess]:
    """Return at most `most` tokens that may follow, every one allowed by the grammar.

    Copies what follows the place that reads like the end of the text, with what the grammar
    forces in between. Costs 20 us per token that the grammar is asked about, else 2.
    """
    place, n_same = lookup.find()
    text, guesses, chance = lookup.text, list[Guess](), 1.0
    ahead = state.copy()
    while n_same and place < len(text) and len(guesses) < most:
        token = text[place]
        chance *= odds.of(n_same)
        if chance < LEAST_CHANCE or token in ends or not ahead.take(token):
            break
        guesses.append(Guess(token, chance, True, n_same))
        place, n_same = place + 1, n_same + 1
        run = ahead.forced()
        if run and not ahead.take_all(run):
            break
        # The last run of an answer waits for the next prefill.
        if ahead.is_stopped:
            break
        guesses += [Guess(forced, chance, False, n_same) for forced in run]
        if text[place : place + len(run)] != run:
            break
        place, n_same = place + len(run), n_same + len(run)
    return guesses[:most]
