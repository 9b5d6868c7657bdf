"""What is read while the customer types: it costs the turn nothing, and changes no answer."""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeagent import paths
from edgeagent.commands.run import _awaited
from edgeagent.engine.client import Engine, EngineOptions, Prompt, StepDone
from edgeagent.engine.decode import GROUP
from edgeagent.engine.prompt import continuations, n_shared
from edgeagent.engine.worker import Worker
from edgeagent.manifest import Dialect
from edgeagent.messages import (
    RESPOND,
    CallMessage,
    Conversation,
    ResultMessage,
    UserMessage,
)
from edgeagent.served import Served
from tests.engine_kit import POLICY, TOOLS, engine, prompt, rule, take
from tests.tiny_gguf import HERMES_TEMPLATE, LLAMA_TEMPLATE, write_tiny

RULE = rule(60, offered={RESPOND})


class Desk:
    """A model in this process, and the conversation that it has read."""

    def __init__(self, path: Path) -> None:
        self.flag = mmap.mmap(-1, 2)
        self.worker = Worker(EngineOptions(path, Dialect(), n_threads=1), self.flag)
        self.said: Conversation = ()

    def coming(self, text: str) -> Prompt:
        return Prompt(POLICY, TOOLS, (*self.said, UserMessage(text)))

    def type(self, text: str) -> None:
        list(self.worker.prepare(self.coming(text)))

    def enter(self, text: str) -> StepDone:
        *_, done = self.worker.step(self.coming(text), RULE)
        assert isinstance(done, StepDone)
        (call,) = done.calls
        result = ResultMessage(call.id, call.name, '{"ok": true}')
        self.said = (*self.said, UserMessage(text), CallMessage(done.calls), result)
        return done

    def state(self) -> bytes:
        """Every bit of what the model has read."""
        context = self.worker._context
        size = llama.llama_state_seq_get_size(context._pointer, 0)
        buffer = (ctypes.c_uint8 * size)()
        assert llama.llama_state_seq_get_data(context._pointer, buffer, size, 0) == size
        return bytes(buffer)

    def n_after_opening(self, text: str) -> int:
        """Tokens of a message, and from there to where the model begins to write."""
        whole = self.worker._writer.tokens(Prompt(POLICY, TOOLS, (UserMessage(text),)))
        return len(whole) - len(self.worker._writer.prefix(POLICY, TOOLS))

    def forget(self) -> None:
        self.said = ()
        self.worker._context.keep(0)


def n_read(done: StepDone) -> int:
    return done.usage.n_prompt - done.usage.n_reused


def answer(done: StepDone) -> list[object]:
    return [(call.name, call.arguments) for call in done.calls]


@pytest.fixture(scope="module", params=["", HERMES_TEMPLATE, LLAMA_TEMPLATE],
                ids=["nano", "hermes", "llama"])  # fmt: skip
def desks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Desk, Desk]:
    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|sep|>")
    path = tmp_path_factory.mktemp("prepare") / "tiny.gguf"
    if request.param:
        write_tiny(path, template=request.param, control=control)
    else:
        path = paths.bundled("nano/nano-q8_0.gguf")
    return Desk(path), Desk(path)


PIECES = st.sampled_from([
    "I would like ", "to change ", "my flight", ".", " ", "\n", "ABC", "<|im_", "end|>", "7",
    "<tool_call>", "é", "😀", "don't ", "  ", "\t", ".\n\n", "\u00a0", "\U000f0000",
])  # fmt: skip
DELETED = st.integers(1, 12)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(PIECES | DELETED, min_size=1, max_size=6), min_size=1, max_size=3))
def test_nothing_that_is_typed_costs_the_turn_or_changes_its_answer(
    desks: tuple[Desk, Desk], turns: list[list[str | int]]
) -> None:
    prepared, plain = desks
    prepared.forget()
    plain.forget()
    for keys in turns:
        typed = ""
        prepared.type(typed)
        for key in keys:
            typed = typed + key if isinstance(key, str) else typed[: max(0, len(typed) - key)]
            prepared.type(typed)
        text = typed if typed.strip() else "hello"
        with_it, without = prepared.enter(text), plain.enter(text)
        assert answer(with_it) == answer(without)
        assert n_read(with_it) <= n_read(without)
        assert with_it.usage.n_prompt == without.usage.n_prompt
        assert prepared.worker._context.log == plain.worker._context.log
        assert prepared.state() == plain.state()


