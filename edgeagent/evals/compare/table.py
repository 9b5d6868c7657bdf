"""The report's table: one line per build, one column per thing that a person chooses by.

Cells are text, the same in the page, in Markdown and on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeagent.evals.rows import EXACT
from edgeagent.messages import Json

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that builds differ in."""

    title: str
    about: str
    """What the number means, in a sentence."""
    cell: Callable[[Mapping[str, Any]], str]


def of(report: Mapping[str, Any]) -> dict[str, Json]:
    """Return `{"columns": [{"title", "about"}], "rows": [[text]]}`; columns without a number go."""
    columns = [*_COLUMNS, *(c for suite in report["suites"] for c in _of_suite(report, suite))]
    cells = [[column.cell(build) for column in columns] for build in report["builds"]]
    kept = [
        number for number in range(len(columns)) if any(row[number] != NOTHING for row in cells)
    ]
    return {
        "columns": [{"title": columns[n].title, "about": columns[n].about} for n in kept],
        "rows": [[row[n] for n in kept] for row in cells],
    }


def markdown(table: Mapping[str, Any]) -> str:
    """Return the table in Markdown, numbers to the right."""
    titles = [column["title"] for column in table["columns"]]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    return "\n".join([*lines, *map(_line, table["rows"])]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, and no exponent from a millionth on."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) < 10**-6:
        return f"{value:.1e}"
    # What rounding makes of it decides: 99.96 has one digit more than it seems.
    power = math.floor(math.log10(float(f"{abs(value):.{digits - 1}e}")))
    return f"{value:,.{max(0, digits - 1 - power)}f}"


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def _of_text(part: str, key: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(build: Mapping[str, Any]) -> str:
        found = build[part] or {}
        value = found.get(key)
        return percent(value) if key == "same_top" else number(value)

    return cell


def _scaled(key: str, scale: float, digits: int = 3) -> Callable[[Mapping[str, Any]], str]:
    def cell(build: Mapping[str, Any]) -> str:
        return number(None if build[key] is None else build[key] * scale, digits)

    return cell


_COLUMNS = (
    Column("build", "The file's weight type; the first line is the base.",
           lambda build: str(build["label"])),
    Column("MB", "Size of the file, in millions of bytes.", _scaled("size_bytes", 1e-6)),
    Column("bits/weight", "Bits that a weight takes on average.", _scaled("bits_per_weight", 1)),
    Column("load ms", "From start of loading to ready, the file in the system's memory.",
           _scaled("load_ms", 1)),
    Column("memory MB", "Most memory of the engine's process while it read and wrote.",
           _scaled("peak_bytes", 1e-6)),
    Column("read tok/s", "Prompt tokens read per second.", _scaled("prefill_per_s", 1)),
    Column("write tok/s", "Tokens written per second, one at a time.", _scaled("decode_per_s", 1)),
    Column("perplexity", "On the text; lower is better, comparable only with one tokenizer.",
           _of_text("text", "perplexity")),
    Column("KLD text", "Mean divergence from the base on the text, in nats; 0 is the same.",
           _of_text("text", "kld")),
    Column("same top text", "How often the likeliest token is the base's, on the text.",
           _of_text("text", "same_top")),
    Column("KLD calls", "The same divergence where a call is decided, among legal tokens only.",
           _of_text("calls", "kld")),
    Column("same top calls", "How often the likeliest legal token is the base's, where a call is "
           "decided.", _of_text("calls", "same_top")),
)  # fmt: skip


SHOWN = ("name_accuracy", "service_exact")
"""Scores that say more than `exact` where words of a reply count as an answer."""


def shown_scores(report: Mapping[str, Any], suite: str) -> list[str]:
    """Return the scores of a suite that stand in the table and are drawn."""
    names = {
        name
        for build in report["builds"]
        for name, found in build["suites"].get(suite, {"scores": {}})["scores"].items()
        if found["value"] is not None
    }
    return [name for name in SHOWN if name in names] or [n for n in (EXACT,) if n in names]


def spelled(name: str) -> str:
    """Return a score's name in words."""
    return name.replace("_", " ")


def with_interval(found: Mapping[str, Any] | None) -> str:
    """Return a score with its 95 % interval, as percentages where it is a share."""
    if found is None or found["value"] is None:
        return NOTHING
    values = [found[key] for key in ("value", "low", "high")]
    if all(value is not None and 0 <= value <= 1 for value in values):
        value, low, high = (100 * value for value in values)
        return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
    return f"{number(values[0])} [{number(values[1])}, {number(values[2])}]"


def _of_suite(report: Mapping[str, Any], name: str) -> Iterator[Column]:
    for score in shown_scores(report, name):
        yield Column(
            f"{name} {spelled(score)}",
            f"Share of {name}'s answers, with the 95 % interval.",
            lambda build, score=score: with_interval(  # type: ignore[misc]  # bound early
                build["suites"].get(name, {"scores": {}})["scores"].get(score)
            ),
        )
    for score, what in (("name", "the tool is right"), (EXACT, "the whole answer is right")):
        yield Column(
            f"{name} {score} flips",
            f"Answers where {what} only in the base (−) or only in this build (+).",
            lambda build, score=score: _flips(_test(build, name, score)),  # type: ignore[misc]  # bound early
        )
        yield Column(
            f"{name} {score} p",
            "McNemar's exact test of these flips, Holm's correction for the number of builds; "
            "small means that they are no accident.",
            lambda build, score=score: number(_test(build, name, score).get("p_holm"), 2),  # type: ignore[misc]  # bound early
        )


def _test(build: Mapping[str, Any], suite: str, score: str) -> Mapping[str, Any]:
    versus = build["suites"].get(suite, {}).get("versus_base") or {"tests": {}}
    found: Mapping[str, Any] = versus["tests"].get(score, {})
    return found


def _flips(test: Mapping[str, Any]) -> str:
    return f"−{test['lost']} +{test['gained']}" if test else NOTHING
