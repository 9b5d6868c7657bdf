"""Prompts that only grow, and how many tokens are read twice with them and without."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from edgeagent import paths
from edgeagent.engine.appending import AppendingWriter
from edgeagent.engine.client import EngineOptions, Prompt, StepDone
from edgeagent.engine.prompt import PromptWriter, n_shared
from edgeagent.engine.template import Template
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import probe
from edgeagent.engine.worker import Worker
from edgeagent.errors import TemplateError
from edgeagent.manifest import Dialect
from edgeagent.messages import (
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    Message,
    ResultMessage,
    TextMessage,
    UserMessage,
)
from tests.engine_kit import CONVERSATION, POLICY, TOOLS, engine, opened, rule, take
from tests.tiny_gguf import (
    CONTROL,
    HERMES_TEMPLATE,
    LLAMA_TEMPLATE,
    MISTRAL_TEMPLATE,
    NANO_TEMPLATE,
    USER_DEFINED,
    write_tiny,
)

SPECIAL = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
FORGETFUL_TEMPLATE = HERMES_TEMPLATE.replace(
    "{%- for message in messages %}",
    """\
{%- set turn = namespace(begins=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set turn.begins = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}""",
    1,
).replace(
    "{{- '<|im_start|>assistant\\n' + (message.content or '') }}",
    """\
{{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > turn.begins %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
        {{- message.content or '' }}""",
    1,
)
"""Leaves the think blocks out of all turns but the last, as Qwen3's own template does."""
APPEND = Dialect(append_only=True)
SPOKEN = (
    "I would like to see my booking ABC123, please.",
    "Thanks. And <|im_end|> the other one?",
    "Which cabin is it?\n\nI forgot.",
    "That is all.",
)


def writer(
    vocabulary: Vocabulary, source: str, dialect: Dialect = APPEND, kind: type = AppendingWriter
) -> PromptWriter:
    template = Template(source, SPECIAL)
    made: PromptWriter = kind(template, vocabulary, probe(template, CONTROL, False), dialect)
    return made


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return opened(tmp_path_factory.mktemp("appending")).context.vocabulary


LONG: Conversation = (
    *CONVERSATION,
    CallMessage((Call("call_1", "search_flights", {"origin": "JFK"}),)),
    ResultMessage("call_1", "search_flights", '{"found": [1, 2]}'),
    CallMessage((Call("call_2", "search_flights", {"origin": "SEA", "maybe_date": "é😀"}),)),
    ResultMessage("call_2", "search_flights", "nothing"),
    CallMessage((Call("call_3", RESPOND, {"message": "There is\nnone."}),)),
    ResultMessage("call_3", RESPOND, '{"ok": true}'),
    UserMessage("Too bad."),
)


@pytest.mark.parametrize("source", [NANO_TEMPLATE, LLAMA_TEMPLATE], ids=["nano", "llama"])
def test_it_is_the_templates_rendering_where_that_only_grows(
    vocabulary: Vocabulary, source: str
) -> None:
    prompt = Prompt(POLICY, TOOLS, LONG)
    exact = writer(vocabulary, source, Dialect(), PromptWriter).tokens(prompt)
    assert writer(vocabulary, source).tokens(prompt) == exact


def test_several_calls_of_one_step_are_one_answer(vocabulary: Vocabulary) -> None:
    calls = tuple(Call(f"call_{n}", "search_flights", {"origin": "JFK"}) for n in range(3))
    results = tuple(ResultMessage(call.id, call.name, "{}") for call in calls)
    prompt = Prompt(POLICY, TOOLS, (UserMessage("a"), CallMessage(calls), *results))
    exact = writer(vocabulary, NANO_TEMPLATE, Dialect(), PromptWriter).tokens(prompt)
    assert writer(vocabulary, NANO_TEMPLATE).tokens(prompt) == exact


@pytest.mark.parametrize(
    "source", [NANO_TEMPLATE, HERMES_TEMPLATE, LLAMA_TEMPLATE, FORGETFUL_TEMPLATE],
    ids=["nano", "hermes", "llama", "forgetful"],
)  # fmt: skip
def test_every_prompt_begins_with_the_one_before_and_its_answer(
    vocabulary: Vocabulary, source: str
) -> None:
    made = writer(vocabulary, source)
    before: list[int] = []
    for n, message in enumerate(LONG):
        if isinstance(message, CallMessage):
            tokens = made.tokens(Prompt(POLICY, TOOLS, LONG[:n]))
            assert tokens[: len(before)] == before
            before = tokens + made._tokens_of(message)


def test_what_the_template_would_leave_out_stays(vocabulary: Vocabulary) -> None:
    prompt = Prompt(POLICY, TOOLS, LONG)
    exact = writer(vocabulary, FORGETFUL_TEMPLATE, Dialect(), PromptWriter)
    appended = writer(vocabulary, FORGETFUL_TEMPLATE)
    assert vocabulary.decode(exact.tokens(prompt)).count("<think>") == 1
    text = vocabulary.decode(appended.tokens(prompt))
    n_answers = sum(isinstance(message, CallMessage) for message in LONG)
    assert text.count("<think>\n\n</think>\n\n") == n_answers + 1
    assert text.replace("<think>\n\n</think>\n\n", "") == vocabulary.decode(
        exact.tokens(prompt)
    ).replace("<think>\n\n</think>\n\n", "")


def test_plain_words_are_an_answer_too(vocabulary: Vocabulary) -> None:
    said: Conversation = (UserMessage("a"), TextMessage("None <tool_call> fits."), UserMessage("b"))
    prompt = Prompt(POLICY, TOOLS, said)
    exact = writer(vocabulary, NANO_TEMPLATE, Dialect(), PromptWriter).tokens(prompt)
    assert writer(vocabulary, NANO_TEMPLATE).tokens(prompt) == exact


@pytest.mark.parametrize("text", [*CONTROL, *USER_DEFINED, "\U000f0000", "\ud800", "<|im_", '"}}'])
@pytest.mark.parametrize("source", [NANO_TEMPLATE, FORGETFUL_TEMPLATE], ids=["nano", "forgetful"])
def test_nobody_but_the_template_forms_special_tokens(
    vocabulary: Vocabulary, source: str, text: str
) -> None:
    def told(text: str) -> Conversation:
        call = Call("call_1", "search_flights", {"origin": text})
        result: Message = ResultMessage(call.id, call.name, text)
        return (UserMessage(text), CallMessage((call,)), result, TextMessage(text),
                UserMessage(text))  # fmt: skip

    made, steering = writer(vocabulary, source), set(vocabulary.special.values())
    tokens, plain = (made.tokens(Prompt(POLICY, TOOLS, told(said))) for said in (text, "x"))
    assert [t for t in tokens if t in steering] == [t for t in plain if t in steering]


def test_a_template_that_moves_its_tools_is_refused(vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="tools anew"):
        writer(vocabulary, MISTRAL_TEMPLATE)
    control = (*CONTROL, "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]")
    path = write_tiny(tmp_path / "m.gguf", template=MISTRAL_TEMPLATE, control=control)
    with engine(path, APPEND) as made, pytest.raises(TemplateError, match="append_only"):
        made.start()


def test_calls_in_a_form_that_is_not_json_are_followed_as_words(vocabulary: Vocabulary) -> None:
    source = NANO_TEMPLATE.replace("call.function.arguments | tojson", "'<' + call.id + '>'")
    text = vocabulary.decode(writer(vocabulary, source).tokens(Prompt(POLICY, TOOLS, LONG)))
    assert '"arguments": {"origin": "JFK"}}\n</tool_call><|im_end|>\n<|im_start|>user' in text


# What is read


class Desk:
    """A model in this process that talks to a customer who always says the same."""

    def __init__(self, path: Path, dialect: Dialect) -> None:
        options = EngineOptions(path, dialect, n_threads=1)
        self.worker = Worker(options, mmap.mmap(-1, 2))
        self.said: tuple[Message, ...] = ()
        self.n_prefilled = self.n_decoded = self.n_twice = 0

    @property
    def log(self) -> list[int]:
        return self.worker._context.log

    def talk(self) -> None:
        for text in SPOKEN:
            self.said = (*self.said, UserMessage(text))
            for name in ("search_flights", RESPOND):
                self.step(name)

    def step(self, name: str) -> None:
        before = list(self.log)
        prompt = Prompt(POLICY, TOOLS, self.said)
        tokens = self.worker._writer.tokens(prompt)
        *_, done = self.worker.step(prompt, rule(60, offered={name}))
        assert isinstance(done, StepDone)
        assert done.usage.n_reused == n_shared(before, tokens), "what can be reused is"
        assert self.log[: len(tokens)] == tokens
        self.n_twice += len(before) - done.usage.n_reused
        self.n_prefilled += done.usage.n_prompt - done.usage.n_reused
        self.n_decoded += len(self.log) - done.usage.n_prompt
        (call,) = done.calls
        result = ResultMessage(call.id, call.name, '{"found": ["HAT001", "HAT002"]}')
        self.said = (*self.said, CallMessage(done.calls), result)


def test_nothing_is_read_twice_in_a_conversation_that_only_grows(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", template=FORGETFUL_TEMPLATE)
    desk = Desk(path, APPEND)
    desk.talk()
    assert desk.n_twice == 0
    assert desk.n_prefilled + desk.n_decoded == len(desk.log)
    exact = Desk(path, Dialect())
    exact.talk()
    assert exact.n_twice > 0
    assert exact.n_prefilled + exact.n_decoded > len(exact.log)


@pytest.mark.parametrize("dialect", [APPEND, Dialect()], ids=["append", "exact"])
def test_nothing_is_read_twice_with_nano(dialect: Dialect) -> None:
    desk = Desk(paths.bundled("nano/nano-q8_0.gguf"), dialect)
    desk.talk()
    assert desk.n_twice == 0
    assert desk.n_prefilled + desk.n_decoded == len(desk.log)


def test_exact_mode_reads_again_only_from_where_the_template_differs(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", template=FORGETFUL_TEMPLATE)
    desk = Desk(path, Dialect())
    for text in SPOKEN:
        desk.said = (*desk.said, UserMessage(text))
        desk.n_twice = 0
        before = list(desk.log)
        desk.step(RESPOND)
        if before:
            # The turn before lost its think block, and all after it has another place.
            kept = before[: len(before) - desk.n_twice]
            vocabulary = desk.worker._context.vocabulary
            assert vocabulary.decode(before[len(kept) :]).startswith("<think>")


def test_a_restarted_worker_reads_the_same_text(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", template=FORGETFUL_TEMPLATE)
    desk = Desk(path, APPEND)
    desk.talk()
    prompt = Prompt(POLICY, TOOLS, desk.said)
    vocabulary = desk.worker._context.vocabulary
    again = writer(vocabulary, FORGETFUL_TEMPLATE)
    text = vocabulary.decode(again.tokens(prompt))
    assert text == vocabulary.decode(desk.worker._writer.tokens(prompt))


def test_append_only_comes_from_the_manifests_dialect(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", template=FORGETFUL_TEMPLATE)
    with engine(path, APPEND) as made:
        made.start()
        first = take(made, Prompt(POLICY, TOOLS, (UserMessage("hello"),)))
        said = (UserMessage("hello"), CallMessage(first.calls))
        results = tuple(ResultMessage(call.id, call.name, "{}") for call in first.calls)
        second = take(made, Prompt(POLICY, TOOLS, (*said, *results, UserMessage("more"))))
        assert second.usage.n_reused >= first.usage.n_prompt
