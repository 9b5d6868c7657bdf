"""Text of a conversation exactly as the runtime renders it: through `chat_template.jinja`.

The template renders message by message, so a prompt is a prefix of the next one. Training text is
made of the same pieces. Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import jinja2.sandbox

Message: TypeAlias = dict[str, Any]
"""A chat message: role, content, tool_calls as Hugging Face templates take them."""
Tool: TypeAlias = dict[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters"}}`."""

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")
CALL_OPENING = '<|im_start|>assistant\n<tool_call>\n{"name": "'
"""What the grammar forces at the start of every step, and training therefore does not learn."""


def dumps(value: Any) -> str:
    """Return `value` as JSON in the one spelling that prompts and answers use."""
    return json.dumps(value, ensure_ascii=False)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(keep_trailing_newline=True)
    environment.filters["tojson"] = dumps
    return environment.from_string(TEMPLATE_FILE.read_text())


def render(
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    is_prompt: bool = False,
    policy: str = "",
) -> str:
    """Return the text of `messages`, behind the policy's title and the signatures of the tools.

    `is_prompt` adds the opening of the assistant's next step.
    """
    return _template().render(
        messages=[{"role": "system", "content": policy}, *messages],
        tools=list(tools) or None,
        add_generation_prompt=is_prompt,
    )


def user(text: str) -> Message:
    """Return what the customer says."""
    return {"role": "user", "content": text}


def call(name: str, arguments: dict[str, Any]) -> Message:
    """Return one step of the assistant."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def respond(text: str) -> Message:
    """Return a reply to the customer, which is a call like any other."""
    return call("respond_to_user", {"message": text})


def result(value: Any) -> Message:
    """Return what a tool answered: text as it is, anything else as JSON."""
    return {"role": "tool", "content": value if isinstance(value, str) else dumps(value)}


def tool(name: str, properties: dict[str, Any], required: Sequence[str]) -> Tool:
    """Return a tool in the shape that templates take; descriptions are not rendered."""
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": "", "parameters": parameters}
    return {"type": "function", "function": function}
