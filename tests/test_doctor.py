"""What the doctor says of the costs on this device, to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeagent import paths
from edgeagent.commands import doctor
from edgeagent.engine import table_store
from edgeagent.engine.costs import SIZES, Costs
from edgeagent.engine.tables import MEASURED, Measured, Setting, Table, untuned
from tests.tiny_gguf import write_tiny

MS = (10.0, 16.0, 22.0, 17.0, 28.0, 40.0)
OTHER = Setting(2, flash_attention=True, k_type="q8_0")
TABLE = Table(
    Setting(2),
    Costs(MS, 0.5),
    MEASURED,
    1152,
    (Measured(Setting(2), MS), Measured(OTHER, (12.0, None, None, 21.5, None, None))),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf")


def asked(*arguments: str) -> tuple[int, str, str]:
    run = CliRunner().invoke(doctor.command, ["--offline", *arguments], standalone_mode=False)
    if run.exception is not None:
        raise run.exception
    return run.return_value, run.stdout, run.stderr


def costs(*arguments: str) -> dict[str, Any]:
    code, out, _ = asked("--json", *arguments)
    assert code == 0
    (found,) = (check for check in json.loads(out) if check["name"] == "costs")
    return dict(found)


def keep(model: Path, table: Table) -> None:
    whose = table_store.owner(model, paths.cache_dir(), 8192, None)
    table_store.write(paths.cache_dir(), whose, table)


def test_what_was_never_measured_says_how(model: Path) -> None:
    found = costs("-m", str(model))
    assert set(found) == {"name", "state", "found"}
    assert found["state"] == "ok"
    assert "doctor --tune" in found["found"]


def test_a_kept_table_is_shown(model: Path) -> None:
    keep(model, TABLE)
    found = costs("-m", str(model))
    assert found["state"] == "ok"
    assert found["detail"]["sizes"] == list(SIZES)
    assert found["detail"]["costs"]["ms"] == list(MS)
    assert found["detail"]["setting"] == {
        "n_threads": 2, "flash_attention": False, "k_type": "f16",
    }  # fmt: skip
    _, out, _ = asked("-m", str(model))
    lines = out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("ok    costs"))
    assert "2 threads, flash attention off, K f16: 10.0 ms per token" in lines[at]
    assert lines[at + 1].split()[-len(SIZES) :] == [str(size) for size in SIZES]
    assert lines[at + 2].split()[-6:] == ["10.00", "16.00", "22.00", "17.00", "28.00", "40.00"]
    assert lines[at + 3].split()[-6:] == ["12.00", "-", "-", "21.50", "-", "-"]
    assert "flash attention on, K q8_0" in lines[at + 3]


def test_noise_is_a_warning_and_no_failure(model: Path) -> None:
    keep(model, untuned(Setting(), "the timings are noise: 16 tokens took less than 8"))
    found = costs("-m", str(model))
    assert found["state"] == "warn"
    assert "16 tokens took less than 8" in found["found"]
    assert "doctor --tune" in found["found"]


def test_tuning_measures_everything_and_keeps_it(model: Path) -> None:
    keep(model, TABLE)
    found = costs("-m", str(model), "--tune")
    tried = found["detail"]["tried"]
    assert tried[0]["setting"]["n_threads"] >= 1
    assert found["detail"]["tried"] != json.loads(json.dumps(TABLE.tried, default=str))
    assert all(ms > 0 for one in tried for ms in one["ms"])
    if found["state"] == "ok":  # a busy machine may measure noise
        assert len(tried) == 4
    again = costs("-m", str(model))
    assert again["detail"] == found["detail"]


def test_a_missing_model_fails_once(tmp_path: Path) -> None:
    code, out, _ = asked("--json", "-m", str(tmp_path / "none.gguf"))
    states = {check["name"]: check["state"] for check in json.loads(out)}
    assert code == 1
    assert states["model"] == "fail"
    assert "costs" not in states


def test_a_model_that_cannot_be_loaded_fails_the_measurement(tmp_path: Path) -> None:
    broken = write_tiny(tmp_path / "whole.gguf").read_bytes()[:-5000]
    (tmp_path / "cut.gguf").write_bytes(broken)
    code, out, _ = asked("--json", "-m", str(tmp_path / "cut.gguf"), "--tune")
    states = {check["name"]: check["state"] for check in json.loads(out)}
    assert code == 1
    assert "fail" in {states["model"], states.get("costs")}


def test_a_server_keeps_its_own_costs() -> None:
    found = costs("-m", "http://127.0.0.1:9/v1")
    assert found == {"name": "costs", "state": "ok", "found": "a server's own affair"}


@pytest.mark.parametrize("more", [["--tune"], ["-m", "nano"]])
def test_the_proof_goes_with_nothing_else(more: list[str]) -> None:
    run = CliRunner().invoke(doctor.command, ["--prove-offline", *more])
    assert run.exit_code == 2
    assert "--prove-offline" in run.stderr
