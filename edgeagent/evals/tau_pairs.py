"""tau-bench's recorded airline conversations: the next call at every step of those that worked.

Only trajectories with reward 1 count; what their assistant did is taken as right. The policy is
the record's own system message, and words outside a call are a reply.

    edgeagent eval tau-pairs --data trajectories.jsonl.gz --model nano
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeagent.errors import EvaluationError
from edgeagent.evals import call_scores, jsonl, next_call, transcripts
from edgeagent.evals.next_call import Desk
from edgeagent.evals.rows import Options, Progress, Row, Summary
from edgeagent.evals.transcripts import Pair
from edgeagent.scenarios import job
from edgeagent.scenarios.airline import backend
from edgeagent.wiring import Local


class TauPairs:
    """The suite."""

    name = "tau-pairs"

    def run(self, local: Local, options: Options) -> Iterator[Progress | Row]:
        """Yield a row per pair; with a limit, the first pairs of the file.

        The tools are the airline desk's; with `options.tools`, those and the policy of that file.

        Raises:
            EvaluationError: the data is missing or cannot be read.
        """
        if options.data is None:
            raise EvaluationError("tau-pairs needs --data FILE")
        own = job.read(options.tools) if options.tools else None
        described = own or backend.description()
        desks: dict[str, Desk] = {}

        def desk_of(pair: Pair) -> Desk:
            policy = (own is None and pair.policy) or described.policy
            return desks.setdefault(policy, Desk(policy, described.tools))

        pairs = read(options.data)[: options.limit]
        yield from next_call.run(local, options, pairs, desk_of)

    def summarize(self, rows: Sequence[Row]) -> Summary:
        """Return distil's metrics and what they hide, with intervals and the floor."""
        return call_scores.summarize(rows)


def read(path: Path) -> list[Pair]:
    """Return the pairs of every trajectory with reward 1, in the order of the file.

    A line has `reward` and its chat messages under `messages`, or `traj` as tau-bench writes it.

    Raises:
        EvaluationError: a line is not that, or no trajectory has reward 1.
    """
    found: list[Pair] = []
    for number, (where, row) in enumerate(jsonl.rows(path), start=1):
        reward = jsonl.value(row, "reward", where)
        if not isinstance(reward, int | float):
            raise EvaluationError(f"{where}: the reward {reward!r} is not a number")
        if reward == 1:
            messages = row["traj"] if "traj" in row else jsonl.value(row, "messages", where)
            found += transcripts.pairs(messages, where, f"{number}-task{row.get('task_id', '')}")
    if not found:
        raise EvaluationError(f"{path} has no trajectory with reward 1")
    return found
