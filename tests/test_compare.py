"""Builds side by side: divergence, pairing, what is kept, what is refused."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgeagent import config
from edgeagent.engine import meter
from edgeagent.engine.branch import softmax
from edgeagent.engine.readings import N_ROWS, Kind, Plain, Reference, Whole
from edgeagent.errors import EvaluationError, ModelLoadError, ModelNotFound, UsageError
from edgeagent.evals import tft
from edgeagent.evals.compare import builds, divergence, material, page, pairing, report, table
from edgeagent.evals.compare.cache import Cache
from edgeagent.evals.compare.run import Comparison, Ended, Plan
from edgeagent.evals.compare.suites import references
from edgeagent.evals.rows import Options
from tests.compare_kit import Counting, row, write_data
from tests.engine_kit import engine, opened
from tests.tiny_gguf import HERMES_TEMPLATE, write_garbage, write_tiny

TEXT = "Which cabin do you want to book? The one in the morning, please. " * 8


def made(
    tmp_path: Path, *files: Path, suite: Counting | None = None, n_rows: int = 6
) -> Comparison:
    """A comparison of files over a little of everything, kept under `tmp_path`."""
    data, tools = write_data(tmp_path)
    options = Options(data=data, tools=tools)
    plan = Plan(
        builds.named([str(file) for file in files], None, None),
        [(suite or Counting(n=n_rows), Options())],
        material.of(references("tft", options), None),
        100,
        config.load({"model.n_threads": 1}),
    )
    return Comparison(plan, Cache(tmp_path / "cache"))


def ended(comparison: Comparison) -> list[Ended]:
    return [item for item in comparison.carried_out() if isinstance(item, Ended)]


def test_the_divergence_is_what_both_whole_distributions_say(tmp_path: Path) -> None:
    base, other = tmp_path / "a", tmp_path / "b"
    base.mkdir()
    other.mkdir()
    contexts = [opened(base, seed=0).context, opened(other, seed=1).context]
    with engine(base / "tiny.gguf", n_outputs=N_ROWS) as made:
        made.start()
        theirs = meter.read(made, Plain(TEXT))
    with engine(other / "tiny.gguf", n_outputs=N_ROWS) as made:
        made.start()
        ours = meter.read(made, Plain(TEXT), theirs.asked)
    vocabulary = contexts[0].vocabulary
    tokens = [vocabulary.begin, *vocabulary.encode(TEXT, parse_special=False)]
    exact, same = [], []
    for token in tokens[:-1]:
        assert all(context.decode([token], logits=True) for context in contexts)
        p, q = (softmax(context.logits()) for context in contexts)
        exact.append(float((p * np.log(p / q)).sum()))
        same.append(int(p.argmax()) == int(q.argmax()))
    found = divergence.compared(theirs, ours, 0)
    n = len(found.kld)
    assert theirs.tail.mean() > 0.01  # else the drawn tokens would not be put to the test
    assert found.kld.mean() == pytest.approx(np.mean(exact[-n:]), rel=0.01)
    assert found.same.mean() == np.mean(same[-n:])


def test_a_build_against_itself_has_no_divergence(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "first-f16.gguf")
    second = tmp_path / "second-f16.gguf"
    second.write_bytes(first.read_bytes())
    comparison = made(tmp_path, first, second)
    assert [part.failure for part in ended(comparison)] == [""] * 8
    _, build = report.of(comparison, {})["builds"]
    for part in ("text", "calls"):
        assert build[part]["kld"] == 0
        assert build[part]["same_top"] == 1
        assert build[part]["n"] > 5


def test_a_report_says_what_was_measured(tmp_path: Path) -> None:
    files = [write_tiny(tmp_path / f"{name}.gguf", seed=n) for n, name in enumerate("ab")]
    lucky = files[1].rename(tmp_path / "lucky.gguf")
    comparison = made(tmp_path, files[0], lucky)
    list(comparison.carried_out())
    found = json.loads(json.dumps(report.of(comparison, {"command": "x"}), allow_nan=False))
    base, build = found["builds"]
    assert (base["label"], build["label"]) == ("a", "lucky")  # one type: told apart by name
    assert base["text"]["perplexity"] > 1
    assert "kld" not in base["text"]
    assert build["text"]["kld"] > 0.1
    assert build["text"]["kld_low"] < build["text"]["kld"] < build["text"]["kld_high"]
    assert build["calls"]["n"] == sum(
        build["calls"]["by_kind"][kind]["n"] for kind in ("name", "arguments")
    )
    assert build["decode_per_s"] > 0
    assert build["bits_per_weight"] == pytest.approx(16, abs=0.3)
    versus = build["suites"]["counting"]["versus_base"]
    assert versus["tests"]["exact"] == {"n": 6, "lost": 0, "gained": 3, "p": 0.25, "p_holm": 0.25}
    assert [flip["id"] for flip in found["flips"]] == ["0/1", "1/3", "2/5"]
    assert not any(flip["is_lost"] for flip in found["flips"])
    assert found["prompts"]["counting"] == {id: f"asked {id}" for id in ("0/1", "1/3", "2/5")}


def test_what_is_done_is_kept_and_a_suite_goes_on_inside(tmp_path: Path) -> None:
    file = write_tiny(tmp_path / "a.gguf")
    suite = Counting()
    running = made(tmp_path, file, suite=suite).carried_out()
    while len(suite.asked) < 3:
        next(running)
    running.close()
    again = Counting()
    parts = ended(made(tmp_path, file, suite=again))
    assert [part.part for part in parts] == ["speed", "text", "calls", "counting"]
    assert [part.is_cached for part in parts] == [True, True, True, False]
    assert len(again.asked) in (3, 4)  # the row that was being written may be lost
    comparison = made(tmp_path, file, suite=Counting())
    assert all(part.is_cached for part in ended(comparison))
    rows = comparison.found[0].rows["counting"]
    assert sorted(each.id for each in rows) == ["0/0", "0/1", "1/2", "1/3", "2/4", "2/5"]


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    file = write_tiny(tmp_path / "a.gguf")
    first = made(tmp_path, file)
    list(first.carried_out())
    for entry in (tmp_path / "cache").iterdir():
        raw = bytearray(entry.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        entry.write_bytes(raw)
    second = made(tmp_path, file)
    parts = ended(second)
    assert [part.failure for part in parts] == [""] * 4
    assert not any(part.is_cached for part in parts)
    ids = [[row.id for row in each.found[0].rows["counting"]] for each in (first, second)]
    assert sorted(ids[0]) == sorted(ids[1])
    assert all(part.is_cached for part in ended(made(tmp_path, file)))


@pytest.mark.parametrize("rest", ["", "\n", " ", "deadbeef {}", "{", "\x00\xff"])
def test_a_journal_that_broke_off_keeps_its_whole_rows(rest: str, tmp_path: Path) -> None:
    journal = Cache(tmp_path).journal("k")
    journal.add(row("a/1", 1))
    journal.add(row("a/2", 0))
    with (tmp_path / "k.rows").open("a") as file:
        file.write(rest)
    assert [each.id for each in journal.rows()] == ["a/1", "a/2"]
    journal.add(row("a/3", 1))
    assert [each.id for each in journal.rows()] == ["a/1", "a/2", "a/3"]
    assert not journal.is_whole()
    journal.end()
    assert journal.is_whole()
    assert len(journal.rows()) == 3


def test_another_tokenizer_is_refused_and_the_rest_still_runs(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "a.gguf")
    other = write_tiny(tmp_path / "b.gguf", n_merges=100)
    comparison = made(tmp_path, base, other)
    assert [part.failure for part in ended(comparison)] == [""] * 8
    found = report.of(comparison, {})
    build = found["builds"][1]
    assert "its tokenizer differs from a's" in build["refused"]["text"]
    assert "kld" not in build["text"]
    assert build["text"]["perplexity"] > 1
    assert build["calls"]["n"] > 0
    assert build["suites"]["counting"]["versus_base"]["n"] == 6
    assert any("tokenizer" in note for note in found["notes"])


def test_another_template_is_refused_too(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "a.gguf")
    other = write_tiny(tmp_path / "b.gguf", template=HERMES_TEMPLATE)
    comparison = made(tmp_path, base, other)
    list(comparison.carried_out())
    build = report.of(comparison, {})["builds"][1]
    assert "makes other tokens" in build["refused"]["text"]
    assert build["text"]["perplexity"] > 1


def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "a.gguf")
    broken = write_tiny(tmp_path / "b.gguf", template=None)
    comparison = made(tmp_path, base, broken)
    failures = {part.part: part.failure for part in ended(comparison) if part.build == "b"}
    assert all("template" in failure for failure in failures.values()), failures
    found = report.of(comparison, {})
    assert found["builds"][1]["text"] is None
    assert len(found["builds"]) == len(found["table"]["rows"]) == 2
    assert page.of({**found, "record": {}})


def test_without_a_base_every_build_still_stands_alone(tmp_path: Path) -> None:
    broken = write_tiny(tmp_path / "a.gguf", template=None)
    comparison = made(tmp_path, broken, write_tiny(tmp_path / "b.gguf"))
    list(comparison.carried_out())
    found = report.of(comparison, {})
    base, build = found["builds"]
    assert base["failures"].keys() == {"speed", "text", "calls", "counting"}
    assert build["failures"] == {}
    assert build["refused"]["text"] == "the base could not be read"
    assert build["text"]["perplexity"] > 1
    assert build["suites"]["counting"]["versus_base"] is None
    assert "</html>" in page.of({**found, "record": {}})


def test_builds_are_found_or_the_person_is_told(tmp_path: Path) -> None:
    file = write_tiny(tmp_path / "a.gguf")
    with pytest.raises(ModelNotFound, match=r"nope\.gguf"):
        builds.named([str(file), str(tmp_path / "nope.gguf")], None, None)
    with pytest.raises(ModelLoadError):
        builds.named([str(write_garbage(tmp_path / "g.gguf"))], None, None)
    with pytest.raises(UsageError, match="is a server"):
        builds.named(["http://127.0.0.1:1/v1"], None, None)
    with pytest.raises(UsageError, match="no manifest is called"):
        builds.named([str(file)], None, "nothing")


def test_the_base_comes_first_and_a_build_named_twice_comes_once(tmp_path: Path) -> None:
    files = [str(write_tiny(tmp_path / f"{name}.gguf", seed=n)) for n, name in enumerate("abc")]
    found = builds.named([*files, files[1]], files[2], None)
    assert [build.model.path.name for build in found] == ["c.gguf", "a.gguf", "b.gguf"]


def test_a_loose_file_is_prompted_as_the_base_or_as_one_says(tmp_path: Path) -> None:
    file = str(write_tiny(tmp_path / "a.gguf"))
    assert builds.named(["nano", file], None, None)[1].model.manifest.name == "nano"
    lent = builds.named([file], None, "distil-customer-support-deferral")[0].model.manifest
    assert lent.name == "distil-customer-support-deferral"
    assert builds.named([file], None, None)[0].model.manifest.name == "a"


def test_conversations_are_read_once_at_their_longest(tmp_path: Path) -> None:
    data, tools = write_data(tmp_path, n=3)
    found = references("tft", Options(data=data, tools=tools))
    assert len(found) == 9
    made = material.of(found, None)
    assert len(made.texts) == 3
    assert all(isinstance(text, Whole) for text in made.texts)
    assert all(isinstance(call, Reference) for call in made.calls)
    # Ids that a file leaves out are drawn; what is read must not change with them.
    again = material.of(references("tft", Options(data=data, tools=tools)), None)
    assert made.sha256 == again.sha256
    assert tft.read(data)[2].conversation != tft.read(data)[2].conversation


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_text_without_text_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(content)
    with pytest.raises(EvaluationError):
        material.of((), file)
    with pytest.raises(EvaluationError, match="cannot read"):
        material.of((), tmp_path / "none")


def test_a_suite_that_needs_files_says_which() -> None:
    with pytest.raises(EvaluationError, match="--data"):
        references("tft", Options())


def test_an_answer_flips_where_its_tool_or_its_whole_changes_sides() -> None:
    base = [row("a/1", 1, 1), row("a/2", 1, 1), row("b/1", 0, 1), row("b/2", 0, 0), row("c/1", 1)]
    build = [row("a/1", 0, 0), row("a/2", 0, 1), row("b/1", 1, 1), row("b/2", 0, 0), row("d/1", 1)]
    found = pairing.paired(base, build, 0)
    assert [(f.build.id, f.score, f.is_lost) for f in found.flips] == [
        ("a/1", "name", True),
        ("a/2", "exact", True),
        ("b/1", "exact", False),
    ]
    assert found.n == 4
    exact, name = found.tests["exact"], found.tests["name"]
    assert (exact.n, exact.n_lost, exact.n_gained, exact.p) == (4, 2, 1, 1.0)
    assert (name.n, name.n_lost, name.n_gained) == (4, 1, 0)
    assert found.deltas["exact"]["value"] == pytest.approx(-0.25)


def test_many_tests_at_once_need_more() -> None:
    found = pairing.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert found == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.9})
    assert pairing.holm({}) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0"), (17.05, "17.1"), (5.0, "5.00"), (1034.2, "1,034"),
        (0.005226, "0.00523"), (4.67e-05, "0.0000467"), (3e-9, "3.0e-09"), (99.96, "100"),
        (999.6, "1,000"), (-0.5, "-0.500"), (float("1e-6"), "0.00000100"),
    ],
)  # fmt: skip
def test_numbers_are_written_for_reading(value: float | None, text: str) -> None:
    assert table.number(value) == text


def test_places_of_every_kind_can_be_told_apart() -> None:
    n = 8
    kinds = np.array([0, 1, 1, 2, 2, 3, 3, 3], np.uint8)
    places = divergence.Places(
        np.arange(n, dtype=np.int32), kinds, np.full(n, -1, np.float32), np.zeros(n, np.int32),
        np.arange(n, dtype=float), np.zeros(n), np.ones(n, bool),
    )  # fmt: skip
    words = divergence.summary(divergence.of_kinds(places, [Kind.WORDS]), has_base=True)
    assert words is not None
    assert (words["n"], words["kld"], words["kld_max"]) == (3, 6, 7)
    assert words["perplexity"] == pytest.approx(math.e)
    assert divergence.summary(divergence.of_kinds(places, []), has_base=True) is None


def test_a_build_that_answers_with_nan_leaves_a_gap_and_not_a_crash() -> None:
    nan = np.full(2, np.nan)
    places = divergence.Places(
        np.arange(2, dtype=np.int32), np.zeros(2, np.uint8), nan.astype(np.float32),
        np.zeros(2, np.int32), nan, np.zeros(2), np.zeros(2, bool),
    )  # fmt: skip
    found = divergence.summary(places, has_base=True)
    assert found is not None
    assert found["kld"] is None
    assert found["perplexity"] is None
    json.dumps(found, allow_nan=False)


def test_what_is_remembered_of_a_build_comes_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"])}
    cache.write_arrays("k", arrays)
    found = cache.read_arrays("k")
    assert found is not None
    assert all(np.array_equal(arrays[name], found[name]) for name in arrays)
    assert cache.read_json("k") is None
    cache.write_json("k", {"load_ms": 1.5})
    assert cache.read_json("k") == {"load_ms": 1.5}
    assert Cache(tmp_path, is_fresh=True).read_json("k") is None
    assert not list(itertools.chain(tmp_path.glob("*.part")))
