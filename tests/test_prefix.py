"""Saved contexts: what is loaded is what was saved, by this model, and anything else is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeagent.engine import prefix
from edgeagent.engine.context import Context
from edgeagent.engine.prefix import PrefixStore
from tests.engine_kit import opened

ROOT = Path(__file__).parents[1]
SETTING = "f16-kv no-flash-attention"
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
NEXT = 7


class Desk:
    """One model in this process, and a folder for its contexts."""

    def __init__(self, root: Path) -> None:
        self.context: Context = opened(root).context
        self.model = root / "tiny.gguf"
        self.folder = root / "cache"
        self.store = PrefixStore(self.folder, self.model, SETTING)
        self.read(TOKENS)
        self.store.save(self.context)
        (self.file,) = (self.folder / "prefixes").glob("*.state")
        self.good = self.file.read_bytes()
        self.row = self.next_row()

    def read(self, tokens: list[int]) -> None:
        self.context.keep(0)
        assert self.context.decode(tokens, logits=False)

    def next_row(self) -> np.ndarray:
        """What the model says after the tokens in the context and one more."""
        assert self.context.decode([NEXT], logits=True)
        return self.context.logits().copy()

    def loads(self, store: PrefixStore | None = None) -> bool:
        self.context.keep(0)
        return (store or self.store).load(self.context, TOKENS)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("prefix"))


@pytest.fixture(autouse=True)
def restored(desk: Desk) -> None:
    shutil.rmtree(desk.file, ignore_errors=True)
    desk.file.parent.mkdir(parents=True, exist_ok=True)
    desk.file.unlink(missing_ok=True)
    desk.file.write_bytes(desk.good)


def test_what_is_loaded_is_what_was_saved(desk: Desk) -> None:
    assert desk.loads()
    assert desk.context.log == TOKENS
    assert np.array_equal(desk.next_row(), desk.row)


def places(size: int) -> list[int]:
    """Where a file may break off: around llama.cpp's own fields, the state's end and the label."""
    label = prefix._FOOT.size
    near_start = [0, 1, 3, 4, 8, 11, 12, 12 + 2, 12 + 4 * len(TOKENS), 12 + 4 * len(TOKENS) + 4]
    near_end = [size - n for n in (1, 7, 8, 9, 11, label, label + 1, 200, 400, 1000)]
    return sorted({*near_start, *near_end, size // 4, size // 2, size * 3 // 4})


def test_a_file_that_was_cut_short_is_computed_again(desk: Desk) -> None:
    for size in places(len(desk.good)):
        desk.file.write_bytes(desk.good[:size])
        assert not desk.loads(), size
        desk.read(TOKENS)
        desk.store.save(desk.context)
        assert desk.file.read_bytes() == desk.good


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_file_is_never_loaded(desk: Desk, data: st.DataObject) -> None:
    raw = bytearray(desk.good)
    n_label = 600
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1) | st.integers(len(raw) - n_label, len(raw) - 1))
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    match data.draw(st.sampled_from(["flip", "drop", "insert", "more"])):
        case "drop":
            at = data.draw(st.integers(0, len(raw) - 1))
            del raw[at : at + data.draw(st.integers(1, 64))]
        case "insert":
            at = data.draw(st.integers(0, len(raw)))
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=64))
        case "more":
            raw += data.draw(st.binary(min_size=1, max_size=64))
    desk.file.write_bytes(raw)
    assert desk.loads() == (raw == desk.good)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"\x00" * 4096,
        prefix._FOOT.pack(0, prefix._MAGIC),
        prefix._FOOT.pack(2**32 - 1, prefix._MAGIC),
        b"[" * 4000 + prefix._FOOT.pack(4000, prefix._MAGIC),
        b"[]" + prefix._FOOT.pack(2, prefix._MAGIC),
        b'{"size": true, "crc32": null}' + prefix._FOOT.pack(29, prefix._MAGIC),
        b'{"size": 0, "crc32": 0}' + prefix._FOOT.pack(23, prefix._MAGIC),
    ],
)
def test_a_file_of_something_else_is_no_context(desk: Desk, content: bytes) -> None:
    desk.file.write_bytes(content)
    assert not desk.loads()


def test_a_folder_or_a_pipe_in_a_files_place_is_left_alone(desk: Desk) -> None:
    for make in (Path.mkdir, os.mkfifo):
        desk.file.unlink()
        make(desk.file)
        assert not desk.loads()
        desk.read(TOKENS)
        desk.store.save(desk.context)
        if desk.file.is_dir():
            desk.file.rmdir()
            desk.file.write_bytes(desk.good)
    assert desk.loads(), "a file takes the place of a pipe"


@pytest.mark.parametrize(
    "changed", [{"seed": 7}, {"n_layer": 3}, {"name": "other"}, {"n_merges": 200}], ids=str
)
def test_a_context_of_another_model_is_not_loaded(
    desk: Desk, tmp_path: Path, changed: dict[str, int | str]
) -> None:
    """llama.cpp itself takes a state of any model with the same shape of memory."""
    other = opened(tmp_path, **changed)
    store = PrefixStore(desk.folder, tmp_path / "tiny.gguf", SETTING)
    assert not store.load(other.context, TOKENS)
    # Nor when somebody gives it the name that is looked for.
    assert other.context.decode(TOKENS, logits=False)
    store.save(other.context)
    (theirs,) = set(desk.folder.glob("prefixes/*.state")) - {desk.file}
    theirs.write_bytes(desk.good)
    assert not store.load(other.context, TOKENS)
    theirs.unlink()


def test_another_build_under_the_same_name_and_date_is_another_model(
    desk: Desk, tmp_path: Path
) -> None:
    model = tmp_path / "tiny.gguf"
    context = opened(tmp_path).context
    assert context.decode(TOKENS, logits=False)
    PrefixStore(tmp_path, model, SETTING).save(context)
    before = model.stat()
    raw = bytearray(model.read_bytes())
    raw[-1] ^= 1
    model.unlink()
    model.write_bytes(raw)
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model.stat().st_size == before.st_size
    assert not PrefixStore(tmp_path, model, SETTING).load(context, TOKENS)


@pytest.mark.parametrize("what", ["setting", "engine", "tokens"])
def test_a_context_of_another_engine_or_setting_is_not_loaded(desk: Desk, what: str) -> None:
    """Whether it has its own name, or was given the one that is looked for."""
    size = prefix._FOOT.unpack(desk.good[-prefix._FOOT.size :])[0]
    label = json.loads(desk.good[-prefix._FOOT.size - size : -prefix._FOOT.size])
    label[what] = {"setting": "q8_0-k flash-attention", "engine": "0000000", "tokens": "0" * 64}[
        what
    ]
    text = json.dumps(label).encode()
    state = desk.good[: -prefix._FOOT.size - size]
    desk.file.write_bytes(state + text + prefix._FOOT.pack(len(text), prefix._MAGIC))
    assert not desk.loads()
    if what == "setting":
        desk.file.write_bytes(desk.good)
        assert not desk.loads(PrefixStore(desk.folder, desk.model, label["setting"]))


def test_other_tokens_are_not_found(desk: Desk) -> None:
    for tokens in (TOKENS[:-1], [*TOKENS, 1], [*TOKENS[:-1], 4]):
        assert not desk.store.load(desk.context, tokens)


def test_broken_hashes_only_cost_another_reading(desk: Desk) -> None:
    hashes = desk.folder / "prefixes" / "hashes.json"
    good = hashes.read_text()
    for text in ("", "{", "[]", '{"a": 1}', "[" * 100_000, good.replace(":", ";")):
        hashes.write_text(text)
        assert desk.loads(PrefixStore(desk.folder, desk.model, SETTING))
    digest = PrefixStore(desk.folder, desk.model, SETTING)._who(hashes.parent)[0]
    hashes.write_text(good.replace(digest, digest[::-1]))
    assert not desk.loads(PrefixStore(desk.folder, desk.model, SETTING)), "no model it knows of"
    hashes.unlink()
    assert desk.loads(PrefixStore(desk.folder, desk.model, SETTING))
    assert digest in json.loads(hashes.read_text()).values()


def test_the_least_recently_used_goes_first(desk: Desk, tmp_path: Path) -> None:
    room = 3 * len(desk.good) + 2000
    store = PrefixStore(tmp_path, desk.model, SETTING, room)
    saved = []
    for first in range(3):
        tokens = [first, *TOKENS[1:]]
        desk.read(tokens)
        store.save(desk.context)
        saved.append(tokens)
        for age, path in enumerate(sorted(tmp_path.glob("prefixes/*.state"), key=_date)):
            os.utime(path, (1000 + age, 1000 + age))
    assert store.load(desk.context, saved[0]), "and by that it is the one used last"
    desk.read([9, *TOKENS[1:]])
    store.save(desk.context)
    assert [store.load(desk.context, tokens) for tokens in saved] == [True, False, True]
    assert sum(path.stat().st_size for path in tmp_path.glob("prefixes/*.state")) <= room


def _date(path: Path) -> float:
    return path.stat().st_mtime


@pytest.mark.parametrize("room", [0, 1000])
def test_what_does_not_fit_is_not_written(desk: Desk, tmp_path: Path, room: int) -> None:
    desk.read(TOKENS)
    PrefixStore(tmp_path, desk.model, SETTING, room).save(desk.context)
    assert not list(tmp_path.rglob("*.state"))
    assert not list(tmp_path.rglob("*.part"))


def test_what_a_dead_process_left_is_cleared_away(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    folder.mkdir()
    old, fresh = folder / "a.123.part", folder / "b.124.part"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    desk.read(TOKENS)
    PrefixStore(tmp_path, desk.model, SETTING).save(desk.context)
    assert not old.exists()
    assert fresh.exists()


def test_a_folder_that_cannot_be_written_costs_nothing_else(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "prefixes").write_text("a file where the folder should be")
    desk.read(TOKENS)
    store = PrefixStore(tmp_path, desk.model, SETTING)
    store.save(desk.context)
    assert not store.load(desk.context, TOKENS)


def test_many_processes_share_a_folder(desk: Desk, tmp_path: Path) -> None:
    """Each saves, loads and clears away what the others do; what is loaded is always whole."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.engine_kit import opened\n"
        "from edgeagent.engine.prefix import PrefixStore\n"
        "root, mine, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
        "mine.mkdir()\n"
        "context = opened(mine).context\n"
        "store = PrefixStore(root, root / 'tiny.gguf', 'x', 3 * size)\n"
        "n_loaded = 0\n"
        "for round in range(60):\n"
        "    tokens = [round // 2 % 5, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]\n"
        "    context.keep(0)\n"
        "    if store.load(context, tokens):\n"
        "        assert context.log == tokens\n"
        "        n_loaded += 1\n"
        "    else:\n"
        "        context.keep(0)\n"
        "        assert context.decode(tokens, logits=False)\n"
        "        store.save(context)\n"
        "print(n_loaded)\n"
    )
    shutil.copy(desk.model, tmp_path / "tiny.gguf")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path, tmp_path / str(n), str(len(desk.good))],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(3)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert sum(int(out) for out, _ in said) > 0
    assert not list(tmp_path.rglob("*.part"))
