"""A larger model's opinion of each answer, by the instructions that a job description carries.

Advisory: another judge, or the same one tomorrow, says something else, and on rows that distil
judged "same tool" alone agreed with 93 % of the verdicts. Everything it is shown leaves the
machine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

from edgeagent.errors import EvaluationError, RemoteError, RemoteOffline, RemoteRefused
from edgeagent.evals.transcripts import Pair, as_text
from edgeagent.messages import Json, Tool, ToolKind, UserMessage
from edgeagent.remote import Remote, RemoteDone

INSTRUCTIONS = "llm_as_a_judge_instructions"
"""Where distil's job descriptions keep them."""
MAX_IN_A_ROW = 3
"""Failures after which nothing more is asked."""
VERDICT = Tool(
    "give_verdict",
    "Say whether the prediction is good or bad.",
    {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "description": "One sentence."},
            "verdict": {"type": "string", "enum": ["good", "bad"]},
        },
        "required": ["reason", "verdict"],
        "additionalProperties": False,
    },
    ToolKind.READ,
)
ASKED = """\
You compare an assistant's next action in a conversation with a reference. Both are tool calls.

{instructions}

Answer with one call of give_verdict."""


class LargerJudge:
    """Asks the larger model about one answer at a time."""

    def __init__(self, remote: Remote, instructions: str, deadline_s: float) -> None:
        """Prepare; nothing leaves before the first answer. The caller closes `remote`."""
        self.remote = remote
        self._policy = ASKED.format(instructions=instructions)
        self._deadline_s = deadline_s
        self._n_failed = 0

    def __call__(self, pair: Pair, prediction: str) -> tuple[float | None, str]:
        """Return 1 for good, 0 for bad, None where the judge gave no verdict; and why."""
        if not prediction.strip():
            return 0.0, ""
        if self._n_failed >= MAX_IN_A_ROW:
            return None, "not judged"
        text = json.dumps(
            {
                "conversation": as_text(pair.conversation),
                "reference": pair.reference,
                "prediction": prediction,
            },
            ensure_ascii=False,
        )
        try:
            arguments = self._ask(text)
        except RemoteError as error:
            is_final = isinstance(error, RemoteRefused | RemoteOffline)
            self._n_failed += MAX_IN_A_ROW if is_final else 1
            return None, f"not judged: {error}"
        self._n_failed = 0
        return float(arguments["verdict"] == "good"), f"judge: {arguments['reason']}"

    def _ask(self, text: str) -> Mapping[str, Json]:
        conversation = (UserMessage(text),)
        for item in self.remote.step(
            self._policy, [VERDICT], conversation, self._deadline_s, threading.Event()
        ):
            if isinstance(item, RemoteDone):
                return item.calls[0].arguments
        raise AssertionError("a step ends with RemoteDone or raises")


def instructions(path: Path) -> str:
    """Return the judge's instructions in a job description.

    Raises:
        EvaluationError: it has none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise EvaluationError(f"cannot read {path}: {exc}") from exc
    text = found.get(INSTRUCTIONS) if isinstance(found, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise EvaluationError(f"{path} has no {INSTRUCTIONS} for a judge to follow")
    return text