def test_what_was_read_word_by_word_has_the_same_bits_as_what_was_read_at_once(
    desks: tuple[Desk, Desk],
) -> None:
    """Kernels may round a row that is read by itself differently, and turn a close choice."""
    prepared, plain = desks
    prepared.forget()
    plain.forget()
    for text in ("I want to go to the desk and see it all again now", "a b c d e f g h i j k l"):
        words = text.split()
        for n in range(len(words)):
            prepared.type(" ".join(words[:n]) + " ")
        prepared.enter(text)
        plain.enter(text)
        assert prepared.worker._context.log == plain.worker._context.log
        assert prepared.state() == plain.state()


def test_only_the_last_word_is_left_to_read_after_enter(desks: tuple[Desk, Desk]) -> None:
    desk, _ = desks
    desk.forget()
    desk.enter("Hello there.")
    typed = "I would like to change my flight to the one in the morning, please."
    for at in range(len(typed)):
        desk.type(typed[:at])
    done = desk.enter(typed)
    tail = desk.worker._context.vocabulary.encode(" please.", parse_special=False)
    assert n_read(done) < len(tail) + desk.n_after_opening("x") + GROUP


def test_the_closing_of_the_last_turn_is_read_before_a_letter_is_typed(
    desks: tuple[Desk, Desk],
) -> None:
    desk, _ = desks
    desk.forget()
    desk.enter("Hello there.")
    desk.type("")
    before = list(desk.worker._context.log)
    tokens = desk.worker._writer.tokens(desk.coming("Zebra"))
    n_certain = len(tokens) - desk.n_after_opening("Zebra")
    assert n_certain - GROUP < n_shared(before, tokens) == len(before) <= n_certain


def test_a_deleted_word_leaves_the_context(desks: tuple[Desk, Desk]) -> None:
    desk, _ = desks
    desk.forget()
    desk.type("I would like to cancel ")
    wrong = list(desk.worker._context.log)
    done = desk.enter("I would rather not")
    assert wrong != desk.worker._context.log[: len(wrong)]
    asked = Prompt(POLICY, TOOLS, (UserMessage("I would rather not"),))
    tokens = desk.worker._writer.tokens(asked)
    assert desk.worker._context.log[: len(tokens)] == tokens
    assert n_shared(wrong, tokens) - GROUP < done.usage.n_reused <= n_shared(wrong, tokens)


def test_stopping_halfway_leaves_a_context_that_agrees_with_its_log(
    desks: tuple[Desk, Desk],
) -> None:
    prepared, plain = desks
    text = "word " * 400
    for n_steps in range(4):
        prepared.forget()
        plain.forget()
        reading = prepared.worker.prepare(prepared.coming(text))
        for _ in range(n_steps):
            next(reading)
        prepared.flag[0] = 1
        list(reading)
        prepared.flag[0] = 0
        with_it, without = prepared.enter(text), plain.enter(text)
        assert answer(with_it) == answer(without)
        assert n_read(with_it) <= n_read(without) - 128 * max(0, n_steps - 2)


def test_a_message_that_cannot_fit_is_not_begun(desks: tuple[Desk, Desk]) -> None:
    desk, _ = desks
    desk.forget()
    desk.enter("hello")
    before = list(desk.worker._context.log)
    desk.type("too long " * 5000)
    assert desk.worker._context.log == before


