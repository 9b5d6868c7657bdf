"""What a number stands on is written beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgeagent.errors import UsageError
from edgeagent.evals import record


def test_a_record_names_files_by_hash_and_not_by_place(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"{}\n")
    made = record.make({"data": file}, seed=7, argv=["eval", "tft", "--data", "my rows.jsonl"])
    assert made["files"]["data"] == {
        "name": "rows.jsonl",
        "size_bytes": 3,
        "sha256": hashlib.sha256(b"{}\n").hexdigest(),
    }
    assert made["command"] == "edgeagent eval tft --data 'my rows.jsonl'"
    assert made["seed"] == 7
    assert str(tmp_path) not in json.dumps(made)


def test_a_record_names_the_versions_that_a_number_depends_on() -> None:
    versions = record.make({}, seed=0)["versions"]
    needed = {"edgeagent", "llama-cpp-python", "llama.cpp", "llguidance", "python", "code"}
    assert needed <= set(versions)
    assert all(versions.values())


def test_a_folders_hash_changes_with_a_name_and_with_a_byte(tmp_path: Path) -> None:
    def hashed() -> str:
        return str(record.of_file(tmp_path)["sha256"])

    (tmp_path / "a").write_text("1")
    first = hashed()
    (tmp_path / "a").rename(tmp_path / "b")
    second = hashed()
    (tmp_path / "b").write_text("2")
    assert len({first, second, hashed()}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["ab"], ["ab", ""]),
        (["a", "b"], ["b", "a"]),
        (["\ud800"], ["\ufffd"]),  # half a surrogate pair, which JSON can carry
    ],
)
def test_different_prompts_have_different_hashes(one: list[str], other: list[str]) -> None:
    assert record.hash_of(one) == record.hash_of(list(one))
    assert record.hash_of(one) != record.hash_of(other)


def test_a_file_that_is_not_there_is_the_persons_to_fix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        record.make({"data": tmp_path / "none"}, seed=0)
