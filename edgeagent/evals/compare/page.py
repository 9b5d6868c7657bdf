"""The report as one HTML file: no script, no font, nothing fetched; dark where the reader is.

Takes the report's JSON and nothing else, so that a page can be made again without a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from edgeagent.evals.compare import table
from edgeagent.evals.compare.plots import Axis, Plot, Point, Rule, scatter

MAX_P = 0.05
"""Below this, after Holm's correction, flips count as shown."""
MAX_PROMPT = 6000
"""Characters of a prompt that are shown; its end, where the question is."""


def of(report: Mapping[str, Any]) -> str:
    """Return the page."""
    names = ", ".join(build["label"] for build in report["builds"])
    title = f"Builds compared: {names}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(report))}</p>',
        _table(report),
        *_verdicts(report),
        *_plots(report),
        *_flips(report),
        *_scores(report),
        _meanings(report),
        *_notes(report),
        _record(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _lead(report: Mapping[str, Any]) -> str:
    counts = [
        f"{build['suites'][suite]['n']} answers of {suite}"
        for build in report["builds"]
        if build["is_base"]
        for suite in report["suites"]
        if suite in build["suites"]
    ]
    said = [f"Everything is held against {report['base']}, the base."]
    if counts:
        said.append(f"Scored on {', '.join(counts)}.")
    base, material = report["builds"][0], report["material"]
    if base["text"]:
        said.append(f"Read off {base['text']['n']:,} tokens of {material['texts']}.")
    if base["calls"]:
        said.append(
            f"Read off the {base['calls']['n']:,} places where one of {material['n_calls']:,} "
            "reference calls is decided: where the grammar leaves a choice of tool or argument."
        )
    return " ".join(said)


def _table(report: Mapping[str, Any]) -> str:
    made = report["table"]
    head = "".join(
        f'<th scope="col" title="{escape(column["about"])}">{escape(column["title"])}</th>'
        for column in made["columns"]
    )
    rows = []
    for build, cells in zip(report["builds"], made["rows"], strict=True):
        first, *rest = cells
        kind = ' class="base"' if build["is_base"] else ""
        numbers = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        rows.append(f'<tr{kind}><th scope="row">{escape(first)}</th>{numbers}</tr>')
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _verdicts(report: Mapping[str, Any]) -> Iterator[str]:
    """Say of each build and suite, in words, whether a loss is shown."""
    said = [
        f"<li><b>{escape(build['label'])}</b>, {escape(suite)}: {escape(verdict(found))}.</li>"
        for build in report["builds"]
        for suite, results in build["suites"].items()
        if (found := results["versus_base"]) is not None
    ]
    if said:
        yield f"<h2>What the answers show</h2><ul>{''.join(said)}</ul>"


_WORDS = {"name": "chosen tools", "exact": "whole answers"}


def verdict(found: Mapping[str, Any]) -> str:
    """Return what a paired comparison shows, in words."""
    tests = found["tests"]
    if not any(test["lost"] + test["gained"] for test in tests.values()):
        return f"none of {found['n']} answers flipped"
    return "; ".join(
        f"{_WORDS.get(score, score)} {_shows(test)} ({_counted(test, found['deltas'].get(score))})"
        for score, test in tests.items()
    )


def _shows(test: Mapping[str, Any]) -> str:
    if test["lost"] + test["gained"] == 0:
        return "did not flip"
    if test["p_holm"] >= MAX_P:
        return "show no difference"
    return "got worse" if test["lost"] > test["gained"] else "got better"


def _counted(test: Mapping[str, Any], delta: Mapping[str, Any] | None) -> str:
    counts = f"{test['lost']} lost, {test['gained']} gained of {test['n']}"
    if test["lost"] + test["gained"] == 0:
        return f"{test['n']} answers"
    span = ""
    if delta is not None and delta["value"] is not None:
        value, low, high = (100 * delta[key] for key in ("value", "low", "high"))
        span = f", {value:+.1f} points [{low:+.1f}, {high:+.1f}]"
    return f"{counts}{span}, p = {table.number(test['p_holm'], 2)}"


def plots(report: Mapping[str, Any]) -> list[Plot]:
    """Return the report's plots: size against each score, speed against each divergence."""
    made = [
        *(
            _by_size(report, suite, score)
            for suite in report["suites"]
            for score in table.shown_scores(report, suite)
        ),
        _by_speed(report, "calls", "KLD where a call is decided, nats"),
        _by_speed(report, "text", "KLD on the text, nats"),
    ]
    return [plot for plot in made if plot.points]


def _plots(report: Mapping[str, Any]) -> Iterator[str]:
    figures = [
        f"<figure><figcaption><b>{escape(plot.title)}</b><br>{escape(plot.caption)}</figcaption>"
        f"{scatter(plot)}</figure>"
        for plot in plots(report)
    ]
    if figures:
        yield f'<h2>Plots</h2><div class="plots">{"".join(figures)}</div>'


def _by_size(report: Mapping[str, Any], suite: str, score: str) -> Plot:
    points = []
    for build in report["builds"]:
        found = build["suites"].get(suite, {"scores": {}})["scores"].get(score)
        if found and found["value"] is not None:
            low, value, high = (100 * found[key] for key in ("low", "value", "high"))
            about = f"{build['label']}: {value:.1f} % [{low:.1f}, {high:.1f}]"
            size = build["size_bytes"] / 1e6
            points.append(Point(build["label"], size, value, low, high, build["is_base"], about))
    rules = [Rule("", p.y, is_upright=False) for p in points if p.is_base]
    words = table.spelled(score)
    return Plot(
        f"Size against accuracy: {suite}, {words}",
        "To the left and up is better. Bars are 95 % intervals, the dashed line is the base.",
        points,
        Axis("size of the file, MB", least=0),
        Axis(f"{words}, %"),
        rules,
    )


def _by_speed(report: Mapping[str, Any], part: str, axis: str) -> Plot:
    points, rules = [], []
    for build in report["builds"]:
        speed, found = build["decode_per_s"], build[part]
        if speed is None or not found:
            continue
        if build["is_base"]:
            rules.append(Rule(f"{build['label']}, the base", speed, is_upright=True))
        elif found.get("kld"):
            about = f"{build['label']}: {table.number(found['kld'])} nats, {speed:,.0f} tokens/s"
            points.append(Point(build["label"], speed, found["kld"], about=about))
    return Plot(
        f"Speed against divergence, {part}",
        "To the right and down is better; the base has no divergence.",
        points,
        Axis("tokens written per second", write=lambda value: f"{value:,g}"),
        Axis(axis, is_log=True),
        rules,
    )


def _flips(report: Mapping[str, Any]) -> Iterator[str]:
    flips = report["flips"]
    if not flips:
        return
    yield "<h2>Answers that flipped</h2>"
    for build in report["builds"]:
        for suite in report["suites"]:
            mine = [f for f in flips if (f["build"], f["suite"]) == (build["label"], suite)]
            if mine:
                n_lost = sum(flip["is_lost"] for flip in mine)
                yield (
                    f"<details><summary>{escape(build['label'])}, {escape(suite)}: {n_lost} lost, "
                    f"{len(mine) - n_lost} gained</summary>"
                )
                yield from (_flip(flip, report["prompts"][suite], report["base"]) for flip in mine)
                yield "</details>"


def _flip(flip: Mapping[str, Any], prompts: Mapping[str, str], base: str) -> str:
    prompt = prompts.get(flip["id"], "")
    cut = "… " if len(prompt) > MAX_PROMPT else ""
    kind = "lost" if flip["is_lost"] else "gained"
    what = " (the tool)" if flip["score"] == "name" else ""
    rows = "".join(
        f"<dt>{escape(term)}</dt><dd><pre>{escape(text)}</pre></dd>"
        for term, text in (
            ("should be", flip["reference"]),
            (base, flip["base"]),
            (flip["build"], flip["prediction"]),
        )
    )
    return (
        f'<details class="flip {kind}"><summary>{kind}{what}: {escape(flip["id"])}</summary>'
        f"<dl>{rows}</dl><details><summary>the prompt</summary>"
        f"<pre>{escape(cut + prompt[-MAX_PROMPT:])}</pre></details></details>"
    )


def _scores(report: Mapping[str, Any]) -> Iterator[str]:
    """Write every score of every suite, builds side by side, the floors beside them."""
    for suite in report["suites"]:
        builds = [build for build in report["builds"] if suite in build["suites"]]
        names = dict.fromkeys(name for b in builds for name in b["suites"][suite]["scores"])
        floors = builds[0]["suites"][suite]["floors"] if builds else {}
        heads = [*(build["label"] for build in builds), *map(table.spelled, floors)]
        rows = []
        for name in names:
            cells = [
                *(table.with_interval(b["suites"][suite]["scores"].get(name)) for b in builds),
                *(_floor(floor.get(name)) for floor in floors.values()),
            ]
            numbers = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            rows.append(f'<tr><th scope="row">{escape(table.spelled(name))}</th>{numbers}</tr>')
        if rows:
            head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
            yield (
                f'<h2>Scores of {escape(suite)}</h2><div class="wide"><table><thead><tr><th></th>'
                f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
            )


def _floor(value: float | None) -> str:
    return table.percent(value) if value is not None and 0 <= value <= 1 else table.number(value)


def _meanings(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(column['title'])}</dt><dd>{escape(column['about'])}</dd>"
        for column in report["table"]["columns"]
    )
    return f"<h2>What the columns mean</h2><dl>{rows}</dl>"


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    notes: Sequence[str] = report["notes"]
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        yield f"<h2>Notes</h2><ul>{items}</ul>"


