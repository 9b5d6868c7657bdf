"""What the person can tell the app to do, once: slash commands, palette and help read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """One command of the app."""

    name: str
    """As typed after the slash."""
    title: str
    about: str
    action: str
    """Name of the app's action."""
    other_names: tuple[str, ...] = ()


VERBS = (
    Verb("new", "New session", "Begin a new conversation with this model and scenario",
         "new_session", ("clear",)),
    Verb("sessions", "Sessions", "Continue an earlier conversation", "sessions", ("resume",)),
    Verb("model", "Switch model", "Choose another model; the conversation stays", "model"),
    Verb("scenario", "Switch scenario", "Choose another scenario; a new conversation begins",
         "scenario"),
    Verb("tools", "Tools", "List the tools of this scenario", "tools"),
    Verb("compare", "Compare builds", "Open a finished comparison and the answers that flipped",
         "comparisons"),
    Verb("copy", "Copy last reply", "Copy the last message to the clipboard", "copy_last"),
    Verb("export", "Export session", "Write this conversation to a file", "export"),
    Verb("offline", "Toggle offline", "Open no socket at all, or use the network again",
         "toggle_offline"),
    Verb("theme", "Theme", "Choose other colours", "change_theme"),
    Verb("settings", "Settings", "Show every setting and where it is kept", "settings", ("set",)),
    Verb("help", "Help", "Show keys and commands", "help", ("?",)),
    Verb("exit", "Quit", "Leave; the conversation is kept", "quit", ("quit", "bye")),
)  # fmt: skip


def named(word: str) -> Verb | None:
    """Return the verb called `word`, or None if there is none."""
    return next((v for v in VERBS if word == v.name or word in v.other_names), None)
