"""A finished comparison in the app: its table, and what flipped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from edgeagent.tui.app import EdgeAgentApp
from edgeagent.tui.comparison import ComparisonScreen
from edgeagent.tui.ports import Choice
from edgeagent.tui.prompt import PromptBox
from edgeagent.tui.screens import PageScreen, PickScreen, Rows
from tests.tui_script import Desk, Script, reply


@asynccontextmanager
async def stage(**ports: object) -> AsyncIterator[Pilot[int]]:
    app = EdgeAgentApp(Desk([Script([reply("Hello.")])]).ports(**ports), Choice("nano", "airline"))
    async with app.run_test(size=(100, 30)) as pilot:
        for _ in range(400):
            if app.chat.work is None:
                break
            await pilot.pause(0.02)
        yield pilot


async def send(pilot: Pilot[int], text: str) -> None:
    """Type a command and wait for what it opens or says."""
    pilot.app.screen.query_one(PromptBox).text = text
    await pilot.press("enter")
    for _ in range(200):
        if len(pilot.app.screen_stack) > 1 or pilot.app._notifications:
            break
        await pilot.pause(0.02)
    await pilot.pause()


def shown(pilot: Pilot[int]) -> str:
    widgets = [*pilot.app.screen.query(Static), *pilot.app.screen.query(Rows)]
    return "\n".join(str(widget.render()) for widget in widgets)


async def test_a_folder_opens_its_table_and_enter_leads_to_an_answer() -> None:
    async with stage() as pilot:
        await send(pilot, "/compare /r")
        assert isinstance(pilot.app.screen, ComparisonScreen)
        table = pilot.app.screen.query_one(DataTable)
        assert [str(cell) for cell in table.get_row_at(1)][:3] == ["Q2_K", "4.31", "0.0523"]
        await pilot.press("j", "enter")
        assert isinstance(pilot.app.screen, PickScreen)
        assert "Q2_K: what flipped" in shown(pilot)
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, PageScreen)
        page = shown(pilot)
        assert "lost, the tool: tft 3/7" in page
        assert "[bold]Italian[/bold]" in page  # a customer's words are no markup
        assert '{"name": "respond_to_user"}' in page
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, ComparisonScreen)


async def test_the_base_has_nothing_that_flipped() -> None:
    async with stage() as pilot:
        await send(pilot, "/compare /r")
        await pilot.press("enter")
        assert "F16 is what the others are held against" in shown(pilot)


async def test_the_columns_are_explained() -> None:
    async with stage() as pilot:
        await send(pilot, "/compare /r")
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, PageScreen)
        assert "Divergence." in shown(pilot)
        assert "One passage was cut." in shown(pilot)


async def test_finished_comparisons_are_listed() -> None:
    async with stage() as pilot:
        await send(pilot, "/compare")
        assert isinstance(pilot.app.screen, PickScreen)
        await pilot.press("enter")
        for _ in range(100):
            if isinstance(pilot.app.screen, ComparisonScreen):
                break
            await pilot.pause(0.02)
        assert isinstance(pilot.app.screen, ComparisonScreen)


@pytest.mark.parametrize(
    ("line", "ports", "told"),
    [
        ("/compare /nowhere", {}, "there is no report in /nowhere"),
        ("/compare", {"comparisons": tuple}, "No comparison is here yet"),
    ],
)
async def test_without_a_report_the_next_step_is_told(
    line: str, ports: dict[str, object], told: str
) -> None:
    async with stage(**ports) as pilot:
        await send(pilot, line)
        notices = "\n".join(notice.message for notice in pilot.app._notifications)
        assert told in notices + shown(pilot)
