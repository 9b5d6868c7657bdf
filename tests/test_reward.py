"""The card's reward: each part on answers that show it, and the weights as they are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeagent.commands.score_reward import command
from edgeagent.errors import EvaluationError
from edgeagent.evals import reward
from edgeagent.evals.reward import STAGES, weights_of

ONE = STAGES["stage1"]


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def block(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{call(name, **arguments)}\n</tool_call>"


RIGHT = block("weather", city="Hue", unit="c")
REFUSAL = "None of the provided tools can answer this question."


@pytest.mark.parametrize(
    ("prediction", "form", "correctness", "efficiency"),
    [
        (RIGHT, 1, 1.0, 0.1),
        (f"Sure, one moment.\n{RIGHT}", 1, 1.0, 0.0),  # a preamble earns no bonus
        (f"<think>The city is Hue.</think>\n{RIGHT}", 1, 1.0, -0.3),
        (f"<think>\n\n</think>\n\n{RIGHT}", 1, 1.0, 0.1),  # what the template writes is no thought
        (f"<think>{RIGHT} or not", 0, 0.0, -0.3),  # a call in an open thought was not made
        (call("weather", city="Hue", unit="c"), 0, 1.0, 0.0),  # no wrapper
        (RIGHT.removesuffix("</tool_call>"), 0, 1.0, 0.1),
        (block("weather", city="Hue"), 1, 0.75, 0.1),
        (block("weather", city="Hue", unit="f", days=3), 1, 0.5 + 0.5 / 3, 0.1),
        (block("forecast", city="Hue", unit="c"), 1, 0.0, 0.1),
        (RIGHT + RIGHT, 1, 0.5, 0.1),  # one call too many
        ("<tool_call>{]</tool_call>", 0, 0.0, 0.1),
        (RIGHT + "<tool_call>{]</tool_call>", 0.5, 1.0, 0.1),
        ("", 0, 0.0, 0.0),
        (REFUSAL, 0, 0.0, 0.0),
    ],
)
def test_an_answer_to_a_question_that_a_tool_fits(
    prediction: str, form: float, correctness: float, efficiency: float
) -> None:
    wanted = reward.wanted_of(call("weather", city="Hue", unit="c"))
    assert wanted is not None
    found = reward.score(wanted, prediction, ONE)
    assert found["format"] == form
    assert found["correctness"] == pytest.approx(correctness)
    assert found["efficiency"] == pytest.approx(efficiency)
    assert found["refusal"] == 0
    assert found["reward"] == pytest.approx(0.2 * form + correctness + 0.2 * efficiency)


@pytest.mark.parametrize(
    ("prediction", "form", "refusal"),
    [
        (REFUSAL, 1, 1),
        (RIGHT, 1, -1),
        (block("respond_to_user", message="I cannot do that."), 1, 1),
        (block("defer_to_larger_model", reason="hard"), 1, 0),
        ("", 0, 1),
    ],
)
def test_an_answer_where_no_tool_fits(prediction: str, form: float, refusal: float) -> None:
    found = reward.score([], prediction, ONE)
    assert (found["format"], found["correctness"], found["refusal"]) == (form, 0, refusal)


def test_calls_are_paired_whatever_their_order() -> None:
    wanted = reward.wanted_of([json.loads(call("a", n=1)), json.loads(call("b", n=2))])
    assert wanted is not None
    assert reward.score(wanted, block("b", n=2) + block("a", n=1), ONE)["correctness"] == 1.0
    assert reward.score(wanted, block("a", n=1), ONE)["correctness"] == 0.5


def test_weights_are_a_set_or_its_changes() -> None:
    assert weights_of("stage2") == STAGES["stage2"]
    assert weights_of("stage2,correctness=1,thinking=-0.5").correctness == 1.0
    assert weights_of("format=0.5").format == 0.5
    assert weights_of("format=0.5").correctness == STAGES["stage1"].correctness


@pytest.mark.parametrize("text", ["stage3", "stage1,beauty=1", "format=", "format=nan", ""])
def test_weights_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(EvaluationError):
        weights_of(text)


@pytest.mark.parametrize(
    ("answer", "n"), [("", 0), ("[]", 0), ([], 0), (call("a"), 1), (f"[{call('a')}]", 1)]
)
def test_a_reference_is_a_call_several_or_none(answer: Any, n: int) -> None:
    wanted = reward.wanted_of(answer)
    assert wanted is not None
    assert len(wanted) == n


@pytest.mark.parametrize("answer", ["words", 3, [3], None])
def test_anything_else_is_no_reference(answer: Any) -> None:
    assert reward.wanted_of(answer) is None


def test_the_verb_prints_parts_weights_and_tokens(tmp_path: Path) -> None:
    rows = [
        {"answer": call("weather", city="Hue", unit="c"), "prediction": RIGHT, "n_tokens": 20},
        {"answer": [], "prediction": REFUSAL, "n_tokens": 10},
        {"answer": [], "prediction": None},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--predictions", str(file), "--base-tokens", "30", "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["n"] == 3
    assert found["rows"][0]["reward"] == pytest.approx(1.22)
    assert found["rows"][1]["reward"] == pytest.approx(0.5)
    assert found["mean"]["refusal"] == pytest.approx(2 / 3)
    assert found["weights"]["correctness"] == 1.0
    assert found["response_tokens"] == {"n": 2, "mean": 15.0, "vs_base": -0.5}