@pytest.mark.parametrize(
    ("typed", "stem"),
    [
        ("", ""),
        ("hello", ""),
        ("hello ", "hello "),
        ("hello  ", "hello "),
        ("hello wor", "hello "),
        ("hello world\n", "hello world\n"),
        ("a. b", "a. "),
        ("   x", ""),
    ],
)
def test_only_words_with_a_blank_behind_them_are_certain(typed: str, stem: str) -> None:
    ways = continuations(typed)
    assert len(ways) > 1
    assert all(way.startswith(stem) for way in ways)
    assert len({way[len(stem) : len(stem) + 1] for way in ways}) == len(ways)


# In its own process


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = write_tiny(tmp_path_factory.mktemp("prepare") / "tiny.gguf")
    with engine(path) as made:
        made.start()
        yield made


LONG = ("My flight was late and I would like to know why. " * 60).strip()


def test_a_step_does_not_wait_for_what_is_prepared(running: Engine) -> None:
    """The step's message shares nothing with what is being read, which is far from done."""
    plain = take(running, prompt("short"), RULE)
    for _ in range(3):
        reader = threading.Thread(
            target=running.prepare, args=(prompt(LONG + " "), threading.Event())
        )
        reader.start()
        while not running._is_preparing and reader.is_alive():
            time.sleep(0.001)
        done = take(running, prompt("short"), RULE)
        reader.join()
        assert answer(done) == answer(plain)
        assert done.usage.n_prompt - done.usage.n_reused <= plain.usage.n_prompt
        take(running, prompt("other words"), RULE)


def test_a_cancelled_preparation_ends_and_another_one_goes_on(running: Engine) -> None:
    for n in range(3):
        cancel = threading.Event()
        if n == 0:
            cancel.set()
        running.prepare(prompt(LONG + " "), cancel)
    done = take(running, prompt(LONG), RULE)
    assert done.usage.n_prompt - done.usage.n_reused < 40


def test_nothing_is_prepared_while_a_step_is_under_way(running: Engine) -> None:
    steps = running.step(prompt(LONG), RULE, threading.Event())
    next(steps)
    running.prepare(prompt("other "), threading.Event())
    *_, done = steps
    assert isinstance(done, StepDone)
    assert done.stop == "complete"


def test_an_engine_that_does_not_run_is_not_started(tmp_path: Path) -> None:
    with engine(write_tiny(tmp_path / "tiny.gguf")) as made:
        made.prepare(prompt("hello "), threading.Event())
        assert not made.is_alive


def test_typing_and_sending_from_two_threads_never_mixes_them_up(running: Engine) -> None:
    stop = threading.Event()

    def type_on() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            running.prepare(prompt("one two three " * (n % 40 + 1)), threading.Event())

    typist = threading.Thread(target=type_on)
    plain = [answer(take(running, prompt(f"message {n}"), RULE)) for n in range(4)]
    typist.start()
    try:
        for _ in range(3):
            done = [take(running, prompt(f"message {n}"), RULE) for n in range(4)]
            assert [answer(one) for one in done] == plain
            assert all(one.stop == "complete" for one in done)
    finally:
        stop.set()
        typist.join()


def test_a_server_is_told_nothing_before_enter() -> None:
    served = Served("http://127.0.0.1:9/v1")
    served.prepare(prompt("my secret "), threading.Event())
    assert not served.is_alive


class Listener:
    """Stands for a session: remembers what it was told, and when it was to stop."""

    def __init__(self) -> None:
        self.typed: list[str] = []
        self.is_reading = threading.Event()

    def prepare(self, typed: str, cancel: threading.Event) -> None:
        self.typed.append(typed)
        self.is_reading.set()
        assert cancel.wait(30)


def test_a_pipe_that_is_slow_leaves_time_to_read() -> None:
    session = Listener()

    def lines() -> Iterator[str]:
        yield "at once"
        assert session.is_reading.wait(30)
        yield "late"

    assert list(_awaited(lines(), session)) == ["at once", "late"]
    assert session.typed == [""]


def test_messages_from_a_file_are_not_waited_for() -> None:
    session = Listener()
    assert list(_awaited(iter(["a"] * 50), session)) == ["a"] * 50
    assert len(session.typed) < 25
