"""`edgeagent score`: score predictions that somebody else made; no model is opened.

edgeagent score tft --predictions rows.jsonl --json
"""

from __future__ import annotations

from edgeagent.commands.suites import Suites

SUITES: dict[str, str] = {
    "bfcl": "Calls against BFCL's possible answers, one category.",
    "tft": "distil's four metrics for every row.",
    "reward": "The reward of ContextboxAI's card: format, correctness, refusal, efficiency.",
}
"""Suite → one line of help. Each lives in `edgeagent.commands.score_<suite>`."""

command = Suites(
    "score", SUITES, help="Score given predictions by a benchmark's rules; needs no model."
)
