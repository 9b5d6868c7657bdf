"""The shortest way out of an unfinished call: how a token budget always leaves room to close.

Knows the grammar's matcher and the vocabulary's bytes; asks no model.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import chain, islice
from random import Random

from llguidance import LLMatcher

from edgeagent.engine.vocabulary import Vocabulary

ATTEMPTS = 4
LONGEST = 4
"""Bytes of the tokens that a plan is made of; every byte is a token, so that any text can be."""
N_DRAWN = 200
"""Tokens of which one is drawn where preference led nowhere."""
_CLOSERS = frozenset(b'"}]\n')
_LETTERS = [c for c in string.ascii_lowercase + string.ascii_uppercase if c not in "tfneE"]


class Closer:
    """Finds token runs that complete an answer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        steering = set(vocabulary.special.values())
        by_bytes: dict[bytes, int] = {}
        for token, piece in enumerate(vocabulary.pieces):
            if 0 < len(piece) <= LONGEST and token not in steering:
                by_bytes.setdefault(piece, token)
        closers = sorted((p for p in by_bytes if set(p) <= _CLOSERS), key=lambda p: (-len(p), p))
        quotes = [p for p in closers if p.startswith(b'"')]
        # A letter is allowed only inside a string, so that strings that must be longer get
        # letters, and numbers, where digits would never end, get closed.
        letters = [c.encode() for c in _LETTERS]
        rest = [p for p in closers if not p.startswith(b'"')]
        digits = [c.encode() for c in string.digits]
        ranked = chain(quotes, letters, rest, digits, (b"n", b"t", b"f", b"[", b"{", b"-", b" "))
        self._preferred = [by_bytes[piece] for piece in ranked if piece in by_bytes]
        others = sorted(by_bytes.items(), key=lambda item: (len(item[0]), item[1]))
        self._others = [t for _, t in others] + sorted(steering - set(vocabulary.ends))
        self._quotes = {by_bytes[piece] for piece in quotes}
        self._end = vocabulary.ends[0]
        self._known: list[list[int]] = []

    def know(self, answers: Sequence[list[int]]) -> None:
        """Take whole answers from which a plan may be read off instead of searched."""
        self._known = sorted(answers, key=len)

    def plan(
        self,
        matcher: LLMatcher,
        limit: int,
        written: Sequence[int] = (),
        tail: Sequence[int] = (),
    ) -> list[int] | None:
        """Return at most `limit` tokens that complete the answer, or None if none were found.

        `written` is what `matcher` has consumed, all that is forced too, where the caller knows
        it, and `tail` a plan from before its last tokens: they shorten the search. The same
        arguments give the same tokens. Costs about 20 us per token that is neither forced nor
        taken over.
        """
        n = len(written)
        for known in self._known if n else ():
            if len(known) - n <= limit and known[:n] == written and self.ends(matcher, known[n:]):
                return known[n:]
        # A pattern such as ^a+b$ never ends by preference alone; drawn letters end it soon.
        for seed in range(ATTEMPTS):
            rng = Random(seed) if seed else None
            plan = self._attempt(matcher.deep_copy(), limit, tail, rng, is_forced=n > 0)
            if plan is not None:
                return plan
        return None

    def ends(self, matcher: LLMatcher, tokens: Sequence[int]) -> bool:
        """Tell whether the tokens complete the answer from the matcher's state; 0.2 us a token."""
        if not tokens:  # past its last token a matcher takes no end either
            return is_complete(matcher)
        whole = [*tokens, self._end]
        return matcher.validate_tokens(whole) == len(whole)

    def _attempt(
        self,
        state: LLMatcher,
        limit: int,
        tail: Sequence[int],
        rng: Random | None,
        *,
        is_forced: bool,
    ) -> list[int] | None:
        """Return a plan; `is_forced` says that all is written which the grammar forces here."""
        tokens: list[int] = []
        while not is_complete(state):
            run = [] if is_forced else state.compute_ff_tokens()
            is_forced = False
            if not run:
                mask = state.compute_bitmask()
                rest = self._part(state, mask, tail, limit - len(tokens))
                if rest is not None:
                    return tokens + rest
                choice = self._choose(mask, rng)
                if choice is None:
                    return None
                run = [choice]
            tokens += run
            if len(tokens) > limit or not state.consume_tokens(run):
                return None
        return tokens

    def _part(
        self, state: LLMatcher, mask: bytes, tail: Sequence[int], room: int
    ) -> list[int] | None:
        """Return the longest end of `tail` that completes the answer, if one does."""
        first = max(0, len(tail) - room)
        for at, token in enumerate(tail[first:], first):
            if mask[token >> 3] >> (token & 7) & 1 and self.ends(state, tail[at:]):
                return list(tail[at:])
        return None

    def _choose(self, mask: bytes, rng: Random | None) -> int | None:
        allowed = (
            token
            for token in chain(self._preferred, self._others)
            if mask[token >> 3] >> (token & 7) & 1
        )
        first = next(allowed, None)
        if rng is None or first is None or first in self._quotes:
            return first
        return rng.choice([first, *islice(allowed, N_DRAWN)])


def is_complete(matcher: LLMatcher) -> bool:
    """Tell whether the answer may end here."""
    return not matcher.is_error() and (matcher.is_stopped() or matcher.is_accepting())
