"""`edgeagent compare`: builds of one model side by side, and what each costs.

edgeagent compare nano-f16.gguf nano-q4_k_m.gguf --suite tft --data dev.jsonl \\
    --tools job_description.json --out report
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgeagent import config, paths
from edgeagent.commands import comparisons
from edgeagent.commands.terminal import plain
from edgeagent.errors import UsageError
from edgeagent.evals import record
from edgeagent.evals.compare import builds as builds_
from edgeagent.evals.compare import material as material_
from edgeagent.evals.compare import page, pictures, report, table
from edgeagent.evals.compare.cache import Cache
from edgeagent.evals.compare.run import Begun, Comparison, Ended, Happened, Plan
from edgeagent.evals.compare.suites import SUITES, references
from edgeagent.evals.rows import Options, Progress, Suite

DEFAULT_TOKENS = 8192
BAR = 24
DRAWN_EVERY_S = 0.2


@click.command("compare")
@click.argument("names", metavar="BUILD...", nargs=-1, required=True)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="S",
    help=f"Score answers: {', '.join(SUITES)}; may be repeated.",
)
@click.option("--data", multiple=True, metavar="[S=]PATH", help="The suite's data.")
@click.option("--tools", multiple=True, metavar="[S=]FILE", help="Its job_description.json.")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="Measure divergence on this text; else on the suites' conversations.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for report.html, report.md and report.json.",
)
@click.option("--base", metavar="BUILD", help="What the others are held against; else the first.")
@click.option(
    "--manifest",
    metavar="NAME",
    help="How to prompt files that no manifest knows; else as the base.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Rows of each suite.")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=DEFAULT_TOKENS,
    show_default=True,
    help="Tokens of text that divergence is measured on.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of suites and resampling.")
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(
    names: tuple[str, ...],
    suites: tuple[str, ...],
    data: tuple[str, ...],
    tools: tuple[str, ...],
    text: Path | None,
    out: Path,
    base: str | None,
    manifest: str | None,
    limit: int | None,
    tokens: int,
    seed: int,
    fresh: bool,
    as_json: bool,
) -> int:
    """Compare builds: size, speed, memory, divergence from the base, and answers.

    BUILD is a GGUF file or a model's name; the first is the base. Divergence is measured on text
    and, under the grammar's mask, where a tool call is decided. What was measured once is kept:
    the same command goes on where it was stopped.
    """  # fmt: skip
    chosen = _suites(suites, _by_suite(data, suites, "--data"), _by_suite(tools, suites, "--tools"),
                     limit, seed)  # fmt: skip
    calls = [found for suite, options in chosen for found in references(suite.name, options)]
    material = material_.of(calls, text)
    found = builds_.named(names, base, manifest)
    plan = Plan(found, chosen, material, tokens, config.load({}), seed)
    _prepare(out)
    made_from = _record(plan, text)
    folder = paths.cache_dir() / "compare"
    comparison = Comparison(plan, Cache(folder, is_fresh=fresh))
    try:
        _follow(comparison.carried_out())
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on where it was", err=True)
        return 130
    prompts = [row.prompt for rows in comparison.found[0].rows.values() for row in rows]
    made = report.of(comparison, {**made_from, "prompts_sha256": record.hash_of(prompts)})
    _write(made, out)
    comparisons.remember(out)
    if as_json:
        click.echo(json.dumps(made, allow_nan=False))
    else:
        click.echo(plain(table.markdown(made["table"])), nl=False)
        for note in made["notes"]:
            click.echo(plain(f"note: {note}"), err=True)
        click.echo(f"read it: {out / 'report.html'}", err=True)
    return 1 if any(each.failures for each in comparison.found) else 0


def _by_suite(given: Sequence[str], suites: Sequence[str], option: str) -> dict[str, Path]:
    """Return suite → path; a path without a suite's name is for all that have none of their own."""
    named: dict[str, Path] = {}
    for text in given:
        name, found, path = text.partition("=")
        if found and name in SUITES:
            if name not in suites:
                raise click.UsageError(f"{option} {text} is for a suite that --suite does not name")
            named[name] = Path(path)
        elif "" in named:
            raise click.UsageError(f"{option} is given twice; say which is whose: {option} S=PATH")
        else:
            named[""] = Path(text)
    return named


