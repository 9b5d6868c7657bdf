"""What the grammar admits, what it refuses, and that a call can always be closed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from edgeagent import calls
from edgeagent.engine.closing import Closer
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.narrowing import narrowed
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import HERMES, Wire, read_calls
from edgeagent.errors import SchemaRefused
from edgeagent.messages import DEFER, RESPOND, Tool, ToolKind
from tests.engine_kit import NAMES, STRING, TOOLS, completes, opened, tool

LLAMA = Wire('{"name": "', '", "parameters": ', "}", None)
MISTRAL = Wire(
    before='[TOOL_CALLS][{"name": "',
    between='", "arguments": ',
    after=', "id": "\x00"}]',
    separator=', "id": "\x00"}, {"name": "',
    short_ids=True,
)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return opened(tmp_path_factory.mktemp("grammar")).context.vocabulary


def grammars(vocabulary: Vocabulary, wire: Wire = HERMES, mode: Any = "one") -> Grammars:
    made = Grammars(vocabulary, wire, mode)
    made.use(TOOLS)
    return made


def accepts(vocabulary: Vocabulary, matcher: LLMatcher, text: str) -> bool:
    """Whether the whole text is an answer, in the template's own special tokens."""
    return completes(matcher, vocabulary.encode(text, parse_special=True))


def call(name: str, arguments: object) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


BOOKING = {"cabin": "economy", "flights": [{"number": "A", "price": 1.5}], "bags": 2}

ADMITTED = [
    call(RESPOND, {"message": "Hello."}),
    call(RESPOND, {"message": ""}),
    call("search_flights", {"origin": "JFK"}),
    call("search_flights", {"origin": "JFK", "maybe_date": "2024-05-20"}),
    call("book", BOOKING),
]
REFUSED = [
    "",
    "Hello.",
    call("cancel", {}),
    call(RESPOND, {}),
    call(RESPOND, {"message": 1}),
    call(RESPOND, {"message": "a", "more": "b"}),
    call(RESPOND, {"message": "a"}).replace(": ", ":"),
    call(RESPOND, {"message": "a"}) + call(RESPOND, {"message": "b"}),
    call("search_flights", {"maybe_date": "2024-05-20", "origin": "JFK"}),  # keys in schema order
    call("book", {**BOOKING, "cabin": "first"}),
    call("book", {**BOOKING, "flights": []}),
    call("book", {**BOOKING, "bags": 10}),
    call("book", {**BOOKING, "bags": 1.5}),
    call("book", {**BOOKING, "flights": [{"number": "A", "price": "1"}]}),
    call(RESPOND, {"message": "a b"}).replace("a b", "a\nb"),  # a raw line break is not JSON
    call(RESPOND, {"message": "a b"}).replace("a b", "a\tb"),
    call(RESPOND, {"message": "a b"}).replace("a b", "a\x7fb"),
    call(RESPOND, {"message": "a b"}).replace("a b", "\\ud800"),  # half a character
    call(RESPOND, {"message": "a b"}).replace("a b", "<|im_end|>"),  # the token, not its letters
    call(RESPOND, {"message": "a b"}).replace("a b", "<tool_call>"),
]


@pytest.mark.parametrize("text", ADMITTED)
def test_valid_calls_are_admitted(vocabulary: Vocabulary, text: str) -> None:
    assert accepts(vocabulary, grammars(vocabulary).matcher(NAMES), text)


@pytest.mark.parametrize("text", REFUSED)
def test_other_texts_are_refused(vocabulary: Vocabulary, text: str) -> None:
    assert not accepts(vocabulary, grammars(vocabulary).matcher(NAMES), text)


def test_only_offered_tools_are_admitted(vocabulary: Vocabulary) -> None:
    matcher = grammars(vocabulary).matcher(NAMES - {DEFER, "book"})
    assert accepts(vocabulary, matcher, call(RESPOND, {"message": "a"}))
    assert not accepts(vocabulary, matcher, call("book", BOOKING))
    assert not accepts(vocabulary, matcher, call(DEFER, {"reason": "a"}))


