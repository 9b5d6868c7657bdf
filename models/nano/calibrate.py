"""Choose the probability from which nano leaves a turn to the larger model, and show what it does.

The scripted expert's held-out episodes are shown step by step to the build, through the product's
engine; each time the probability of the deferral call is read where the name of the call is
chosen, and the step is broken off. A turn is deferred when one of its steps is; the truth is the
turns that the expert defers. The threshold is chosen on the episodes of one seed and reported on
those of another.

    python -m models.nano.calibrate --episodes 500 --write models/nano.toml
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgeagent import config, history, manifest, wiring
from edgeagent.cascade import LocalTier
from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.errors import ContextFull, EdgeAgentError, EngineDied, EvaluationError
from edgeagent.evals.intervals import Estimate, share
from edgeagent.events import Token
from edgeagent.manifest import Calibration, CurvePoint, Share
from edgeagent.messages import CallMessage, Conversation, UserMessage, Verdict
from edgeagent.scenarios.airline import backend
from edgeagent.scenarios.airline.simulator.episodes import Episode, Split, episodes

SPLIT: Split = "held_out"
RULE = "highest lower one of precision and recall; of equals, the middle one"
"""Both matter alike, and the highest F1 may be had with a third of the hard turns missed."""
GRID = (*(n / 1000 for n in range(1, 100)), *(n / 100 for n in range(10, 100)))
"""Thresholds that may be chosen: a network that rarely defers is unsure in thousandths."""
SHOWN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Thresholds of the curve, the chosen one beside them."""
TOLD_EVERY = 50
"""Episodes between two lines on stderr."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a customer, and what the model made of the steps that follow it."""

    probability: float
    """Of deferring: the highest among the turn's steps, 0..1."""
    is_greedy: bool
    """The model would have deferred without a threshold."""
    is_hard: bool
    """The expert defers."""


