"""The app as a person meets it, on scripted sessions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from edgeagent.events import (
    ApprovalGiven,
    ApprovalNeeded,
    ContextTrimmed,
    Decision,
    Event,
    Prefilled,
    Question,
    StepStarted,
    Stop,
    Tier,
    TurnFailed,
    TurnStarted,
)
from edgeagent.link import LinkState
from edgeagent.messages import Call
from edgeagent.tui.app import EdgeAgentApp
from edgeagent.tui.approval import Ask
from edgeagent.tui.blocks import Line, Said
from edgeagent.tui.ports import Choice
from edgeagent.tui.prompt import PromptBox
from edgeagent.tui.screens import PageScreen, PickScreen
from tests.tui_script import (
    EVERYTHING,
    Approve,
    Desk,
    Script,
    Turn,
    cancellation,
    ended,
    hanging,
    lookup,
    reply,
    said,
    written,
)


@dataclass
class Stage:
    """A running app and what a test looks at."""

    app: EdgeAgentApp
    pilot: Pilot[int]
    desk: Desk

    @property
    def script(self) -> Script:
        return self.desk.scripts[0]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for the worker thread and the screen to get there."""
        for _ in range(400):
            if holds():
                return
            await self.pilot.pause(0.02)
        raise AssertionError("it never happened:\n" + "\n".join(self.lines()))

    async def ready(self) -> None:
        await self.until(lambda: self.app.chat.work is None)

    async def send(self, text: str) -> None:
        self.app.query_one(PromptBox).text = text
        await self.pilot.press("enter")

    async def say(self, text: str) -> None:
        """Send and wait for the end of the turn."""
        n_said = len(self.script.said)
        await self.send(text)
        await self.until(lambda: len(self.script.said) > n_said)
        await self.ready()
        await self.pilot.pause()

    def lines(self) -> list[str]:
        """What every block of the transcript shows."""
        blocks = self.app.screen_stack[0].query(".block")
        return [" ".join(str(block.render()).split()) for block in blocks]

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines())

    def tool(self) -> Line:
        return next(iter(self.app.query(".tool").results(Line)))

    def notices(self) -> str:
        return "\n".join(notice.message for notice in self.app._notifications)


@asynccontextmanager
async def stage(*turns: Turn, desk: Desk | None = None, **ports: object) -> AsyncIterator[Stage]:
    """An app that has opened its session."""
    desk = desk or Desk([Script(list(turns or [reply("Hello.")]))])
    choice = Choice("nano", "airline")
    app = EdgeAgentApp(desk.ports(**ports), choice)
    app.NOTIFICATION_TIMEOUT = 600  # a slow machine must not outlive what is looked for
    async with app.run_test(size=(100, 30)) as pilot:
        at = Stage(app, pilot, desk)
        await at.ready()
        await pilot.pause()
        yield at


async def test_a_message_is_answered_with_the_badge_of_the_tier_that_answered() -> None:
    async with stage(reply("It leaves at noon.")) as at:
        await at.say("When does it leave?")
        assert at.script.said == ["When does it leave?"]
        customer, agent = list(at.app.query(Said))[-2:]
        assert (customer.who, customer.text) == ("customer", "When does it leave?")
        assert (agent.text, agent.tier) == ("It leaves at noon.", Tier.LOCAL)
        assert agent.has_class("-local")
        assert " local " in str(agent.render())


async def test_a_reply_is_shown_while_it_is_written() -> None:
    begun = written("It leaves at noon and arrives")[:-3]
    async with stage(hanging([StepStarted(1, Tier.LOCAL), *begun])) as at:
        await at.send("When?")
        await at.until(lambda: at.shows("It leaves at"))
        assert list(at.app.query(Said))[-1].tier is None
        await at.pilot.press("escape")
        await at.ready()


async def test_escape_says_so_at_once_and_keeps_what_was_said() -> None:
    begun = written("It leaves at noon and arrives")[:-3]
    async with stage(hanging([StepStarted(1, Tier.LOCAL), *begun])) as at:
        await at.send("When?")
        await at.until(lambda: at.shows("It leaves at"))
        await at.pilot.press("escape")
        assert at.shows("cancelled")
        await at.ready()
        assert at.shows("It leaves at")
        assert at.shows("When?")
        assert sum("cancelled;" in line for line in at.lines()) == 1


