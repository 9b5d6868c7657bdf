"""`edgeagent bench`: what each step of a recorded conversation costs, beside other ways.

edgeagent bench -m nano
edgeagent bench -m qwen3-1.7b.gguf --server http://127.0.0.1:8080/v1 --repetitions 5 --json
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from edgeagent import catalog, config, gguf_header, wiring
from edgeagent.commands.terminal import plain
from edgeagent.config import Config
from edgeagent.engine.client import EngineOptions
from edgeagent.engine.replay import Loop
from edgeagent.errors import ConfigError, UsageError
from edgeagent.evals import record
from edgeagent.evals.bench import recorded as recorded_
from edgeagent.evals.bench import report, table
from edgeagent.evals.bench.lanes import Lane, OwnLane, ServerLane
from edgeagent.evals.bench.run import Bench
from edgeagent.evals.bench.server import BEST, Served, shows_policy

INTERRUPTED = 130
AGAINST = {"plain": Loop.PLAIN, "llama-cpp-python": Loop.BINDING}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was typed."""

    settings: Config
    model: catalog.Model
    conversation: Path
    tools: Path | None
    against: tuple[str, ...]
    servers: tuple[str, ...]
    best_servers: tuple[str, ...]
    prefixes: Path | None
    repetitions: int


@click.command("bench")
@click.option("-m", "--model", help="Name, name:QUANT, or a file.")
@click.option(
    "--conversation",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A session's export or chat messages, JSON or one per line; else one of our own.",
)
@click.option(
    "--tools",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The conversation's job_description.json; else its scenario's, or the airline desk's.",
)
@click.option(
    "--against",
    multiple=True,
    type=click.Choice([*AGAINST, "nothing"]),
    help="Compare with this only; may be repeated. Without it: with all.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="Compare with a running server that serves the same file; may be repeated.",
)
@click.option(
    "--best-server",
    "best_servers",
    multiple=True,
    metavar="URL",
    help="One started with its best settings, asked at its best only; --server then only as it "
    "comes.",
)
@click.option(
    "--keep-prefixes",
    "prefixes",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep what was read of policy and tools there; a second bench then starts warm only.",
)
@click.option(
    "--by-step",
    is_flag=True,
    help="Take each step with every engine before the next: steadier on a busy machine, and all "
    "engines are in memory at once.",
)
@click.option(
    "--repetitions", type=click.IntRange(min=1), default=3, show_default=True, help="Of everything."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
def command(
    model: str | None,
    conversation: Path | None,
    tools: Path | None,
    against: tuple[str, ...],
    servers: tuple[str, ...],
    best_servers: tuple[str, ...],
    prefixes: Path | None,
    by_step: bool,
    repetitions: int,
    as_json: bool,
) -> int:
    """Replay a recorded conversation and show what every step costs.

    Calls and replies are the record's: our engine, a plain loop of one token per pass, and
    llama-cpp-python write the same tokens. A server is given the same prompts, holds the same
    answers, and writes as many tokens in words of its own, without a grammar until it opens a
    call; it is asked as it comes, and with the best that a request can ask for. To quote both
    its defaults and its best, start `llama-server -t N` and `llama-server -t N -fa off -np 1`
    and give them as --server and --best-server. Ctrl-C shows the repetitions that are whole.
    """
    settings = config.load({"model.name": model})
    if settings.model.name.startswith(("http://", "https://")):
        raise UsageError("-m has to be a model on this machine; name the server with --server")
    if settings.offline and (servers or best_servers):
        raise ConfigError("--server needs a socket and offline opens none")
    asked = _Asked(
        settings,
        catalog.resolve(settings.model.name),
        conversation or recorded_.OURS,
        tools,
        tuple(dict.fromkeys(against)) or tuple(AGAINST),
        tuple(dict.fromkeys(url.rstrip("/") for url in servers)),
        tuple(dict.fromkeys(url.rstrip("/") for url in best_servers)),
        prefixes,
        repetitions,
    )
    found = recorded_.read(asked.conversation, tools)
    with ExitStack() as stack:
        bench = Bench(found, _lanes(asked, stack), repetitions, by_step)
        was_interrupted = _is_interrupted(bench)
    made = {"model": asked.model.path.stem, **report.of(bench, _record(asked, bench.lanes))}
    if as_json:
        click.echo(json.dumps(made, allow_nan=False))
    else:
        click.echo(plain(table.text(made)))
        for note in made["notes"]:
            click.echo(plain(f"note: {note}"), err=True)
    return INTERRUPTED if was_interrupted else 0


def _is_interrupted(bench: Bench) -> bool:
    """Carry the bench out and show how it goes on; what a person has waited for is kept."""
    try:
        for ended in bench.carried_out():
            at = f"{ended.repetition}/{bench.n_repetitions}"
            click.echo(f"[{at}] step {ended.step}, {ended.lane}: {ended.ms:.0f} ms", err=True)
    except KeyboardInterrupt:
        if not bench.cut_short():
            raise
        return True
    return False


def _lanes(asked: _Asked, stack: ExitStack) -> list[Lane]:
    """Return what is measured, ours first; servers have answered once when this returns."""
    model, settings = asked.model, asked.settings.model
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeagent-bench-")))
    options = EngineOptions(
        path=model.path,
        dialect=model.manifest.dialect,
        n_ctx=settings.n_ctx or model.manifest.n_ctx,
        n_threads=settings.n_threads,
        cache_dir=asked.prefixes or scratch,
        log_file=wiring.engine_log(),
    )
    loops = [Loop.OURS, *(AGAINST[name] for name in asked.against if name in AGAINST)]
    lanes: list[Lane] = [OwnLane(loop, options, asked.prefixes is None) for loop in loops]
    both = not asked.best_servers
    ways = [(url, is_best) for url in asked.servers for is_best in ((False, True)[: 1 + both])]
    ways += [(url, True) for url in asked.best_servers]
    opened: dict[str, Served] = {}
    for url, is_best in ways:
        if url not in opened:
            opened[url] = stack.enter_context(_served(asked, url))
            _check(opened[url], gguf_header.read(model.path), model.path.name)
        # Two servers may stand behind one host.
        label = f"{opened[url].host}{urlsplit(url).path}"
        way = "at its best" if is_best else "as it comes"
        lanes.append(ServerLane(f"{label} {way}", opened[url], is_best))
    return lanes


def _served(asked: _Asked, url: str) -> Served:
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise click.UsageError(f"--server {url!r} should look like http://127.0.0.1:8080/v1")
    template = gguf_header.read(asked.model.path).text("tokenizer.chat_template")
    return Served(
        url, _key(asked.settings, url), asked.model.manifest.dialect,
        shows_policy=shows_policy(template),
    )  # fmt: skip


def _check(served: Served, header: gguf_header.Header, name: str) -> None:
    """Refuse a server that says it has another model."""
    n_params = sum(prod(tensor.shape) for tensor in header.tensors)
    problem = served.problem(n_params, sum(tensor.n_bytes for tensor in header.tensors))
    if problem is not None:
        raise UsageError(f"{served.url} serves another model: {problem}; start it with {name}")


def _key(settings: Config, url: str) -> str | None:
    """Return the key if it was given for this server; it goes to no other."""
    remote = settings.remote
    is_same = urlsplit(url).netloc == urlsplit(remote.base_url or "").netloc
    return remote.api_key.get_secret_value() if remote.api_key and is_same else None


def _record(asked: _Asked, lanes: Sequence[Lane]) -> dict[str, Any]:
    files = {"model": asked.model.path, "conversation": asked.conversation, "tools": asked.tools}
    return record.make(
        {role: path for role, path in files.items() if path is not None},
        seed=0,
        settings={
            "repetitions": asked.repetitions,
            "lanes": [lane.name for lane in lanes],
            "n_ctx": asked.settings.model.n_ctx or asked.model.manifest.n_ctx,
            "n_threads": asked.settings.model.n_threads,
            "best": BEST if asked.servers or asked.best_servers else None,
        },
    )
