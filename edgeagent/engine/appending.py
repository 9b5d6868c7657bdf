"""Prompts that only grow: what the model has read stays as it was read.

Some templates write earlier turns anew, Qwen3's leaves out their think blocks, and a prompt that
equals the template's rendering then costs the reading of much of a turn again. Here a prompt is
the rendering of its opening, and after it each answer as the model wrote it and the template's
own text for what followed. So a conversation gives the same prompt whenever it is read, up to how
an answer was divided into tokens, which only the running worker remembers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from edgeagent.engine.client import Prompt, StepDone
from edgeagent.engine.disguise import Disguise
from edgeagent.engine.prompt import PromptWriter, Rendering, strings_of
from edgeagent.engine.template import Template
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import ID_SLOT, Wire
from edgeagent.errors import TemplateError
from edgeagent.manifest import Dialect
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
    ToolKind,
    UserMessage,
)

Answer: TypeAlias = CallMessage | TextMessage
MAX_REMEMBERED = 1024
_KEY = "mark"
_TOOL = Tool(
    "yak_probe",
    "Does it.",
    {"type": "object", "properties": {_KEY: {"type": "string"}}, "required": [_KEY]},
    ToolKind.READ,
)


_CALLED = CallMessage((Call("call_000000000001", "zebra_probe", {_KEY: "a"}),))
_RESULT = ResultMessage("call_000000000001", "zebra_probe", "b")
_REPLIED = CallMessage((Call("call_000000000002", RESPOND, {_KEY: "c"}),))


class AppendingWriter(PromptWriter):
    """Writes prompts whose beginning never changes while a conversation goes on."""

    def __init__(
        self, template: Template, vocabulary: Vocabulary, wire: Wire, dialect: Dialect
    ) -> None:
        """Write for one model and dialect.

        Raises:
            TemplateError: the template cannot add to a conversation without writing it anew.
        """
        super().__init__(template, vocabulary, wire, dialect)
        self._written: dict[object, list[int]] = {}
        after = re.escape(wire.after).replace(re.escape(ID_SLOT), wire.id_pattern)
        self._closing = re.compile('"}' + after)
        self._has_calls = True
        rest = self._behind(_CALLED, (_RESULT,), self._disguise(()))
        self._has_calls = rest is not None and self._closing.match(rest) is not None
        for answer, inputs in ((_REPLIED, (UserMessage("?"),)), (_CALLED, (_RESULT,))):
            if _TOOL.name in self._following(answer, inputs).text:
                raise TemplateError(
                    "the model's chat template writes the tools anew in later messages; "
                    "take append_only out of its manifest"
                )

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return the prompt's tokens, ending where the model begins to write.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        opening, *rest = _parts(prompt.conversation)
        made = self.tokenize(self.render(Prompt(prompt.policy, prompt.tools, opening[1])))
        for answer, inputs in rest:
            assert answer is not None, "only the opening follows no answer"
            made += self._tokens_of(answer)
            made += self.tokenize(self._following(answer, inputs))
        return made

    def remember(self, done: StepDone, tokens: Sequence[int]) -> None:
        """Keep the tokens that an answer was written in."""
        if done.stop == "complete":
            answer = CallMessage(done.calls) if done.calls else TextMessage(done.text)
            self._written[_key(answer)] = list(tokens)
            while len(self._written) > MAX_REMEMBERED:
                del self._written[next(iter(self._written))]

    def _tokens_of(self, answer: Answer) -> list[int]:
        known = self._written.get(_key(answer))
        return self.tokenize(self._answer(answer)) if known is None else known

    def _answer(self, answer: Answer) -> Rendering:
        """Return an answer as the model writes it."""
        disguise = self._disguise(strings_of((answer,)))
        if isinstance(answer, TextMessage):
            return Rendering(disguise.undo(text := disguise.text(answer.text)), text)
        wire = self._wire
        separators = (wire.item_separator, wire.key_separator)
        # A call's id stands before its name or after its arguments, in every call alike.
        is_first = ID_SLOT in wire.before
        text, previous = "", ""
        for call in answer.calls:
            opener = wire.before if not text else wire.separator or wire.after + wire.before
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False, separators=separators)
            text += opener.replace(ID_SLOT, self._id(call.id) if is_first else previous)
            text += disguise.text(call.name) + wire.between + disguise.text(arguments)
            previous = self._id(call.id)
        text += wire.after.replace(ID_SLOT, previous)
        return Rendering(disguise.undo(text), text)

    def _following(self, answer: Answer, inputs: Sequence[Message]) -> Rendering:
        """Return what the template writes after the answer, to where the next one begins.

        The answer stands in a conversation of its own, so that nothing before it matters.

        Raises:
            TemplateError: the template refuses these messages, or drops the answer.
        """
        disguise = self._disguise(strings_of((answer, *inputs)))
        rest = self._behind(answer, inputs, disguise)
        if rest is None:
            raise TemplateError(
                "the model's chat template leaves out earlier answers; "
                "take append_only out of its manifest"
            )
        closing = self._closing.match(rest) if self._is_call(answer) else None
        rest = rest[closing.end() :] if closing else rest
        return Rendering(disguise.undo(rest), rest)

    def _behind(self, answer: Answer, inputs: Sequence[Message], disguise: Disguise) -> str | None:
        """Return what the template writes behind the answer's last argument, or its words.

        None where it writes neither.
        """
        messages = [
            {"role": "system", "content": self._dialect.system},
            {"role": "user", "content": "?"},
            self._marked(answer, disguise),
            *self._messages(tuple(inputs), disguise),
        ]
        text = self._template.render(
            messages, [disguise.tool(_TOOL)], thinking=self._dialect.thinking
        )
        _, found, rest = text.rpartition(disguise.mark)
        return rest if found else None

    def _marked(self, answer: Answer, disguise: Disguise) -> Mapping[str, Json]:
        """Return the answer as the template is given it, with a mark at its end."""
        if not self._is_call(answer):
            return {"role": "assistant", "content": disguise.mark}
        assert isinstance(answer, CallMessage)
        *others, last = answer.calls
        calls = [*others, replace(last, arguments={_KEY: disguise.mark})]
        written = [self._call(call, disguise) for call in calls]
        return {"role": "assistant", "content": "", "tool_calls": written}

    def _is_call(self, answer: Answer) -> bool:
        """Tell whether the template writes the answer as the model does; else it gets words."""
        return (
            isinstance(answer, CallMessage)
            and self._has_calls
            and not (self._wire.replies_as_text and [c.name for c in answer.calls] == [RESPOND])
        )


def _parts(conversation: Conversation) -> list[tuple[Answer | None, tuple[Message, ...]]]:
    """Return each answer with what followed it; the first part follows none."""
    parts: list[tuple[Answer | None, tuple[Message, ...]]] = [(None, ())]
    for message in conversation:
        if isinstance(message, CallMessage | TextMessage):
            parts.append((message, ()))
        else:
            answer, inputs = parts[-1]
            parts[-1] = (answer, (*inputs, message))
    return parts


def _key(answer: Answer) -> object:
    if isinstance(answer, TextMessage):
        return answer.text
    return tuple(call.id for call in answer.calls)
