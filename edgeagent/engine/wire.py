"""How a model writes a tool call, found out by letting its template write one.

Knows neither tokens nor schemas: text in, text out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeagent.engine.template import Template
from edgeagent.errors import TemplateError
from edgeagent.messages import Json

ID_SLOT = "\x00"
"""Stands in `Wire` texts where the model writes the id of its call."""
N_SHORT_ID = 9
"""Mistral's templates refuse ids of any other length."""

_QUESTION = "Why do vultures waltz?"
_NAME, _OTHER_NAME = "zebra_probe", "yak_probe"
_ARGUMENTS: Mapping[str, Json] = {"walrus": "quince", "count": 7}
_STYLES = ((", ", ": "), (",", ":"), (", ", ":"), (",", ": "))


@dataclass(frozen=True, slots=True)
class Wire:
    """The text around a call's name and arguments."""

    before: str
    """From where the model begins to write to the name."""
    between: str
    """From the name to the arguments object."""
    after: str
    """From the arguments object to the end of the turn."""
    separator: str | None
    """From one call's arguments to the next call's name; None: one call per message."""
    item_separator: str = ", "
    key_separator: str = ": "
    arguments_as_text: bool = False
    """Whether the template wants arguments as JSON text instead of an object."""
    short_ids: bool = False
    """Whether the template takes only call ids of nine characters."""

    replies_as_text: bool = False
    """Whether the template wants plain words, no call, before the customer's next message."""

    @property
    def id_pattern(self) -> str:
        """What the model may write at an id's place, as a regular expression."""
        return f"[a-zA-Z0-9]{{{N_SHORT_ID}}}" if self.short_ids else "call_[0-9a-f]{12}"


HERMES = Wire(
    before='<tool_call>\n{"name": "',
    between='", "arguments": ',
    after="}\n</tool_call>",
    separator='}\n</tool_call>\n<tool_call>\n{"name": "',
)
"""What is used where a template writes calls in a form that is not JSON."""


def read_calls(wire: Wire, text: str, names: Collection[str]) -> list[tuple[str, Json]]:
    """Return name and arguments of each call in a complete answer.

    Raises:
        ValueError: the text is not one or more whole calls of these names.
    """
    calls: list[tuple[str, Json]] = []
    opener = wire.before
    while True:
        heads = {opener + name + wire.between: name for name in names}
        head = max((h for h in heads if text.startswith(h)), key=len, default=None)
        if head is None:
            raise ValueError(f"{text[:80]!r} begins no call")
        arguments, end = json.JSONDecoder().raw_decode(text, len(head))
        calls.append((heads[head], arguments))
        text = text[end:]
        if _pattern(wire, wire.after).fullmatch(text):
            return calls
        between = _pattern(wire, wire.separator or wire.after).match(text)
        if between is None:
            raise ValueError(f"{text[:80]!r} follows a call")
        text, opener = text[between.end() :], ""


def _pattern(wire: Wire, text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(re.escape(ID_SLOT), wire.id_pattern))


def probe(template: Template, ends: Sequence[str], thinking: bool) -> Wire:
    """Return how the template writes calls; `ends` are the texts of end-of-turn tokens.

    Raises:
        TemplateError: the template leaves out the tools, or cannot write a call.
    """
    if _NAME not in template.render(_messages(()), [_tool(_NAME)], thinking=thinking):
        raise TemplateError(
            "the model's chat template leaves the tools out of the prompt; "
            "use an instruct model whose template takes tools"
        )
    written = False
    for as_text, short_ids in ((False, False), (False, True), (True, False), (True, True)):
        found = _probe_form(template, ends, thinking, as_text, short_ids)
        if isinstance(found, Wire):
            return replace(found, replies_as_text=not _takes_replies(template, found, thinking))
        written = written or found
    if written:
        return HERMES
    raise TemplateError(
        "the model's chat template cannot write an assistant's tool call; "
        "use an instruct model whose template takes tools"
    )


def _takes_replies(template: Template, wire: Wire, thinking: bool) -> bool:
    """Tell whether a customer's message may follow a call; Mistral's templates refuse it."""
    call = _call(_NAME, 0, wire.arguments_as_text, wire.short_ids)
    talk = [*_messages([call]), {"role": "user", "content": _QUESTION}]
    try:
        template.render(talk, [_tool(_NAME)], thinking=thinking)
    except TemplateError:
        return False
    return True


def _probe_form(
    template: Template, ends: Sequence[str], thinking: bool, as_text: bool, short_ids: bool
) -> Wire | bool:
    """Return the wire, or whether the template wrote the call at all."""
    calls = [_call(_NAME, 0, as_text, short_ids), _call(_OTHER_NAME, 1, as_text, short_ids)]
    tools = [_tool(_NAME), _tool(_OTHER_NAME)]
    written = False
    for think in (thinking, True, None):
        try:
            start = template.render(_messages(()), tools, thinking=think)
            one = template.render(_messages(calls[:1]), tools, asks=False, thinking=think)
        except TemplateError:
            continue
        written = written or one.count(_NAME) > start.count(_NAME)
        try:
            two = template.render(_messages(calls), tools, asks=False, thinking=think)
        except TemplateError:
            two = ""
        # Some templates write the tools into the last message only, so that what comes before
        # the customer's words changes as the conversation goes on; what follows them does not.
        header, answer, answers = (text.rpartition(_QUESTION)[2] for text in (start, one, two))
        if answer.startswith(header):
            n = len(header)
            wire = _read(answer[n:], answers[n:], ends, as_text, short_ids)
            if wire is not None:
                return wire
    return written


def _read(one: str, two: str, ends: Sequence[str], as_text: bool, short_ids: bool) -> Wire | None:
    """Take the texts apart that follow the generation prompt for one and for two calls."""
    before, found, rest = one.partition(_NAME)
    if not found:
        return None
    for item, key in _STYLES:
        arguments = json.dumps(_ARGUMENTS, separators=(item, key))
        between, found, after = rest.partition(arguments)
        if not found:
            continue
        cut = min((after.index(end) for end in ends if end in after), default=None)
        after = _slotted(after.rstrip() if cut is None else after[:cut], short_ids)
        middle = two.partition(arguments)[2].partition(_OTHER_NAME)
        separator = _slotted(middle[0], short_ids) if middle[1] else None
        if any(end in (separator or "") for end in ends):
            separator = None
        return Wire(before, between, after, separator, item, key, as_text, short_ids)
    return None


def _slotted(text: str, short_ids: bool) -> str:
    for index in range(2):
        text = text.replace(_probe_id(index, short_ids), ID_SLOT)
    return text


def _probe_id(index: int, short_ids: bool) -> str:
    return f"prb{index:06d}" if short_ids else f"call_{index:012x}"


def _messages(calls: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    messages: list[Mapping[str, Json]] = [
        {"role": "system", "content": "policy"},
        {"role": "user", "content": _QUESTION},
    ]
    if calls:
        messages.append({"role": "assistant", "content": "", "tool_calls": list(calls)})
    return messages


def _call(name: str, index: int, as_text: bool, short_ids: bool) -> Mapping[str, Json]:
    arguments = json.dumps(_ARGUMENTS) if as_text else dict(_ARGUMENTS)
    return {
        "id": _probe_id(index, short_ids),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _tool(name: str) -> Mapping[str, Json]:
    properties = {
        "walrus": {"type": "string", "description": "A word."},
        "count": {"type": "integer", "description": "A number."},
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": "Does it.", "parameters": parameters},
    }
