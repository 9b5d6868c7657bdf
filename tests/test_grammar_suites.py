"""Random walks through grammars, and outside suites: nothing invalid is ever admitted.

The suites lie beside the checkout and are not part of it: the JSON-Schema-Test-Suite (MIT) and the
Berkeley function-calling tools.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeagent import calls
from edgeagent.engine.answer import Answer
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import HERMES, read_calls
from edgeagent.errors import SchemaRefused
from edgeagent.messages import Tool, ToolKind
from tests.engine_kit import completes, opened
from tests.test_grammar import ENFORCEABLE

SHARED = Path(__file__).parents[2] / "shared" / "data"
NAME = frozenset({"odd"})


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return opened(tmp_path_factory.mktemp("suites")).context.vocabulary


def holding(schema: Any) -> Tool:
    properties = {"value": schema}
    parameters = {"type": "object", "properties": properties, "required": ["value"]}
    return Tool("odd", "", {**parameters, "$defs": {"name": {"type": "string"}}}, ToolKind.READ)


def compiled(vocabulary: Vocabulary, odd: Tool) -> Grammars | None:
    """Return the tool's grammar, or None where it was refused by name."""
    made = Grammars(vocabulary, HERMES, "one")
    try:
        made.check([odd])
    except SchemaRefused:
        return None
    made.use([odd])
    return made


def walk(vocabulary: Vocabulary, made: Grammars, rng: random.Random, budget: int) -> str:
    """Return a call of which every free token was drawn."""
    state = made.state(NAME)
    tokens = state.force()
    plan = made.opening(NAME, tokens)
    assert plan is not None
    budget = max(budget, len(tokens) + len(plan))
    answer = Answer(state, tokens, plan, budget, made.closer, vocabulary.ends)
    while not answer.is_done:
        mask = np.frombuffer(answer.state.matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[: vocabulary.n_tokens])
        answer.take(int(rng.choice(allowed)))
    assert len(answer.tokens) <= budget
    return vocabulary.decode(answer.tokens)


def assert_walks_are_valid(vocabulary: Vocabulary, made: Grammars, odd: Tool, n: int) -> None:
    rng = random.Random(11)
    for _ in range(n):
        text = walk(vocabulary, made, rng, rng.randint(20, 120))
        ((name, arguments),) = read_calls(HERMES, text, NAME)
        assert calls.validate(name, arguments, [odd]) is None, text


@pytest.mark.parametrize("schema", ENFORCEABLE, ids=lambda s: json.dumps(s)[:50])
def test_drawn_calls_are_valid(vocabulary: Vocabulary, schema: dict[str, Any]) -> None:
    odd = holding(schema)
    made = compiled(vocabulary, odd)
    assert made is not None
    assert_walks_are_valid(vocabulary, made, odd, 25)


def suite() -> Iterator[Any]:
    for path in sorted((SHARED / "jsonschema").glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            # References count from the root, which here is the tool's own schema.
            if not any(word in json.dumps(group["schema"]) for word in ('"$', "$ref")):
                yield pytest.param(group, id=f"{path.stem}: {group['description']}")
            elif isinstance(group["schema"], dict):
                bare = {k: v for k, v in group["schema"].items() if k != "$schema"}
                if '"$' not in json.dumps(bare):
                    group = {**group, "schema": bare}
                    yield pytest.param(group, id=f"{path.stem}: {group['description']}")


@pytest.mark.parametrize("group", suite())
def test_suite_of_json_schema_admits_nothing_invalid(
    vocabulary: Vocabulary, group: dict[str, Any]
) -> None:
    odd = holding(group["schema"])
    made = compiled(vocabulary, odd)
    if made is None:
        return
    assert_walks_are_valid(vocabulary, made, odd, 8)
    for case in group["tests"]:
        arguments = json.dumps({"value": case["data"]}, ensure_ascii=False)
        text = f'<tool_call>\n{{"name": "odd", "arguments": {arguments}}}\n</tool_call>'
        tokens = vocabulary.encode(text, parse_special=True)
        assert case["valid"] or not completes(made.matcher(NAME), tokens), case


KINDS = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def standard(schema: Any) -> Any:
    """Return a Berkeley schema, which speaks of Python's types, as JSON Schema."""
    if isinstance(schema, list):
        return [standard(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    known = {"type": KINDS.get(kind, kind)} if isinstance(kind, str) else {}
    return {**{key: standard(value) for key, value in schema.items()}, **known}


@pytest.mark.slow
def test_berkeley_tools_are_all_enforceable(vocabulary: Vocabulary) -> None:
    """A fourth of about 2,200 published tools: each compiles, and a drawn call is valid."""
    paths = sorted((SHARED / "bfcl").glob("*.gz"))
    if not paths:
        pytest.skip("needs ../shared/data/bfcl")
    n_tools = 0
    for path in paths:
        for line in gzip.decompress(path.read_bytes()).splitlines()[::4]:
            for function in json.loads(line)["function"]:
                odd = Tool("odd", "", standard(function["parameters"]), ToolKind.READ)
                made = compiled(vocabulary, odd)
                assert made is not None, function
                assert_walks_are_valid(vocabulary, made, odd, 1)
                n_tools += 1
    assert n_tools > 500
