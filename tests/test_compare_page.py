"""The page of a comparison: everything on it, nothing from outside, labels that can be read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeagent.evals.compare import page, table
from edgeagent.evals.compare.plots import Axis, Plot, Point, Rule, scatter

HOSTILE = '<script>alert("x")</script> & </pre> ${x}'


def build(label: str, n: int, **changes: Any) -> dict[str, Any]:
    """A build of a report, the n-th."""
    read = {"n": 9, "perplexity": 20.0 + n, "kld": 0.001 * 4**n, "same_top": 1 - 0.03 * n}
    score = {"value": 0.9 - 0.02 * n, "low": 0.85 - 0.02 * n, "high": 0.95 - 0.02 * n, "n": 300}
    tests = (
        {"exact": {"n": 300, "lost": n, "gained": 1, "p": 0.5 / n, "p_holm": 0.5 / n}} if n else {}
    )
    versus = {"n": 300, "changed": n, "tests": tests, "deltas": {"exact": score}}
    made = {
        "label": label,
        "is_base": n == 0,
        "size_bytes": 17_000_000 // (n + 1),
        "bits_per_weight": 16 / (n + 1),
        "load_ms": 120.0,
        "peak_bytes": 10**8,
        "prefill_per_s": 4000.0,
        "decode_per_s": 1000.0 + 100 * n,
        "text": read if n else {"n": 9, "perplexity": 20.0},
        "calls": read if n else {"n": 9, "perplexity": 1.2},
        "suites": {
            "tft": {
                "n": 300,
                "scores": {"name_accuracy": score, "response_tokens": {**score, "value": 12.5}},
                "floors": {"always_reply": {"name_accuracy": 0.8}},
                "versus_base": versus if n else None,
            }
        },
        "refused": {},
        "failures": {},
    }
    return {**made, **changes}


def reported(*builds: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A report of builds."""
    flips = [
        {"suite": "tft", "build": one["label"], "id": "1/2", "score": "exact", "is_lost": True,
         "reference": HOSTILE, "base": HOSTILE, "prediction": HOSTILE}
        for one in builds[1:]
    ]  # fmt: skip
    made: dict[str, Any] = {
        "base": builds[0]["label"],
        "suites": ["tft"],
        "material": {"texts": "the conversations", "n_calls": 330},
        "builds": list(builds),
        "flips": flips,
        "prompts": {"tft": {"1/2": HOSTILE * 500}},
        "notes": [HOSTILE],
        "record": {"command": f"edgeagent compare {HOSTILE}", "seed": 0},
        **changes,
    }
    return {**made, "table": table.of(made)}


