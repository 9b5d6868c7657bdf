"""The deferral threshold: counted by turns, chosen on one seed, reported on another."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeagent import manifest, paths
from edgeagent.cascade import OK
from edgeagent.commands import models
from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.errors import ContextFull, EngineDied, EvaluationError
from edgeagent.evals.airline_null import Null
from edgeagent.evals.intervals import wilson
from edgeagent.events import Prefilled, Token
from edgeagent.history import n_turns, without_deferrals
from edgeagent.manifest import Calibration, Dialect, Manifest
from edgeagent.messages import DEFER, RESPOND, CallMessage, Usage, UserMessage, Verdict
from edgeagent.scenarios.airline.simulator.episodes import Episode, episodes
from models.nano import calibrate
from models.nano.calibrate import Turn, calibration, choose, greedy, main, point
from tests.tiny_gguf import write_tiny


def turn(probability: float, is_hard: bool) -> Turn:
    return Turn(probability, probability > 0.5, is_hard)


TURNS = [
    *[turn(0.9, True)] * 6, *[turn(0.4, True)] * 3, turn(0.05, True),
    turn(0.95, False), *[turn(0.3, False)] * 4, *[turn(0.01, False)] * 85,
]  # fmt: skip
"""Ten hard turns of a hundred; 0.31 to 0.40 is best: nine caught, one for nothing."""


def test_turns_at_or_above_the_threshold_are_deferred() -> None:
    for threshold, n_deferred, n_caught in (
        (0.01, 100, 10), (0.05, 15, 10), (0.3, 14, 9), (0.31, 10, 9), (0.4, 10, 9), (0.41, 7, 6),
        (0.95, 1, 0), (0.96, 0, 0),
    ):  # fmt: skip
        found = point(TURNS, threshold)
        assert (found.n_deferred, found.n_caught, found.n_hard) == (n_deferred, n_caught, 10)


def test_the_threshold_is_chosen_by_the_lower_of_precision_and_recall() -> None:
    assert choose(TURNS) == 0.36
    best = point(TURNS, 0.36).lower
    assert best == pytest.approx(0.9)
    for threshold in calibrate.GRID:
        found = point(TURNS, threshold)
        values = (found.precision.value or 0.0, found.recall.value or 0.0)
        assert found.lower == pytest.approx(min(values))
        assert found.lower <= best
    # Where everything is told apart, anything between the two sides would do.
    assert choose([turn(0.9, True), turn(0.1, False)]) == 0.51


@pytest.mark.parametrize(
    "found", [[], [turn(0.4, False)] * 5, [turn(0.0005, True), turn(0.4, False)]]
)
def test_a_threshold_needs_a_hard_turn_that_can_be_caught(found: list[Turn]) -> None:
    with pytest.raises(EvaluationError, match="nothing to choose by"):
        choose(found)


def test_what_the_model_does_by_itself_stands_beside() -> None:
    found = greedy(TURNS)
    assert (found.n_deferred, found.n_caught) == (7, 6)


def test_the_curve_has_wilson_intervals_and_no_precision_where_nothing_is_deferred() -> None:
    made = calibration(TURNS, 0.36, "Q8_0", (1, 2), "the command")
    assert (made.n, made.n_hard, made.chosen_on_seed, made.seed) == (100, 10, 1, 2)
    assert [one.threshold for one in made.curve] == sorted({*calibrate.SHOWN, 0.36})
    (chosen,) = (one for one in made.curve if one.threshold == 0.36)
    assert chosen.precision is not None
    assert chosen.precision.value == 0.9
    assert (chosen.recall.low, chosen.recall.high) == pytest.approx(wilson(9, 10), abs=1e-4)
    nothing = calibration([turn(0.1, True)], 0.5, "Q8_0", (1, 2), "the command")
    assert nothing.curve[-1].precision is None
    assert nothing.curve[-1].recall.value == 0
    with pytest.raises(EvaluationError, match="is hard"):
        calibration([turn(0.9, False)], 0.5, "Q8_0", (1, 2), "the command")


def test_a_table_has_a_line_for_each_point() -> None:
    shown = calibrate.table([("0.36", point(TURNS, 0.36)), ("0.99", point(TURNS, 0.99))])
    _, best, none = shown.splitlines()
    assert best.split()[:3] == ["0.36", "10", "0.900"]
    assert none.split()[:3] == ["0.99", "0", "-"]


def test_the_table_survives_the_manifest(tmp_path: Path) -> None:
    made = calibration(TURNS, 0.36, "Q8_0", (1, 2), 'say "it"', "0" * 64)
    dialect = Dialect(copied_ids=("user_id", "order_id"), copied_words=())
    changes = {"defer_threshold": 0.36, "calibration": made, "dialect": dialect}
    whole = manifest.DEFAULT.model_copy(update=changes)
    manifest.write(whole, tmp_path / "m.toml")
    assert manifest.read(tmp_path / "m.toml") == whole
    lines = tomllib.loads(manifest.calibration_toml(made))
    assert Calibration.model_validate(lines["calibration"]) == made


def test_the_shipped_threshold_was_chosen_for_the_shipped_build() -> None:
    found = manifest.read(paths.bundled("nano.toml"))
    build = found.build(found.default_build)
    assert found.calibration is not None
    assert build is not None
    assert (found.calibration.build, found.calibration.sha256) == (build.quant, build.sha256)


def test_a_threshold_that_was_not_calibrated_is_refused_beside_a_calibration() -> None:
    made = calibration(TURNS, 0.36, "Q8_0", (1, 2), "the command")
    record = {**manifest.DEFAULT.model_dump(), "calibration": made.model_dump()}
    assert Manifest.model_validate(record).defer_threshold is None
    with pytest.raises(ValueError, match=r"0\.5, the calibration chose 0\.36"):
        Manifest.model_validate({**record, "defer_threshold": 0.5})


class Knowing(Null):
    """Sure of what the expert does: 0.9 where it defers and 0.2 elsewhere."""

    def __init__(self, lessons: list[Episode], fits: int = 99) -> None:
        super().__init__(RESPOND, {"message": "?"})
        self.fits = fits
        """Turns that the context holds."""
        self.asked: list[Prompt] = []
        self.hard: dict[str, bool] = {}
        for lesson in lessons:
            labels = iter(lesson.labels)
            for at, message in enumerate(lesson.conversation):
                if isinstance(message, CallMessage):
                    label = next(labels)
                    is_hard = label.is_hard or label.by == "larger model"
                    self.hard[str(without_deferrals(lesson.conversation[:at]))] = is_hard

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        assert rule.defer_threshold is None
        assert DEFER in rule.offered
        self.asked.append(prompt)
        if n_turns(prompt.conversation) > self.fits:
            raise ContextFull(1000, 100, 1000)
        is_hard = self.hard.get(str(prompt.conversation), False)
        yield Prefilled(0, 1)
        yield Token("{")
        assert cancel.is_set(), "one token is enough to know"
        verdict = Verdict(is_hard, 0.9 if is_hard else 0.2, "greedy")
        yield StepDone((), "", verdict, Usage(), "cancelled")


SEED = next(
    seed for seed in range(7100, 7200)
    if sum(any(label.is_hard for label in one.labels) for one in episodes(seed, 6, "held_out")) > 1
)  # fmt: skip
"""Has two hard turns among its first six episodes."""


def test_every_turn_is_counted_once_and_hard_turns_are_those_that_the_expert_leaves() -> None:
    lessons = list(episodes(SEED, 6, "held_out"))
    tier = Knowing(lessons)
    found = list(calibrate.turns(tier, 512, SEED, 6))
    n_turns_of = [sum(isinstance(m, UserMessage) for m in one.conversation) for one in lessons]
    # After the customer's last words the expert may have nothing to add.
    assert sum(n_turns_of) - 6 <= len(found) <= sum(n_turns_of)
    assert 2 <= sum(one.is_hard for one in found) < len(found)
    assert all((one.probability == 0.9) == one.is_hard == one.is_greedy for one in found)
    assert choose(found) == pytest.approx(0.55, abs=0.03)
    assert all(DEFER not in str(prompt.conversation) for prompt in tier.asked)
    assert any(OK in str(prompt.conversation) for prompt in tier.asked)


def test_the_oldest_turns_are_left_out_where_the_context_is_full() -> None:
    tier = Knowing([], fits=2)
    found = list(calibrate.turns(tier, 512, SEED, 6))
    assert len(found) > 6
    assert all(one.probability == 0.2 for one in found)


def test_a_step_that_cannot_fit_is_no_deferral_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = list(calibrate.turns(Knowing([], fits=0), 512, SEED, 1))
    assert {one.probability for one in found} == {0.0}
    assert "left out" in capsys.readouterr().err


class Mortal(Knowing):
    """Dies at its third step, and at every step from then on if it `stays_dead`."""

    def __init__(self, stays_dead: bool) -> None:
        super().__init__([])
        self.stays_dead = stays_dead
        self.n_steps = 0

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        self.n_steps += 1
        if self.n_steps == 3 or (self.stays_dead and self.n_steps > 3):
            raise EngineDied("gone")
        yield from super().step(prompt, rule, cancel)


def test_an_engine_that_died_is_started_again_once() -> None:
    calm = list(calibrate.turns(Knowing([]), 512, SEED, 2))
    assert list(calibrate.turns(Mortal(stays_dead=False), 512, SEED, 2)) == calm
    with pytest.raises(EngineDied):
        list(calibrate.turns(Mortal(stays_dead=True), 512, SEED, 2))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "home"))


def test_the_command_reads_a_model_and_its_manifest_shows_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEAGENT_MODEL__MAX_TOKENS", "24")
    tiny = write_tiny(tmp_path / "tiny.gguf")
    added = CliRunner().invoke(models.command, ["add", str(tiny), "--name", "small"])
    written = Path(added.output.strip())
    seeds = [seed for seed in range(SEED, SEED + 60) if _has_hard(seed)][:2]
    typed = ["--model", "small", "--episodes", "2", "--seed", str(seeds[0])]
    assert main([*typed, "--report-seed", str(seeds[1]), "--write", str(written)]) == 0
    out = capfd.readouterr().out
    told = json.loads(out.splitlines()[-1])
    made = manifest.read(written)
    assert made.calibration is not None
    assert made.defer_threshold == made.calibration.threshold == told["threshold"]
    assert (made.calibration.seed, made.calibration.n_hard) == (seeds[1], told["n_hard"])
    assert manifest.calibration_toml(made.calibration) in out
    assert out.count("greedy") == 2
    shown = CliRunner().invoke(models.command, ["show", "small"]).output
    assert f"defer_threshold = {made.defer_threshold}\n" in shown
    assert manifest.calibration_toml(made.calibration) in shown
    record = json.loads(CliRunner().invoke(models.command, ["show", "small", "--json"]).output)
    assert record["manifest"]["calibration"]["n"] == made.calibration.n


def _has_hard(seed: int) -> bool:
    return any(label.is_hard for one in episodes(seed, 2, "held_out") for label in one.labels)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--seed", "5", "--report-seed", "5"), "seed that it was chosen on"),
        (("--model", "nobody-has-this"), "nobody-has-this"),
        (("--write", "not/there.toml"), "not/there.toml"),
        (("--model", "http://127.0.0.1:9/v1"), "a server does not tell"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_code_2(
    typed: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert told in captured.err
    assert len(captured.err.splitlines()) == 1


def test_no_episodes_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exc:
        main(["--episodes", "0"])
    assert exc.value.code == 2
    assert "at least 1" in capsys.readouterr().err
