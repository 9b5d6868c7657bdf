"""A model's tokens: their bytes, which of them steer, and text to ids and back.

Knows no prompt and no grammar.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import llama_cpp.llama_cpp as llama
from llguidance import LLTokenizer

STEERING = (
    llama.LLAMA_TOKEN_ATTR_CONTROL
    | llama.LLAMA_TOKEN_ATTR_USER_DEFINED
    | llama.LLAMA_TOKEN_ATTR_UNKNOWN
)
"""llama.cpp finds tokens with these attributes in text before it splits the text into words."""
_GATED = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
"""Of those, the ones that it finds only under `parse_special`."""
_INERT = frozenset(" \t\r\n\v\f\"'\\\u2581")


class Vocabulary:
    """The tokens of a loaded model; costs 0.3 s for 151,936 of them.

    Borrows the model's memory: use it only while the model is loaded.
    """

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self.n_tokens: int = llama.llama_vocab_n_tokens(pointer)
        buffer = ctypes.create_string_buffer(256)
        self.pieces = tuple(self._piece(token, buffer) for token in range(self.n_tokens))
        """Bytes of each token, special ones spelled out."""
        attributes = [llama.llama_vocab_get_attr(pointer, t) for t in range(self.n_tokens)]
        steering = {t: self._text(t) for t in range(self.n_tokens) if attributes[t] & STEERING}
        self.special = {text: t for t, text in steering.items() if _can_steer(text)}
        """Text to id of every control, user-defined or unknown token, longest first."""
        self.special = dict(sorted(self.special.items(), key=lambda kv: -len(kv[0].encode())))
        self.user_defined = {
            text: t for text, t in self.special.items() if not attributes[t] & _GATED
        }
        """Those that llama.cpp finds in any text, asked to or not."""
        self.strips_left = frozenset(self._having(attributes, llama.LLAMA_TOKEN_ATTR_LSTRIP))
        self.strips_right = frozenset(self._having(attributes, llama.LLAMA_TOKEN_ATTR_RSTRIP))
        candidates = sorted({*steering, self.end} - {-1})
        self.ends = tuple(t for t in candidates if llama.llama_vocab_is_eog(pointer, t))
        """Tokens that end a turn."""

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return llama.cpp's own tokens of the text, without a beginning-of-text token."""
        raw = text.encode("utf-8", "replace")
        size = len(raw) + 8
        tokens = (llama.llama_token * size)()
        n = llama.llama_tokenize(self._pointer, raw, len(raw), tokens, size, False, parse_special)
        assert n >= 0, "a token is at least a byte"
        return list(tokens[:n])

    def decode(self, tokens: list[int]) -> str:
        """Return the text of the tokens, special ones spelled out."""
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", "replace")

    def text_of(self, token: int) -> str:
        """Return a token as a template writes it; "" for the id -1 that means none."""
        return self._text(token) if token >= 0 else ""

    @property
    def begin(self) -> int:
        """The beginning-of-text token, -1 where there is none."""
        return int(llama.llama_vocab_bos(self._pointer))

    @property
    def adds_begin(self) -> bool:
        """Whether the model wants that token in front of every text."""
        return bool(llama.llama_vocab_get_add_bos(self._pointer))

    @property
    def end(self) -> int:
        """The token that the file names as end of sequence, -1 where there is none."""
        return int(llama.llama_vocab_eos(self._pointer))

    @cached_property
    def for_grammar(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it; costs 0.4 s for 151,936 tokens.

        Every special token is marked, so that no string of a call may hold one. llguidance's own
        `lltokenizer_from_vocab` leaves out user-defined tokens that are not written `<...>`.
        """
        marked = list(self.pieces)
        for token in self.special.values():
            marked[token] = b"\xff" + marked[token]
        function = ctypes.cast(llama._lib.llama_tokenize, ctypes.c_void_p).value
        # The stub file of llguidance 1.9.1 leaves this constructor out.
        build: Any = LLTokenizer.from_llamacpp  # type: ignore[attr-defined]
        made: LLTokenizer = build(
            tokens=marked,
            vocab_ptr=self._pointer,
            tokenize_fptr=function,
            eos_token=list(self.ends),
            slices=None,
        )
        return made

    def _piece(self, token: int, buffer: Any) -> bytes:
        n = llama.llama_token_to_piece(self._pointer, token, buffer, len(buffer), 0, True)
        if n < 0:
            # Qwen has 240 tokens of more than 32 bytes; the negated length is what is needed.
            larger = ctypes.create_string_buffer(-n)
            n = llama.llama_token_to_piece(self._pointer, token, larger, -n, 0, True)
            return larger.raw[:n]
        return bytes(buffer.raw[:n])

    def _text(self, token: int) -> str:
        return self.pieces[token].decode("utf-8", "replace")

    def _having(self, attributes: list[int], attribute: int) -> list[int]:
        return [token for token, held in enumerate(attributes) if held & attribute]


def _can_steer(text: str) -> bool:
    """Tell whether text that spells the token means more than its characters.

    Some vocabularies list runs of blanks or single characters as user-defined tokens; those are
    how such text is always written.
    """
    return len(text) > 1 and not set(text) <= _INERT
