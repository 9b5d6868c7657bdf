"""Where the grammar stands in an answer, asking llguidance only what is not known yet.

Says what the matcher says, token by token, and knows no logits and no budget. Two things are known
without asking. Nine of ten tokens of a reply are plain text in a free string: they are allowed,
force nothing and leave the grammar where it was. And what was said once behind some tokens holds
behind all that differ from them in such text only: for a guess, for the answer that it foretold,
for the next reply. The matcher hears of the tokens when it is asked something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from edgeagent.engine.closing import Closer
from edgeagent.engine.free_text import FreeText, Place
from edgeagent.errors import EngineError

MOST = 4096
"""Places that are remembered of one grammar, 1 KiB each; an answer under a schema without free
text has one for every token."""
MANY = 64
"""Tokens beyond which it is not remembered which are allowed."""


@dataclass(slots=True)
class Known:
    """What a grammar has said at one place."""

    place: Place
    behind: dict[tuple[int, ...], Known] = field(default_factory=dict)
    """The places that some tokens lead to."""
    has: dict[int, bool] = field(default_factory=dict)
    """Whether a token may come next."""
    ends: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """Whether some tokens complete the answer."""
    run: tuple[int, ...] | None = None
    """What is forced; None here and below: nobody has asked."""
    is_stopped: bool | None = None
    is_broken: bool = False
    allowed: NDArray[np.intp] | None = None


class Memory:
    """What one grammar has said so far, from its beginning on."""

    def __init__(self, text: FreeText | None = None) -> None:
        """Remember for a grammar of which `text` tells what is free; None: nothing is."""
        self.text = text
        self.start = Known(Place())
        self._n_left = MOST

    def behind(self, known: Known, tokens: tuple[int, ...]) -> Known:
        """Return a place that was not known, behind these tokens."""
        place = known.place if self.text is None else self.text.behind(known.place, tokens)
        made = Known(place)
        if self._n_left:
            self._n_left -= 1
            known.behind[tokens] = made
        return made


class State:
    """The state of one matcher, which nothing else may move."""

    def __init__(self, matcher: LLMatcher, memory: Memory | None = None) -> None:
        """Go on from a fresh matcher of the grammar that `memory` is of; None begins one."""
        self._matcher = matcher
        self._memory = memory or Memory()
        self._known = self._memory.start
        self._waiting: list[int] = []
        """Tokens that the matcher has not consumed; it takes them."""
        self._origin: State | None = None
        """Whose matcher this still is."""

    @property
    def matcher(self) -> LLMatcher:
        """The matcher, with everything consumed; to be asked, not moved."""
        if self._origin is not None:
            self._matcher, self._origin = self._origin.matcher.deep_copy(), None
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            if not self._matcher.consume_tokens(waiting):
                reason = self._matcher.get_error()
                raise EngineError(f"the grammar refused what it allowed before: {reason}")
        return self._matcher

    @property
    def is_stopped(self) -> bool:
        """Whether nothing may follow, at the end of the answer or where the grammar broke."""
        known = self._known
        if known.is_stopped is None:
            known.is_stopped = not known.place.is_free and self.matcher.is_stopped()
            known.is_broken = known.is_stopped and self.matcher.is_error()
        return known.is_stopped

    @property
    def is_broken(self) -> bool:
        """Whether the grammar became too complex for its engine."""
        return self.is_stopped and self._known.is_broken

    def has(self, token: int) -> bool:
        """Tell whether the token may come next; an end of turn may where the answer may end."""
        if self._is_plain(token):
            return True
        known = self._known.has.get(token)
        if known is None:
            known = self._known.has[token] = self.matcher.validate_tokens([token]) == 1
        return known

    def allowed(self, n_tokens: int) -> NDArray[np.intp]:
        """Return every token that the grammar takes next, of a vocabulary of so many."""
        if self._known.allowed is not None:
            return self._known.allowed
        mask = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(mask, bitorder="little")[:n_tokens]
        tokens = np.flatnonzero(bits)
        if tokens.size <= MANY:
            self._known.allowed = tokens
        return tokens

    def ends(self, tokens: Sequence[int], closer: Closer) -> bool:
        """Tell whether the tokens complete the answer."""
        key = tuple(tokens)
        known = self._known.ends.get(key)
        if known is None:
            known = self._known.ends[key] = closer.ends(self.matcher, tokens)
        return known

    def take(self, token: int) -> bool:
        """Move behind the token; False where the grammar refuses it, and the state stays."""
        if self._is_plain(token):
            self._waiting.append(token)
            return True
        key = (token,)
        if (known := self._known.behind.get(key)) is not None:
            self._waiting.append(token)
        # Where it refuses, `consume_token` takes 110 us to say why, this 2.
        elif self._known.has.get(token, True) and self.matcher.try_consume_tokens([token]) == 1:
            known = self._memory.behind(self._known, key)
        else:
            self._known.has[token] = False
            return False
        self._known = known
        return True

    def take_all(self, tokens: Sequence[int]) -> bool:
        """Move behind all of the tokens; where the grammar refuses one the state is lost."""
        key = tuple(tokens)
        if (known := self._known.behind.get(key)) is not None:
            self._waiting += tokens
        elif self.matcher.consume_tokens(list(tokens)):
            known = self._memory.behind(self._known, key)
        else:
            return False
        self._known = known
        return True

    def forced(self) -> list[int]:
        """Return the tokens that the grammar leaves no choice about; the state stays."""
        known = self._known
        if known.run is None:
            is_open = known.place.is_free or self.is_stopped
            known.run = () if is_open else tuple(self.matcher.compute_ff_tokens())
        return list(known.run)

    def force(self) -> list[int]:
        """Move behind the tokens that the grammar leaves no choice about; return them.

        Raises:
            EngineError: the grammar became too complex for its engine.
        """
        run = self.forced()
        if run and not self.take_all(run):
            raise EngineError(f"the grammar refused its own tokens: {self.matcher.get_error()}")
        return run

    def copy(self) -> State:
        """Return a state that moves by itself, as long as this one does not; costs 1 us.

        The matcher is copied, 10 us, once the copy asks it.
        """
        made = State(self._matcher, self._memory)
        made._known, made._origin = self._known, self
        return made

    def _is_plain(self, token: int) -> bool:
        text = self._memory.text
        return self._known.place.is_free and text is not None and text.is_plain(token)
