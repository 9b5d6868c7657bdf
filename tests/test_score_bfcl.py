"""`edgeagent score bfcl`: the contract's document, for every kind of category and of bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeagent.commands.score_bfcl import command
from edgeagent.errors import EvaluationError
from edgeagent.evals.bfcl import categories, entries, functions, scoring
from tests.conftest import SHARED

BFCL = SHARED / "bfcl"
SCHEMA = {
    "type": "dict",
    "properties": {"base": {"type": "integer"}, "unit": {"type": "string"}},
    "required": ["base"],
}
AREA = {"name": "geo.area", "description": "", "parameters": SCHEMA}
QUESTION = [[{"role": "user", "content": "How large?"}]]


def lines(*rows: Any) -> str:
    return "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)


def question(row_id: str, *offered: Any) -> dict[str, Any]:
    return {"id": row_id, "question": QUESTION, "function": list(offered or [AREA])}


def answer(row_id: str, base: int = 5) -> dict[str, Any]:
    return {"id": row_id, "ground_truth": [{"geo.area": {"base": [base], "unit": ["", "cm"]}}]}


def predicted(row_id: str, result: Any) -> dict[str, Any]:
    return {"id": row_id, "result": result}


def area(base: Any) -> list[Any]:
    return [{"geo.area": {"base": base}}]


def score(
    folder: Path,
    predictions: str,
    questions: str = lines(question("simple_0"), question("simple_1")),
    answers: str | None = lines(answer("simple_0"), answer("simple_1", 6)),
    category: str = "simple",
    *options: str,
) -> Result:
    typed = ["--category", category, *options]
    for option, text in (
        ("questions", questions), ("answers", answers), ("predictions", predictions)
    ):  # fmt: skip
        if text is not None:
            (folder / f"{option}.json").write_text(text)
            typed += [f"--{option}", str(folder / f"{option}.json")]
    return CliRunner().invoke(command, typed, catch_exceptions=False)


def told(folder: Path, predictions: str, **options: Any) -> Any:
    category = options.pop("category", "simple")
    questions = options.pop("questions", lines(question("simple_0"), question("simple_1")))
    answers = options.pop("answers", lines(answer("simple_0"), answer("simple_1", 6)))
    done = score(folder, predictions, questions, answers, category, "--json")
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_the_document_has_exactly_the_contracts_keys_and_the_predictions_order(
    tmp_path: Path,
) -> None:
    rows = lines(predicted("simple_1", area(7)), predicted("simple_0", area(5)))
    found = told(tmp_path, rows)
    assert set(found) == {"n", "accuracy", "rows"}
    assert (found["n"], found["accuracy"]) == (2, 0.5)
    wrong, right = found["rows"]
    assert right == {"id": "simple_0", "valid": True, "error": None}
    assert (wrong["id"], wrong["valid"]) == ("simple_1", False)
    assert wrong["error"].startswith("value_error:others")


RESULTS = [
    (area(5), True, ""),
    ([{"geo.area": '{"base": 5}'}], True, ""),  # arguments as servers send them
    ("[geo.area(base=5)]", True, ""),
    ("geo.area(base=5, unit='cm')", True, ""),
    ("```\n[geo.area(base=2+3)]\n```", True, ""),
    (r"geo.area(base=5, unit='\.cm')", False, "value_error:string"),
    ("I cannot help with that.", False, "ast_decoder:decoder_failed"),
    ("", False, "ast_decoder:decoder_failed"),
    ("[" * 5000, False, "ast_decoder:decoder_failed"),
    ('[{"geo.area": {"base": 5}}]', False, "ast_decoder:decoder_failed"),  # text is no list
    ("geo.area(base={[1]: 2})", False, "ast_decoder:decoder_failed"),
    ("[geo.area(5)]", False, "simple_function_checker:missing_required"),
    ("geo.area(base=" + "*".join(["9**64"] * 99) + ")", False, "ast_decoder:decoder_failed"),
    ("geo.area(base=__import__('os'))", False, "type_error:simple"),
    ([], False, "simple_function_checker:wrong_count"),
    (None, False, "ast_decoder:decoder_wrong_output_format"),
    ({"geo.area": {"base": 5}}, False, "ast_decoder:decoder_wrong_output_format"),
    ([{}], False, "ast_decoder:decoder_wrong_output_format"),
    ([5], False, "ast_decoder:decoder_wrong_output_format"),
    ([{"geo.area": [5]}], False, "ast_decoder:decoder_wrong_output_format"),
    ([{"geo.area": {"base": 5}, "b": {}}], False, "ast_decoder:decoder_wrong_output_format"),
    ([{"name": "geo.area", "arguments": {"base": 5}}], False,
     "ast_decoder:decoder_wrong_output_format"),
    ([{"geo.area": "base=5"}], False, "ast_decoder:decoder_failed"),
    ([{"no.such": {"base": 5}}], False, "simple_function_checker:wrong_func_name"),
    ([{"defer_to_larger_model": {"reason": "hard"}}], False, "deferred"),
    ([*area(5), {"respond_to_user": {"message": "done"}}], True, ""),
]  # fmt: skip


@pytest.mark.parametrize(("result", "valid", "error"), RESULTS)
def test_calls_come_as_lists_or_as_text(
    tmp_path: Path, result: Any, valid: bool, error: str
) -> None:
    (row,) = told(tmp_path, lines(predicted("simple_0", result)))["rows"]
    assert row["valid"] is valid
    assert (row["error"] or "").startswith(error)
    assert bool(row["error"]) is not valid


REFUSALS = [
    # result, right where nothing fits, right where something does
    ("None of the tools fits.", True, False),
    ([], True, False),
    ([{}], True, False),
    ([{"geo.area": "not json"}], True, False),  # a broken call is none
    (area(5), False, True),
    ([{"whatever": {}}], False, True),
    ([{"respond_to_user": {"message": "no"}}], True, False),
    ([{"defer_to_larger_model": {"reason": "?"}}], False, False),  # neither refused nor called
]


@pytest.mark.parametrize(("result", "irrelevant", "relevant"), REFUSALS)
def test_a_refusal_is_the_absence_of_calls_and_a_deferral_is_neither(
    tmp_path: Path, result: Any, irrelevant: bool, relevant: bool
) -> None:
    for category, valid in (("live_irrelevance", irrelevant), ("live_relevance", relevant)):
        found = told(tmp_path, lines(predicted("simple_0", result)), category=category,
                     answers=None)  # fmt: skip
        assert found["rows"][0]["valid"] is valid
        assert found["accuracy"] == float(valid)


def test_an_answer_is_found_by_its_place_where_its_id_is_misspelt(tmp_path: Path) -> None:
    questions = lines(question("live_9-79-0"), question("live_8"))
    answers = lines(answer("live_9-279-0"), answer("live_8", 6))
    rows = lines(predicted("live_9-79-0", area(5)), predicted("live_8", area(6)))
    found = told(tmp_path, rows, questions=questions, answers=answers, category="live_simple")
    assert found["accuracy"] == 1.0
    again = lines(predicted("live_9-279-0", area(5)))
    assert told(tmp_path, again, questions=questions, answers=answers)["accuracy"] == 1.0


def test_answers_in_another_order_are_joined_by_id(tmp_path: Path) -> None:
    answers = lines(answer("simple_1", 6), answer("simple_0"))
    rows = lines(predicted("simple_0", area(5)), predicted("simple_1", area(6)))
    assert told(tmp_path, rows, answers=answers)["accuracy"] == 1.0


def test_v4_names_and_gzipped_files_are_known(tmp_path: Path) -> None:
    files = {
        "questions": lines(question("simple_python_0")),
        "answers": lines(answer("simple_python_0")),
        "predictions": lines(predicted("simple_python_0", area(5))),
    }
    typed = ["--category", "BFCL_v4_simple_python.json", "--json"]
    for option, text in files.items():
        with gzip.open(tmp_path / f"{option}.json.gz", "wt") as file:
            file.write(text)
        typed += [f"--{option}", str(tmp_path / f"{option}.json.gz")]
    done = CliRunner().invoke(command, typed, catch_exceptions=False)
    assert json.loads(done.stdout)["accuracy"] == 1.0


EXECUTED = [
    # category, answers, result, verdict
    ("exec_simple", ["math_gcd(a=12, b=18)"], [{"math_gcd": {"a": 18, "b": 12}}], True),
    ("exec_simple", ["math_gcd(a=12, b=18)"], [{"math_gcd": {"a": 12, "b": 8}}], False),
    ("exec_simple", ["math_gcd(a=12, b=18)"], [{"math_gcd": {"a": "12", "b": 18}}], False),
    ("exec_simple", ["math_gcd(a=12, b=18)"], [{"math_lcm": {"a": 2, "b": 3}}], True),  # also 6
    ("exec_simple", ["math_gcd(a=12, b=18)"], [{"math_gcd": {"a": 12, "b": 18}}] * 2, False),
    ("exec_simple", ["math_gcd(a=12, b=18)"], "math_gcd(b=12, a=18)", True),
    ("exec_simple", ["get_stock(name='X')"], [{"get_stock": {"name": "X"}}], None),
    ("exec_simple", ["math_factorial(n=5)"], [{"math_factorial": {"n": 10**9}}], False),
    ("exec_simple", ["math_factorial(n=5)"], [{"math_factorial": {"n": 4000}}], False),
    ("exec_simple", ["math_factorial(n=5)"], [{"get_stock": {}}], False),
    ("exec_simple", ["get_distance(pointA=(0, 0), pointB=(3, 4))"],
     [{"get_distance": {"pointB": [0, 0], "pointA": [3, 4]}}], True),
    ("exec_multiple", ["calc_binomial_probability(n=20, k=5, p=1/6)"],
     "calc_binomial_probability(n=20, k=5, p=1/6)", True),
    ("exec_parallel", ["math_gcd(a=4, b=6)", "math_lcm(a=4, b=6)"],
     [{"math_lcm": {"a": 6, "b": 4}}, {"math_gcd": {"a": 6, "b": 4}}], True),
    ("exec_parallel", ["math_gcd(a=4, b=6)", "math_lcm(a=4, b=6)"],
     [{"math_lcm": {"a": 6, "b": 4}}] * 2, False),
    ("exec_parallel_multiple", ["math_gcd(a=4, b=6)", "get_stock(name='X')"],
     [{"math_gcd": {"a": 6, "b": 4}}, {"get_stock": {"name": "X"}}], None),
    ("rest", ["requests.get(url='x')"], [{"requests.get": {"url": "x"}}], None),
]  # fmt: skip


@pytest.mark.parametrize(("category", "truth", "result", "valid"), EXECUTED)
def test_calls_are_executed_where_that_needs_no_network(
    tmp_path: Path, category: str, truth: list[str], result: Any, valid: bool | None
) -> None:
    answers = lines({"id": "simple_0", "ground_truth": truth,
                     "execution_result_type": ["exact_match"] * len(truth)})  # fmt: skip
    found = told(tmp_path, lines(predicted("simple_0", result)), category=category,
                 answers=answers)  # fmt: skip
    assert found["rows"][0]["valid"] is valid
    assert found["n"] == (valid is not None)
    assert found["accuracy"] == (None if valid is None else float(valid))


FUNCTIONS = [
    ("add_binary_numbers", {"a": "0011", "b": "1100"}, "1111"),
    ("calculate_final_velocity", {"initial_velocity": 1, "acceleration": 2, "time": 3}, 7),
    ("calculate_future_value", {"present_value": 100, "interest_rate": 0.1, "periods": 2}, 121.0),
    ("calculate_permutations", {"n": 5, "k": 2}, 20),
    ("calculate_standard_deviation", {"numbers": [1, 3]}, 1.0),
    ("calculate_triangle_area", {"base": 3, "height": 4}, 6.0),
    ("get_fibonacci_sequence", {"n": 6}, [0, 1, 1, 2, 3, 5]),
    ("get_prime_factors", {"number": 360}, [2, 2, 2, 3, 3, 5]),
    ("linear_regression", {"x": [1, 2, 3], "y": [4, 5, 6], "point": 10}, 13.0),
    ("mat_mul", {"matA": [[1, 2], [3, 4]], "matB": [[5, 6], [7, 8]]}, [[19, 22], [43, 50]]),
    ("maxPoints", {"points": [[1, 1], [2, 2], [3, 4], [5, 5]]}, 3),
    ("mortgage_calculator", {"loan_amount": 1200, "interest_rate": 0.12, "loan_period": 1}, 106.6),
    ("order_food", {"item": ["a", "b"], "quantity": [10, 7], "price": [5, 2]}, 64),
    ("polygon_area", {"vertices": [[0, 0], [2, 0], [2, 2], [0, 2]]}, 4.0),
    ("quadratic_roots", {"a": 3, "b": 7, "c": -10}, [1.0, -10 / 3]),
    ("estimate_derivative", {"function": "lambda x: 3*x**2 + math.sin(0)", "x": 5}, 30.0),
    ("sort_array", {"array": [2, 1, 3], "reverse": True}, [3, 2, 1]),
]


@pytest.mark.parametrize(("name", "arguments", "value"), FUNCTIONS)
def test_the_functions_compute_what_their_names_say(
    name: str, arguments: dict[str, Any], value: Any
) -> None:
    found = functions.FUNCTIONS[name](**arguments)
    is_plain = name in ("add_binary_numbers", "mat_mul")
    assert found == (value if is_plain else pytest.approx(value, rel=1e-3))


BAD = [
    ({"predictions": "{"}, "line 1 is not JSON"),
    ({"predictions": "\n\n"}, "holds no rows"),
    ({"predictions": lines([1])}, "not a JSON object"),
    ({"predictions": lines({"result": []})}, "no 'id'"),
    ({"predictions": lines({"id": "simple_0"})}, "no 'result'"),
    ({"predictions": lines(predicted("simple_7", []))}, "no question 'simple_7'"),
    ({"predictions": lines({"id": 7, "result": []})}, "no question 7"),
    ({"predictions": lines(*[predicted("simple_0", [])] * 2)}, "answered before"),
    ({"questions": lines(question("simple_0"), question("simple_0"))}, "'simple_0' twice"),
    ({"questions": lines({"id": "simple_0", "function": [{"x": 1}]})}, "list of functions"),
    ({"questions": lines({"id": 0})}, "id is not text"),
    ({"answers": lines({"id": "simple_0"})}, "no 'ground_truth'"),
    ({"answers": lines({"id": "simple_0", "ground_truth": []})}, "ground truth"),
    ({"answers": lines({"id": "simple_0", "ground_truth": [{"f": {"x": 1}}]})}, "ground truth"),
    ({"answers": lines(answer("simple_1"))}, "no possible answer for 'simple_0'"),
    ({"answers": None}, "possible answers"),
    ({"category": "no_such"}, "no single-turn category"),
    ({"category": "multi_turn_base"}, "no single-turn category"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_files_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    given = {"predictions": lines(predicted("simple_0", area(5))), **change}
    with pytest.raises(EvaluationError, match=said) as caught:
        score(tmp_path, **given)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_the_plain_output_names_what_is_wrong(tmp_path: Path) -> None:
    done = score(tmp_path, lines(predicted("simple_0", area(4))))
    assert "simple_0: value_error:others" in done.stdout
    assert "0 of 1 right: 0.0000 [0.0000, 0.7935]" in done.stdout
    assert "1 questions have no prediction" in done.stderr


@pytest.mark.skipif(not BFCL.exists(), reason="BFCL's files are not beside the checkout")
def test_as_many_executable_entries_run_as_use_no_server() -> None:
    for name, n in (("exec_simple", 62), ("exec_multiple", 31)):
        category = categories.by_name(name)
        files = entries.find(BFCL, category)
        assert files is not None
        verdicts = [
            scoring.judge(category, entry, f"[{', '.join(entry.answers or ())}]").valid
            for entry in entries.read(category, *files)
        ]
        assert verdicts.count(True) == n
        assert verdicts.count(False) == 0
