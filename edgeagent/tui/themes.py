"""Our two themes: quiet enough for a whole working day, one dark and one light."""

from textual.theme import Theme

DARK = Theme(
    name="edgeagent-dark",
    primary="#7aa2c7",
    secondary="#8fa7a0",
    accent="#b4a3cf",
    success="#8fb98a",
    warning="#d9b26a",
    error="#d9827a",
    foreground="#d6d9dc",
    background="#16191d",
    surface="#1d2126",
    panel="#262b31",
    dark=True,
    variables={"border": "#39414a", "footer-key-foreground": "#7aa2c7"},
)

LIGHT = Theme(
    name="edgeagent-light",
    primary="#2f6690",
    secondary="#5c7a73",
    accent="#6b5296",
    success="#3d7a3a",
    warning="#8f6410",
    error="#b0413a",
    foreground="#24292e",
    background="#f7f6f3",
    surface="#efede8",
    panel="#e4e1da",
    dark=False,
    variables={"border": "#c9c4b9", "footer-key-foreground": "#2f6690"},
)

THEMES = (DARK, LIGHT)
