"""Reading an answer while it is written: what is certain, and with it what may follow, in one pass.

The loop that writes the answer asks for one row of logits after another, as if each token were
read by itself; whether a row comes from a pass of its own or was computed with the one before
changes only what it costs. Tokens that turn out otherwise are removed from the context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine import drafts
from edgeagent.engine.context import N_BATCH, Context
from edgeagent.engine.costs import DRIFT, MAX_PASS, Costs, Guess, plan
from edgeagent.engine.state import State


class Cancelled(Exception):
    """The abort flag was raised."""


class Ahead:
    """Rows of logits for a text that grows, most of them from passes over several tokens."""

    def __init__(
        self, context: Context, costs: Costs | None, cancelled: Callable[[], bool]
    ) -> None:
        """Read into `context`; `costs` None guesses nothing."""
        self._context = context
        # A recurrent model forgets everything when it has to go back.
        self._costs = costs if context.can_go_back else None
        self.close = DRIFT if costs is None else costs.close
        """Logits; a choice between tokens nearer to each other needs an exact row."""
        self._cancelled = cancelled
        self._lookup = drafts.Lookup()
        self._odds = drafts.Odds()
        self._text: list[int] = self._lookup.text
        self._n_read = 0
        """Tokens of the text that the context holds."""
        self._n_exact = 0
        """Those of them, from the first on, that were in the prompt or read by themselves."""
        self._first = 0
        """Where the last pass began."""
        self._rows: frozenset[int] = frozenset()
        """Places in the text whose row of logits the last pass gave."""
        self._guesses: Sequence[Guess] = ()
        self._guessed_at = 0
        self._n_drafted = self._n_accepted = 0

    @property
    def is_exact(self) -> bool:
        """Whether the last row is what reading the answer token by token would give, to the bit."""
        # To read it so, a recurrent model would have to read the prompt again too.
        return self._n_exact >= len(self._text) or not self._context.can_go_back

    def follow(self, text: Sequence[int], n_prompt: int) -> None:
        """Begin with `text`, of which the context holds the beginning or all.

        Behind its first `n_prompt` tokens it is the answer's.
        """
        self._lookup.follow(text)
        self._n_read = min(len(self._context.log), len(text))
        self._n_exact = min(self._n_read, n_prompt)
        self._rows = frozenset()
        self._guesses = ()
        self._n_drafted = self._n_accepted = 0

    def write(self, run: Sequence[int]) -> None:
        """Take tokens that were written."""
        self._lookup.extend(run)
        log, text = self._context.log, self._text
        while self._n_read < min(len(log), len(text)) and log[self._n_read] == text[self._n_read]:
            self._n_read += 1

    def row(self, state: State | None) -> NDArray[np.float32]:
        """Return the logits after the last token written; valid until the next call.

        Reads what the context lacks. `state` is the grammar's after that token, which
        guesses are checked against; None guesses nothing.

        Raises:
            Cancelled: the abort flag was raised; the context holds nothing of the last pass.
        """
        if self._cancelled():
            raise Cancelled
        last = len(self._text) - 1
        if self._n_read <= last or last not in self._rows:
            self._settle()
            self._n_read = self._context.keep(min(self._n_read, last))
            self._n_exact = min(self._n_exact, self._n_read)
            self._read(self._text[self._n_read :], state)
        return self._context.logits(last - self._first)

    def exact_row(self) -> NDArray[np.float32]:
        """Return the row once more, every token that was read among others read by itself.

        Costs a pass per such token; each is read so once at most.

        Raises:
            Cancelled: the abort flag was raised; the context holds nothing of the last pass.
        """
        self._settle()
        self._n_read = self._context.keep(self._n_exact)
        for token in self._text[self._n_read :]:
            self._pass([token], [0])
        return self._context.logits(0)

    def end(self) -> tuple[int, int]:
        """Remove from the context what was read and not written.

        Returns how many tokens were guessed since `follow`, and how many of them were right.
        """
        self._settle()
        self._context.keep(self._n_read)
        return self._n_drafted, self._n_accepted

    def _read(self, tokens: list[int], state: State | None) -> None:
        while len(tokens) > N_BATCH:
            self._pass(tokens[:N_BATCH], ())
            tokens = tokens[N_BATCH:]
        guesses, n_padding = self._more(len(tokens), state)
        whole = tokens + [guess.token for guess in guesses] + tokens[-1:] * n_padding
        choices = [len(tokens) + i for i, guess in enumerate(guesses) if guess.is_choice]
        # A row is read where something is chosen: before each guess, and after the last.
        places = [place - 1 for place in choices] + [len(tokens) + len(guesses) - 1]
        self._guesses, self._guessed_at = guesses, len(self._context.log) + len(tokens)
        self._n_drafted += len(guesses)
        self._pass(whole, places)

    def _more(self, n: int, state: State | None) -> tuple[Sequence[Guess], int]:
        """Return the guesses worth reading after `n` tokens, and how many to fill up with."""
        if self._costs is None:
            return (), 0
        guesses: list[Guess] = []
        if state is not None and n < MAX_PASS:
            guesses = drafts.guess(
                self._lookup, self._odds, state, self._context.vocabulary.ends, MAX_PASS - n
            )
        room = self._context.n_ctx - len(self._context.log) - n
        made = plan(self._costs, n, guesses, room)
        return guesses[: made.n_guesses], made.n_padding

    def _pass(self, tokens: list[int], places: Sequence[int]) -> None:
        self._first = len(self._context.log)
        self._rows = frozenset(self._first + place for place in places)
        if self._cancelled() or not self._context.decode(tokens, logits=False, rows=places):
            self._rows, self._guesses = frozenset(), ()
            raise Cancelled
        self._n_read = min(len(self._context.log), len(self._text))
        if len(tokens) == 1 and self._n_exact == self._first:
            self._n_exact += 1

    def _settle(self) -> None:
        """Count which guesses of the last pass were right."""
        n_right = min(max(self._n_read - self._guessed_at, 0), len(self._guesses))
        self._n_accepted += n_right
        for index, guess in enumerate(self._guesses[: n_right + 1]):
            if guess.is_choice and self._guessed_at + index < len(self._text):
                self._odds.learn(guess.n_same, index < n_right)
        self._guesses = ()
