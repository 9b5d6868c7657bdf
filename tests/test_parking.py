"""Conversations that were left: whoever goes on with one reads nothing again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgeagent.engine.client import Engine, Prompt, StepDone
from edgeagent.engine.context import Context
from edgeagent.engine.prefix import MIN_PARKED, PrefixStore
from edgeagent.messages import CallMessage, Conversation, Message, ResultMessage, UserMessage
from tests.engine_kit import POLICY, TOOLS, engine, opened, rule
from tests.tiny_gguf import write_tiny

SETTING = "f16-kv no-flash-attention"
PREFIX = [n % 250 for n in range(40)]
TALK = [(7 * n) % 250 for n in range(200)]


class Desk:
    """A context in this process, and a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.context: Context = opened(folder).context
        self.model = folder / "tiny.gguf"
        self.folder = folder / "cache"
        self.store = self.new_store()

    def new_store(self) -> PrefixStore:
        """What another process would have."""
        return PrefixStore(self.folder, self.model, SETTING)

    def read(self, tokens: list[int]) -> None:
        self.context.keep(0)
        for at in range(0, len(tokens), 100):
            assert self.context.decode(tokens[at : at + 100], logits=False)

    def next_row(self) -> np.ndarray:
        assert self.context.decode([5], logits=True)
        return self.context.logits().copy()

    def parked(self) -> list[Path]:
        return list(self.folder.glob("prefixes/*.state"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_parked_conversation_is_put_behind_the_prefix_it_had(desk: Desk) -> None:
    desk.read(PREFIX + TALK)
    whole = desk.context.n_state_bytes()
    desk.store.park(desk.context, len(PREFIX))
    (file,) = desk.parked()
    assert file.stat().st_size < whole, "the prefix is not in it"
    expected = desk.next_row()
    desk.read(PREFIX)
    wanted = [*PREFIX, *TALK, 1, 2, 3]
    assert desk.new_store().resume(desk.context, wanted, len(PREFIX)) == len(PREFIX + TALK)
    assert desk.context.log == PREFIX + TALK
    assert np.array_equal(desk.next_row(), expected)


def test_of_a_conversation_that_went_on_differently_the_start_is_kept(desk: Desk) -> None:
    desk.read(PREFIX + TALK)
    desk.store.park(desk.context, len(PREFIX))
    other = [*PREFIX, *TALK[:150], 249, 248]
    desk.read(other)
    expected = desk.next_row()
    desk.read(PREFIX)
    shared = desk.new_store().resume(desk.context, other, len(PREFIX))
    assert shared == len(PREFIX) + 150
    assert desk.context.keep(shared) == shared
    assert desk.context.decode(other[shared:], logits=False)
    assert np.allclose(desk.next_row(), expected, atol=1e-3)


def test_the_nearest_conversation_is_taken(desk: Desk) -> None:
    talks = [[*TALK[:100], *[9] * 60], [*TALK[:130], *[8] * 60], [*TALK[:70], *[7] * 60]]
    for talk in talks:
        desk.read(PREFIX + talk)
        desk.new_store().park(desk.context, len(PREFIX))
    desk.read(PREFIX)
    assert desk.new_store().resume(desk.context, PREFIX + TALK, len(PREFIX)) == len(PREFIX) + 130


@pytest.mark.parametrize("n", [0, MIN_PARKED - 1])
def test_short_conversations_are_not_kept(desk: Desk, n: int) -> None:
    desk.read(PREFIX + TALK[:n])
    desk.store.park(desk.context, len(PREFIX))
    assert desk.parked() == []


def test_what_the_context_has_is_not_read_from_disk(desk: Desk) -> None:
    desk.read(PREFIX + TALK)
    desk.store.park(desk.context, len(PREFIX))
    desk.read(PREFIX + TALK[:150])
    log = list(desk.context.log)
    assert desk.new_store().resume(desk.context, PREFIX + TALK, len(PREFIX)) == len(log)
    assert desk.context.log == log


def test_going_on_replaces_what_was_kept(desk: Desk) -> None:
    desk.read(PREFIX + TALK[:100])
    desk.store.park(desk.context, len(PREFIX))
    desk.read(PREFIX)
    store = desk.new_store()
    store.resume(desk.context, PREFIX + TALK, len(PREFIX))
    assert desk.context.decode(TALK[100:], logits=False)
    (before,) = desk.parked()
    store.park(desk.context, len(PREFIX))
    (after,) = desk.parked()
    assert before != after


def test_a_damaged_one_leaves_the_prefix_in_place(desk: Desk) -> None:
    desk.read(PREFIX + TALK)
    desk.store.park(desk.context, len(PREFIX))
    (file,) = desk.parked()
    good = file.read_bytes()
    places = {0, 5, 11, 12, 500, len(good) // 2, len(good) - 300, len(good) - 13, len(good) - 1}
    for at in sorted(places):
        raw = bytearray(good)
        raw[at] ^= 1
        for broken in (bytes(raw), good[:at]):
            file.write_bytes(broken)
            desk.read(PREFIX)
            resumed = desk.new_store().resume(desk.context, PREFIX + TALK, len(PREFIX))
            assert resumed == len(PREFIX), at
            assert desk.context.log == PREFIX


def test_behind_another_prefix_or_model_it_is_not_found(desk: Desk, tmp_path: Path) -> None:
    desk.read(PREFIX + TALK)
    desk.store.park(desk.context, len(PREFIX))
    other = [*PREFIX[:-1], 1]
    desk.read(other)
    assert desk.new_store().resume(desk.context, other + TALK, len(other)) == len(other)
    assert desk.new_store().resume(desk.context, other + TALK, len(other) - 1) == len(other)
    folder = tmp_path / "other"
    folder.mkdir()
    foreign = opened(folder, seed=3).context
    assert foreign.decode(PREFIX, logits=False)
    store = PrefixStore(desk.folder, folder / "tiny.gguf", SETTING)
    assert store.resume(foreign, PREFIX + TALK, len(PREFIX)) == len(PREFIX)
    assert foreign.log == PREFIX


# Through the worker, as the app does it


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("parking") / "tiny.gguf")


@contextmanager
def process(model: Path, cache: Path, is_parking: bool = True) -> Iterator[Engine]:
    with engine(model, cache_dir=cache, is_parking=is_parking) as made:
        made.start()
        list(made.warm(POLICY, TOOLS, threading.Event()))
        yield made


def talk(made: Engine, said: Conversation, *texts: str) -> tuple[Conversation, list[StepDone]]:
    """Say the texts one after the other; return the conversation and each step."""
    done: list[StepDone] = []
    for text in texts:
        said = (*said, UserMessage(text))
        *_, step = made.step(Prompt(POLICY, TOOLS, said), rule(40), threading.Event())
        assert isinstance(step, StepDone)
        results: list[Message] = [ResultMessage(c.id, c.name, '{"ok": 1}') for c in step.calls]
        said = (*said, CallMessage(step.calls), *results)
        done.append(step)
    return said, done


FIRST = ("I would like to see my booking, please.", "And change it to the morning.")


@pytest.mark.parametrize("is_parking", [True, False])
def test_the_next_process_reads_only_what_is_new(
    model: Path, tmp_path: Path, is_parking: bool
) -> None:
    with process(model, tmp_path, is_parking) as made:
        said, steps = talk(made, (), *FIRST)
        _, (stayed,) = talk(made, said, "More.")
    with process(model, tmp_path, is_parking) as made:
        _, (resumed,) = talk(made, said, "More.")
    assert [call.arguments for call in resumed.calls] == [call.arguments for call in stayed.calls]
    n_read = resumed.usage.n_prompt - resumed.usage.n_reused
    if is_parking:
        # The answer was parked too, but for its last run, and the closing of the prompt.
        assert n_read <= stayed.usage.n_prompt - stayed.usage.n_reused
    else:
        assert n_read > steps[-1].usage.n_prompt - steps[0].usage.n_reused - 40


def test_between_two_conversations_nothing_is_read_again(model: Path, tmp_path: Path) -> None:
    said: dict[str, Conversation] = {"a": (), "b": ()}
    last = {"a": 0, "b": 0}
    for number in range(3):
        for name in said:
            with process(model, tmp_path) as made:
                text = f"Hello, this is customer {name} with a wish, number {number}. " * 3
                said[name], (done,) = talk(made, said[name], text)
                if number:
                    assert done.usage.n_reused >= last[name]
                last[name] = done.usage.n_prompt


def test_closing_in_the_middle_of_a_step_parks_nothing_and_ends(
    model: Path, tmp_path: Path
) -> None:
    with process(model, tmp_path) as made:
        steps = made.step(
            Prompt(POLICY, TOOLS, (UserMessage("word " * 900),)), rule(40), threading.Event()
        )
        next(steps)
        made.close()
        assert not made.is_alive