async def test_what_was_done_before_a_cancel_arrived_is_shown_after_it() -> None:
    """The truth is what happened: an answer that came first is an answer."""

    def play(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        cancel.wait(20)
        yield from written("never shown while it is written")
        yield from said("It was done.")

    async with stage(play) as at:
        await at.send("Do it")
        await at.until(lambda: at.shows("Do it"))
        await at.pilot.press("escape")
        await at.ready()
        assert at.shows("It was done.")
        assert at.shows("over before it could be cancelled")
        assert not at.shows("never shown")


async def test_a_tool_line_opens_to_arguments_and_result() -> None:
    async with stage(lookup()) as at:
        await at.say("Where?")
        line = at.tool()
        folded = str(line.render())
        assert folded == "▸ get_reservation_details  reservation_id=7KD2RM  ok  2 ms"
        await at.pilot.press("tab")
        while not line.has_class("-current"):
            await at.pilot.press("k")
        await at.pilot.press("enter")
        opened = str(line.render())
        assert '\n    "reservation_id": "7KD2RM"' in opened
        assert '"cabin": "business"' in opened
        await at.pilot.press("space")
        assert str(line.render()) == folded


async def test_a_failed_tool_says_why_on_its_line() -> None:
    async with stage(lookup('{"error": "no such reservation"}', is_error=True)) as at:
        await at.say("Where?")
        assert at.shows("failed: no such reservation")


@pytest.mark.parametrize(
    ("key", "decision", "shown"),
    [
        ("a", Decision.ONCE, "allowed once"),
        ("A", Decision.ALWAYS, "allowed until"),
        ("r", Decision.REFUSE, "refused"),
        ("escape", Decision.REFUSE, "cancelled"),
    ],
)
async def test_a_write_waits_for_the_person(key: str, decision: Decision, shown: str) -> None:
    decisions: list[Decision] = []
    async with stage(cancellation(decisions)) as at:
        await at.send("Cancel it")
        await at.until(lambda: any(ask.is_armed for ask in at.app.query(Ask)))
        assert at.shows("Cancel the whole reservation 7KD2RM.")
        assert decisions == []
        await at.pilot.press(key)
        await at.ready()
        assert decisions == [decision]
        assert at.shows(shown)
        assert isinstance(at.app.focused, PromptBox)


async def test_a_letter_typed_as_the_question_appears_allows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Ask, "ARM_S", 600.0)
    decisions: list[Decision] = []
    async with stage(cancellation(decisions)) as at:
        await at.send("Cancel it")
        await at.until(lambda: isinstance(at.app.focused, Ask))
        ask = at.app.query_one(Ask)
        await at.pilot.press("a")
        assert decisions == []
        ask.is_armed = True
        await at.pilot.press("r")
        await at.ready()
        assert decisions == [Decision.REFUSE]