@dataclass(frozen=True, slots=True)
class Point:
    """Turns counted at one threshold."""

    threshold: float
    n_deferred: int
    n_caught: int
    """Deferred and hard."""
    n_hard: int

    @property
    def precision(self) -> Estimate:
        """Of the deferred turns, those that are hard."""
        return share(self.n_caught, self.n_deferred)

    @property
    def recall(self) -> Estimate:
        """Of the hard turns, those that are deferred."""
        return share(self.n_caught, self.n_hard)

    @property
    def lower(self) -> float:
        """The lower one of precision and recall; 0 where nothing is caught."""
        return self.n_caught / max(1, self.n_deferred, self.n_hard)

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where nothing is caught."""
        return 2 * self.n_caught / max(1, self.n_deferred + self.n_hard)


def turns(tier: LocalTier, max_tokens: int, seed: int, n: int) -> Iterator[Turn]:
    """Yield the turns of `n` held-out episodes; the engine has to run already.

    Raises:
        EngineDied: the engine's process ended twice in one episode.
    """
    for number, episode in enumerate(episodes(seed, n, SPLIT), start=1):
        yield from _turns_of(_Reader(tier, max_tokens), episode)
        if number % TOLD_EVERY == 0:
            print(f"seed {seed}: {number} of {n} episodes", file=sys.stderr, flush=True)


def _turns_of(reader: _Reader, episode: Episode) -> Iterator[Turn]:
    labels = iter(episode.labels)
    verdicts: list[Verdict] = []
    is_hard = False
    for at, message in enumerate(episode.conversation):
        if isinstance(message, CallMessage):
            label = next(labels)
            # Behind the point where the turn is handed over the expert has nothing to say.
            if not is_hard:
                verdicts.append(reader.read(episode.conversation[:at]))
            is_hard |= label.is_hard or label.by == "larger model"
        elif isinstance(message, UserMessage) and verdicts:
            yield _turn(verdicts, is_hard)
            verdicts, is_hard = [], False
    if verdicts:
        yield _turn(verdicts, is_hard)


def _turn(verdicts: Sequence[Verdict], is_hard: bool) -> Turn:
    highest = max(verdict.probability for verdict in verdicts)
    return Turn(highest, any(verdict.deferred for verdict in verdicts), is_hard)


class _Reader:
    """The model in one conversation, and how much of it no longer fits."""

    def __init__(self, tier: LocalTier, max_tokens: int) -> None:
        self._tier = tier
        self._job = backend.description()
        names = frozenset(tool.name for tool in self._job.tools)
        # Without a threshold the first name that the model settles on ends the reading.
        self._rule = StepRule(names, None, None, max_tokens)
        self._n_trimmed = 0
        self._was_restarted = False

    def read(self, conversation: Conversation) -> Verdict:
        """Return what the model thinks of deferring the next step."""
        while True:
            recent = history.without_oldest(conversation, self._n_trimmed)
            shown = history.without_deferrals(recent)
            try:
                return self._read(Prompt(self._job.policy, self._job.tools, shown))
            except ContextFull as full:
                if history.n_turns(recent) <= 1:
                    # A session fails here, and nothing is deferred.
                    print(f"left out, one step: {full}", file=sys.stderr, flush=True)
                    return Verdict(False, 0.0, "not offered")
                # As a session trims, so that the build sees what it would see there.
                excess = full.n_prompt + full.n_reserve - full.n_ctx * 7 // 8
                self._n_trimmed += history.n_oldest(recent, excess / max(1, full.n_prompt))
            except EngineDied as died:
                if self._was_restarted:
                    raise
                self._was_restarted = True
                print(f"started again: {died}", file=sys.stderr, flush=True)
                self._tier.start()

    def _read(self, prompt: Prompt) -> Verdict:
        enough = threading.Event()
        verdict: Verdict | None = None
        for item in self._tier.step(prompt, self._rule, enough):
            if isinstance(item, Token):
                # The engine says nothing before it has its verdict; the rest is not needed.
                enough.set()
            elif isinstance(item, StepDone):
                verdict = item.verdict
        assert verdict is not None, "a step that offers deferring has a verdict"
        return verdict


def point(found: Iterable[Turn], threshold: float) -> Point:
    """Return what deferring from `threshold` on would have done."""
    every = list(found)
    return _counted(threshold, every, [turn.probability >= threshold for turn in every])


def greedy(found: Iterable[Turn]) -> Point:
    """Return what the model does by itself, its threshold shown as 0."""
    every = list(found)
    return _counted(0.0, every, [turn.is_greedy for turn in every])


def _counted(threshold: float, found: Sequence[Turn], deferred: Sequence[bool]) -> Point:
    caught = [was and turn.is_hard for turn, was in zip(found, deferred, strict=True)]
    n_hard = sum(turn.is_hard for turn in found)
    return Point(threshold, sum(deferred), sum(caught), n_hard)


def choose(found: Sequence[Turn]) -> float:
    """Return the threshold that `RULE` names.

    Raises:
        EvaluationError: no turn is hard, or no threshold catches one.
    """
    points = [point(found, threshold) for threshold in GRID]
    best = max(one.lower for one in points)
    if best == 0:
        n_hard = sum(turn.is_hard for turn in found)
        raise EvaluationError(
            f"nothing to choose by: {n_hard} of {len(found)} turns are hard, and no threshold"
            " catches one; take more episodes, or train more"
        )
    equals = [one.threshold for one in points if one.lower == best]
    return equals[len(equals) // 2]


def calibration(
    reported: Sequence[Turn],
    threshold: float,
    build: str,
    seeds: tuple[int, int],
    command: str,
    sha256: str | None = None,
) -> Calibration:
    """Return the manifest's table: the curve on `reported`, chosen on the first of `seeds`.

    `sha256` is the hash of the build's file.

    Raises:
        EvaluationError: no reported turn is hard.
    """
    n_hard = sum(turn.is_hard for turn in reported)
    if not n_hard:
        raise EvaluationError(f"none of {len(reported)} turns to report on is hard; take more")
    points = [point(reported, one) for one in sorted({*SHOWN, threshold})]
    return Calibration(
        build=build,
        sha256=sha256,
        threshold=threshold,
        rule=RULE,
        chosen_on_seed=seeds[0],
        seed=seeds[1],
        n=len(reported),
        n_hard=n_hard,
        command=command,
        curve=tuple(map(_curve_point, points)),
    )


def _curve_point(one: Point) -> CurvePoint:
    recall = _share(one.recall)
    assert recall is not None, "there are hard turns"
    return CurvePoint(
        threshold=one.threshold,
        n_deferred=one.n_deferred,
        precision=_share(one.precision),
        recall=recall,
    )


def _share(found: Estimate) -> Share | None:
    if found.value is None or found.low is None or found.high is None:
        return None
    return Share(value=round(found.value, 4), low=round(found.low, 4), high=round(found.high, 4))


def table(points: Iterable[tuple[str, Point]]) -> str:
    """Return the points under their names, a line each, with Wilson intervals of 95 %."""
    lines = [f"{'threshold':10}{'deferred':>9}  {'precision':22}{'recall':22}{'F1':5}"]
    for name, one in points:
        precision, recall = _shown(one.precision), _shown(one.recall)
        lines.append(f"{name:10}{one.n_deferred:9}  {precision:22}{recall:22}{one.f1:.3f}")
    return "\n".join(lines)


def _shown(found: Estimate) -> str:
    if found.value is None:
        return "-"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _run(options: argparse.Namespace) -> None:
    seeds = (options.seed, options.report_seed)
    if seeds[0] == seeds[1]:
        raise EvaluationError("a threshold cannot be reported on the seed that it was chosen on")
    if options.write is not None:
        manifest.read(options.write)  # a wrong path is told before the work, not after it
    local = wiring.open_local(config.load({"model.name": options.model}))
    if local.path is None:
        raise EvaluationError("a server does not tell how sure it is; name a model or a file")
    began = time.monotonic()
    with closing(local.tier):
        local.tier.start()
        local.tier.check_tools(backend.description().tools)
        found = [
            list(turns(local.tier, local.max_tokens, seed, options.episodes)) for seed in seeds
        ]
    wall, spent = time.monotonic() - began, os.times()
    threshold = choose(found[0])
    command = (
        f"python -m models.nano.calibrate --model {options.model}"
        f" --episodes {options.episodes} --seed {seeds[0]} --report-seed {seeds[1]}"
    )
    sha256 = manifest.sha256(local.path)
    made = calibration(found[1], threshold, local.quant, seeds, command, sha256)
    _show(made, found)
    if options.write is not None:
        changes = {"defer_threshold": threshold, "calibration": made}
        manifest.write(manifest.read(options.write).model_copy(update=changes), options.write)
    cpu = spent.user + spent.system + spent.children_user + spent.children_system
    times = {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}
    print(json.dumps({**_told(found[1], made), **times}))


def _show(made: Calibration, found: Sequence[Sequence[Turn]]) -> None:
    """Print the curves of both seeds and the lines for the manifest."""
    uses = (("chosen", made.chosen_on_seed), ("reported", made.seed))
    for (use, seed), own in zip(uses, found, strict=True):
        n_hard = sum(turn.is_hard for turn in own)
        print(f"# {use} on seed {seed}: {len(own)} turns, {n_hard} hard")
        points = [(f"{t:g}", point(own, t)) for t in sorted({*SHOWN, made.threshold})]
        print(table([("greedy", greedy(own)), *points]), end="\n\n")
    print(f"# {made.rule}: {made.threshold}\n")
    print(f"defer_threshold = {made.threshold}\n\n{manifest.calibration_toml(made)}")


def _told(reported: Sequence[Turn], made: Calibration) -> dict[str, object]:
    one = point(reported, made.threshold)
    return {
        "threshold": made.threshold,
        "n": made.n,
        "n_hard": made.n_hard,
        "precision": one.precision.as_json(),
        "recall": one.recall.as_json(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print curve, threshold, the manifest's lines and one line of JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.nano.calibrate", description=__doc__)
    parser.add_argument("--model", default="nano", help="name, NAME:QUANT or a GGUF file")
    parser.add_argument("--episodes", type=int, default=500, help="for choosing, and to report on")
    parser.add_argument("--seed", type=int, default=7001, help="episodes to choose on")
    parser.add_argument("--report-seed", type=int, default=7002, help="episodes to report on")
    parser.add_argument("--write", type=Path, metavar="MANIFEST", help="put the result in there")
    options = parser.parse_args(arguments)
    if options.episodes < 1:
        parser.error("--episodes: at least 1")
    try:
        _run(options)
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
