"""The value that every data source makes: a conversation and the tools it could use."""

from __future__ import annotations

from dataclasses import dataclass

from models.nano.template import Message, Tool, tool


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation, from the customer's first message on."""

    source: str
    """Where it comes from; training reports a loss for each source."""
    tools: tuple[Tool, ...]
    messages: tuple[Message, ...]
    policy: str = ""
    """What the desk is told; the prompt shows its title."""


_TEXT = {"type": "string"}
RESPOND_TOOL = tool("respond_to_user", {"message": _TEXT}, ["message"])
THINK_TOOL = tool("think", {"thought": _TEXT}, ["thought"])
TRANSFER_TOOL = tool("transfer_to_human_agents", {"summary": _TEXT}, ["summary"])
DEFER_TOOL = tool("defer_to_larger_model", {"reason": _TEXT}, ["reason"])
