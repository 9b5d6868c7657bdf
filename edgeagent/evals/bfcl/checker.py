"""Is a list of calls one of the allowed answers: BFCL's rules for abstract syntax, oddities kept.

An answer lists, for each expected call, the values that each parameter may have; an empty string
among them means that it may be left out. Knows no model and no file.
Source: ShishirPatil/gorilla 4d05b53f, bfcl ast_checker (Apache-2.0); re-implemented from a
description of its rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgeagent.evals.bfcl import languages
from edgeagent.messages import Json

Language: TypeAlias = Literal["python", "java", "javascript"]
Matching: TypeAlias = Literal["simple", "multiple", "parallel"]
Calls: TypeAlias = Sequence[Mapping[str, Mapping[str, Json]]]
"""One-key objects: function name → arguments by name."""
Answer: TypeAlias = Mapping[str, Mapping[str, Sequence[Json]]]
"""One-key object: function name → allowed values by parameter."""

_TYPES: Mapping[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list,
    "dict": dict, "any": str,
}  # fmt: skip
_LISTS = ("array", "tuple")
_DROPPED = str.maketrans({**dict.fromkeys(" ,./-_*^", None), "'": '"'})
MAY_BE_LEFT_OUT = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a call is wrong."""

    kind: str
    """The leaderboard's name for this kind of error."""
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


def check(
    functions: Sequence[Json],
    calls: Calls,
    answers: Sequence[Answer],
    matching: Matching,
    language: Language = "python",
    *,
    underscores: bool = False,
) -> Fault | None:
    """Return why the calls are wrong; None when they are right.

    `underscores`: names are expected with `_` where the function's has a dot, as servers demand
    that take no dots.
    """
    judge = _Judge(functions, language, underscores)
    match matching:
        case "parallel":
            return judge.any_order(calls, answers)
        case "multiple":
            if len(calls) != len(answers):
                return _count("multiple_function_checker:wrong_count", len(answers), len(calls))
            return judge.one(judge.named(_name(answers[0])), calls[0], answers[0])
        case "simple":
            if len(calls) != 1:
                return _count("simple_function_checker:wrong_count", 1, len(calls))
            return judge.one(functions[0], calls[0], answers[0])


def standard(text: str) -> str:
    """Return the text as it is compared: no blanks, no punctuation, lower case, one quote."""
    return text.translate(_DROPPED).lower()


def _count(kind: str, n_wanted: int, n_found: int) -> Fault:
    return Fault(kind, f"{n_wanted} expected, {n_found} made")


def _name(answer: Answer) -> str:
    return next(iter(answer))


@dataclass(frozen=True, slots=True)
class _Judge:
    """Checks calls against answers for the functions of one entry."""

    functions: Sequence[Json]
    language: Language
    underscores: bool

    def named(self, name: str) -> Json | None:
        """Return the first function by that name."""
        return next((one for one in self.functions if one.get("name") == name), None)

    def any_order(self, calls: Calls, answers: Sequence[Answer]) -> Fault | None:
        """Give each answer the first call that is left and fits; nothing is given back."""
        if len(calls) != len(answers):
            kind = "parallel_function_checker_no_order:wrong_count"
            return _count(kind, len(answers), len(calls))
        left = list(calls)
        for place, answer in enumerate(answers):
            function = self.named(_name(answer))
            faults = [self.one(function, call, answer) for call in left]
            fitting = next((at for at, fault in enumerate(faults) if fault is None), None)
            if fitting is None:
                kind = "parallel_function_checker_no_order:cannot_find_match"
                return Fault(kind, f"no call for answer {place} ({'; '.join(map(str, faults))})")
            del left[fitting]
        return None

    def one(self, function: Json | None, call: Mapping[str, Json], answer: Answer) -> Fault | None:
        """Return why the call is not the one that the answer allows."""
        kind = "simple_function_checker"
        if function is None:
            return Fault(f"{kind}:wrong_func_name", f"{_name(answer)!r} is no function here")
        name = function["name"].replace(".", "_") if self.underscores else function["name"]
        if name not in call:
            return Fault(f"{kind}:wrong_func_name", f"{name!r} expected")
        given, allowed = call[name], answer[_name(answer)]
        schema = function.get("parameters", {})
        known = schema.get("properties", {})
        for parameter in schema.get("required", ()):
            if parameter not in given:
                return Fault(f"{kind}:missing_required", f"{parameter!r} is missing")
        for parameter, value in given.items():
            if parameter not in known or parameter not in allowed:
                return Fault(f"{kind}:unexpected_param", f"{parameter!r} is not expected")
            fault = self.parameter(parameter, value, known[parameter], allowed[parameter])
            if fault is not None:
                return fault
        for parameter, values in allowed.items():
            if parameter not in given and MAY_BE_LEFT_OUT not in values:
                return Fault(f"{kind}:missing_optional", f"{parameter!r} may not be left out")
        return None

    def parameter(
        self, name: str, value: Json, declared: Json, allowed: Sequence[Json]
    ) -> Fault | None:
        """Return why the value is none of the allowed ones."""
        type_name, item_name = _declared(declared)
        if self.language == "python":
            wanted = _TYPES.get(type_name)
            item = _TYPES.get(item_name) if type_name in _LISTS else None
            if type_name == "float" and type(value) is int and abs(value) < 1 << 1023:
                value = float(value)
        else:
            if not isinstance(value, str):
                short = "java" if self.language == "java" else "js"
                return Fault(f"type_error:{short}", f"{name!r} should be source text: {value!r}")
            wanted, item = languages.types(self.language, type_name, item_name)
            value = languages.convert(self.language, value, type_name, item_name)
        if wanted is None:
            return Fault("type_error:simple", f"{name!r} has a type that is not known: {type_name}")
        found = _type_check(value, allowed, wanted, item)
        if isinstance(found, str):
            return Fault(found, f"{name!r} should be {type_name}: {value!r}")
        return _value_check(name, value, allowed, wanted, item, is_variable=found)


