"""How the app looks, as screenshots that a person has approved; `--snapshot-update` renews them."""

from __future__ import annotations

from collections.abc import Callable

from textual.pilot import Pilot

from edgeagent.tui.app import EdgeAgentApp
from edgeagent.tui.approval import Ask
from edgeagent.tui.ports import Choice
from tests.tui_script import EVERYTHING, Desk, Script, cancellation, reply

Compare = Callable[..., bool]
SIZE = (100, 40)


def app(script: Script, model: str = "nano", theme: str = "") -> EdgeAgentApp:
    return EdgeAgentApp(Desk([script]).ports(theme=theme), Choice(model, "airline"))


async def settled(pilot: Pilot[int]) -> None:
    """Wait for the session, and let the cursor stand still."""
    at = pilot.app
    assert isinstance(at, EdgeAgentApp)
    at.chat.prompt.cursor_blink = False
    while at.chat.work is not None:
        await pilot.pause(0.02)
    await pilot.pause()


async def asked(pilot: Pilot[int]) -> None:
    await settled(pilot)
    await pilot.press(*"Cancel it.", "enter")
    while not any(ask.is_armed for ask in pilot.app.query(Ask)):
        await pilot.pause(0.02)


def test_an_empty_session_says_how_to_begin(snap_compare: Compare) -> None:
    assert snap_compare(app(Script([reply("x")])), run_before=settled, terminal_size=SIZE)


def test_without_a_model_the_next_step_is_shown(snap_compare: Compare) -> None:
    assert snap_compare(app(Script(), model="missing"), run_before=settled, terminal_size=SIZE)


def test_a_conversation_with_every_kind_of_block(snap_compare: Compare) -> None:
    script = Script([reply("x")], past=list(EVERYTHING))
    assert snap_compare(app(script), run_before=settled, terminal_size=(100, 56))


def test_the_same_conversation_in_the_light_theme(snap_compare: Compare) -> None:
    script = Script([reply("x")], past=list(EVERYTHING))
    light = app(script, theme="edgeagent-light")
    assert snap_compare(light, run_before=settled, terminal_size=(100, 56))


def test_a_narrow_terminal(snap_compare: Compare) -> None:
    script = Script([reply("x")], past=list(EVERYTHING))
    assert snap_compare(app(script), run_before=settled, terminal_size=(48, 30))


def test_an_open_tool_line(snap_compare: Compare) -> None:
    script = Script([reply("x")], past=list(EVERYTHING[:10]))
    keys = ("tab", "k", "k", "k", "enter")
    assert snap_compare(app(script), run_before=settled, press=keys, terminal_size=SIZE)


def test_a_question_before_a_write(snap_compare: Compare) -> None:
    script = Script([cancellation([])])
    assert snap_compare(app(script), run_before=asked, terminal_size=SIZE)


def test_the_help_page(snap_compare: Compare) -> None:
    script = Script([reply("x")])
    assert snap_compare(app(script), run_before=settled, press=("f1",), terminal_size=(100, 60))


def test_the_list_of_sessions(snap_compare: Compare) -> None:
    script = Script([reply("x")])
    assert snap_compare(app(script), run_before=settled, press=("ctrl+r", "_"), terminal_size=SIZE)
