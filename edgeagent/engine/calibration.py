"""What a model is read through with: plans into tokens, chunk by chunk, and what each counts.

Conversations go through the model's own template as prompts do, so that no text of a customer
forms a control token. Knows no passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine.observer import Plan, Talk, Text
from edgeagent.engine.prompt import PromptWriter, n_shared
from edgeagent.engine.template import Template
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import probe
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import Header
from edgeagent.manifest import Dialect

USUAL_CHUNK = 512
CALL_BEGINS, CALL_ENDS = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that are read in one context."""

    tokens: list[int]
    weights: NDArray[np.float64] | None
    """How often each token counts, shape (n,); None counts each once."""
    n_call_tokens: int


def chunks(plan: Plan, vocabulary: Vocabulary, header: Header, n_trained: int) -> Iterator[Chunk]:
    """Yield what the plan wants read; `n_trained` is the longest context the model knows.

    A plain text is cut into chunks, its last one as short as it comes. A conversation is one
    chunk, because what a model writes at its end depends on the tools at its beginning.

    Raises:
        ConversionError: there is nothing to read, chunks are longer than the model's context,
            or calls are to be weighted in a vocabulary without their tags.
        TemplateError: the model's template cannot render a conversation.
    """
    if chunk_size(plan, n_trained) > n_trained:
        raise ConversionError(
            f"chunks of {plan.n_chunk} tokens are longer than the {n_trained} that "
            f"{plan.path.name} was trained on"
        )
    if plan.call_weight != 1 and not {CALL_BEGINS, CALL_ENDS} <= vocabulary.special.keys():
        raise ConversionError(
            f"{plan.path.name} has no tokens {CALL_BEGINS} and {CALL_ENDS} to tell calls by; "
            "leave out the weight of calls"
        )
    made = (chunk for chunk in _all(plan, vocabulary, header, n_trained) if chunk.tokens)
    n = 0
    for n, chunk in enumerate(made, start=1):
        yield chunk
        if n == plan.max_chunks:
            break
    if n == 0:
        raise ConversionError("there is nothing to read: the texts are empty")


def chunk_size(plan: Plan, n_trained: int) -> int:
    """Return how many tokens of a plain text are read in one context."""
    return plan.n_chunk or min(USUAL_CHUNK, n_trained)


def _all(plan: Plan, vocabulary: Vocabulary, header: Header, n_trained: int) -> Iterator[Chunk]:
    made: PromptWriter | None = None
    begins = [vocabulary.begin] if vocabulary.adds_begin else []
    for material in plan.material:
        match material:
            case Text(text):
                tokens = vocabulary.encode(text, parse_special=plan.parse_special)
                step = max(1, chunk_size(plan, n_trained) - len(begins))
                for at in range(0, len(tokens), step):
                    yield _weighed(begins + tokens[at : at + step], 0, plan, vocabulary)
            case Talk():
                made = made or writer(header, vocabulary)
                tokens, n_given = _read_talk(material, made)
                if len(tokens) > n_trained:
                    raise ConversionError(
                        f"a conversation has {len(tokens)} tokens and {plan.path.name} was "
                        f"trained on {n_trained}; cut it shorter"
                    )
                yield _weighed(tokens, n_given, plan, vocabulary)


def writer(header: Header, vocabulary: Vocabulary) -> PromptWriter:
    """Return what renders conversations through the template in the model's file.

    Raises:
        TemplateError: it has none, or one that cannot carry tools.
    """
    special = {
        "bos_token": vocabulary.text_of(vocabulary.begin),
        "eos_token": vocabulary.text_of(vocabulary.end),
    }
    template = Template(header.text("tokenizer.chat_template"), special)
    ends = [vocabulary.text_of(token) for token in vocabulary.ends]
    return PromptWriter(template, vocabulary, probe(template, ends, False), Dialect())


def _read_talk(talk: Talk, made: PromptWriter) -> tuple[list[int], int]:
    """Return the conversation's tokens, and how many come before the model's first answer."""
    tokens = made.transcript(talk.messages, talk.tools)
    roles = [message["role"] for message in talk.messages]
    if "assistant" not in roles:
        return tokens, len(tokens)
    given = talk.messages[: roles.index("assistant")]
    if not given:
        return tokens, 0
    return tokens, n_shared(tokens, made.transcript(given, talk.tools))


def _weighed(tokens: list[int], n_given: int, plan: Plan, vocabulary: Vocabulary) -> Chunk:
    """Weigh the tokens of calls, tags included; the first `n_given` tokens are no answer."""
    inside = _in_calls(tokens, n_given, vocabulary)
    if plan.call_weight == 1:
        return Chunk(tokens, None, int(inside.sum()))
    return Chunk(tokens, np.where(inside, plan.call_weight, 1.0), int(inside.sum()))


def _in_calls(tokens: Sequence[int], n_given: int, vocabulary: Vocabulary) -> NDArray[np.bool_]:
    begins = vocabulary.special.get(CALL_BEGINS)
    ends = vocabulary.special.get(CALL_ENDS)
    inside = np.zeros(len(tokens), np.bool_)
    is_open = False
    for place, token in enumerate(tokens):
        if place < n_given:
            continue
        is_open = is_open or token == begins
        inside[place] = is_open
        is_open = is_open and token != ends
    return inside
