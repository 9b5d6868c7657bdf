"""Tools as a grammar: what the model may write, and nothing else.

A tool's JSON Schema is narrowed, never widened: every string that the grammar admits is valid
against the schema as it was given. What cannot be enforced is refused by name. Knows no prompt
and no weights.
Source: llguidance 1.9.1, docs/syntax.md and docs/json_schema.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from llguidance import LLMatcher

from edgeagent.engine.closing import Closer
from edgeagent.engine.free_text import FreeText
from edgeagent.engine.narrowing import narrowed, unsound
from edgeagent.engine.shape import is_plain
from edgeagent.engine.state import Memory, State
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import ID_SLOT, Wire
from edgeagent.errors import EngineError, SchemaRefused
from edgeagent.messages import CONTROL_NAMES, Json, Tool

Mode: TypeAlias = Literal["one", "parallel", "parallel_or_text"]

MAX_PARALLEL = 8
"""Calls in one step."""
LONGEST_CALL = 4096
"""Tokens; a schema whose shortest call is longer is refused."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEYWORD = re.compile(r'Unimplemented keys: \["([^"]+)"')


class Grammars:
    """Grammars of one model over sets of tools; each is compiled once, 16 tools in about 6 ms."""

    def __init__(self, vocabulary: Vocabulary, wire: Wire, mode: Mode) -> None:
        self._vocabulary = vocabulary
        self._wire = wire
        self._mode = mode
        self._closer = Closer(vocabulary)
        self._matchers: dict[tuple[str, ...], LLMatcher] = {}
        self._tools: tuple[Tool, ...] = ()
        self._free_text: FreeText | None = None
        self._memories: dict[frozenset[str], Memory] = {}
        self._cheapest: dict[str, list[int] | None] = {}
        self._openings: dict[tuple[frozenset[str], tuple[int, ...]], list[int] | None] = {}

    @property
    def closer(self) -> Closer:
        """Finds the way out of any state of these grammars."""
        return self._closer

    def use(self, tools: Sequence[Tool]) -> None:
        """Make these the tools that the other methods speak of."""
        if tuple(tools) != self._tools:
            self._tools = tuple(tools)
            self._matchers.clear()
            self._cheapest.clear()
            self._openings.clear()
            self._free_text = None
            self._memories.clear()
            self._closer.know(())

    def check(self, tools: Sequence[Tool]) -> None:
        """Return if every tool's schema can be enforced; they are the tools in use from then on.

        Raises:
            SchemaRefused: one cannot; it carries the tool's name and the keyword.
            EngineError: each can, and all together are too much for the grammar's engine.
        """
        for tool in tools:
            if not _NAME.fullmatch(tool.name):
                raise SchemaRefused(tool.name, "a name is 1 to 64 letters, digits, _, . or -")
            if sum(other.name == tool.name for other in tools) > 1:
                raise SchemaRefused(tool.name, "two tools have this name")
            _check_schema(tool)
        self.use(tools)
        if not tools:
            return
        # All at once takes 6 ms for 16 tools, one by one 20; what fails there tells which.
        together = self._compiled(self._tools)
        if together.is_error() or any(together.get_grammar_warnings()):
            for tool in tools:
                alone = self._compiled([tool])
                problems = [alone.get_error(), *alone.get_grammar_warnings()]
                if problem := next(filter(None, problems), ""):
                    raise SchemaRefused(tool.name, _reason(problem))
        self.matcher(frozenset(tool.name for tool in tools))
        for tool in tools:
            if self._whole(tool.name) is None:
                raise SchemaRefused(
                    tool.name, f"no call of at most {LONGEST_CALL} tokens satisfies its schema"
                )

    def matcher(self, names: frozenset[str]) -> LLMatcher:
        """Return a fresh matcher that offers the tools by these names."""
        key = tuple(tool.name for tool in self._tools if tool.name in names)
        if not key:
            raise EngineError(f"none of the tools {sorted(names)} is known; offer at least one")
        made = self._compiled([tool for tool in self._tools if tool.name in names])
        if made.is_error():
            raise EngineError(f"{', '.join(key)}: {_reason(made.get_error())}")
        return made.deep_copy()

    def state(self, names: frozenset[str]) -> State:
        """Return where the grammar of the tools by these names begins."""
        if self._free_text is None:
            schemas = [narrowed(tool.parameters) for tool in self._tools]
            self._free_text = FreeText(schemas, self._wire, self._vocabulary)
        memory = self._memories.setdefault(names, Memory(self._free_text))
        return State(self.matcher(names), memory)

    def opening(self, names: frozenset[str], written: Sequence[int] = ()) -> list[int] | None:
        """Return the tokens that complete the cheapest call after `written`; None if none does."""
        key = (names, tuple(written))
        if key in self._openings:
            return self._openings[key]
        if self._mode == "parallel_or_text" and not written:  # words are the cheapest answer
            opening = self._closer.plan(self.matcher(names), LONGEST_CALL)
        else:
            offered = [tool for tool in self._tools if tool.name in names]
            plans = [self._alone(tool, list(written)) for tool in offered]
            opening = min((plan for plan in plans if plan is not None), key=len, default=None)
        self._openings[key] = opening
        return opening

    def heads(self, names: frozenset[str]) -> dict[str, bytes]:
        """Return what each call begins with, up to its arguments."""
        wire = self._wire
        return {name: f"{wire.before}{name}{wire.between}".encode() for name in names}

    def is_words(self, text: str) -> bool:
        """Tell whether a complete answer is plain words."""
        heads = self.heads(frozenset(tool.name for tool in self._tools)).values()
        return self._mode == "parallel_or_text" and not text.encode().startswith(tuple(heads))

    def _compiled(self, offered: Sequence[Tool]) -> LLMatcher:
        key = tuple(tool.name for tool in offered)
        if key not in self._matchers:
            self._matchers[key] = LLMatcher(
                self._vocabulary.for_grammar, self._lark(offered), log_level=0
            )
        return self._matchers[key]

    def _alone(self, tool: Tool, written: list[int]) -> list[int] | None:
        """Return what completes the tool's cheapest call after `written`."""
        whole = self._whole(tool.name)
        if whole is not None and whole[: len(written)] == written:
            return whole[len(written) :]
        state = self._compiled([tool]).deep_copy()
        if state.try_consume_tokens(written) != len(written):
            return None
        return self._closer.plan(state, LONGEST_CALL)

    def _whole(self, name: str) -> list[int] | None:
        """Return the tool's cheapest call from its first token; None if none was found."""
        if name not in self._cheapest:
            head, state = self._head(name), self._compiled(self._tools).deep_copy()
            if not head or state.try_consume_tokens(head) != len(head):
                head = []
                state = self._compiled([t for t in self._tools if t.name == name]).deep_copy()
            plan = self._closer.plan(state, LONGEST_CALL - len(head))
            self._cheapest[name] = None if plan is None else head + plan
            self._closer.know([whole for whole in self._cheapest.values() if whole])
        return self._cheapest[name]

    def _head(self, name: str) -> list[int]:
        """Return the tokens of a call that lead past its name; none where they cannot be told."""
        wire = self._wire
        if ID_SLOT in wire.before or not wire.between:
            return []
        text = f"{wire.before}{name}{wire.between}"
        tokens = self._vocabulary.encode(text, parse_special=True)
        left = len(f"{wire.before}{name}".encode())
        for index, token in enumerate(tokens):
            left -= len(self._vocabulary.pieces[token])
            if left < 0:
                return tokens[: index + 1]
        return []

    def _lark(self, offered: Sequence[Tool]) -> str:
        """Write the grammar: any control call alone, or several others where the mode allows."""
        wire = self._wire
        rules: list[str] = []
        alone: list[str] = []
        joined: list[str] = []
        for index, tool in enumerate(offered):
            rules.append(f"call_{index}: {_literal(tool.name + wire.between)} arguments_{index}")
            rules.append(f"arguments_{index}: %json {json.dumps(self._schema(tool))}")
            many = self._mode != "one" and wire.separator is not None
            (joined if many and tool.name not in CONTROL_NAMES else alone).append(f"call_{index}")
        if joined:
            rules.append(f"joined: {' | '.join(joined)}")
            again = f"({self._text(wire.separator or '')} joined){{0,{MAX_PARALLEL - 1}}}"
            alone.append(f"joined {again}")
        start = f"{self._text(wire.before)} calls {self._text(wire.after)}"
        if self._mode == "parallel_or_text":
            # Plain words begin with no blank and not as a call might, spelled in letters or not.
            start += " | WORDS"
            rules.append(r"WORDS: /[^\s{\[<](.|\n)*/")
        return "\n".join([f"start: {start}", f"calls: {' | '.join(alone)}", *rules])

    def _schema(self, tool: Tool) -> Mapping[str, Json]:
        style = {
            "whitespace_flexible": False,
            "item_separator": self._wire.item_separator,
            "key_separator": self._wire.key_separator,
        }
        return {**narrowed(tool.parameters), "x-guidance": style}

    def _text(self, text: str) -> str:
        """Write template text as grammar: special tokens by id, the rest as literals."""
        special = self._vocabulary.special
        parts: list[str] = []
        names = "|".join(map(re.escape, [*special, ID_SLOT]))
        for part in re.split(f"({names})", text):
            if part == ID_SLOT:
                parts.append(f"/{self._wire.id_pattern}/")
            elif part in special:
                parts.append(f"<[{special[part]}]>")
            elif part:
                parts.append(_literal(part))
        return " ".join(parts)


def _check_schema(tool: Tool) -> None:
    """Return if what the tool gives is a JSON Schema, and none that llguidance gets wrong."""
    try:
        if not is_plain(tool.parameters):
            Draft202012Validator.check_schema(dict(tool.parameters))
    except SchemaError as exc:
        where = ".".join(str(part) for part in exc.absolute_path)
        raise SchemaRefused(tool.name, f"not a JSON Schema at {where!r}: {exc.message}") from exc
    if (reason := unsound(tool.parameters)) is not None:
        raise SchemaRefused(tool.name, reason)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _reason(problem: str) -> str:
    """Return the keyword, or the first line of what llguidance said."""
    if keyword := _KEYWORD.search(problem):
        return f"the grammar cannot enforce {keyword[1]!r}"
    lines = (problem.partition("failed to compile JSON schema: ")[2] or problem).splitlines()
    line = next((line for line in lines if line.startswith("error: ")), lines[0])
    return f"the grammar cannot enforce its schema: {line.removeprefix('error: ').strip()}"
