"""Recorded conversations become pairs, pairs become rows, rows become scores beside their floor."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgeagent import manifest, paths
from edgeagent.cascade import OK
from edgeagent.config import RemoteConfig
from edgeagent.engine.client import Prompt
from edgeagent.engine.prompt import PromptWriter
from edgeagent.engine.template import Template
from edgeagent.engine.wire import probe
from edgeagent.errors import ContextFull, EngineDied, EngineError, EvaluationError, TemplateError
from edgeagent.evals import call_scores, distil, kept, tau_pairs, tft
from edgeagent.evals.judge import LargerJudge
from edgeagent.evals.rows import EXACT, Options, Progress, Row, headline
from edgeagent.evals.tft import Tft
from edgeagent.evals.transcripts import Pair, as_text
from edgeagent.manifest import DEFAULT
from edgeagent.messages import CallMessage, ResultMessage, UserMessage
from edgeagent.remote import Remote
from edgeagent.scenarios import job
from edgeagent.wiring import Local
from tests.conftest import SHARED
from tests.engine_kit import opened
from tests.loopback import Loopback, calls, status
from tests.scripted import Scripted, call, done, reply
from tests.tiny_gguf import CONTROL, HERMES_TEMPLATE, write_tiny

ROOT = Path(__file__).parents[1]
TEXT = {"type": "string"}


def function(name: str, *keys: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict.fromkeys(keys, TEXT), "required": [*keys]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


JOB = {
    "task_description": "Find and book tables.",
    "llm_as_a_judge_instructions": "Be kind.",
    "tools": [function("respond_to_user", "message"), function("Find", "city", "cuisine"),
              function("Book", "place")],
}  # fmt: skip


def said(name: str, as_text: bool = False, **arguments: str) -> dict[str, Any]:
    given = json.dumps(arguments) if as_text else arguments
    call = {"id": f"call_{name}", "type": "function",
            "function": {"name": name, "arguments": given}}  # fmt: skip
    return {"role": "assistant", "tool_calls": [call]}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


QUESTION = [
    user("I am hungry."),
    said("respond_to_user", message="Which city?"),
    user("Oakland, Thai."),
    said("Find", as_text=True, city="Oakland", cuisine="Thai"),
    user('[{"name": "Lemongrass"}]'),
    said("respond_to_user", message="Lemongrass?"),
    user("Book it."),
]
ANSWER = '{"name": "Book", "parameters": {"place": "Lemongrass"}}'
ROW = {"context": None, "question": json.dumps(QUESTION), "answer": ANSWER}


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "test.jsonl", [ROW])


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    path = tmp_path / "job_description.json"
    path.write_text(json.dumps(JOB))
    return path


def run(suite: Any, options: Options, *script: Any, **manifest: Any) -> tuple[list[Row], Scripted]:
    tier = Scripted(*script)
    local = Local("scripted", tier, DEFAULT.model_copy(update=manifest))
    return [row for row in suite.run(local, options) if isinstance(row, Row)], tier


def test_every_call_of_the_assistant_makes_a_pair(data: Path) -> None:
    pairs = tft.read(data)
    assert [pair.id for pair in pairs] == ["1/1", "1/2", "1/3", "1/4"]
    assert [distil.read_call(pair.reference).name for pair in pairs] == [  # type: ignore[union-attr]  # all are calls
        "respond_to_user", "Find", "respond_to_user", "Book"
    ]  # fmt: skip
    assert pairs[0].conversation == (UserMessage("I am hungry."),)
    assert pairs[-1].reference == ANSWER
    for shorter, longer in pairwise(pairs):
        assert longer.conversation[: len(shorter.conversation)] == shorter.conversation


def test_the_message_after_a_service_call_is_its_result(data: Path) -> None:
    _, _, third, fourth = tft.read(data)
    call_message, result = third.conversation[-2:]
    assert isinstance(call_message, CallMessage)
    assert call_message.calls[0].arguments == {"city": "Oakland", "cuisine": "Thai"}
    assert result == ResultMessage("call_Find", "Find", '[{"name": "Lemongrass"}]')
    assert fourth.conversation[-1] == UserMessage("Book it.")
    replies = [m for m in fourth.conversation if isinstance(m, ResultMessage) and m.content == OK]
    assert len(replies) == 2
    said = as_text(fourth.conversation)
    assert said.endswith("customer: Book it.")
    assert "Lemongrass" in said


@pytest.mark.parametrize("name", ["tft-benchmark-s1-tft", "nano"])
def test_the_prompt_is_the_files_messages_as_the_models_card_asks_for_them(
    data: Path, tools: Path, tmp_path: Path, name: str
) -> None:
    dialect = manifest.read(paths.bundled(f"{name}.toml")).dialect
    template = Template(HERMES_TEMPLATE, {})
    vocabulary = opened(tmp_path).context.vocabulary
    writer = PromptWriter(template, vocabulary, probe(template, CONTROL, False), dialect)
    described = job.read(tools)
    last = tft.read(data)[-1]
    rendered = writer.render(Prompt(described.policy, described.tools, last.conversation)).text

    messages = [
        {"role": "system", "content": dialect.system.replace("{task_description}",
                                                             JOB["task_description"])},
        *QUESTION,
    ]  # fmt: skip
    find = messages[4]["tool_calls"][0]["function"]
    messages[4] = said("Find", **json.loads(find["arguments"]))
    if name == "nano":
        messages[5] = {"role": "tool", "name": "Find", "content": messages[5]["content"]}
    keys = ("name", "description", "parameters")
    offered = [
        {"type": "function", "function": {key: tool["function"].get(key, "") for key in keys}}
        for tool in JOB["tools"]
    ]
    assert rendered == template.render(messages, offered)


def test_the_question_may_be_a_list_plain_words_or_a_trace(tmp_path: Path) -> None:
    rows = [
        {**ROW, "question": QUESTION, "answer": json.loads(ANSWER)},
        {"question": "A table, please.", "answer": ANSWER},
        {"context": json.dumps({"messages": [*QUESTION, said("Book", place="Lemongrass")]})},
    ]
    pairs = tft.read(write(tmp_path / "rows.jsonl", rows))
    assert [pair.id for pair in pairs] == [
        "1/1", "1/2", "1/3", "1/4", "2/1", "3/1", "3/2", "3/3", "3/4"
    ]  # fmt: skip
    assert pairs[4].conversation == (UserMessage("A table, please."),)
    assert pairs[-1].reference == ANSWER


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({}, "line 1 has no 'context'"),
        ({"question": "Hi"}, "line 1 has no 'answer'"),
        ({"question": "Hi", "answer": "Hello"}, "the answer is not a tool call"),
        ({"question": "[{", "answer": ANSWER}, "the question is not JSON"),
        ({"question": {}, "answer": ANSWER}, "not a list of messages"),
        ({"question": ["Hi"], "answer": ANSWER}, "message 1 is not an object"),
        ({"question": [{"role": "judge"}], "answer": ANSWER}, "has the role 'judge'"),
        ({"question": [{"role": "user"}], "answer": ANSWER}, "has no text"),
        ({"question": [{"role": "assistant", "tool_calls": [{}]}], "answer": ANSWER}, "a call is"),
        ({"context": '{"messages": 3}'}, "not a list of messages"),
        ({"context": "{"}, "the context is not JSON"),
        (
            {"question": [user("Hi"), said("Find"), {"role": "tool", "tool_call_id": "other",
             "content": "[]"}], "answer": ANSWER},
            "message 3 is the result of 'other', a call that is not open",
        ),
    ],
)  # fmt: skip
def test_a_row_that_is_no_conversation_is_refused(
    tmp_path: Path, row: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(EvaluationError, match=complaint):
        tft.read(write(tmp_path / "rows.jsonl", [row]))


TRAJECTORY = [
    {"role": "system", "content": "Serve."},
    user("Cancel ABC123."),
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "one", "function": {"name": "get_reservation_details",
                                   "arguments": '{"reservation_id": "ABC123"}'}}]},
    {"role": "tool", "tool_call_id": "one", "name": "get_reservation_details", "content": "{}"},
    {"role": "assistant", "content": "It is gone."},
    user("###STOP###"),
]  # fmt: skip


def test_only_trajectories_that_worked_are_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "trajectories.jsonl.gz"
    rows = [
        {"task_id": 3, "reward": 0.0, "messages": TRAJECTORY},
        {"task_id": 4, "reward": 1.0, "traj": TRAJECTORY},
    ]
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    first, second = tau_pairs.read(file)
    assert (first.id, second.id) == ("2-task4/1", "2-task4/2")
    assert first.policy == second.policy == "Serve."
    assert json.loads(second.reference) == {
        "name": "respond_to_user", "parameters": {"message": "It is gone."}
    }  # fmt: skip
    assert second.conversation[-1] == ResultMessage("one", "get_reservation_details", "{}")


def test_the_model_is_asked_under_the_records_own_policy(tmp_path: Path) -> None:
    data = write(tmp_path / "t.jsonl", [{"reward": 1, "messages": TRAJECTORY}])
    rows, tier = run(tau_pairs.TauPairs(), Options(data=data), reply("Hm."), reply("It is gone."))
    assert [prompt.policy for prompt in tier.prompts] == ["Serve.", "Serve."]
    assert [row.scores["name"] for row in rows] == [0.0, 1.0]
    assert [row.scores[EXACT] for row in rows] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [({"reward": 0, "messages": []}, "no trajectory with reward 1"), ({}, "no 'reward'"),
     ({"reward": "1"}, "is not a number"), ({"reward": 1}, "no 'messages'")],
)  # fmt: skip
def test_a_file_without_trajectories_is_refused(
    tmp_path: Path, row: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(EvaluationError, match=complaint):
        tau_pairs.read(write(tmp_path / "rows.jsonl", [row]))


def test_each_answer_is_scored_on_the_records_conversation(data: Path, tools: Path) -> None:
    script = [
        reply("Which town?"),
        call("Find", city="Oakland", cuisine="Chinese"),
        call("Book", place="Lemongrass"),
        call("Book", place="Lemongrass"),
    ]
    rows, tier = run(Tft(), Options(data=data, tools=tools), *script)
    assert [row.scores["staged_tool_call"] for row in rows] == [0.75, 0.75, 0.25, 1.0]
    assert headline(rows) == {"1/1": 0, "1/2": 0, "1/3": 0, "1/4": 1}
    assert all("deferred" not in row.note and row.scores["deferred"] is None for row in rows)
    assert tier.prompts[2].conversation == tft.read(data)[2].conversation
    assert tier.rules[0].offered == {"respond_to_user", "Find", "Book"}

    found = Tft().summarize(rows)
    scores = {name: one["value"] for name, one in found["scores"].items()}
    assert scores["name_accuracy"] == 0.75
    assert scores["service_exact"] == 0.5
    assert scores["argument_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores["premature_service"] == 0.5
    assert scores["missed_service"] == 0.0
    # F1 of Book is 2/3, of Find 1, of respond_to_user 2/3.
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert found["floors"][call_scores.FLOOR]["staged_tool_call"] == pytest.approx(2 / 4)
    assert found["floors"][call_scores.FLOOR]["missed_service"] == 1.0
    assert found["mean"]["staged_tool_call"] == scores["staged_tool_call"]
    # Likeness 0.5, 0.75, 0 and 1 of calls that are all well formed and direct.
    assert scores["reward"] == pytest.approx(2.25 / 4 + 0.2 + 0.2 * 0.1)
    assert found["by_tool"]["Book"] == {"n": 1, "named": 1, "exact": 1}


def test_words_and_extra_calls_are_scored_as_they_are(data: Path, tools: Path) -> None:
    two = done(*call("Find", city="a", cuisine="b").calls, *call("Book", place="c").calls)
    rows, _ = run(
        Tft(), Options(data=data, tools=tools, limit=2), done(text="None of the tools."), two
    )
    assert [row.scores["staged_tool_call"] for row in rows] == [0.0, 0.75]
    assert rows[0].prediction == "None of the tools."
    assert "2 calls, the first counts" in rows[1].note


def test_a_step_that_fails_scores_nothing_and_the_run_goes_on(data: Path, tools: Path) -> None:
    script = [EngineError("no"), EngineDied("gone"), reply("a"), EngineDied("x"), EngineDied("y"),
              call("Book", place="Lemongrass")]  # fmt: skip
    rows, tier = run(Tft(), Options(data=data, tools=tools), *script)
    assert [row.scores["staged_tool_call"] for row in rows] == [0.0, 0.25, 0.0, 1.0]
    assert [row.note for row in rows] == ["failed: no", "started again: gone",
                                          "started again: x; failed: y", ""]  # fmt: skip
    assert tier.n_starts == 2
    assert Tft().summarize(rows)["n_failed"] == 2


def test_a_template_that_refuses_one_conversation_does_not_end_the_run(
    data: Path, tools: Path
) -> None:
    script = [TemplateError("roles must alternate"), *[reply("a")] * 3]
    rows, _ = run(Tft(), Options(data=data, tools=tools), *script)
    assert [row.note for row in rows] == ["failed: roles must alternate", "", "", ""]


def test_what_does_not_fit_loses_its_oldest_turns_for_the_conversation(
    data: Path, tools: Path
) -> None:
    full = ContextFull(2000, 512, 2048)
    script = [reply("a"), full, reply("b"), reply("c"), full, reply("d")]
    rows, tier = run(Tft(), Options(data=data, tools=tools), *script)
    assert [row.note for row in rows] == ["", *["without the oldest 1 turns"] * 2,
                                          "without the oldest 2 turns"]  # fmt: skip
    assert tier.prompts[2].conversation == (UserMessage("Oakland, Thai."),)
    assert tier.prompts[-1].conversation == (UserMessage("Book it."),)
    alone, _ = run(Tft(), Options(data=data, tools=tools, limit=1), full)
    assert alone[0].note.startswith("failed: the prompt has 2000 tokens")


def test_a_reference_that_no_valid_call_equals_is_counted(tmp_path: Path, tools: Path) -> None:
    row = {"question": "Hi", "answer": '{"name": "Pay", "parameters": {}}'}
    data = write(tmp_path / "rows.jsonl", [row])
    rows, _ = run(Tft(), Options(data=data, tools=tools), reply("a"))
    assert rows[0].note == "no valid call equals the reference: there is no tool 'Pay'"
    assert Tft().summarize(rows)["n_out_of_reach"] == 1


def test_deferring_is_an_answer_and_is_counted_apart(tmp_path: Path, tools: Path) -> None:
    job = {**JOB, "tools": [*JOB["tools"], function("defer_to_larger_model", "reason")]}
    tools.write_text(json.dumps(job))
    data = write(tmp_path / "rows.jsonl", [ROW])
    script = [call("defer_to_larger_model", reason="hard")] * 2 + [reply("x")] * 2
    rows, tier = run(Tft(), Options(data=data, tools=tools), *script, defer_threshold=0.3)
    assert {rule.defer_threshold for rule in tier.rules} == {0.3}
    scores = Tft().summarize(rows)["scores"]
    assert scores["deferred"]["value"] == 0.5
    assert scores["staged_when_kept"] == {**scores["staged_when_kept"], "value": 0.5, "n": 2}


def test_rows_that_are_there_are_not_asked_for_again(data: Path, tools: Path) -> None:
    options = Options(data=data, tools=tools, done=frozenset({"1/1", "1/3"}))
    items = list(Tft().run(Local("s", Scripted(reply("a"), reply("b")), DEFAULT), options))
    assert [item.id for item in items if isinstance(item, Row)] == ["1/2", "1/4"]
    assert items[-1] == Progress(4, 4)


def test_an_empty_run_has_an_empty_summary() -> None:
    found = Tft().summarize([])
    assert found["n"] == 0
    assert found["scores"]["staged_tool_call"]["value"] is None
    json.dumps(found, allow_nan=False)


def row(row_id: str, **scores: float) -> Row:
    return Row(row_id, {EXACT: 1.0, **scores}, "{}", "{}", "p\u2028q", 3, 1.5, "note")


def test_kept_rows_come_back_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path, of = tmp_path / "rows.jsonl", {"model": "a", "seed": 0}
    rows = [row("1/1"), row("1/2")]
    assert list(kept.keep(rows, path, of)) == rows
    with path.open("a") as file:
        file.write('{"id": "1/3", "sco')
    assert kept.read(path, of) == rows
    list(kept.keep([row("1/3")], path, of))
    assert [one.id for one in kept.read(path, of)] == ["1/1", "1/2", "1/3"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"of": {"model": "b", "seed": 0}}\n', "of another run, it differs in model;"),
        ("[]\n", "not a file of kept rows"),
        ('{"of": {"model": "a", "seed": 0}}\n{"id": 3}\n', "not a file of kept rows"),
        ("no newline", "not a file of kept rows"),
    ],
)
def test_rows_of_another_run_are_not_mixed_in(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=complaint):
        kept.read(path, {"model": "a", "seed": 0})
    assert path.read_text() == text


PAIR = Pair("1/1", "", (UserMessage("Hello?"),), ANSWER)


def judging(server: Loopback) -> LargerJudge:
    config = RemoteConfig(base_url=server.url, model="big")
    return LargerJudge(Remote(config), "Accept synonyms.", 10.0)


def test_the_judge_is_shown_the_instructions_and_both_calls() -> None:
    good = ("give_verdict", {"reason": "Same place.", "verdict": "good"})
    bad = ("give_verdict", {"reason": "Another place.", "verdict": "bad"})
    with Loopback(calls(good), calls(bad)) as server:
        judge = judging(server)
        assert judge(PAIR, ANSWER) == (1.0, "judge: Same place.")
        assert judge(PAIR, '{"name": "Find"}') == (0.0, "judge: Another place.")
        assert judge(PAIR, " ") == (0.0, "")
        judge.remote.close()
        asked = [request.body for request in server.requests if request.method == "POST"]
    assert len(asked) == 2
    assert "Accept synonyms." in asked[0]["messages"][0]["content"]
    shown = json.loads(asked[0]["messages"][1]["content"])
    assert shown == {"conversation": "customer: Hello?", "reference": ANSWER, "prediction": ANSWER}


def test_a_judge_that_is_refused_is_asked_no_more() -> None:
    with Loopback(status(401)) as server:
        judge = judging(server)
        verdict, note = judge(PAIR, ANSWER)
        assert verdict is None
        assert "401" in note
        assert judge(PAIR, ANSWER) == (None, "not judged")
        judge.remote.close()
        assert len(server.requests) == 1


def test_verdicts_are_marked_as_advisory(data: Path, tools: Path) -> None:
    verdicts = iter([(1.0, "judge: fine"), (None, "not judged"), (0.0, "judge: bad"), (1.0, "")])
    rows, _ = run(
        Tft(lambda *_: next(verdicts)), Options(data=data, tools=tools), *[reply("x")] * 4
    )
    found = Tft().summarize(rows)["scores"]
    assert found["judge_advisory"]["n"] == 3
    assert found["judge_advisory"]["value"] == pytest.approx(2 / 3)
    assert rows[0].note == "judge: fine"


@pytest.fixture
def command(tmp_path: Path, data: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("EDGEAGENT_MODEL__N_THREADS", "1")
    monkeypatch.setenv("EDGEAGENT_MODEL__MAX_TOKENS", "48")
    model = write_tiny(tmp_path / "tiny.gguf")
    return [
        sys.executable, "-m", "edgeagent", "eval", "tft", "--data", str(data),
        "--tools", str(tools), "--model", str(model), "--json",
    ]  # fmt: skip


def test_the_verb_runs_a_real_engine_and_records_what_it_ran(
    command: list[str], data: Path, tools: Path, tmp_path: Path
) -> None:
    rows_file = tmp_path / "rows"
    command += ["--rows", str(rows_file)]
    first = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert (found["suite"], found["n"], found["is_whole"]) == ("tft", 4, True)
    assert [one["id"] for one in found["rows"]] == ["1/1", "1/2", "1/3", "1/4"]
    assert all(distil.read_call(one["prediction"]) for one in found["rows"])
    assert all(one["n_tokens"] > 0 for one in found["rows"])
    assert set(found["record"]["files"]) == {"model", "data", "tools"}
    assert found["record"]["command"].startswith("edgeagent eval tft --data")

    head, *lines = rows_file.read_text().splitlines()
    rows_file.write_text("\n".join([head, *lines[:2]]) + "\n")
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    resumed = json.loads(again.stdout)
    assert len(rows_file.read_text().splitlines()) == 5
    assert resumed["rows"][:2] == found["rows"][:2]
    assert [one["prediction"] for one in resumed["rows"]] == [
        one["prediction"] for one in found["rows"]
    ]
    assert resumed["record"]["prompts_sha256"] == found["record"]["prompts_sha256"]


def test_an_interrupted_run_sums_up_what_is_done(command: list[str], data: Path) -> None:
    write(data, [ROW] * 200)
    rows_file = data.with_name("rows")
    # A shell that starts tests in the background makes them deaf to interrupts.
    deaf = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start = [sys.executable, "-c", f"{deaf}os.execvp(sys.argv[1], sys.argv[1:])", *command]
    process = subprocess.Popen(
        [*start, "--rows", str(rows_file)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if rows_file.exists() and rows_file.read_text().count("\n") > 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["is_whole"] is False
    assert 0 < found["n"] < 800
    assert found["n"] == len(found["rows"]) == rows_file.read_text().count("\n") - 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"--data": "nowhere.jsonl"}, "cannot read nowhere.jsonl"),
        ({"--tools": "nowhere.json"}, "cannot read nowhere.json"),
        ({"--model": "nobody"}, "no model is called 'nobody'"),
        ({"--limit": "0"}, "--limit"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    command: list[str], change: dict[str, str], complaint: str
) -> None:
    for option, value in change.items():
        command += [option, value]
    done_ = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done_.returncode == 2
    assert complaint in done_.stderr
    assert "Traceback" not in done_.stderr
    assert done_.stdout == ""


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [({}, "set DEFER_BASE_URL"), ({"EDGEAGENT_OFFLINE": "1"}, "offline opens no socket")],
)
def test_a_judge_needs_a_larger_model(
    command: list[str], variables: dict[str, str], complaint: str
) -> None:
    done_ = subprocess.run(
        [*command, "--judge"], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert done_.returncode == 2
    assert complaint in done_.stderr


def test_the_development_file_gives_the_known_pairs_and_floor() -> None:
    file = SHARED / "tft" / "dev.jsonl"
    if not file.is_file():
        pytest.skip("distil's development file is not on this machine")
    pairs = tft.read(file)
    assert len(pairs) == 330
    rows = [
        Row(pair.id, {}, call_scores.ALWAYS_RESPOND, pair.reference, "", 0, 0.0) for pair in pairs
    ]
    rows = [
        Row(one.id, distil.score(one.reference, one.prediction, {}), one.prediction,
            one.reference, "", 0, 0.0)
        for one in rows
    ]  # fmt: skip
    found = call_scores.summarize(rows)
    floor = found["floors"][call_scores.FLOOR]
    assert floor["staged_tool_call"] == pytest.approx(215.5 / 330)
    values = {name: one["value"] for name, one in found["scores"].items() if name in floor}
    assert values == pytest.approx(floor)
