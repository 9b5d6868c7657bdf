"""Thousands of broken files, seeded: each is refused in one sentence or converted; none crashes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from convert.file_types import Type
from convert.hf_to_gguf import convert
from convert.quantize import quantize
from convert.stream import Step
from convert.type_plan import Choice
from convert.wish import Wish
from edgeagent import gguf_header
from edgeagent.errors import EdgeAgentError
from tests import tiny_checkpoint
from tests.tiny_checkpoint import Tiny

SMALL = Tiny(n_layers=1, n_embd=32, n_head=2, n_head_kv=1, head_dim=16, n_ff=32, n_unused=2)


def mutated(sound: bytes, rng: np.random.Generator, places: list[range]) -> bytes:
    """Return the file with one to five edits in those places, chosen evenly."""
    raw = bytearray(sound)
    for _ in range(rng.integers(1, 6)):
        place = places[int(rng.integers(0, len(places)))]
        at = int(rng.integers(place.start, place.stop))
        match int(rng.integers(0, 6)):
            case 0:
                raw[at : at + 1] = bytes([rng.integers(0, 256)])
            case 1:
                raw[at : at + 8] = struct.pack("<Q", int(rng.integers(0, 1 << 63)))
            case 2:
                raw[at : at + 4] = struct.pack("<I", int(rng.integers(0, 60)))
            case 3:
                raw[at : at + 4] = raw[at + 4 : at + 8]
            case 4:
                del raw[at : at + int(rng.integers(1, 40))]
            case _:
                raw[at:at] = raw[at : at + int(rng.integers(1, 40))]
    return bytes(raw)


def outcome(steps: Iterable[Step], out: Path) -> str:
    """Go through the steps; return why it was refused, or "" where a file was written."""
    why = ""
    try:
        list(steps)
    except EdgeAgentError as exc:
        why = str(exc) or "without a word"
    assert out.exists() == (why == "")
    if not why:
        gguf_header.read(out)
        out.unlink()
    return why


@pytest.fixture(autouse=True)
def _nothing_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.mark.slow
def test_a_gguf_file_of_any_bytes_is_quantized_or_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", SMALL)
    path, out = tmp_path / "m.gguf", tmp_path / "out.gguf"
    list(convert(folder, path, Type.F32))
    sound = path.read_bytes()
    n_head = min(tensor.offset for tensor in gguf_header.read(path).tensors)
    # Numbers stand at the very front, and among the tensors at the head's end.
    places = [range(1200), range(n_head - 1200, n_head), range(len(sound))]
    rng = np.random.default_rng(3)
    refused = []
    for _ in range(2000):
        path.write_bytes(mutated(sound, rng, places))
        refused.append(outcome(quantize(path, out, Wish(Choice(Type.Q4_0))), out))
    assert 1000 < sum(map(bool, refused)) < 2000
    assert len({text.split(":")[0] for text in refused}) >= 3
    assert [p.name for p in tmp_path.rglob("*.part")] == []


@pytest.mark.slow
def test_a_checkpoint_of_any_bytes_is_converted_or_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", SMALL)
    out = tmp_path / "out.gguf"
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    rng = np.random.default_rng(4)
    refused = []
    for n in range(1200):
        path = folder / names[n % len(names)]
        sound = path.read_bytes()
        end = (
            8 + struct.unpack_from("<Q", sound)[0] if path.suffix == ".safetensors" else len(sound)
        )
        path.write_bytes(mutated(sound, rng, [range(end)]))
        refused.append(outcome(convert(folder, out, Type.Q8_0), out))
        path.write_bytes(sound)
    assert 600 < sum(map(bool, refused)) < 1200
    assert [p.name for p in tmp_path.rglob("*.part")] == []


JUNK = (None, True, -1, 0, 1, 7, 10**30, 1.5, float("nan"), "", "x", "\ud800", "\n", [], {}, [[]])
"""Values of JSON that nobody expects there."""


@pytest.mark.slow
def test_a_checkpoint_with_any_values_is_converted_or_refused(tmp_path: Path) -> None:
    """JSON that is JSON, with one value of it replaced: every check of a type is reached."""
    folder = tiny_checkpoint.write(tmp_path / "tiny", SMALL)
    index = tiny_checkpoint.write(tmp_path / "sharded", Tiny(n_shards=2))
    out = tmp_path / "out.gguf"
    n = 0
    for path, n_tried in (
        (folder / "config.json", 400),
        (folder / "tokenizer.json", 400),
        (folder / "tokenizer_config.json", 200),
        (index / "model.safetensors.index.json", 100),
    ):
        sound = path.read_text()
        rng = np.random.default_rng(5)
        for _ in range(n_tried):
            found = json.loads(sound)
            replace_one(found, rng)
            path.write_text(json.dumps(found))
            outcome(convert(path.parent, out, Type.Q8_0), out)
            n += 1
        path.write_text(sound)
    assert n == 1100
    assert [p.name for p in tmp_path.rglob("*.part")] == []


def replace_one(found: object, rng: np.random.Generator) -> None:
    """Put junk in the place of one value, however deep."""
    while True:
        keys = list(found) if isinstance(found, dict) else list(range(len(found)))
        key = keys[int(rng.integers(0, len(keys)))]
        inner = found[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            found = inner
            continue
        found[key] = JUNK[int(rng.integers(0, len(JUNK)))]
        return
