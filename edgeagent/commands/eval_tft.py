"""`edgeagent eval tft`: a model's next calls in distil's multi-turn test conversations.

edgeagent eval tft --data dev.jsonl --tools job_description.json --model nano --json
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import click

from edgeagent import config
from edgeagent.commands import evaluating
from edgeagent.errors import ConfigError
from edgeagent.evals import judge, reward
from edgeagent.evals.judge import LargerJudge
from edgeagent.evals.rows import Options
from edgeagent.evals.tft import Tft
from edgeagent.remote import Remote

FILE = click.Path(path_type=Path)


@click.command("tft")
@click.option("--data", type=FILE, required=True, help="The test file: a conversation per line.")
@click.option(
    "--tools", type=FILE, required=True, help="The job_description.json: policy and tools."
)
@click.option("-m", "--model", help="Name, name:QUANT, a file, or http://host/v1.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N pairs.")
@click.option(
    "--judge",
    "is_judged",
    is_flag=True,
    help="Also ask the larger model (DEFER_BASE_URL) what it thinks; advisory.",
)
@click.option(
    "--weights",
    "weighting",
    default="stage1",
    show_default=True,
    help="Of the reward, as in `score reward`.",
)
@click.option(
    "--rows",
    type=FILE,
    metavar="FILE",
    help="Keep every row there; the same command then goes on where it stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, every row in it.")
def command(
    data: Path,
    tools: Path,
    model: str | None,
    limit: int | None,
    is_judged: bool,
    weighting: str,
    rows: Path | None,
    as_json: bool,
) -> int:
    """Score a model's next call at every step of recorded conversations.

    Each call of the assistant makes one pair. Beside every score stands what always replying
    would get: of staged_tool_call that is 0.65.
    """
    weights = reward.weights_of(weighting)
    with _judging(tools) if is_judged else nullcontext() as asked:
        settings = {"judge": asked.remote.name} if asked else {}
        options = Options(data=data, tools=tools, limit=limit, settings=settings)
        suite = Tft(asked, weights)
        code = evaluating.evaluate(suite, model, options, as_json=as_json, keep_in=rows)
        if asked:
            click.echo(f"the judge was sent {asked.remote.bytes_sent} bytes", err=True)
        return code


@contextmanager
def _judging(tools: Path) -> Iterator[LargerJudge]:
    """Yield the larger model as a judge.

    Raises:
        ConfigError: there is no larger model, or `offline` forbids it.
        EvaluationError: the job description has no instructions for it.
    """
    settings = config.load({})
    if settings.offline:
        raise ConfigError("--judge asks the larger model, and offline opens no socket")
    if not settings.remote.base_url:
        raise ConfigError("--judge asks the larger model; set DEFER_BASE_URL and DEFER_MODEL")
    instructions = judge.instructions(tools)
    with closing(Remote(settings.remote)) as remote:
        click.echo(
            f"every conversation goes to the judge, {remote.name} at {remote.host}", err=True
        )
        yield LargerJudge(remote, instructions, settings.remote.turn_s)
