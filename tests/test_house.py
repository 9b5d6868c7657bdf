"""The house holds: imports point down, foreign libraries keep to their rooms, files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    file
    for folder in ("edgeagent", "convert", "models")
    for file in (ROOT / folder).rglob("*.py")
    if "work" not in file.relative_to(ROOT).parts
)
TESTS = sorted((ROOT / "tests").glob("*.py"))

FLOORS = (
    ("errors", "messages", "events", "history", "ledger"),
    (
        "config",
        "paths",
        "manifest",
        "gguf_header",
        "catalog",
        "hub",
        "reach",
        "link",
        "kernel_filter",
        "no_internet",
    ),
    ("calls", "engine"),
    ("wire", "remote", "served"),
    ("acting", "cascade"),
    ("store", "session", "digest", "wiring"),
    ("scenarios",),
    ("evals",),
    ("tui",),
    ("commands",),
    ("__main__",),
)
"""The package from the ground up; a module imports from its own floor and the ones before it."""

STRANGERS = {("evals", "tui"), ("evals", "commands"), ("tui", "commands")}
"""Pairs that do not import each other, whichever floor they are on."""

DOORS = (
    ("edgeagent/commands/bench.py", "evals"),
    ("edgeagent/commands/chat.py", "tui"),
    ("edgeagent/commands/compare.py", "evals"),
    ("edgeagent/commands/eval", "evals"),
    ("edgeagent/commands/score", "evals"),
)
"""How the path of a verb begins whose whole work is to start the other."""

ROOMS = {
    "llama_cpp": ("edgeagent/engine/",),
    "llguidance": ("edgeagent/engine/",),
    "openai": ("edgeagent/remote.py",),
    "textual": ("edgeagent/tui/",),
    "huggingface_hub": ("edgeagent/hub.py",),
    "torch": ("models/",),
    "matplotlib": ("edgeagent/evals/compare/pictures.py",),
    "tokenizers": ("models/",),
    "gguf": ("convert/", "edgeagent/engine/", "edgeagent/commands/", "models/nano/restart.py"),
}
"""Library → the files that may import it."""

CONVERT_MAY_IMPORT = (
    "edgeagent.errors", "edgeagent.paths", "edgeagent.manifest", "edgeagent.gguf_header",
    "edgeagent.engine.quantizer", "edgeagent.engine.observer",
)  # fmt: skip

TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "NOTES.md", "README.md",
    "convert", "edgeagent", "models", "pyproject.toml", "tests",
}  # fmt: skip

MOST_LINES = 500
ids = [str(file.relative_to(ROOT)) for file in SOURCES]


def imports_of(file: Path) -> Iterator[str]:
    """Yield the dotted name of everything the file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(dotted: str) -> str:
    """Return the part of the package that `edgeagent.part.…` belongs to."""
    return dotted.split(".")[1]


def floor_of(part: str) -> int:
    """Return how high the part stands."""
    for height, parts in enumerate(FLOORS):
        if part in parts:
            return height
    raise AssertionError(f"edgeagent/{part} stands on no floor; give it one in FLOORS")


@pytest.mark.parametrize("file", SOURCES, ids=ids)
def test_imports_point_down(file: Path) -> None:
    where = file.relative_to(ROOT).with_suffix("")
    ours = [name for name in imports_of(file) if name.startswith("edgeagent.")]
    if where.parts[0] == "convert":
        assert [name for name in ours if not name.startswith(CONVERT_MAY_IMPORT)] == []
    if where.parts[0] != "edgeagent" or where.parts[1] == "__init__":
        return
    part = where.parts[1]
    upwards = [name for name in ours if floor_of(part_of(name)) > floor_of(part)]
    assert upwards == []
    for name in ours:
        pair = {part, part_of(name)}
        is_door = any(
            where.as_posix().startswith(door.removesuffix(".py")) and part_of(name) == room
            for door, room in DOORS
        )
        assert is_door or not any(pair == set(strangers) for strangers in STRANGERS), name


@pytest.mark.parametrize("file", SOURCES, ids=ids)
def test_foreign_libraries_keep_to_their_rooms(file: Path) -> None:
    where = file.relative_to(ROOT).as_posix()
    for name in imports_of(file):
        rooms = ROOMS.get(name.split(".")[0])
        assert rooms is None or where.startswith(rooms), f"{name} does not belong in {where}"


def test_only_the_verbs_know_convert_and_nothing_installed_knows_the_recipes() -> None:
    for file in SOURCES:
        where = file.relative_to(ROOT).as_posix()
        if where.startswith("edgeagent/"):
            roots = {name.split(".")[0] for name in imports_of(file)}
            assert "models" not in roots, where
            assert "convert" not in roots or where.startswith("edgeagent/commands/"), where


@pytest.mark.parametrize("file", SOURCES, ids=ids)
def test_a_file_says_what_it_is_for_and_fits_in_one_sitting(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module begins with what it is for"
    assert len(text.splitlines()) <= MOST_LINES
    if file.name == "__init__.py":
        assert len(tree.body) == 1, "one name has one import path"


def test_a_broad_except_stands_only_around_a_tools_own_code() -> None:
    found = [
        file.relative_to(ROOT).as_posix()
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    ]
    assert len(found) <= 1, found
    assert set(found) <= {"edgeagent/acting.py"}


@pytest.mark.parametrize("file", SOURCES + TESTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_left_for_later_and_nothing_is_silenced_without_a_reason(file: Path) -> None:
    if file == Path(__file__):
        return
    before = ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        assert not re.search(r"#.*\b(TODO|FIXME|XXX)\b", line), f"line {number}"
        if "type: ignore" in line:
            has_reason = before.lstrip().startswith("#") or re.search(r"\]\s+# \w", line)
            assert re.search(r"type: ignore\[[\w, -]+\]", line), f"line {number}: which error"
            assert has_reason, f"line {number}: why"
        before = line


def test_no_file_is_named_for_nothing() -> None:
    homeless = re.compile(
        r"(utils?|helpers?|common|base|misc|\w*manager|\w*handler|\w*service)\.py"
    )
    assert [file.name for file in SOURCES if homeless.fullmatch(file.name)] == []


def test_the_top_of_the_repository_holds_what_the_design_lists() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {path.split("/")[0] for path in listed.splitlines()} <= TOP_LEVEL
