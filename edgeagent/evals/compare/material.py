"""What the builds are read along: conversations, the calls that ought to follow, running text.

Knows no build: every one is given the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeagent.engine.client import Prompt
from edgeagent.engine.readings import Passage, Plain, Reference, Whole
from edgeagent.errors import EvaluationError
from edgeagent.evals import distil, record
from edgeagent.evals.transcripts import Pair
from edgeagent.messages import (
    Call,
    CallMessage,
    Conversation,
    Message,
    ResultMessage,
)
from edgeagent.scenarios.job import Job

CHUNK = 2000
"""Characters of running text that are read at a time, about 500 tokens."""


@dataclass(frozen=True, slots=True)
class Material:
    """Passages, each kind in one order for all builds."""

    calls: tuple[Passage, ...]
    texts: tuple[Passage, ...]
    text_source: str
    """What the texts are, in words."""

    @property
    def sha256(self) -> str:
        """One hash for all of it."""
        return record.hash_of(repr(passage) for passage in (*self.calls, *self.texts))


def of(references: Sequence[Reference], text: Path | None) -> Material:
    """Return the material of a comparison; without a text the conversations themselves are read.

    Raises:
        EvaluationError: the text cannot be read or is empty.
    """
    if text is not None:
        return Material(tuple(references), tuple(_chunks(text)), f"the text {text.name}")
    return Material(tuple(references), tuple(_wholes(references)), "the conversations")


def references(asked: Iterable[tuple[Pair, Job]]) -> Iterator[Reference]:
    """Yield what each pair asks and answers, calls numbered: ids are drawn where a file has none,
    and some templates write them."""
    for pair, told in asked:
        wanted = distil.read_call(pair.reference)
        assert wanted is not None, "pairs have calls as references"
        conversation = _numbered(pair.conversation)
        call = Call(_id(len(conversation)), wanted.name, wanted.arguments)
        yield Reference(Prompt(told.policy, told.tools, conversation), call)


def _numbered(conversation: Conversation) -> Conversation:
    ids: dict[str, str] = {}
    made: list[Message] = []
    for place, message in enumerate(conversation):
        match message:
            case CallMessage(calls):
                for number, call in enumerate(calls):
                    ids[call.id] = _id(place, number)
                made.append(CallMessage(tuple(replace(c, id=ids[c.id]) for c in calls)))
            case ResultMessage(call_id):
                made.append(replace(message, call_id=ids.get(call_id, call_id)))
            case _:
                made.append(message)
    return tuple(made)


def _id(place: int, number: int = 0) -> str:
    return f"call_{16 * place + number:012x}"


def _wholes(references: Iterable[Reference]) -> Iterator[Whole]:
    """Yield each conversation once, at its longest."""
    last: Reference | None = None
    for reference in references:
        if last is not None and not _goes_on(reference.prompt.conversation, last):
            yield _whole(last)
        last = reference
    if last is not None:
        yield _whole(last)


def _goes_on(conversation: Conversation, last: Reference) -> bool:
    earlier = last.prompt.conversation
    return conversation[: len(earlier)] == earlier


def _whole(reference: Reference) -> Whole:
    ended = (*reference.prompt.conversation, CallMessage((reference.call,)))
    return Whole(replace(reference.prompt, conversation=ended))


def _chunks(path: Path) -> list[Plain]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise EvaluationError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise EvaluationError(f"{path} is not UTF-8 text: {exc.reason} at {exc.start}") from exc
    if not text.strip():
        raise EvaluationError(f"{path} holds no text; give --text a file with some pages in it")
    return [Plain(text[at : at + CHUNK]) for at in range(0, len(text), CHUNK)]
