"""BFCL's rules for abstract syntax: each oddity by name, and mutants against a second telling."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgeagent.evals.bfcl import categories, checker, entries
from edgeagent.evals.bfcl.checker import check
from tests import bfcl_rules
from tests.conftest import SHARED

BFCL = SHARED / "bfcl"


def function(
    name: str, required: tuple[str, ...] = (), **parameters: dict[str, Any]
) -> dict[str, Any]:
    schema = {"type": "dict", "properties": parameters, "required": list(required)}
    return {"name": name, "description": f"Does {name}.", "parameters": schema}


def of(kind: str, items: str = "") -> dict[str, Any]:
    return {"type": kind, "items": {"type": items}} if items else {"type": kind}


TEXT, WHOLE, REAL, FLAG = of("string"), of("integer"), of("float"), of("boolean")

VALUES = [
    # declared, allowed, value, kind of fault
    (TEXT, ["San Francisco"], "san francisco", None),
    (TEXT, ["San Francisco, CA"], "SanFrancisco-C.A.", None),
    (TEXT, ["O'Hare"], 'o"hare', None),
    (TEXT, ["a_b*c^d/e"], "AB CDE", None),
    (TEXT, ["a(b)"], "ab", "value_error:string"),
    (TEXT, ["5"], 5, "type_error:simple"),
    (TEXT, ["", "x"], "", None),
    (TEXT, [""], "x", "value_error:string"),
    (TEXT, [5], 5, None),  # another type than declared stands for a variable
    (TEXT, [5], 6, "value_error:others"),
    (TEXT, [5], "5", "value_error:others"),
    (WHOLE, [5], 5, None),
    (WHOLE, [5], 5.0, "type_error:simple"),
    (WHOLE, [5], "5", "type_error:simple"),
    (WHOLE, [1], True, "type_error:simple"),
    (WHOLE, ["", 5], "", "type_error:simple"),
    (WHOLE, ["n_rows"], "n_rows", None),
    (WHOLE, ["n_rows"], "N_ROWS", "value_error:others"),  # a variable is taken literally
    (WHOLE, ["n_rows"], 5, "value_error:others"),
    (REAL, [5.0], 5, None),  # whole numbers become floats
    (REAL, [5], 5, None),
    (REAL, [5], 5.0, None),
    (REAL, [0.5], 0.50, None),
    (REAL, [0.5], "0.5", "type_error:simple"),
    (REAL, [1.0], True, "type_error:simple"),
    (REAL, [5.0], 10**400, "type_error:simple"),
    (FLAG, [True], True, None),
    (FLAG, [True], False, "value_error:others"),
    (FLAG, [True], 1, "type_error:simple"),
    (FLAG, [True], "true", "type_error:simple"),
    (FLAG, [1], True, None),
    (of("any"), ["x y"], "XY", None),
    (of("any"), [3], 3, None),
    (of("array", "integer"), [[1, 3]], [1, 3], None),
    (of("array", "integer"), [[1, 3]], [3, 1], "value_error:list/tuple"),
    (of("array", "integer"), [[1, 3]], [1.0, 3], "type_error:nested"),
    (of("array", "integer"), [[1, 3]], "1,3", "type_error:simple"),
    (of("array", "float"), [[1.0, 3.0]], [1.0, 3.0], None),
    (of("array", "float"), [[1.0, 3.0]], [1, 3], "type_error:nested"),  # items are not converted
    (of("array", "float"), [[1, 3]], [1, 3], None),
    (of("array", "float"), ["", [1.0, 3.0]], [1, 3], None),  # "" lets any items pass
    (of("array", "string"), [["New York", "L.A."]], ["newyork", "la"], None),
    (of("array", "string"), ["", ["a"]], [], None),
    (of("array", "string"), [["a"]], [], "value_error:list/tuple"),
    (of("array", "array"), [[["A b"]]], [["A b"]], None),
    (of("array", "array"), [[["A b"]]], [["ab"]], "value_error:list/tuple"),  # one level deep
    (of("tuple", "integer"), [[1, 2]], [1, 2], None),
    (of("array", "string"), ["names"], "names", None),
    (of("array"), [[1]], [1], None),
    (of("dict"), [{"a": [1], "b": ["", 2]}], {"a": 1}, None),
    (of("dict"), [{"a": [1], "b": ["", 2]}], {"a": 1, "b": 2}, None),
    (of("dict"), [{"a": [1], "b": ["", 2]}], {"a": 1, "b": 3}, "value_error:dict_value"),
    (of("dict"), [{"a": [1], "b": ["", 2]}], {"b": 2}, "value_error:dict_key"),
    (of("dict"), [{"a": [1]}], {"a": 1, "c": 1}, "value_error:dict_key"),
    (of("dict"), [{"a": ["X y"]}, {"a": ["z"]}], {"a": "Z"}, None),
    (of("dict"), [{"a": [1]}], {"a": 1.0}, None),  # nothing inside an object has a type
    (of("dict"), [""], {}, "dict_checker:unclear"),
    (of("dict"), [{"a": [1]}], [1], "type_error:simple"),
    (of("array", "dict"), [[{"a": [1]}, {"a": [2]}]], [{"a": 1}, {"a": 2}], None),
    (of("array", "dict"), [[{"a": [1]}, {"a": [2]}]], [{"a": 2}, {"a": 1}],
     "value_error:dict_value"),
    (of("array", "dict"), [[{"a": [1]}]], [{"a": 1}, {"a": 1}], "value_error:list_dict_count"),
    (of("array", "dict"), [[{"a": [1]}]], ["a"], "type_error:nested"),
    (of("array", "dict"), ["", [{"a": [1]}]], ["a"], "value_error:dict_value"),
    (of("array", "dict"), ["", [{"a": [1]}]], [], None),
    (of("colour"), ["red"], "red", "type_error:simple"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "allowed", "value", "kind"), VALUES)
def test_a_value_is_right_or_wrong_by_its_kind(
    declared: dict[str, Any], allowed: list[Any], value: Any, kind: str | None
) -> None:
    functions = [function("f", x=declared)]
    fault = check(functions, [{"f": {"x": value}}], [{"f": {"x": allowed}}], "simple")
    assert (fault.kind if fault else None) == kind


F = function("geo.area", ("base",), base=WHOLE, unit=TEXT, extra=TEXT)
G = function("geo.name", ("of",), of=TEXT)
AREA = {"geo.area": {"base": [5], "unit": ["", "cm"]}}
AREA_6 = {"geo.area": {"base": [6], "unit": ["cm"]}}
NAME = {"geo.name": {"of": ["disk"]}}

CALLS = [
    # matching, functions, calls, truth, kind of fault
    ("simple", [F], [{"geo.area": {"base": 5}}], [AREA], None),
    ("simple", [F], [{"geo.area": {"base": 5, "unit": "CM"}}], [AREA], None),
    ("simple", [F], [], [AREA], "simple_function_checker:wrong_count"),
    ("simple", [F], [{"geo.area": {"base": 5}}] * 2, [AREA], "simple_function_checker:wrong_count"),
    ("simple", [F], [{"geo_area": {"base": 5}}], [AREA], "simple_function_checker:wrong_func_name"),
    ("simple", [F], [{"geo.area": {"unit": "cm"}}], [AREA],
     "simple_function_checker:missing_required"),
    ("simple", [F], [{"geo.area": {"base": 5, "extra": "x"}}], [AREA],
     "simple_function_checker:unexpected_param"),  # declared, and not in the answer
    ("simple", [F], [{"geo.area": {"base": 5, "more": 1}}], [AREA],
     "simple_function_checker:unexpected_param"),
    ("simple", [F], [{"geo.area": {"base": 6}}], [AREA_6],
     "simple_function_checker:missing_optional"),
    ("simple", [G], [{"geo.area": {"base": 5}}], [AREA], "simple_function_checker:wrong_func_name"),
    ("multiple", [G, F], [{"geo.area": {"base": 5}}], [AREA], None),
    ("multiple", [G, F], [{"geo.name": {"of": "disk"}}], [AREA],
     "simple_function_checker:wrong_func_name"),
    ("multiple", [G], [{"geo.area": {"base": 5}}], [AREA],
     "simple_function_checker:wrong_func_name"),
    ("multiple", [G, F], [], [AREA], "multiple_function_checker:wrong_count"),
    ("parallel", [F, G], [{"geo.name": {"of": "disk"}}, {"geo.area": {"base": 5}}], [AREA, NAME],
     None),
    ("parallel", [F], [{"geo.area": {"base": 6, "unit": "cm"}}, {"geo.area": {"base": 5}}],
     [AREA, AREA_6], None),
    ("parallel", [F], [{"geo.area": {"base": 5}}], [AREA, AREA_6],
     "parallel_function_checker_no_order:wrong_count"),
    ("parallel", [F], [{"geo.area": {"base": 5}}] * 2, [AREA, AREA_6],
     "parallel_function_checker_no_order:cannot_find_match"),
    ("parallel", [F], [{"geo.area": {"base": 5}}] * 2, [AREA, AREA], None),
]  # fmt: skip


@pytest.mark.parametrize(("matching", "functions", "calls", "truth", "kind"), CALLS)
def test_calls_are_right_or_wrong_by_their_kind(
    matching: checker.Matching, functions: Any, calls: Any, truth: Any, kind: str | None
) -> None:
    fault = check(functions, calls, truth, matching)
    assert (fault.kind if fault else None) == kind


def test_parallel_calls_are_given_away_greedily_and_never_taken_back() -> None:
    either = {"geo.area": {"base": [5, 6], "unit": ["", "cm"]}}
    only_5 = {"geo.area": {"base": [5]}}
    calls = [{"geo.area": {"base": 5}}, {"geo.area": {"base": 6}}]
    assert check([F], calls, [either, only_5], "parallel") is not None
    assert check([F], calls[::-1], [either, only_5], "parallel") is None


def test_names_may_be_asked_for_with_underscores() -> None:
    dotted, bare = [{"geo.area": {"base": 5}}], [{"geo_area": {"base": 5}}]
    assert check([F], bare, [AREA], "simple", underscores=True) is None
    assert check([F], dotted, [AREA], "simple", underscores=True) is not None


SOURCE = [
    ("java", of("integer"), [5], "5", True),
    ("java", of("integer"), [5], "5.0", False),
    ("java", of("integer"), [5], 5, False),  # only source text is looked at
    ("java", of("long"), [5], "5L", True),
    ("java", of("long"), [5], "5", False),
    ("java", of("float"), [0.5], "0.5f", True),
    ("java", of("double"), [0.5], "0.5", True),
    ("java", of("boolean"), [True], "true", True),
    ("java", of("boolean"), [True], "True", False),
    ("java", of("String"), ["a b"], "A B", True),
    ("java", of("integer"), ["width"], "width", True),
    ("java", of("double"), [5.0], "5.", False),
    ("java", of("char"), ["'a'"], "'a'", True),
    ("java", of("ArrayList", "String"), [["a", "b"]],
     'new ArrayList<String>(Arrays.asList("a", "b"))', True),
    ("java", of("ArrayList", "String"), [["a", "b"]],
     'new ArrayList<>() {{ add("a"); add("b"); }}', True),
    ("java", of("ArrayList", "integer"), [[]], "new ArrayList<>()", True),
    ("java", of("ArrayList", "integer"), ["numbers"], "numbers", True),
    ("java", of("Array", "integer"), [[1, 2]], "new int[]{1, 2}", True),
    ("java", of("Array", "String"), [['"a"']], 'new String[]{"a"}', True),  # quotes are kept
    ("java", of("HashMap"), [{"k": ["v"], "n": [3]}],
     'new HashMap<String, Object>() {{ put("k", "v"); put("n", 3); }}', True),
    ("java", of("HashMap"), [{}], "new HashMap<>()", True),
    ("java", of("HashMap"), [{"k": [True]}], 'new HashMap<>() {{ put("k", false); }}', False),
    ("javascript", of("integer"), [5], "5", True),
    ("javascript", of("Bigint"), [5], "5n", True),
    ("javascript", of("Boolean"), [False], "false", True),
    ("javascript", of("String"), ["a, b"], "'a, b'", True),
    ("javascript", of("array", "String"), [["a", "b"]], "['a', \"b\"]", True),
    ("javascript", of("dict"), [{"k": ["v"]}], "{k: 'v'}", True),
    ("javascript", of("dict"), [{"k": ["v"]}], "{k: 'w'}", False),
    ("javascript", of("dict"), [{"a": ["x"], "m": [["p", 1]]}], "{'a': x, m: ['p', 1]}", True),
    ("javascript", of("dict"), [{"k": [5]}], "{k: '5'}", True),  # quotes inside are not looked at
    ("javascript", of("dict"), [{}], "{}", True),
    ("javascript", of("array", "integer"), [[1, 2]], "new Array(1, 2)", True),
    ("javascript", of("array", "array"), [[[1, 2], [3]]], "[[1, 2], [3]]", True),
    ("javascript", of("array", "array"), [["x"]], "[[]" + ",[]" * 60 + "x", False),
    ("javascript", of("float"), [0.5], "5e-1", False),
    ("javascript", of("String"), ["plain"], "plain", True),
]  # fmt: skip


@pytest.mark.parametrize(("language", "declared", "allowed", "value", "is_right"), SOURCE)
def test_java_and_javascript_are_read_as_source(
    language: checker.Language, declared: Any, allowed: Any, value: Any, is_right: bool
) -> None:
    functions = [function("f", x=declared)]
    fault = check(functions, [{"f": {"x": value}}], [{"f": {"x": allowed}}], "simple", language)
    assert (fault is None) == is_right, fault


OWN = [
    ("simple", [function("a.b", ("n",), n=WHOLE, s=TEXT, r=REAL, f=FLAG)],
     [{"a.b": {"n": [3], "s": ["", "It's, ok", "two"], "r": [1, 0.5], "f": ["", True]}}]),
    ("simple", [function("v", (), n=WHOLE, l=of("array", "string"))],
     [{"v": {"n": ["n_rows"], "l": ["names", ""]}}]),
    ("multiple", [function("q", (), l=of("array", "float")), function("p", (), t=of("any"))],
     [{"q": {"l": [[1.0, 2.5], [3.0]]}}]),
    ("parallel", [function("p", ("d",), d=of("dict"), o=of("array", "dict"), t=of("any"))],
     [{"p": {"d": [{"a": [1, 2], "b": ["", "x y"]}, {"a": [[1]]}], "o": ["", [{"k": ["V"]}]],
             "t": ["", 7]}},
      {"p": {"d": [{"a": [2]}], "t": ["any", ""]}}]),
    ("parallel", [function("l", (), i=of("array", "integer"), m=of("array", "array"))],
     [{"l": {"i": [[1, 2], [2, 1]], "m": ["", [[1], ["a"]]]}}] * 3),
]  # fmt: skip


@pytest.mark.parametrize(("matching", "functions", "truth"), OWN)
def test_mutants_are_judged_as_the_rules_say(
    matching: checker.Matching, functions: Any, truth: Any
) -> None:
    found = agreement(matching, functions, truth, random.Random(5), n_answers=20)
    assert found[True] >= 10, "some mutants are still right"
    assert found[False] >= 50


@pytest.mark.skipif(not BFCL.exists(), reason="BFCL's files are not beside the checkout")
@pytest.mark.parametrize("name", ["simple", "multiple", "parallel", "parallel_multiple"])
def test_mutants_of_real_answers_are_judged_as_the_rules_say(name: str) -> None:
    category = categories.by_name(name)
    files = entries.find(BFCL, category)
    assert files is not None
    found = {True: 0, False: 0}
    choose = random.Random(name)
    for entry in entries.read(category, *files):
        assert entry.answers is not None
        one = agreement(category.matching, entry.functions, entry.answers, choose, n_answers=1)
        found = {right: found[right] + one[right] for right in found}
    assert min(found.values()) > 1000


def agreement(
    matching: checker.Matching, functions: Any, truth: Any, choose: random.Random, n_answers: int
) -> dict[bool, int]:
    """Hold the checker against the rules on mutants of answers; return how many were right."""
    found = {True: 0, False: 0}
    for _ in range(n_answers):
        calls = bfcl_rules.an_answer(list(truth), choose)
        for mutant in bfcl_rules.mutants(calls, choose):
            expected = bfcl_rules.entry_is_right(matching, list(functions), mutant, list(truth))
            fault = check(functions, mutant, truth, matching)
            assert (fault is None) == expected, (mutant, fault)
            found[expected] += 1
    return found
