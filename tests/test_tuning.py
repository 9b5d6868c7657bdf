"""What passes cost here: measured once, kept for one model and device, and doubted."""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.engine import library, table_store
from edgeagent.engine.costs import DRIFT, MAX_PASS, SIZES, Costs, is_noise, pays
from edgeagent.engine.identity import processor, sha256_of
from edgeagent.engine.table_store import Owner
from edgeagent.engine.tables import MEASURED, Measured, Setting, Table, untuned
from edgeagent.engine.tuning import Rig, Stopped, Subject, measure, table_for
from tests.engine_kit import engine, flags, prompt, rule, take
from tests.tiny_gguf import write_tiny

GROWING = (10.0, 16.0, 22.0, 17.0, 28.0, 40.0)
OTHER = Setting(flash_attention=True, k_type="q8_0")
TABLE = Table(
    OTHER,
    Costs(GROWING, 0.5),
    MEASURED,
    1152,
    (Measured(Setting(), GROWING), Measured(OTHER, (9.0, None, None, 15.0, None, None))),
)
OWNER = Owner("ab" * 32, "a board", "0c1e 77", 3072, 0)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A tiny model, as it is asked about while it is loaded."""
    seen: list[Subject] = []

    def choose(one: Subject) -> Table:
        seen.append(one)
        return untuned(one.default, "only looking")

    flag = mmap.mmap(-1, 2)
    address = ctypes.addressof(ctypes.c_char.from_buffer(flag))
    path = write_tiny(tmp_path_factory.mktemp("tuning") / "tiny.gguf")
    opened = library.open_model(path, 1024, 1, address, choose=choose)
    assert opened.table.reason == "only looking"
    flags.append(flag)
    return seen[0]


def test_a_device_is_measured(subject: Subject) -> None:
    assert subject.depth == 384
    table = measure(subject, in_full=True)
    settings = [one.setting for one in table.tried]
    assert settings[0] == Setting()
    assert settings[1:] in (
        [],  # the machine was too busy to tell anything
        [
            Setting(k_type="q8_0"),
            Setting(flash_attention=True),
            Setting(flash_attention=True, k_type="q8_0"),
        ],
    )
    assert all(ms is not None and ms > 0 for one in table.tried for ms in one.ms)
    assert (table.costs is None) == (table.reason != MEASURED)


def test_equal_times_are_taken_as_they_are(subject: Subject) -> None:
    ticks = iter(range(10**9))
    table = measure(subject, in_full=False, clock=lambda: next(ticks) / 1000)
    assert table.costs is not None
    assert (table.costs.ms, table.costs.row_ms) == ((1.0,) * len(SIZES), 0.0)
    assert (table.depth, table.n_rows) == (384, MAX_PASS)
    first, rival = table.tried
    assert (first.setting, rival.setting) == (Setting(), Setting(k_type="q8_0"))
    assert first.drift > 0
    # What is as fast is taken where it spares reading close choices again.
    assert table.setting == (rival.setting if rival.drift == 0 else Setting())
    assert table.costs.drift == (0 if rival.drift == 0 else first.drift)


def test_a_device_whose_timings_are_noise_keeps_the_defaults(subject: Subject) -> None:
    rng = random.Random(7)
    now = [0.0]

    def clock() -> float:
        now[0] += rng.lognormvariate(0, 2)
        return now[0]

    table = measure(subject, in_full=True, clock=clock)
    assert table.reason.startswith("the timings are noise")
    assert (table.costs, table.setting, table.n_rows) == (None, Setting(), 1)
    assert len(table.tried) == 1


def test_the_depth_is_made_of_copies_that_are_read(subject: Subject) -> None:
    """The last token of a pass sees them all, so what it says is not what a short text says."""
    rig = Rig(subject, Setting(), time.process_time)
    try:
        library.llama.llama_memory_seq_rm(rig._memory, 0, 0, 1)
        n_left = library.llama.llama_state_seq_get_size(rig._pointer, 0)
        for other in range(1, subject.depth // 64):
            library.llama.llama_memory_seq_rm(rig._memory, other, -1, -1)
        assert library.llama.llama_state_seq_get_size(rig._pointer, 0) == n_left
        library.llama.llama_memory_seq_rm(rig._memory, 0, 1, -1)
        assert library.llama.llama_state_seq_get_size(rig._pointer, 0) < n_left / 50
    finally:
        rig.close()


def test_a_raised_flag_stops_the_measurement_and_nothing_is_kept(
    subject: Subject, tmp_path: Path
) -> None:
    model = write_tiny(tmp_path / "tiny.gguf")
    flags[-1][0] = 1
    try:
        with pytest.raises(Stopped):
            measure(subject, in_full=False)
        table = table_for(subject, model, tmp_path / "cache", None, again=False)
    finally:
        flags[-1][0] = 0
    assert table.costs is None
    assert list(table_store.kept(model, tmp_path / "cache")) == []


def test_without_a_place_to_keep_them_nothing_is_measured(subject: Subject) -> None:
    assert table_for(subject, Path("none.gguf"), None, None, again=False).costs is None


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        ([[ms, ms * 1.01] for ms in GROWING], None),
        ([[ms, ms * 1.02, ms * 9] for ms in GROWING], None),  # disturbed once
        ([[ms, ms] for ms in (49, 79, 108, 80, 135, 184)], None),  # repacked
        ([[ms, ms] for ms in (74, 212, 256, 287, 293, 448)], None),  # Q8_0 on x86
        ([[ms, ms] for ms in (9, 8, 8, 8, 8, 9)], None),  # all the same, nearly
        ([[ms, ms * 1.6] for ms in GROWING], "at best"),
        ([[ms] for ms in GROWING], "at best"),  # once is never enough
        ([[0.0, 0.0] for _ in GROWING], "no time"),
        ([[-1.0, 2.0] for _ in GROWING], "no time"),
        ([[math.nan, math.nan] for _ in GROWING], "no time"),
        ([[math.inf, math.inf] for _ in GROWING], "no time"),
        ([[ms, ms] for ms in (40, 28, 22, 17, 16, 10)], "less than"),
        ([[ms, ms] for ms in (10, 16, 12, 17, 28, 40)], "less than"),
        ([[ms, ms] for ms in (10, 16, 22, 9, 9, 9)], "less than one"),
    ],
)
def test_noise_is_told_from_times(samples: list[list[float]], word: str | None) -> None:
    problem = is_noise(samples)
    assert problem is None if word is None else problem is not None and word in problem


def test_how_close_is_too_close_follows_from_the_drift() -> None:
    close = [Costs(GROWING, drift=drift).close for drift in (0.0, 0.003, 0.1)]
    assert close == pytest.approx([0.001, 0.024, DRIFT])
    assert Costs(GROWING).close == DRIFT


def test_guesses_need_a_device_on_which_they_pay() -> None:
    assert pays(Costs(GROWING))
    assert not pays(Costs((10, 20, 30, 40, 80, 160)))
    assert not pays(Costs((10, 12, 14, 16, 24, 40), row_ms=20))


def test_a_table_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    assert table_store.read(tmp_path, OWNER) is None
    table_store.write(tmp_path, OWNER, TABLE)
    assert table_store.read(tmp_path, OWNER) == TABLE
    for other in (
        replace(OWNER, model="cd" * 32),
        replace(OWNER, processor="another"),
        replace(OWNER, engine="0c1e 78"),
        replace(OWNER, n_ctx=4096),
        replace(OWNER, n_threads=2),
    ):
        assert table_store.read(tmp_path, other) is None
        # Not even under a name that is not its own.
        source = tmp_path / "costs" / OWNER.file_name
        (tmp_path / "costs" / other.file_name).write_bytes(source.read_bytes())
        assert table_store.read(tmp_path, other) is None
    empty = untuned(Setting(2), "the timings are noise: who knows")
    table_store.write(tmp_path, OWNER, empty)
    assert table_store.read(tmp_path, OWNER) == empty
    assert table_store.age_s(tmp_path, OWNER, time.time() + 50) >= 49
    assert table_store.age_s(tmp_path / "no", OWNER, time.time()) == math.inf


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), 0),
        (("costs", "ms"), [1, 2, 3]),
        (("costs", "ms"), [1, 2, 3, 4, 8, -1]),
        (("costs", "ms"), [1, 2, 3, 4, 8, "16"]),
        (("costs", "ms"), [1, 2, 3, 4, 8, True]),
        (("costs", "ms"), [1, 2, 3, 4, 8, math.nan]),
        (("costs", "row_ms"), None),
        (("costs", "drift"), -1),
        (("costs",), []),
        (("setting", "k_type"), "q4_0"),
        (("setting", "n_threads"), 0),
        (("setting", "n_threads"), 10**9),
        (("setting", "flash_attention"), "yes"),
        (("setting", "colour"), 1),
        (("depth",), "deep"),
        (("tried",), 7),
        (("tried",), [{}]),
        (("owner",), None),
    ],
)
def test_a_damaged_table_is_none(tmp_path: Path, where: tuple[str, ...], value: object) -> None:
    table_store.write(tmp_path, OWNER, TABLE)
    path = tmp_path / "costs" / OWNER.file_name
    record = json.loads(path.read_text())
    inner = record
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    path.write_text(json.dumps(record))
    assert table_store.read(tmp_path, OWNER) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"owner": 1}', "\x00"])
def test_what_is_no_table_is_none(tmp_path: Path, text: str) -> None:
    table_store.write(tmp_path, OWNER, TABLE)
    (tmp_path / "costs" / OWNER.file_name).write_text(text)
    assert table_store.read(tmp_path, OWNER) is None
    model = write_tiny(tmp_path / "tiny.gguf")
    assert list(table_store.kept(model, tmp_path)) == []


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "costs").write_text("a file")
    table_store.write(tmp_path, OWNER, TABLE)
    assert table_store.read(tmp_path, OWNER) is None


def test_a_start_measures_once_and_the_next_ones_read(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    cache = tmp_path / "cache"
    tables = []
    for _ in range(2):
        with engine(path, cache_dir=cache) as made:
            tables.append(made.start().table)
    assert tables[0] == tables[1]
    ((whose, found),) = table_store.kept(path, cache)
    assert found == tables[0]
    assert (whose.model, whose.processor) == (sha256_of(path, cache / "prefixes"), processor())
    with engine(path, cache_dir=cache, tuning="none") as made:
        table = made.start().table
        assert table is not None
        assert (table.costs, table.reason) == (None, "not asked for")


def test_a_kept_choice_is_what_the_engine_runs_with(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    cache = tmp_path / "cache"
    whose = table_store.owner(path, cache, 8192, 1)
    for table in (TABLE, replace(TABLE, setting=Setting())):
        table_store.write(cache, whose, table)
        for _ in range(2):
            with engine(path, cache_dir=cache) as made:
                assert made.start().table == table
                take(made, prompt("hello"), rule(40))
    states = list((cache / "prefixes").glob("*.state"))
    assert len(states) == 2, "one prefix under each setting"


def test_keys_tell_settings_apart() -> None:
    keys = {Setting(1, fa, k).key for fa in (False, True) for k in ("f16", "q8_0")}
    assert len(keys) == 4
    assert Setting(1).key == Setting(8).key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("processor: 0\nmodel name: AMD EPYC\nprocessor: 1\nmodel name: AMD EPYC\n", ["AMD EPYC"]),
        (
            "processor: 0\nCPU implementer: 0x41\nCPU part: 0xd0b\n\nModel: Raspberry Pi 5 B\n",
            ["0x41", "0xd0b", "Raspberry Pi 5 B"],
        ),
        ("", []),
    ],
)
def test_processors_are_told_apart(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    said = processor(tmp_path / "cpuinfo")
    assert all(said.count(word) == 1 for word in words)
    assert said.endswith("cores")
