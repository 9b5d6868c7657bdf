"""BFCL's rules once more, written down rule by rule, to hold the product's checker against.

Slow and plain on purpose: every rule of the description is a line here, and nothing is shared
with `edgeagent.evals.bfcl`. And mutants: what a model might write in place of an answer.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

TYPES = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list,
    "dict": dict, "any": str,
}  # fmt: skip


def std(text: str) -> str:
    kept = "".join(letter for letter in text if letter not in " ,./-_*^")
    return kept.lower().replace("'", '"')


def std_if_text(value: Any) -> Any:
    return std(value) if isinstance(value, str) else value


def entry_is_right(matching: str, functions: list[Any], calls: list[Any], truth: list[Any]) -> bool:
    def doc(name: str) -> Any:
        return next((f for f in functions if f["name"] == name), None)

    def expected(answer: Any) -> str:
        return str(next(iter(answer)))

    if matching == "simple":
        return len(calls) == 1 and call_is_right(functions[0], calls[0], truth[0])
    if len(calls) != len(truth):
        return False
    if matching == "multiple":
        return call_is_right(doc(expected(truth[0])), calls[0], truth[0])
    used: set[int] = set()
    for answer in truth:
        for index, call in enumerate(calls):
            if index not in used and call_is_right(doc(expected(answer)), call, answer):
                used.add(index)
                break
        else:
            return False
    return True


def call_is_right(doc: Any, call: Any, answer: Any) -> bool:
    allowed = next(iter(answer.values()))
    if doc is None or doc["name"] not in call:
        return False
    given = call[doc["name"]]
    schema = doc["parameters"]
    if any(name not in given for name in schema["required"]):
        return False
    for name, value in given.items():
        if name not in schema["properties"] or name not in allowed:
            return False
        if not value_is_right(schema["properties"][name], value, allowed[name]):
            return False
    return all(name in given or "" in values for name, values in allowed.items())


def value_is_right(schema: Any, value: Any, allowed: list[Any]) -> bool:
    wanted = TYPES[schema["type"]]
    item = TYPES[schema["items"]["type"]] if schema["type"] in ("array", "tuple") else None
    if schema["type"] == "float" and type(value) is int:
        value = float(value)
    real = [one for one in allowed if one != ""]
    as_answered = bool(real) and type(value) is type(real[0])
    if type(value) is wanted:
        is_variable = bool(real) and type(real[0]) is not wanted
        if item is not None and not any(items_have_type(value, one, item) for one in allowed):
            return False
    elif as_answered:
        is_variable = True
    else:
        return False
    if is_variable:
        return value in allowed
    if wanted is dict:
        return any(object_is_right(value, one) for one in real)
    if item is dict:
        return any(
            len(one) == len(value)
            and all(object_is_right(a, b) for a, b in zip(value, one, strict=True))
            for one in allowed
        )
    if wanted is str:
        return std(value) in [std(one) for one in allowed if isinstance(one, str)]
    if wanted is list:
        plain = [std_if_text(one) for one in value]
        return any(plain == [std_if_text(part) for part in one] for one in allowed)
    return value in allowed


def items_have_type(value: list[Any], answer: Any, item: type) -> bool:
    if not isinstance(answer, list):
        return True
    real = [one for one in answer if one != ""]
    return all(type(one) is item or (real and type(one) is type(real[0])) for one in value)


def object_is_right(value: Any, answer: dict[str, list[Any]]) -> bool:
    if not isinstance(value, dict):
        return False
    for key, one in value.items():
        if key not in answer or std_if_text(one) not in [std_if_text(x) for x in answer[key]]:
            return False
    return all(key in value or "" in options for key, options in answer.items())


def an_answer(truth: list[Any], choose: random.Random) -> list[Any]:
    """Return calls that the truth allows; what may be left out is left out half of the time."""

    def value(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: pick(options) for key, options in one.items() if wants(options)}
        if isinstance(one, list):
            return [value(part) if isinstance(part, dict) else part for part in one]
        return one

    def wants(options: list[Any]) -> bool:
        return any(o != "" for o in options) and ("" not in options or choose.random() < 0.5)

    def pick(options: list[Any]) -> Any:
        return value(choose.choice([o for o in options if o != ""]))

    return [
        {name: {p: pick(options) for p, options in parameters.items() if wants(options)}}
        for answer in truth
        for name, parameters in answer.items()
    ]


def mutants(calls: list[Any], choose: random.Random) -> Iterator[list[Any]]:
    """Yield what differs from the calls in one place: each argument in many ways, each call too."""
    for at, call in enumerate(calls):
        ((name, arguments),) = call.items()
        for key in arguments:
            for change in CHANGES:
                changed = copy.deepcopy(calls)
                try:
                    changed[at][name][key] = change(changed[at][name][key], choose)
                except (TypeError, IndexError, ValueError, AttributeError, KeyError):
                    continue
                yield changed
            yield [*calls[:at], {name: {k: v for k, v in arguments.items() if k != key}},
                   *calls[at + 1 :]]  # fmt: skip
            renamed = {(k.upper() if k == key else k): v for k, v in arguments.items()}
            yield [*calls[:at], {name: renamed}, *calls[at + 1 :]]
        yield [*calls[:at], {name: {**arguments, "surplus": 1}}, *calls[at + 1 :]]
        yield [*calls[:at], {name.upper(): arguments}, *calls[at + 1 :]]
        yield [*calls[:at], {name.replace(".", "_") + "_": arguments}, *calls[at + 1 :]]
        yield [*calls[:at], *calls[at + 1 :]]
        yield [*calls[:at], call, call, *calls[at + 1 :]]
    yield calls[::-1]
    yield choose.sample(calls, len(calls))
    yield []


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise TypeError
    return value


def _inside(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change the first part of a list or object."""
    if isinstance(value, list):
        return [change(value[0]), *value[1:]]
    first = next(iter(value))
    return {**value, first: change(value[first])}