def _record(report: Mapping[str, Any]) -> str:
    record = json.dumps(report["record"], indent=2, ensure_ascii=False)
    command = report["record"].get("command", "")
    return (
        f"<h2>How to have these numbers again</h2><pre>{escape(command)}</pre>"
        f"<details><summary>files, versions, machine</summary><pre>{escape(record)}</pre></details>"
    )


STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1d2429; --quiet: #5b6770;
  --line: #d5dbe0; --mark: #1f6feb; --base: #8a5a00; --lost: #b42318; --gained: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181b; --text: #e3e8ec;
  --quiet: #9aa6af; --line: #343c43; --mark: #6cb0ff; --base: #e0a83e; --lost: #ff8a80;
  --gained: #5fd38a; } }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.lead, figcaption, dt { color: var(--quiet); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 500; white-space: normal; vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--ground); }
tr.base th, tr.base td { color: var(--base); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } .plot { width: 100%; height: auto; font: 13px system-ui, sans-serif; }
.plot text { fill: var(--text); } .plot .tick, .plot .title, .plot .note { fill: var(--quiet); }
.plot .grid { stroke: var(--line); } .plot .axis { stroke: var(--quiet); }
.plot .rule { stroke: var(--base); stroke-dasharray: 5 4; } .plot .note { fill: var(--base); }
.plot .interval { stroke: var(--mark); opacity: .55; } .plot .mark { fill: var(--mark); }
.plot .mark.base { fill: var(--base); } .plot .label, .plot .halo { font-weight: 600; }
.plot .halo { stroke: var(--ground); stroke-width: 4px; stroke-linejoin: round; }
details { margin: .4rem 0; } details details { margin-left: 1rem; } summary { cursor: pointer; }
.lost > summary { color: var(--lost); } .gained > summary { color: var(--gained); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dd { margin: 0; min-width: 0; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
"""