def _declared(declared: Json) -> tuple[str, str]:
    """Return the type of a parameter and of its items; empty where it declares none."""

    def name(schema: Json) -> str:
        return str(schema.get("type", "")) if isinstance(schema, Mapping) else ""

    return name(declared), name(declared.get("items")) if isinstance(declared, Mapping) else ""


def _type_check(
    value: Json, allowed: Sequence[Json], wanted: type, item: type | None
) -> bool | str:
    """Return whether the value stands for a variable, or the kind of fault it is.

    Answers of another type than the declared one are names of variables, and so are values of
    that other type. Items are checked one level deep, and what fails there has failed.
    """
    of_answers = next((type(one) for one in allowed if one != MAY_BE_LEFT_OUT), None)
    if type(value) is wanted:
        is_variable = of_answers is not None and of_answers is not wanted
        if item is None or any(_items_fit(value, one, item) for one in allowed):
            return is_variable
        if of_answers is not None and type(value) is of_answers:
            return "type_error:nested"
    elif of_answers is not None and type(value) is of_answers:
        return True
    return "type_error:simple"


def _items_fit(value: Json, answer: Json, item: type) -> bool:
    """Tell whether every item has the type that this answer's items are to have."""
    if type(answer) is not list:
        return True
    return all(not isinstance(_type_check(one, answer, item, None), str) for one in value)


def _value_check(
    name: str,
    value: Json,
    allowed: Sequence[Json],
    wanted: type,
    item: type | None,
    *,
    is_variable: bool,
) -> Fault | None:
    if not is_variable:
        if wanted is dict:
            return _objects_check(value, allowed)
        if wanted is list and item is dict:
            return _object_lists_check(value, allowed)
        if wanted is str:
            options = [standard(one) for one in allowed if type(one) is str]
            is_right = standard(value) in options
            return None if is_right else _wrong("value_error:string", name, value, allowed)
        if wanted is list:
            lists = [_standard_items(one) for one in allowed]
            is_right = _standard_items(value) in lists
            return None if is_right else _wrong("value_error:list/tuple", name, value, allowed)
    return None if value in allowed else _wrong("value_error:others", name, value, allowed)


def _wrong(kind: str, name: str, value: Json, allowed: Sequence[Json]) -> Fault:
    return Fault(kind, f"{name!r} is {value!r}, allowed: {allowed!r}")


def _standard_items(value: Json) -> list[Json]:
    """Return a list's items as they are compared; an answer's text counts as its letters."""
    items = list(value) if isinstance(value, list | str) else [value]
    return [standard(one) if type(one) is str else one for one in items]


def _objects_check(value: Json, allowed: Sequence[Json]) -> Fault | None:
    """Return why the object is none of the allowed ones; the fault of the last one tried."""
    fault = Fault("dict_checker:unclear", f"{value!r} cannot be an object here")
    for answer in allowed:
        if answer == MAY_BE_LEFT_OUT or not isinstance(answer, Mapping):
            continue
        found = _object_check(value, answer)
        if found is None:
            return None
        fault = found
    return fault


def _object_check(value: Json, answer: Mapping[str, Json]) -> Fault | None:
    if not isinstance(value, Mapping):  # where "" let items of any type pass
        return Fault("value_error:dict_value", f"{value!r} is no object")
    for key, one in value.items():
        if key not in answer:
            return Fault("value_error:dict_key", f"{key!r} is not expected")
        shown = standard(one) if type(one) is str else one
        if shown not in _standard_items(answer[key]):
            return _wrong("value_error:dict_value", key, one, answer[key])
    for key, options in answer.items():
        if key not in value and not _may_be_left_out(options):
            return Fault("value_error:dict_key", f"{key!r} is missing")
    return None


def _may_be_left_out(options: Json) -> bool:
    # Every text contains the empty one, as in the original's `"" in options`.
    return isinstance(options, str) or (isinstance(options, list) and MAY_BE_LEFT_OUT in options)


def _object_lists_check(value: Sequence[Json], allowed: Sequence[Json]) -> Fault | None:
    fault = Fault("list_dict_checker:unclear", f"{value!r} cannot be a list of objects here")
    for answer in allowed:
        if not isinstance(answer, list | str) or len(answer) != len(value):
            fault = Fault("value_error:list_dict_count", f"{len(value)} objects in the list")
            continue
        pairs = zip(value, answer, strict=True)
        faults = (_objects_check(one, [wanted]) for one, wanted in pairs)
        found = next((one for one in faults if one is not None), None)
        if found is None:
            return None
        fault = found
    return fault
