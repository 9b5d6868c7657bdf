"""What a build makes of given tokens, read off many places at once."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from pathlib import Path

import numpy as np
import pytest

from edgeagent.engine import library, meter, reference
from edgeagent.engine.branch import softmax
from edgeagent.engine.client import Prompt
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.readings import N_ROWS, N_TOP, Kind, Plain, Readings, Reference, Whole
from edgeagent.engine.wire import HERMES
from edgeagent.manifest import Dialect
from edgeagent.messages import RESPOND, Call, UserMessage
from tests.engine_kit import CONVERSATION, NAMES, POLICY, TOOLS, engine, flags, opened, prompt
from tests.tiny_gguf import (
    CONTROL,
    HERMES_TEMPLATE,
    LLAMA_TEMPLATE,
    MISTRAL_TEMPLATE,
    write_tiny,
)

TEXT = "I would like to change my flight to the one in the morning, please. " * 6
LOOKUP = Call("call_1", "get_reservation_details", {"reservation_id": "ABC123"})
REPLY = Call("call_2", RESPOND, {"message": "Which cabin do you want to book?"})
BOOKING = Call(
    "call_3",
    "book",
    {"bags": 1, "flights": [{"price": 12.5, "number": "HAT001"}], "cabin": "economy"},
)


def read(path: Path, *passages: object, at: list[np.ndarray] | None = None) -> list[Readings]:
    with engine(path, n_outputs=N_ROWS) as made:
        made.start()
        asked = at or [None] * len(passages)
        return [meter.read(made, what, ids) for what, ids in zip(passages, asked, strict=True)]


def test_many_places_at_once_say_what_one_at_a_time_says(tmp_path: Path) -> None:
    (found,) = read(write_tiny(tmp_path / "tiny.gguf"), Plain(TEXT))
    context = opened(tmp_path).context
    tokens = context.vocabulary.encode(TEXT, parse_special=False)
    tokens = [context.vocabulary.begin, *tokens]
    expected = []
    for before, token in itertools.pairwise(tokens):
        assert context.decode([before], logits=True)
        expected.append(np.log(softmax(context.logits())[token]))
    n = len(found.written)
    assert n == len(tokens) - len(tokens) // 2
    assert np.allclose(found.written, expected[-n:], atol=2e-3)
    assert set(found.kinds) == {Kind.TEXT}


def test_what_is_kept_of_a_distribution_and_its_tail_make_one(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    for found in read(path, Plain(TEXT), Whole(prompt()), Reference(prompt(), BOOKING)):
        total = np.exp(found.logprobs.astype(np.float64)).sum(axis=1) + found.tail
        assert np.allclose(total, 1, atol=1e-5)
        assert (np.sum(found.ids >= 0, axis=1) == np.minimum(found.n_legal, N_TOP)).all()
        assert (found.best == np.take_along_axis(
            found.ids, found.logprobs.argmax(axis=1)[:, None], axis=1)[:, 0]).all()  # fmt: skip
        has_tail = found.n_legal > N_TOP
        assert ((found.drawn >= 0).all(axis=1) == has_tail).all()
        assert not (found.drawn[has_tail][:, :, None] == found.ids[has_tail][:, None, :]).any()


def test_a_build_read_at_another_ones_tokens_gives_the_same_where_it_is_the_same(
    tmp_path: Path,
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    passages = (Reference(prompt(), LOOKUP), Whole(prompt()), Reference(prompt(), REPLY))
    first = read(path, *passages)
    second = read(path, *passages, at=[found.asked for found in first])
    for one, other in zip(first, second, strict=True):
        assert one.tokens_sha256 == other.tokens_sha256
        assert np.array_equal(np.hstack([one.logprobs, one.drawn_logprobs]), other.logprobs)


def test_a_conversation_is_read_off_behind_policy_and_tools(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    short, long = read(path, Whole(prompt("Hello")), Whole(prompt("Hello", "Hello")))
    assert 0 < len(short.written) < 20
    assert len(short.written) < len(long.written) <= 2 * len(short.written)


@pytest.mark.parametrize("call", [LOOKUP, REPLY, BOOKING], ids=lambda call: call.name)
def test_the_grammar_is_followed_along_a_call(call: Call, tmp_path: Path) -> None:
    vocabulary = opened(tmp_path).context.vocabulary
    grammars = Grammars(vocabulary, HERMES, "one")
    grammars.use(TOOLS)
    text = reference.text_of(HERMES, call, TOOLS)
    path = reference.trace(grammars.matcher(NAMES), vocabulary, text)
    assert path.is_whole
    assert vocabulary.decode(path.tokens) == text
    matcher = grammars.matcher(NAMES)
    at = 0
    for choice in path.choices:
        assert matcher.consume_tokens(path.tokens[at : choice.at]) or at == choice.at
        assert matcher.compute_bitmask() == choice.mask
        token = path.tokens[choice.at]
        assert choice.mask[token >> 3] >> (token & 7) & 1
        at = choice.at


@pytest.mark.parametrize(
    "template", [HERMES_TEMPLATE, LLAMA_TEMPLATE, MISTRAL_TEMPLATE], ids=["hermes", "llama", "ids"]
)
@pytest.mark.parametrize("calls", ["one", "parallel_or_text"])
def test_a_call_is_read_in_every_dialect(template: str, calls: str, tmp_path: Path) -> None:
    control = (*CONTROL, "<|sep|>", "[TOOL_CALLS]")
    path = write_tiny(tmp_path / "tiny.gguf", template=template, control=control)
    with engine(path, Dialect(calls=calls), n_outputs=N_ROWS) as made:
        made.start()
        found = meter.read(made, Reference(prompt("Hello"), BOOKING))
    assert not found.is_cut
    assert set(found.kinds) == {Kind.NAME, Kind.ARGUMENTS}


def test_places_of_a_call_are_told_apart(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    lookup, reply = read(path, Reference(prompt(), LOOKUP), Reference(prompt(), REPLY))
    assert set(lookup.kinds) == {Kind.NAME, Kind.ARGUMENTS}
    assert set(reply.kinds) == {Kind.NAME, Kind.WORDS}
    names = lookup.n_legal[lookup.kinds == Kind.NAME]
    assert (names >= 2).all()
    assert (names < 100).all()  # beginnings of five names, not a whole vocabulary
    assert not lookup.is_cut


def test_arguments_are_put_into_the_order_of_the_schema() -> None:
    text = reference.text_of(HERMES, BOOKING, TOOLS)
    assert text.index('"cabin"') < text.index('"flights"') < text.index('"bags"')
    assert text.index('"number"') < text.index('"price"')


@pytest.mark.parametrize(
    "call",
    [
        Call("c", "book", {"cabin": "first", "flights": [], "bags": 1}),
        Call("c", "search_flights", {"origin": "JFK", "when": "today"}),
        Call("c", "no_such_tool", {}),
        Call("c", "get_reservation_details", {}),
    ],
    ids=["a value outside the enum", "a key too many", "no such tool", "a key too few"],
)
def test_a_call_that_the_grammar_refuses_is_read_as_far_as_it_goes(
    call: Call, tmp_path: Path
) -> None:
    (found,) = read(write_tiny(tmp_path / "tiny.gguf"), Reference(prompt(), call))
    assert found.is_cut
    assert np.isfinite(found.written).all()


def test_a_passage_longer_than_the_context_is_cut(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", n_ctx=256)
    long = Prompt(POLICY, TOOLS, (*CONVERSATION, UserMessage(TEXT * 8)))
    whole, plain, call = read(path, Whole(long), Plain(TEXT * 20), Reference(long, LOOKUP))
    assert whole.is_cut
    assert plain.is_cut
    assert call.is_cut
    assert len(call.written) == 0
    assert len(whole.written) < 256


def test_other_tokens_than_the_bases_are_known_by_their_hash(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    other = write_tiny(tmp_path / "other.gguf", n_merges=100)
    (base,) = read(path, Plain(TEXT))
    (found,) = read(other, Plain(TEXT), at=[base.ids])
    assert found.tokens_sha256 != base.tokens_sha256
    assert np.isfinite(found.written).all()


def test_speed_is_measured_and_leaves_the_engine_usable(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    with engine(path, n_outputs=N_ROWS) as made:
        made.start()
        speed = meter.speed(made)
        assert speed.prefill_per_s > 0
        assert speed.decode_per_s > 0
        assert speed.decode_cpu_ms > 0
        assert speed.peak_bytes > 10 << 20
        assert meter.read(made, Plain(TEXT)).written.size


def test_rows_are_given_only_where_they_were_asked_for(tmp_path: Path) -> None:
    flag = mmap.mmap(-1, 2)
    flags.append(flag)
    address = ctypes.addressof(ctypes.c_char.from_buffer(flag))
    path = write_tiny(tmp_path / "tiny.gguf")
    context = library.open_model(path, None, 1, address, 4).context
    assert context.decode([1, 2, 3, 4, 5], logits=True, rows=[1, 3])
    rows = [context.logits(place).copy() for place in (1, 3, 4)]
    assert np.array_equal(context.logits(), rows[2])
    context.keep(0)
    assert context.decode([1, 2], logits=True)
    assert np.allclose(context.logits(), rows[0], atol=2e-3)
