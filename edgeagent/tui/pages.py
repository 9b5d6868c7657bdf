"""What the help, settings and tools pages say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.binding import Binding, BindingType

from edgeagent.messages import Tool
from edgeagent.tui.approval import Ask
from edgeagent.tui.plain import one_line
from edgeagent.tui.ports import Ports
from edgeagent.tui.prompt import PromptBox
from edgeagent.tui.screens import Section
from edgeagent.tui.transcript import Transcript
from edgeagent.tui.verbs import VERBS

NO_MODELS = "No model is here yet: `edgeagent models pull REPO[:QUANT]` fetches one."
NO_SESSIONS = "There is no earlier conversation yet."

Keys = Sequence[BindingType]


def _places(anywhere: Keys) -> tuple[tuple[str, Keys], ...]:
    return (
        ("While writing", PromptBox.BINDINGS),
        ("Anywhere", anywhere),
        ("Among the messages", Transcript.BINDINGS),
        ("When asked to allow something", Ask.BINDINGS),
    )


def _named(keys: Keys) -> list[Binding]:
    return [key for key in keys if isinstance(key, Binding) and key.id]


def unknown_keys(anywhere: Keys, keymap: Mapping[str, str]) -> list[str]:
    """Return the ids in `keymap` that no key has."""
    known = {binding.id for _, keys in _places(anywhere) for binding in _named(keys)}
    return sorted(set(keymap) - known)


def help_sections(anywhere: Keys, keymap: Mapping[str, str]) -> list[Section]:
    """Return keys as they are mapped, with the ids to remap them by, and commands."""
    sections = []
    for title, keys in _places(anywhere):
        rows = tuple(
            (
                _shown(keymap.get(key.id or "", key.key)),
                f"{key.tooltip or key.description}  ({key.id})",
            )
            for key in _named(keys)
        )
        sections.append(Section(title, rows))
    sections[1] = Section("Anywhere", (*sections[1].rows, ("ctrl+p", "Commands")))
    commands = tuple((f"/{verb.name}", verb.about) for verb in VERBS)
    about_keys = 'Words in brackets name a key in the configuration: [ui.keymap] "name" = "key"'
    return [*sections, Section("Commands", commands), Section(about_keys, ())]


def _shown(keys: str) -> str:
    return "  ".join(key.strip().replace("escape", "esc") for key in keys.split(","))


def settings_sections(ports: Ports) -> list[Section]:
    """Return every setting in force, and where to change it."""
    where = Section("Kept in", ((ports.config_path or "no file", "edit it and start again"),))
    return [where, Section("In force", ports.settings)]


def tool_sections(tools: Sequence[Tool]) -> list[Section]:
    """Return the tools by what they may change."""
    kinds = dict.fromkeys(tool.kind for tool in tools)
    if not kinds:
        return [Section("No session is open.", ())]
    return [
        Section(kind.value, tuple((t.name, one_line(t.description, 200))
                                  for t in tools if t.kind is kind))
        for kind in kinds
    ]  # fmt: skip
