"""A conversation as the model's tokens, exactly as its template renders it.

Policy, tool texts, customer and tool results are untrusted: nothing they say can form a control
or user-defined token. They go through the template in disguise, each character that occurs in a
special token replaced by a private one, so that every special token in the disguised rendering
is the template's own. Where the plain rendering has the same ones, llama.cpp tokenizes it whole,
which is exact by definition; where untrusted text spells more of them, the rendering is taken
apart and such text becomes ordinary characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from edgeagent.engine.client import Prompt
from edgeagent.engine.disguise import Disguise
from edgeagent.engine.template import Template
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import N_SHORT_ID, Wire
from edgeagent.manifest import PLACEHOLDER, Dialect
from edgeagent.messages import (
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    Json,
    Message,
    ResultMessage,
    TextMessage,
    Tool,
    UserMessage,
)

_spelled = json.JSONEncoder(ensure_ascii=False).encode
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
"""Characters that mean nothing by themselves, planes 15 and 16."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What the template made of a conversation."""

    text: str
    """As the model shall read it."""
    disguised: str
    """The same, character for character, with the untrusted ones replaced."""


class PromptWriter:
    """Renders and tokenizes prompts for one model and dialect."""

    def __init__(
        self, template: Template, vocabulary: Vocabulary, wire: Wire, dialect: Dialect
    ) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self._wire = wire
        self._dialect = dialect
        self._alphabet = sorted({c for text in vocabulary.special for c in text if _hides(c)})
        self._any_special = _finder(vocabulary.special)
        self._any_ungated = _finder(vocabulary.user_defined)
        self._desk = _Desk()
        self._cuts = frozenset(vocabulary.special.values()) - vocabulary.strips_right
        self._last = b"", list[int]()
        """The last text and its tokens, whose pieces are the text."""

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return the prompt's tokens, ending where the model begins to write.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        return self.tokenize(self.render(prompt))

    def prefix(self, policy: str, tools: tuple[Tool, ...]) -> list[int]:
        """Return the tokens that every conversation under this policy and these tools begins with.

        Raises:
            TemplateError: the template refuses the tools.
        """
        first, second = (
            self.tokens(Prompt(policy, tools, (UserMessage(text),))) for text in ("a", "7")
        )
        return first[: n_shared(first, second)]

    def transcript(
        self, messages: Sequence[Mapping[str, Json]], tools: Sequence[Mapping[str, Json]]
    ) -> list[int]:
        """Return the tokens of a whole conversation in OpenAI's layout, answers included.

        Everything but the roles is as untrusted as in a prompt.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        disguise = self._disguise((*_leaves(list(messages)), *_leaves(list(tools))))
        disguised = self._template.render(
            [self._foreign(message, disguise) for message in messages],
            [disguise.foreign_tool(tool) for tool in tools],
            asks=False,
            thinking=self._dialect.thinking,
        )
        return self.tokenize(Rendering(disguise.undo(disguised), disguised))

    def render(self, prompt: Prompt) -> Rendering:
        """Return the prompt's text and its disguise.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        desk = self._desk.of(prompt)
        disguise = self._disguise((*desk.private, *strings_of(prompt.conversation)))
        policy, tools = desk.disguised(disguise)
        messages = [
            {"role": "system", "content": self._dialect.system.replace(PLACEHOLDER, policy)},
            *self._messages(prompt.conversation, disguise),
        ]
        disguised = self._template.render(messages, tools, thinking=self._dialect.thinking)
        return Rendering(disguise.undo(disguised), disguised)

    def tokenize(self, rendering: Rendering) -> list[int]:
        """Return the tokens of a rendering; only the template's own text forms special ones."""
        spans = self._spans(rendering.disguised)
        if self._spans(rendering.text) == spans:
            return self._whole(rendering.text, spans)
        tokens: list[int] = []
        for part in self._parts(rendering.disguised):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self._plain(rendering.text[part.start : part.stop])
        return tokens

    def _whole(self, text: str, spans: Sequence[tuple[int, str]]) -> list[int]:
        """Tokenize text in which every special token is meant as one.

        What stands behind a special token is split by itself, so a text that begins like the last
        one has the same tokens up to a special token in what they share.
        """
        raw = text.encode("utf-8", "replace")
        n_bytes, n_tokens = self._known(raw)
        cut = len(raw[:n_bytes].decode())
        if any(at < cut < at + len(special) for at, special in spans):
            cut = n_tokens = 0
        rest = self._vocabulary.encode(text[cut:], parse_special=True)
        tokens = self._last[1][:n_tokens] + rest
        # Where pieces are not the text, as with blanks that are put in front, all is new.
        is_text = b"".join(self._vocabulary.pieces[token] for token in tokens) == raw
        self._last = (raw, tokens) if is_text else (b"", [])
        return tokens

    def _known(self, raw: bytes) -> tuple[int, int]:
        """Return how many bytes and tokens of the last text the new one can take over."""
        last, tokens = self._last
        n_same = n_shared(last, raw)
        pieces, cuts = self._vocabulary.pieces, self._cuts
        at, found = 0, (0, 0)
        for number, token in enumerate(tokens, start=1):
            at += len(pieces[token])
            if at > n_same:
                break
            if token in cuts:
                found = at, number
        return found

    def _disguise(self, texts: Iterable[str]) -> Disguise:
        # Customers may write private characters too; stand-ins are some that nobody used here.
        ours = (self._template.source, self._dialect.system)
        taken = {char for text in chain(texts, ours) for char in _PRIVATE.findall(text)}
        free = (chr(code) for code in range(0xF0000, 0x110000) if chr(code) not in taken)
        stand_ins = islice(free, len(self._alphabet))
        return Disguise(dict(zip(self._alphabet, stand_ins, strict=True)), next(free))

    def _messages(
        self, conversation: Conversation, disguise: Disguise
    ) -> Iterator[Mapping[str, Json]]:
        for message in conversation:
            match message:
                case UserMessage(text):
                    yield {"role": "user", "content": disguise.text(text)}
                case TextMessage(text):
                    yield {"role": "assistant", "content": disguise.text(text)}
                case CallMessage((Call(_, name, arguments),)) if (
                    name == RESPOND and self._wire.replies_as_text
                ):
                    reply = disguise.text(str(arguments.get("message", "")))
                    yield {"role": "assistant", "content": reply}
                case CallMessage(calls):
                    written = [self._call(call, disguise) for call in calls]
                    yield {"role": "assistant", "content": "", "tool_calls": written}
                case ResultMessage(call_id, name, content):
                    if name != RESPOND:
                        yield self._result(call_id, name, content, disguise)

    def _foreign(self, message: Mapping[str, Json], disguise: Disguise) -> Mapping[str, Json]:
        """Disguise a message that was not made here."""
        made = {key: disguise.value(value) for key, value in message.items()}
        made["role"] = message["role"]
        if made.get("content") is None:
            made["content"] = ""
        if calls := message.get("tool_calls"):
            made["tool_calls"] = [self._foreign_call(call, disguise) for call in calls]
        return made

    def _foreign_call(self, call: Mapping[str, Json], disguise: Disguise) -> Mapping[str, Json]:
        function = call.get("function", call)
        arguments = function["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        made = Call(str(call.get("id", "")), function["name"], arguments)
        return self._call(made, disguise)

    def _call(self, call: Call, disguise: Disguise) -> Mapping[str, Json]:
        arguments = disguise.value(dict(call.arguments))
        if self._wire.arguments_as_text:
            separators = (self._wire.item_separator, self._wire.key_separator)
            arguments = json.dumps(arguments, ensure_ascii=False, separators=separators)
        function = {"name": disguise.text(call.name), "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _result(
        self, call_id: str, name: str, content: str, disguise: Disguise
    ) -> Mapping[str, Json]:
        text = disguise.text(content)
        if self._dialect.tool_results == "user":
            return {"role": "user", "content": text}
        return {
            "role": "tool",
            "name": disguise.text(name),
            "tool_call_id": self._id(call_id),
            "content": text,
        }

    def _id(self, call_id: str) -> str:
        plain = "".join(c for c in call_id if c.isascii() and (c.isalnum() or c in "_-"))
        if self._wire.short_ids:
            return plain.replace("_", "").replace("-", "")[-N_SHORT_ID:].rjust(N_SHORT_ID, "0")
        return plain

    def _spans(self, text: str) -> list[tuple[int, str]]:
        return [(m.start(), m[0]) for m in _found(self._any_special, text)]

    def _parts(self, disguised: str) -> list[int | slice]:
        """Cut at the template's own special tokens, the longest first, as llama.cpp does."""
        parts: list[int | slice] = [slice(0, len(disguised))]
        for text, token in self._vocabulary.special.items():
            if text in disguised:
                parts = list(chain.from_iterable(
                    [part] if isinstance(part, int) else self._split(disguised, part, text, token)
                    for part in parts
                ))  # fmt: skip
        return parts

    def _split(self, disguised: str, part: slice, text: str, token: int) -> Iterator[int | slice]:
        start = part.start
        while (at := disguised.find(text, start, part.stop)) >= 0:
            left = disguised[start:at]
            if token in self._vocabulary.strips_left:
                left = left.rstrip()
            if left:
                yield slice(start, start + len(left))
            yield token
            start = at + len(text)
            if token in self._vocabulary.strips_right:
                rest = disguised[start : part.stop]
                start += len(rest) - len(rest.lstrip())
        if start < part.stop:
            yield slice(start, part.stop)

    def _plain(self, text: str) -> list[int]:
        """Tokenize text so that nothing in it is special."""
        tokens: list[int] = []
        for piece in self._cut(text):
            made = self._vocabulary.encode(piece, parse_special=False)
            if self._vocabulary.special.keys() & {self._vocabulary.text_of(t) for t in set(made)}:
                # A word that happens to be spelled as a special token: letter by letter.
                made = [t for c in piece for t in self._vocabulary.encode(c, parse_special=False)]
            tokens += made
        return tokens

    def _cut(self, text: str) -> Iterator[str]:
        """Cut inside every spelling of a token that llama.cpp would find regardless."""
        start = 0
        for match in _found(self._any_ungated, text):
            if match.start() >= start:
                yield text[start : match.start() + 1]
                start = match.start() + 1
        yield text[start:]


class _Desk:
    """Policy and tools of the prompt before, kept as they were disguised for it.

    They come again at every step, and were a quarter of what writing nano's prompts took.
    """

    def __init__(self) -> None:
        self._key: tuple[str, tuple[Tool, ...]] | None = None
        self.private: tuple[str, ...] = ()
        """The characters in them that stand-ins must not be."""
        self._made: dict[Disguise, tuple[str, list[Mapping[str, Json]]]] = {}

    def of(self, prompt: Prompt) -> _Desk:
        """Return what is known of the prompt's policy and tools."""
        if self._key != (prompt.policy, prompt.tools):
            self._key = prompt.policy, prompt.tools
            found = (char for text in _desk_strings(prompt) for char in _PRIVATE.findall(text))
            self.private = tuple(dict.fromkeys(found))
            self._made.clear()
        return self

    def disguised(self, disguise: Disguise) -> tuple[str, list[Mapping[str, Json]]]:
        """Return policy and tools in a disguise."""
        assert self._key is not None, "a prompt was asked for"
        if disguise not in self._made:
            policy, tools = self._key
            self._made = {disguise: (disguise.text(policy), [disguise.tool(t) for t in tools])}
        return self._made[disguise]


def continuations(typed: str) -> list[str]:
    """Return ways in which a message that is being typed may go on, as different as they get.

    Only words that are followed by a blank are taken as written; the last one may still grow, and
    what a tokenizer makes of the blank itself depends on what comes after it.
    """
    words = re.match(r"(?s)(.*\S)(\s)", typed)
    stem = "".join(words.groups()) if words else ""
    endings = ("a", "7", "\n", "") if stem else ("a", "7")
    return [stem + ending for ending in endings]


def n_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens the two begin with in common."""
    n = min(len(first), len(second))
    if first[:n] == second[:n]:
        return n
    low = 0
    while n - low > 1:
        middle = (low + n) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            n = middle
    return low


def _hides(char: str) -> bool:
    # Templates strip blanks, and JSON escapes quotes and backslashes; both must work as ever.
    return not char.isspace() and char not in "\"'\\"


@dataclass(frozen=True, slots=True)
class _Finder:
    """Finds texts, the longest of those that begin at a place."""

    first: re.Pattern[str]
    """Their first characters: what a search passes over quickly is all others."""
    whole: re.Pattern[str]


def _finder(texts: Iterable[str]) -> _Finder | None:
    longest_first = sorted(texts, key=len, reverse=True)
    if not longest_first:
        return None
    first = "".join(sorted({re.escape(text[0]) for text in longest_first}))
    return _Finder(re.compile(f"[{first}]"), re.compile("|".join(map(re.escape, longest_first))))


def _found(finder: _Finder | None, text: str) -> Iterator[re.Match[str]]:
    """Yield every place where one of the texts stands, overlapping ones too."""
    if finder is None:
        return
    for candidate in finder.first.finditer(text):
        if match := finder.whole.match(text, candidate.start()):
            yield match


def _leaves(value: Json) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for key, item in value.items():
                yield key
                yield from _leaves(item)
        case list() | tuple():
            for item in value:
                yield from _leaves(item)


def _desk_strings(prompt: Prompt) -> Iterator[str]:
    yield prompt.policy
    for tool in prompt.tools:
        yield from (tool.name, tool.description, json.dumps(tool.parameters, ensure_ascii=False))


def strings_of(messages: Iterable[Message]) -> Iterator[str]:
    """Yield every text in the messages that somebody else than the template wrote."""
    for message in messages:
        match message:
            case UserMessage(text) | TextMessage(text):
                yield text
            case CallMessage(calls):
                for call in calls:
                    yield call.name
                    yield _spelled(call.arguments)
            case ResultMessage(_, name, content):
                yield name
                yield content