def _flipped(value: Any) -> Any:
    if type(value) is int:
        return float(value)
    if type(value) is float:
        return int(value)
    if type(value) is bool:
        return int(value)
    return f"{value}x"


CHANGES: tuple[Callable[[Any, random.Random], Any], ...] = (
    lambda value, choose: value,
    lambda value, choose: value.upper(),
    lambda value, choose: f" {value[:1]}-{value[1:]}.",
    lambda value, choose: value.replace("'", '"') + "'",
    lambda value, choose: value + " more",
    lambda value, choose: str(value),
    lambda value, choose: [value],
    lambda value, choose: {"value": value},
    lambda value, choose: None,
    lambda value, choose: "",
    lambda value, choose: [],
    lambda value, choose: {},
    lambda value, choose: int(_number(value)),
    lambda value, choose: float(_number(value)),
    lambda value, choose: _number(value) + 1,
    lambda value, choose: -_number(value),
    lambda value, choose: bool(value),
    lambda value, choose: int(value),
    lambda value, choose: not value,
    lambda value, choose: value[::-1],
    lambda value, choose: value[:-1],
    lambda value, choose: [*value, value[0]],
    lambda value, choose: choose.sample(value, len(value)),
    lambda value, choose: [str(one) for one in value],
    lambda value, choose: [_flipped(one) for one in value],
    lambda value, choose: [one.upper() for one in value],
    lambda value, choose: _inside(value, _flipped),
    lambda value, choose: _inside(value, lambda one: None),
    lambda value, choose: _inside(value, lambda one: [one]),
    lambda value, choose: _inside(value, lambda one: _inside(one, _flipped)),
    lambda value, choose: {**value, "surplus": 1},
    lambda value, choose: dict(list(value.items())[1:]),
    lambda value, choose: {key: str(one).upper() for key, one in value.items()},
)
