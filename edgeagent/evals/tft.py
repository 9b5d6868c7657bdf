"""distil's multi-turn test files: the next call at every step of recorded conversations.

Both sides are scored as bare JSON, so ROUGE lies below what distil publishes for its students:
theirs has the `<tool_call>` wrapper on both sides, which adds words that always agree.

edgeagent eval tft --data dev.jsonl --tools job_description.json --model nano
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeagent.errors import EvaluationError
from edgeagent.evals import call_scores, jsonl, next_call, transcripts
from edgeagent.evals.next_call import Desk, Judge
from edgeagent.evals.reward import STAGES, Weights
from edgeagent.evals.rows import Options, Progress, Row, Summary
from edgeagent.evals.transcripts import Pair
from edgeagent.messages import Json
from edgeagent.scenarios import job
from edgeagent.wiring import Local


class Tft:
    """The suite.

    `judge` gives an answer a score and a note, None where nobody is asked; `weights` are the
    reward's.
    """

    name = "tft"

    def __init__(self, judge: Judge | None = None, weights: Weights = STAGES["stage1"]) -> None:
        self.judge = judge
        self.weights = weights

    def run(self, local: Local, options: Options) -> Iterator[Progress | Row]:
        """Yield a row per pair; with a limit, the first pairs of the file.

        Raises:
            EvaluationError: data or tools are missing or cannot be read.
        """
        if options.data is None or options.tools is None:
            raise EvaluationError("tft needs --data FILE and --tools job_description.json")
        described = job.read(options.tools)
        desk = Desk(described.policy, described.tools)
        pairs = read(options.data)[: options.limit]
        yield from next_call.run(local, options, pairs, lambda _: desk, self.judge)

    def summarize(self, rows: Sequence[Row]) -> Summary:
        """Return distil's metrics and what they hide, with intervals and the floor."""
        return call_scores.summarize(rows, self.weights)


def read(path: Path) -> list[Pair]:
    """Return the pairs of a test file, conversation by conversation.

    A line has `question`, the messages so far as JSON text or as a list, and `answer`, the call
    that follows; or, as in distil's traces, `context` with all `messages`.

    Raises:
        EvaluationError: a line is not that.
    """
    found: list[Pair] = []
    for number, (where, row) in enumerate(jsonl.rows(path), start=1):
        if row.get("question") is not None:
            answer = jsonl.value(row, "answer", where)
            if not isinstance(answer, str):
                answer = json.dumps(answer, ensure_ascii=False)
            messages = _messages(row["question"], where)
        else:
            answer = None
            context = _decoded(jsonl.value(row, "context", where), f"{where}: the context")
            messages = context.get("messages") if isinstance(context, dict) else None
        found += transcripts.pairs(messages, where, str(number), answer)
    return found


def _messages(question: Json, where: str) -> Json:
    """Return the messages; a question in plain words is one message of the customer."""
    if not isinstance(question, str):
        return question
    try:
        return _decoded(question, f"{where}: the question")
    except EvaluationError:
        if question.lstrip().startswith("["):
            raise
        return [{"role": "user", "content": question}]


def _decoded(text: Json, what: str) -> Json:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise EvaluationError(f"{what} is not JSON") from exc