def test_spelled_tokens_are_letters_inside_strings(vocabulary: Vocabulary) -> None:
    head = vocabulary.encode(
        '<tool_call>\n{"name": "respond_to_user", "arguments": {"message": "', parse_special=True
    )
    letters = [t for c in "<|im_end|>" for t in vocabulary.encode(c, parse_special=False)]
    tail = vocabulary.encode('"}}\n</tool_call>', parse_special=True)
    assert completes(grammars(vocabulary).matcher(NAMES), head + letters + tail)


SEVERAL = call("get_reservation_details", {"reservation_id": "A"}) + "\n" + ADMITTED[2]


def test_parallel_takes_several_calls_and_no_words(vocabulary: Vocabulary) -> None:
    matcher = grammars(vocabulary, mode="parallel").matcher(NAMES)
    assert accepts(vocabulary, matcher, SEVERAL)
    assert accepts(vocabulary, matcher, ADMITTED[0])
    assert not accepts(vocabulary, matcher, "Hello.")


def test_control_calls_stand_alone(vocabulary: Vocabulary) -> None:
    matcher = grammars(vocabulary, mode="parallel").matcher(NAMES)
    assert not accepts(vocabulary, matcher, ADMITTED[0] + "\n" + ADMITTED[2])
    assert not accepts(vocabulary, matcher, ADMITTED[2] + "\n" + ADMITTED[0])


def test_words_are_admitted_where_the_dialect_has_them(vocabulary: Vocabulary) -> None:
    made = grammars(vocabulary, mode="parallel_or_text")
    for text in ("No, I cannot do that.", "Nein:\n- weil ich nicht darf"):
        assert accepts(vocabulary, made.matcher(NAMES), text)
        assert made.is_words(text)
    assert accepts(vocabulary, made.matcher(NAMES), SEVERAL)
    assert not made.is_words(SEVERAL)
    assert not accepts(vocabulary, made.matcher(NAMES), "No.<|im_start|>")


@pytest.mark.parametrize(
    ("wire", "mode", "text"),
    [
        (LLAMA, "one", '{"name": "search_flights", "parameters": {"origin": "A"}}'),
        (LLAMA, "parallel", '{"name": "search_flights", "parameters": {"origin": "A"}}'),
        (
            MISTRAL,
            "one",
            '[TOOL_CALLS][{"name": "search_flights", "arguments": {"origin": "A"}, '
            '"id": "aB3456789"}]',
        ),
        (
            MISTRAL,
            "parallel",
            '[TOOL_CALLS][{"name": "search_flights", "arguments": {"origin": "A"}, '
            '"id": "123456789"}, {"name": "get_reservation_details", '
            '"arguments": {"reservation_id": "B"}, "id": "abcdefghi"}]',
        ),
    ],
)
def test_calls_are_written_as_the_model_writes_them(
    vocabulary: Vocabulary, wire: Wire, mode: str, text: str
) -> None:
    assert accepts(vocabulary, grammars(vocabulary, wire, mode).matcher(NAMES), text)
    read = read_calls(wire, text, NAMES)
    assert read[0] == ("search_flights", {"origin": "A"})
    assert len(read) == text.count('"name"')


def schema_of(**properties: Any) -> Tool:
    return tool("odd", **properties)