async def test_a_question_does_not_take_the_keys_of_someone_who_is_writing() -> None:
    decisions: list[Decision] = []
    is_typing = threading.Event()

    def slow(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        is_typing.wait(20)
        yield from cancellation(decisions)(text, cancel, approve)

    async with stage(slow) as at:
        await at.send("Cancel it")
        await at.pilot.press(*"and")
        is_typing.set()
        await at.until(lambda: any(ask.is_armed for ask in at.app.query(Ask)))
        await at.pilot.press("a")
        assert at.app.query_one(PromptBox).text == "anda"
        assert decisions == []
        await at.pilot.press("tab")
        await at.until(lambda: isinstance(at.app.focused, Ask))
        await at.pilot.press("a")
        await at.ready()
        assert decisions == [Decision.ONCE]


async def test_leaving_while_a_question_is_open_refuses_it() -> None:
    decisions: list[Decision] = []
    async with stage(cancellation(decisions)) as at:
        await at.send("Cancel it")
        await at.until(lambda: any(ask.is_open for ask in at.app.query(Ask)))
        await at.pilot.press("ctrl+q")
    for _ in range(200):
        if not decisions:
            await asyncio.sleep(0.01)
    assert decisions == [Decision.REFUSE]


async def test_a_failed_turn_says_what_to_do_and_the_next_one_works() -> None:
    def fails(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield TurnFailed("the engine died twice; start a new session")

    async with stage(fails, reply("Back again.")) as at:
        await at.say("Hello")
        assert at.shows("the engine died twice; start a new session")
        assert at.app.query(".error")
        await at.say("And now?")
        assert at.shows("Back again.")


@pytest.mark.parametrize(
    "text",
    [
        "[bold]x[/]",
        "[link=https://example.org]click[/link]",
        "[@click=app.quit]quit[/]",
        "[/unopened] [",
        "$text-error [red",
    ],
)
async def test_markup_in_any_text_is_shown_as_it_is(text: str) -> None:
    arguments: dict[str, object] = {"reservation_id": text}
    async with stage(lookup(f'{{"note": "{text}"}}', arguments=arguments, message=text)) as at:
        await at.say(text)
        customer, agent = list(at.app.query(Said))[-2:]
        assert text in str(customer.render())
        assert text in str(agent.render())
        assert text in str(at.tool().render())
        at.tool().toggle()
        await at.pilot.pause()
        assert str(at.tool().render()).count(text) >= 3


async def test_escape_sequences_of_a_tool_never_reach_the_terminal() -> None:
    content = "\x1b[31mred\x1b[0m \x1b]52;c;eA==\x07 \x9b2J over\rwritten \u202egnp"
    async with stage(lookup(content, message="done \x1b[2J")) as at:
        await at.say("Where?")
        at.tool().toggle()
        await at.pilot.pause()
        drawn = "".join(at.lines())
        assert "red" in drawn
        for character in "\x1b\x07\x9b\r\u202e":
            assert character not in drawn


async def test_no_model_leaves_the_app_alive_with_the_next_step() -> None:
    desk = Desk([Script([reply("Here I am.")])])
    app = EdgeAgentApp(desk.ports(), Choice("missing", "airline"))
    async with app.run_test(size=(100, 30)) as pilot:
        at = Stage(app, pilot, desk)
        await at.ready()
        await pilot.pause()
        assert at.shows("edgeagent models list")
        await at.send("Hello?")
        await pilot.pause()
        assert app.query_one(PromptBox).text == "Hello?"
        assert "no model" in at.notices()
        await at.send("/model nano")
        await at.until(lambda: len(desk.opened) == 2)
        await at.ready()
        await at.say("Hello?")
        assert at.shows("Here I am.")


async def test_a_resumed_session_is_rendered_from_its_events() -> None:
    desk = Desk([Script([reply("Go on.")], past=list(EVERYTHING))])
    async with stage(desk=desk) as at:
        assert at.shows("From Dallas to Los Angeles")
        assert at.shows("allowed once: cancel_reservation")
        assert at.shows("kept in the outbox")
        assert not any(ask.is_open for ask in at.app.query(Ask))
        tiers = [block.tier for block in at.app.query(Said) if block.who == "agent"]
        assert tiers == [Tier.LOCAL, Tier.LOCAL, Tier.OFFLINE, Tier.REMOTE]
        assert at.app.chat.status.tier is Tier.REMOTE


async def test_an_interrupted_turn_is_said_to_be_closed() -> None:
    mended = (TurnFailed("the program ended in the middle of this turn"),)
    past = [TurnStarted("Hello"), StepStarted(1, Tier.LOCAL)]
    async with stage(desk=Desk([Script([reply("x")], past=list(past), mended=mended)])) as at:
        assert at.shows("the program ended in the middle")
        assert at.shows("interrupted and has been closed")


async def test_a_message_sent_during_a_turn_goes_when_the_turn_is_over() -> None:
    decisions: list[Decision] = []
    async with stage(cancellation(decisions), reply("Second.")) as at:
        await at.send("first")
        await at.until(lambda: any(ask.is_armed for ask in at.app.query(Ask)))
        at.app.query_one(PromptBox).focus()
        await at.send("second")
        await at.until(lambda: at.app.chat.waiting == "second")
        assert at.script.said == ["first"]
        await at.send("third")
        await at.pilot.pause()
        assert at.app.query_one(PromptBox).text == "third"
        at.app.query_one(PromptBox).clear()
        at.app.query_one(Ask).focus()
        await at.pilot.press("a")
        await at.until(lambda: at.shows("Second."))
        assert at.script.said == ["first", "second"]


async def test_escape_returns_the_message_that_was_waiting() -> None:
    async with stage(hanging([])) as at:
        await at.send("first")
        await at.until(lambda: at.script.said == ["first"])
        await at.send("second")
        await at.until(lambda: at.app.chat.waiting == "second")
        await at.pilot.press("escape")
        await at.ready()
        assert at.app.query_one(PromptBox).text == "second"
        assert at.script.said == ["first"]


async def test_control_c_stops_the_turn_and_twice_quits() -> None:
    async with stage(hanging([])) as at:
        await at.send("first")
        await at.until(lambda: at.shows("first"))
        await at.pilot.press("ctrl+c")
        assert at.shows("cancelled")
        await at.ready()
        assert at.app.is_running
        await at.pilot.press("ctrl+c")
    assert at.app.return_value == 130


async def test_control_d_quits_only_from_an_empty_prompt() -> None:
    async with stage() as at:
        box = at.app.query_one(PromptBox)
        box.text = "ab"
        box.move_cursor((0, 0))
        await at.pilot.press("ctrl+d")
        assert box.text == "b"
        await at.pilot.press("ctrl+d")
        assert at.app.return_value is None
        await at.pilot.press("ctrl+d")
    assert at.app.return_value == 0


async def test_enter_behind_fast_letters_sends_them_all() -> None:
    """Keys that arrive in one burst, as a terminal sends them."""
    async with stage(reply("ok")) as at:
        await at.pilot.press(*"where", "enter")
        await at.until(lambda: at.script.said == ["where"])


async def test_shift_enter_and_control_j_begin_a_line() -> None:
    async with stage(reply("ok")) as at:
        await at.pilot.press("a", "shift+enter", "b", "ctrl+j", "c")
        assert at.app.query_one(PromptBox).text == "a\nb\nc"


async def test_a_huge_paste_is_held_aside_and_sent_whole() -> None:
    from textual import events

    text = "word " * 20_000
    async with stage(reply("long")) as at:
        box = at.app.query_one(PromptBox)
        box.post_message(events.Paste(text))
        await at.pilot.pause()
        assert box.text == "[paste 1: 100,000 characters]"
        await at.pilot.press("enter")
        await at.until(lambda: at.script.said == [text])
        await at.ready()
        assert at.shows("98,000 more characters")


@pytest.mark.parametrize(
    ("command", "screen"),
    [("/help", PageScreen), ("/?", PageScreen), ("/tools", PageScreen), ("/settings", PageScreen),
     ("/model", PickScreen), ("/scenario", PickScreen), ("/sessions", PickScreen)],
)  # fmt: skip
async def test_a_slash_command_opens_its_screen(command: str, screen: type) -> None:
    async with stage() as at:
        await at.send(command)
        await at.until(lambda: isinstance(at.app.screen, screen))
        await at.pilot.press("escape")
        assert not isinstance(at.app.screen, screen)
        assert at.script.said == []


async def test_an_unknown_slash_command_is_not_sent() -> None:
    async with stage() as at:
        await at.send("/refund [b]me")
        await at.pilot.pause()
        assert at.script.said == []
        assert "no command /refund" in at.notices()
        assert at.app.query_one(PromptBox).text == "/refund [b]me"


async def test_slash_exit_quits() -> None:
    async with stage() as at:
        await at.send("/exit")
    assert at.app.return_value == 0


async def test_an_earlier_session_is_chosen_with_its_scenario() -> None:
    first, second = Script([reply("x")]), Script([reply("y")], past=list(EVERYTHING))
    desk = Desk([first, second])
    async with stage(desk=desk) as at:
        await at.pilot.press("ctrl+r")
        await at.until(lambda: isinstance(at.app.screen, PickScreen))
        await at.pilot.press("j", "enter")
        await at.until(lambda: len(desk.opened) == 2)
        await at.ready()
        assert desk.opened[1] == Choice("nano", "orders", "s1")
        assert first.is_closed
        assert at.shows("From Dallas to Los Angeles")


async def test_switching_the_model_keeps_the_conversation() -> None:
    async with stage(reply("x")) as at:
        await at.send("/model")
        await at.until(lambda: isinstance(at.app.screen, PickScreen))
        rows = at.app.screen.query_one(OptionList)
        assert rows.highlighted == 0
        await at.pilot.press("down", "enter")
        await at.until(lambda: len(at.desk.opened) == 2)
        assert at.desk.opened[1] == Choice("distil", "airline", at.script.session_id)


async def test_another_session_may_be_chosen_while_one_is_being_opened() -> None:
    may_open = threading.Event()
    desk = Desk([Script([reply("x")]), Script([reply("y")])])

    def slow(choice: Choice) -> Script:
        may_open.wait(20)
        return desk.open(choice)

    app = EdgeAgentApp(desk.ports(open_session=slow), Choice("nano", "airline"))
    async with app.run_test(size=(100, 30)) as pilot:
        at = Stage(app, pilot, desk)
        await at.send("/model distil")
        await pilot.pause()
        may_open.set()
        await at.until(lambda: len(desk.opened) == 2)
        await at.ready()
        assert desk.scripts[0].is_closed
        assert desk.opened[1].model == "distil"
        assert at.app.chat.session is desk.scripts[1]


async def test_a_message_typed_while_a_turn_is_being_stopped_is_sent() -> None:
    may_stop = threading.Event()

    def stubborn(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        may_stop.wait(20)
        yield ended(Stop.CANCELLED, 1)

    async with stage(stubborn, reply("Here.")) as at:
        await at.send("first")
        await at.until(lambda: at.shows("first"))
        await at.pilot.press("escape")
        await at.send("second")
        await at.until(lambda: at.app.chat.waiting == "second")
        may_stop.set()
        await at.until(lambda: at.shows("Here."))
        assert at.script.said == ["first", "second"]


async def test_a_chosen_theme_says_how_to_keep_it() -> None:
    async with stage() as at:
        at.app.theme = "nord"
        await at.pilot.pause()
        assert 'theme = "nord"' in at.notices()


async def test_offline_opens_the_same_session_without_the_network() -> None:
    async with stage(reply("x")) as at:
        await at.send("/offline")
        await at.until(lambda: len(at.desk.opened) == 2)
        assert at.desk.opened[1] == Choice("nano", "airline", at.script.session_id, offline=True)


async def test_export_names_the_file() -> None:
    async with stage(reply("x")) as at:
        await at.send("/export")
        await at.until(lambda: at.shows(f"exported to {at.script.session_id}.json"))


async def test_y_copies_the_message_and_shift_y_the_result() -> None:
    async with stage(lookup('{"cabin": "business"}', message="In business.")) as at:
        await at.say("Where?")
        await at.pilot.press("tab", "y")
        assert at.app.clipboard == "In business."
        assert "12 characters" in at.notices()
        await at.pilot.press("k", "Y")
        assert at.app.clipboard == '{\n  "cabin": "business"\n}'


async def test_keys_can_be_remapped_and_a_wrong_name_is_told() -> None:
    keymap = {"app.help": "f9", "nonsense": "x", "prompt.send": "ctrl+s"}
    async with stage(reply("x"), keymap=keymap) as at:
        assert "nonsense" in at.notices()
        await at.pilot.press("f1")
        assert not isinstance(at.app.screen, PageScreen)
        await at.pilot.press("f9")
        assert isinstance(at.app.screen, PageScreen)
        await at.pilot.press("escape", "h", "enter", "i", "ctrl+s")
        await at.until(lambda: at.script.said == ["h\ni"])


async def test_an_unknown_theme_is_told_and_ours_is_used() -> None:
    async with stage(theme="no-such-theme") as at:
        assert "no-such-theme" in at.notices()
        assert at.app.theme == "edgeagent-dark"


async def test_the_status_line_says_model_context_speed_tier_and_link() -> None:
    async with stage(lookup()) as at:
        at.script.link = (LinkState.ONLINE, "desk.example answers")
        await at.say("Where?")
        at.app.chat.look_at_link()
        await at.pilot.pause()
        shown = [str(part.render()) for part in at.app.query("StatusLine Static")]
        assert shown == [
            "nano Q8_0",
            "context 849/4096",
            "148 tok/s",
            "last reply local",
            "● online",
            "desk.example answers",
        ]


async def test_reading_the_prompt_is_shown_as_a_percentage() -> None:
    async with stage(hanging([StepStarted(1, Tier.LOCAL), Prefilled(380, 1000)])) as at:
        await at.send("Where?")
        await at.until(lambda: at.app.chat.status.activity == "reading prompt 38 %")
        assert "reading prompt 38 %" in str(at.app.query_one("#activity", Static).render())
        await at.pilot.press("escape")
        await at.ready()


async def test_a_trimmed_context_is_told_once_per_change() -> None:
    def trims(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield ContextTrimmed(2)
        yield from said("ok")

    async with stage(trims) as at:
        await at.say("one")
        await at.say("two")
        assert sum("2 turns no longer fit" in line for line in at.lines()) == 1


async def test_a_long_conversation_keeps_only_its_newest_blocks_on_the_screen() -> None:
    past = [event for i in range(300) for event in (TurnStarted(f"message {i}"), *said(f"ok {i}"))]
    async with stage(desk=Desk([Script([reply("x")], past=past)])) as at:
        assert at.shows("message 299")
        assert not at.shows("message 100")
        assert at.shows("earlier events are kept and not shown here")
        assert len(at.app.query(".block")) <= 240


async def test_the_step_limit_and_a_hand_off_are_told() -> None:
    def limited(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield ended(Stop.STEP_LIMIT, 12)

    def handed(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield ended(Stop.TRANSFERRED, 1)

    async with stage(limited, handed) as at:
        await at.say("one")
        assert at.shows("stopped after 12 steps")
        await at.say("two")
        assert at.shows("handed to a human agent")


async def test_the_palette_offers_every_command() -> None:
    async with stage() as at:
        titles = {command.title for command in at.app.get_system_commands(at.app.screen)}
        wanted = {"New session", "Sessions", "Switch model", "Switch scenario", "Theme"}
        wanted |= {"Copy last reply", "Toggle offline", "Help", "Export session"}
        assert wanted <= titles


async def test_a_question_about_leaving_says_why_and_what_is_sent() -> None:
    decisions: list[Decision] = []

    def defers(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        wish = Call("call_d", "defer_to_larger_model", {"reason": "three rules at once"})
        needed = ApprovalNeeded(wish, Question.DEFER, "2 messages, 9 kB, to big at desk.example")
        yield needed
        decisions.append(approve(needed))
        yield ApprovalGiven("call_d", Question.DEFER, decisions[-1])
        yield from said("Done.", Tier.REMOTE)

    async with stage(defers) as at:
        await at.send("Refund it")
        await at.until(lambda: any(ask.is_armed for ask in at.app.query(Ask)))
        assert at.shows("Send this conversation to the larger model?")
        assert at.shows("three rules at once")
        assert at.shows("9 kB, to big at desk.example")
        await at.pilot.press("A")
        await at.ready()
        assert decisions == [Decision.ALWAYS]
        assert list(at.app.query(Said))[-1].has_class("-remote")


async def test_whole_words_are_read_while_they_are_typed() -> None:
    async with stage(reply("Hello.")) as at:
        await at.until(lambda: at.script.prepared == [""])
        await at.pilot.press(*"I want", "space", *"t")
        await at.until(lambda: at.script.prepared[-1] == "I want ")
        await at.pilot.press(*"o", "space", *["backspace"] * 3)
        await at.pilot.press("space", *"a", "space")
        await at.until(lambda: at.script.prepared[-1].startswith("I want "))
        await at.say("I want tea")
        await at.until(lambda: at.script.prepared[-1] == "")
        assert at.script.said == ["I want tea"]
        assert all(text == "" or text[-1] == " " for text in at.script.prepared)


async def test_commands_and_words_typed_during_a_turn_are_not_read() -> None:
    goes_on = threading.Event()

    def slow(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        goes_on.wait(30)
        yield from reply("Done.")(text, cancel, approve)

    async with stage(slow) as at:
        await at.until(lambda: at.script.prepared == [""])
        await at.send("hello")
        await at.pilot.press(*"next", "space")
        await at.pilot.pause(0.5)
        assert at.script.prepared == [""]
        goes_on.set()
        await at.until(lambda: at.script.prepared[-1] == "next ")
        at.app.query_one(PromptBox).text = "/help me "
        await at.pilot.pause(0.5)
        assert at.script.prepared[-1] == "next "


async def test_one_reading_at_a_time_and_the_newest_words_win() -> None:
    class Slow(Script):
        n_at_once = n_most = 0

        def prepare(self, typed: str, cancel: threading.Event) -> None:
            self.n_at_once += 1
            self.n_most = max(self.n_most, self.n_at_once)
            super().prepare(typed, cancel)
            cancel.wait(0.4)
            self.n_at_once -= 1

    desk = Desk([Slow([reply("Hello.")])])
    async with stage(desk=desk) as at:
        box = at.app.query_one(PromptBox)
        for text in ("one ", "one two ", "three ", "three four "):
            box.text = text
            await at.pilot.pause(0.3)
        await at.until(lambda: at.script.prepared[-1] == "three four ")
        await at.until(lambda: desk.scripts[0].n_at_once == 0)
        assert desk.scripts[0].n_most == 1
        await at.say("three four five")
        assert at.script.said == ["three four five"]
