"""`edgeagent eval`: run a model through a benchmark and score what it does.

edgeagent eval tft --data dev.jsonl --tools job_description.json --model nano
"""

from __future__ import annotations

from edgeagent.commands.suites import Suites

SUITES: dict[str, str] = {
    "tft": "Next calls in distil's multi-turn test conversations, by distil's metrics.",
    "bfcl": "Calls for the leaderboard's single-turn questions, by its own rules.",
    "airline": "Whole episodes against scripted customers.",
    "tau-replay": "Recorded actions on tau-bench's rules; needs no model.",
    "tau-pairs": "Next calls in tau-bench's recorded airline conversations.",
}
"""Suite → one line of help. Each lives in `edgeagent.commands.eval_<suite>`."""

command = Suites(
    "eval",
    SUITES,
    help="Run a model through a benchmark and score it.\n\n"
    "Progress goes to stderr, results to stdout; floors and 95 % intervals stand beside them. "
    "Ctrl-C sums up what is done.",
)