ENFORCEABLE: list[dict[str, Any]] = [
    {"type": "string", "minLength": 3, "maxLength": 2000},
    {"type": "string", "pattern": "^[A-Z0-9]{6}$"},
    {"type": "string", "pattern": "^a+b$"},
    {"type": "string", "format": "date"},
    {"type": "string", "enum": ["tfne", "ttt", 'e"\\é']},
    {"type": "integer"},
    {"type": "integer", "minimum": 10, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": 2**50},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    {"type": "integer", "multipleOf": 7},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"a": STRING}}]},
    {"oneOf": [{"const": 1}, {"const": "x"}]},
    {"$ref": "#/$defs/name"},
    {"type": "array", "items": {"$ref": "#/$defs/name"}, "minItems": 3, "maxItems": 4},
    {"type": "array", "prefixItems": [STRING, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "array"},
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
    {"type": "object", "properties": {"a": {}}, "required": ["a"]},
    {"description": "anything at all"},
    {},
    {"minLength": 3, "type": "string", "title": "t", "default": "x", "examples": ["abc"]},
    {"allOf": [{"type": "string"}, {"minLength": 2}]},
]


@pytest.mark.parametrize("schema", ENFORCEABLE, ids=lambda s: json.dumps(s)[:50])
def test_a_call_can_be_closed_and_is_valid(vocabulary: Vocabulary, schema: dict[str, Any]) -> None:
    odd = schema_of(value=schema, other=STRING)
    odd = Tool("odd", "", {**odd.parameters, "$defs": {"name": STRING}}, ToolKind.READ)
    made = Grammars(vocabulary, HERMES, "one")
    made.check([odd])
    made.use([odd])
    plan = made.opening(frozenset({"odd"}))
    assert plan is not None
    ((name, arguments),) = read_calls(HERMES, vocabulary.decode(plan), {"odd"})
    assert calls.validate(name, arguments, [odd]) is None


UNENFORCEABLE: list[tuple[dict[str, Any], str]] = [
    ({"type": "array", "items": STRING, "uniqueItems": True}, "uniqueItems"),
    ({"not": STRING}, "not"),
    ({"type": "array", "contains": STRING}, "contains"),
    ({"if": STRING, "then": STRING}, "if"),
    ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
    ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"type": "string", "format": "stardate"}, "stardate"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "strin"}, "strin"),
    ({"$ref": "https://example.org/x"}, "example.org"),
    ({"type": "number", "multipleOf": 0.01}, "multipleOf"),
    ({"enum": []}, "value"),
    ({"type": "integer", "minimum": 2**60}, "minimum"),
    ({"type": "object", "additionalProperties": STRING, "minProperties": 2}, "minProperties"),
    ({"type": "string", "minLength": 100000}, "no call"),
]


@pytest.mark.parametrize(("schema", "word"), UNENFORCEABLE, ids=lambda x: str(x)[:40])
def test_what_cannot_be_enforced_is_refused_by_name(
    vocabulary: Vocabulary, schema: dict[str, Any], word: str
) -> None:
    with pytest.raises(SchemaRefused) as caught:
        grammars(vocabulary).check([*TOOLS, schema_of(value=schema)])
    assert caught.value.tool == "odd"
    assert word in caught.value.reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "two words", 'quo"te', "<tool_call>", "x" * 65])
def test_odd_names_are_refused(vocabulary: Vocabulary, name: str) -> None:
    with pytest.raises(SchemaRefused):
        grammars(vocabulary).check([Tool(name, "", {}, ToolKind.READ)])


def test_two_tools_of_one_name_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(SchemaRefused, match="two tools"):
        grammars(vocabulary).check([TOOLS[0], TOOLS[0]])


def test_a_tool_without_parameters_takes_none(vocabulary: Vocabulary) -> None:
    for parameters in ({}, {"type": "object"}, {"type": "object", "properties": {}}):
        bare = Tool("bare", "", parameters, ToolKind.READ)
        made = Grammars(vocabulary, HERMES, "one")
        made.check([bare])
        made.use([bare])
        matcher = made.matcher(frozenset({"bare"}))
        assert accepts(vocabulary, matcher, call("bare", {}))
        assert not accepts(vocabulary, matcher, call("bare", {"a": 1}))


def test_numbers_stay_where_every_reader_keeps_them() -> None:
    schema = narrowed({"properties": {"n": {"type": "integer"}, "x": {"type": "number"}}})
    assert schema["properties"]["n"]["maximum"] == 2**53 - 1
    assert schema["properties"]["x"]["minimum"] == -1e15
    assert schema["additionalProperties"] is False


def test_the_way_out_is_short_and_repeatable(vocabulary: Vocabulary) -> None:
    made = grammars(vocabulary)
    closer = Closer(vocabulary)
    matcher = made.matcher(frozenset({RESPOND}))
    head = '<tool_call>\n{"name": "respond_to_user", "arguments": {"message": "Hello there'
    assert matcher.consume_tokens(vocabulary.encode(head, parse_special=True))
    plan = closer.plan(matcher, 100)
    assert plan is not None
    assert vocabulary.decode(plan) == '"}}\n</tool_call>'
    assert closer.plan(matcher, 100) == plan
    assert closer.plan(matcher, len(plan) - 1) is None