def _suites(
    names: Sequence[str],
    data: Mapping[str, Path],
    tools: Mapping[str, Path],
    limit: int | None,
    seed: int,
) -> list[tuple[Suite, Options]]:
    chosen = []
    for name in dict.fromkeys(names):
        if name not in SUITES:
            raise click.UsageError(f"no suite {name!r}; there are {', '.join(SUITES)}")
        options = Options(
            data=data.get(name, data.get("")),
            tools=tools.get(name, tools.get("")),
            limit=limit,
            seed=seed,
        )
        for file in (options.data, options.tools):
            if file is not None and not file.exists():
                raise UsageError(f"there is no file {file}")
        chosen.append((SUITES[name](), options))
    return chosen


def _prepare(out: Path) -> None:
    """Find out before the work that its fruit can be stored.

    Raises:
        UsageError: it cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot make the folder {out}: {exc.strerror or exc}") from exc
    if not os.access(out, os.W_OK):
        raise UsageError(f"the folder {out} is not writable; name another: --out DIR")


def _record(plan: Plan, text: Path | None) -> dict[str, Any]:
    files = {f"build {build.label}": build.model.path for build in plan.builds}
    for suite, options in plan.suites:
        given = {f"{suite.name} data": options.data, f"{suite.name} tools": options.tools}
        files |= {role: path for role, path in given.items() if path is not None}
    if text is not None:
        files["text"] = text
    settings = {
        "limit": plan.suites[0][1].limit if plan.suites else None,
        "tokens": plan.n_text,
        "texts": plan.material.text_source,
        "material_sha256": plan.material.sha256,
        "n_threads": plan.config.model.n_threads,
        "n_ctx": plan.config.model.n_ctx,
        "max_tokens": plan.config.model.max_tokens,
        "manifests": {build.label: build.model.manifest.name for build in plan.builds},
    }
    return record.make(files, seed=plan.seed, settings=settings)


def _write(made: Mapping[str, Any], out: Path) -> None:
    """Write pictures, page and table, and last the document that says that they are whole."""
    if pictures.can_draw():
        try:
            pictures.write(page.plots(made), out)
        except OSError as exc:
            raise UsageError(f"cannot write plots in {out}: {exc.strerror or exc}") from exc
    texts = {
        "report.html": page.of(made),
        "report.md": _markdown(made),
        comparisons.REPORT: json.dumps(made, allow_nan=False, indent=1) + "\n",
    }
    for name, text in texts.items():
        partial = out / f"{name}.part"
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, out / name)
        except OSError as exc:
            raise UsageError(f"cannot write {out / name}: {exc.strerror or exc}") from exc


def _markdown(made: Mapping[str, Any]) -> str:
    lines = [table.markdown(made["table"])]
    lines += [f"- {note}\n" for note in made["notes"]]
    return "\n".join([*lines, f"```\n{made['record']['command']}\n```", ""])


def _follow(happening: Iterable[Happened]) -> None:
    """Tell on stderr what happens: a bar on a terminal, else a line for each finished part."""
    is_terminal = sys.stderr.isatty()
    begun, drawn_at, started = Begun("", "", 0, 0), 0.0, 0.0
    for item in happening:
        match item:
            case Begun():
                begun, started = item, time.monotonic()
            case Progress(done, total):
                if is_terminal and time.monotonic() - drawn_at > DRAWN_EVERY_S:
                    drawn_at = time.monotonic()
                    click.echo(f"\r{_bar(begun, done, total, drawn_at - started)}\033[K", nl=False,
                               err=True)  # fmt: skip
            case Ended():
                clean = "\r\033[K" if is_terminal else ""
                click.echo(clean + plain(_ended(item, begun)), err=True)


def _bar(begun: Begun, done: int, total: int, seconds: float) -> str:
    share = done / total if total else 0.0
    filled = round(BAR * share)
    left = f", {_clock(seconds / share - seconds)} left" if share > 0 and seconds > 2 else ""
    return (
        f"[{begun.number}/{begun.total}] {begun.build} {begun.part} "
        f"{'█' * filled}{'░' * (BAR - filled)} {done} of {total}{left}"
    )


def _ended(ended: Ended, begun: Begun) -> str:
    head = f"[{begun.number}/{begun.total}] {ended.build} {ended.part}"
    if ended.failure:
        return f"{head}: failed: {ended.failure}"
    return f"{head}: {'kept from before' if ended.is_cached else _clock(ended.seconds)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
