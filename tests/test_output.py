"""A file appears whole or not at all, however its writing ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convert import output
from convert.output import BUFFER_BYTES, replacing
from edgeagent.errors import WriteFailed
from tests import tiny_checkpoint
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]
SIZES = (0, 1, 31, 4096, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 77)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_direct", [True, False])
def test_every_byte_arrives_in_order(
    tmp_path: Path, size: int, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_direct:
        monkeypatch.setattr(output, "_set_direct", lambda fd, wanted: False)
    raw = np.random.default_rng(size).bytes(size)
    source = tmp_path / "source"
    source.write_bytes(raw)
    with replacing(tmp_path / "out") as file, source.open("rb") as other:
        file.write(raw[: size // 3])
        at = size // 3
        while at < size * 2 // 3:
            at += file.copy(other.fileno(), at, size * 2 // 3 - at)
        file.write(memoryview(raw)[at:])
    assert (tmp_path / "out").read_bytes() == raw
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["out", "source"]


def test_a_disk_that_refuses_direct_writes_midway_gets_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one with larger blocks would: after the first refusal none is tried again."""
    written, true_write = [], os.write

    def write(fd: int, raw: memoryview) -> int:
        written.append(len(raw))
        if len(written) == 1:
            raise OSError(22, "Invalid argument")
        return true_write(fd, raw)

    monkeypatch.setattr(output.os, "write", write)
    raw = np.random.default_rng(0).bytes(2 * BUFFER_BYTES + 5)
    with replacing(tmp_path / "out") as file:
        file.write(raw)
    monkeypatch.undo()
    assert (tmp_path / "out").read_bytes() == raw


def test_what_a_killed_run_left_is_swept_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".out.abc.part"
    left.write_bytes(b"half")
    with replacing(tmp_path / "out") as file:
        assert not left.exists()
        file.write(b"one")
        with replacing(tmp_path / "out") as second:
            second.write(b"two")
        file.write(b"!")
    assert (tmp_path / "out").read_bytes() == b"one!"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["out"]


def test_no_folder_and_no_rights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="cannot write in"), replacing(tmp_path / "no" / "out"):
        pass


def quantizing(folder: Path, **options: object) -> subprocess.Popen[str]:
    """Begin to quantize a file of 8 MB slowly enough to be met in the middle."""
    code = (
        "import signal, sys, time; from pathlib import Path\n"
        "from convert.quantize import quantize; from convert.wish import wish\n"
        "from edgeagent.errors import EdgeAgentError\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        "    steps = quantize(Path(sys.argv[1]), Path(sys.argv[2]), wish('q6_k'))\n"
        "    for n, step in enumerate(steps): print(n, flush=True); time.sleep(0.02)\n"
        "except EdgeAgentError as exc: sys.exit(str(exc))\n"
    )
    command = [sys.executable, "-c", code, str(folder / "m.gguf"), str(folder / "out" / "q.gguf")]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from convert.file_types import Type
    from convert.hf_to_gguf import convert

    folder = tmp_path_factory.mktemp("source")
    tiny_checkpoint.write(folder / "tiny", Tiny(n_layers=4, n_embd=512, n_ff=1024))
    list(convert(folder / "tiny", folder / "m.gguf", Type.BF16))
    (folder / "out").mkdir()
    return folder


@pytest.mark.parametrize("n_steps", [1, 9, 23])
def test_an_interrupt_at_any_moment_leaves_nothing(source: Path, n_steps: int) -> None:
    child = quantizing(source)
    assert child.stdout is not None
    for _ in range(n_steps):
        child.stdout.readline()
    child.send_signal(signal.SIGINT)
    child.communicate()
    assert child.returncode == -signal.SIGINT
    assert list((source / "out").iterdir()) == []


def test_a_kill_leaves_no_file_under_the_name_and_the_next_run_cleans_up(source: Path) -> None:
    child = quantizing(source)
    assert child.stdout is not None
    for _ in range(5):
        child.stdout.readline()
    child.kill()
    child.communicate()
    (left,) = (source / "out").iterdir()
    assert left.name.startswith(".q.gguf.")
    child = quantizing(source)
    child.communicate()
    assert child.returncode == 0
    assert [p.name for p in (source / "out").iterdir()] == ["q.gguf"]
    (source / "out" / "q.gguf").unlink()


@pytest.mark.parametrize("n_bytes", [100_000, BUFFER_BYTES + 4096, BUFFER_BYTES + 100])
def test_a_disk_that_is_full_is_named_and_left_as_it_was(source: Path, n_bytes: int) -> None:
    def no_room() -> None:
        # The kernel refuses bytes past the limit as it would on a full disk, in mid-write.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    child = quantizing(source, preexec_fn=no_room)
    _, errors = child.communicate()
    assert child.returncode == 1
    assert errors.startswith(f"cannot write {source / 'out' / 'q.gguf'}")
    assert errors.count("\n") == 1
    assert list((source / "out").iterdir()) == []


def test_progress_is_seen_inside_a_tensor(source: Path) -> None:
    child = quantizing(source)
    began = time.monotonic()
    shown, _ = child.communicate()
    (source / "out" / "q.gguf").unlink()
    assert shown.count("\n") > 40
    assert time.monotonic() - began < 120