SIX = tuple(
    build(name, n) for n, name in enumerate(("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "Q2_K"))
)


def test_what_models_and_customers_said_is_text_on_the_page() -> None:
    found = page.of(reported(*SIX))
    assert "<script" not in found
    assert found.count("&lt;script&gt;") > 10
    assert found.count("<details") == found.count("</details>")


def test_every_score_stands_beside_its_floor_and_labels_are_not_spelled_out() -> None:
    found = page.of(reported(*SIX))
    assert '<th scope="col">Q4_K_M</th>' in found
    assert '<th scope="col">always reply</th>' in found
    assert "<td>80.0 %</td>" in found
    assert '<th scope="row">response tokens</th>' in found


def test_the_page_is_whole_and_its_plots_are_xml() -> None:
    found = page.of(reported(*SIX))
    plots = re.findall(r"<svg.*?</svg>", found, flags=re.DOTALL)
    assert len(plots) == 3
    for plot in plots:
        texts = {node.text for node in ET.fromstring(plot).iter() if node.tag.endswith("text")}
        assert {"Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "Q2_K"} <= texts
    for _, colour in re.findall(r"var\((--\w+)()\)", found):
        assert colour == ""
    used = set(re.findall(r"var\((--\w+)\)", found))
    assert all(f"{name}:" in found for name in used)


@pytest.mark.parametrize(
    "builds",
    [
        SIX[:1],
        (build("F16", 0), build("Q4_0", 3, decode_per_s=None, load_ms=None, text=None, calls=None)),
        (build("F16", 0, suites={}), build("Q4_0", 3, suites={}, failures={"tft": "x"})),
        (build("F16", 0), build("same", 1, text={"n": 9, "perplexity": None, "kld": None},
                                calls={"n": 9, "perplexity": None, "kld": 0.0})),
    ],
    ids=["one build", "nothing but answers", "no answers", "no divergence"],
)  # fmt: skip
def test_a_report_with_gaps_makes_a_page_with_gaps(builds: tuple[dict[str, Any], ...]) -> None:
    made = reported(*builds, flips=[])
    assert "</html>" in page.of(made)
    assert all(len(row) == len(made["table"]["columns"]) for row in made["table"]["rows"])
    assert table.markdown(made["table"]).count("\n") == len(builds) + 2


def test_a_verdict_says_what_is_shown_and_no_more() -> None:
    delta = {"value": -0.1, "low": -0.15, "high": -0.05, "n": 100}
    test = {"n": 100, "lost": 12, "gained": 2, "p": 0.013, "p_holm": 0.026}
    versus = {"n": 100, "changed": 30, "tests": {"exact": test}, "deltas": {"exact": delta}}
    assert page.verdict(versus) == (
        "whole answers got worse (12 lost, 2 gained of 100, -10.0 points [-15.0, -5.0], p = 0.026)"
    )
    unsure = {**versus, "tests": {"exact": {**test, "p_holm": 0.4}}}
    assert "show no difference" in page.verdict(unsure)
    still = {**versus, "tests": {"exact": {**test, "lost": 0, "gained": 0}}}
    assert page.verdict(still) == "none of 100 answers flipped"


def test_cells_of_the_table_cannot_break_it() -> None:
    made = {"columns": [{"title": "a|b", "about": ""}], "rows": [["c|d"]]}
    assert table.markdown(made) == "| a\\|b |\n| --- |\n| c\\|d |\n"


def boxes(plot: str, kind: str) -> list[tuple[float, float, str]]:
    return [
        (float(node.get("x", 0)), float(node.get("y", 0)), node.text or "")
        for node in ET.fromstring(plot).iter()
        if node.get("class") == kind
    ]


def test_labels_of_builds_that_are_close_do_not_lie_on_each_other() -> None:
    points = [Point(f"Q{n}_K_M", 5 + n / 100, 95.0, 92.0, 97.0) for n in range(5)]
    found = boxes(scatter(Plot("t", "c", points, Axis("x", least=0), Axis("y"))), "label")
    assert len(found) == 5
    for index, (x, y, text) in enumerate(found):
        for other_x, other_y, other in found[index + 1 :]:
            apart = abs(x - other_x) >= 7 * min(len(text), len(other)) or abs(y - other_y) >= 12
            assert apart, (text, other)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.00005, 0.07), ["0.0001", "0.001", "0.01", "0.1"]),
        ((1.0, 1.0), []),
        ((2.0, 30.0), ["2", "5", "10", "20"]),
    ],
)
def test_ticks_of_a_log_axis_are_round(values: tuple[float, float], expected: list[str]) -> None:
    points = [Point("p", n, value) for n, value in enumerate(values)]
    plot = scatter(Plot("t", "c", points, Axis("x"), Axis("y", is_log=True)))
    ticks = [text for x, _, text in boxes(plot, "tick") if x < 80]
    assert set(expected) <= set(ticks)
    assert len(ticks) <= 9


@pytest.mark.parametrize("values", [(0.0, 0.0), (5.0, 5.0), (-3.0, 4.0), (0.0, 1e9), (1e-9, 2e-9)])
def test_an_axis_holds_any_values(values: tuple[float, float]) -> None:
    points = [Point(str(n), value, value) for n, value in enumerate(values)]
    plot = scatter(
        Plot("t", "c", points, Axis("x"), Axis("y"), [Rule("r", values[0], is_upright=True)])
    )
    assert "nan" not in plot
    assert "inf" not in plot
    ET.fromstring(plot)


def test_plots_become_pictures_where_the_extra_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the report extra")
    from edgeagent.evals.compare import pictures

    points = [Point("F16", 17.1, 90.0, 85.0, 94.0, is_base=True), Point("Q4_K_M", 5.8, 88.0)]
    plots = [
        Plot("Size", "c", points, Axis("MB", least=0), Axis("right, %"), [Rule("", 90, False)]),
        Plot("Speed", "c", points[1:], Axis("tokens/s"), Axis("KLD", is_log=True)),
    ]
    folder = tmp_path / "report"
    folder.mkdir()
    paths = pictures.write(plots, folder)
    assert sorted(folder.iterdir()) == paths
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
