"""`edgeagent score`: score predictions that somebody else made; no model is opened.

edgeagent score tft --predictions rows.jsonl --json
"""

from __future__ import annotations

from edgeagent.commands.suites import Suites

SUITES: dict[str, str] = {
    "tft": "distil's four metrics for every row.",
}
"""Suite → one line of help. Each lives in `edgeagent.commands.score_<suite>`."""

command = Suites(
    "score", SUITES, help="Score given predictions by a benchmark's rules; needs no model."
)
