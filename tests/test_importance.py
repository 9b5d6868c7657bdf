"""Importance matrices are read as llama.cpp reads them, and damaged ones are refused by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert import importance
from convert.importance import Importance, Sums
from edgeagent.errors import EdgeAgentError
from tests.tiny_gguf import write_tiny

RNG = np.random.default_rng(3)
Q, DOWN, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.1.ffn_up_exps.weight"


def sums(n_experts: int, n_in: int, counts: list[float]) -> Sums:
    values = RNG.uniform(0, 50, (n_experts, n_in)).astype(np.float32)
    return Sums(values, np.array(counts, np.float32))


FOUND = Importance(
    {
        Q: sums(1, 64, [512]),
        DOWN: sums(1, 96, [511]),
        EXPERTS: sums(3, 32, [100, 0, 7]),
    },
    ("calls.jsonl", "wiki.txt"),
    2,
    256,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    importance.write(FOUND, tmp_path / "m.gguf")
    again = importance.read(tmp_path / "m.gguf")
    assert (again.datasets, again.chunk_count, again.chunk_size) == (FOUND.datasets, 2, 256)
    assert set(again.sums) == set(FOUND.sums)
    for name, written in FOUND.sums.items():
        assert np.array_equal(again.sums[name].in_sum2, written.in_sum2)
        assert np.array_equal(again.sums[name].counts, written.counts)


def test_the_weights_are_means_and_ones_where_nothing_was_seen() -> None:
    q, experts = FOUND.weights(Q), FOUND.weights(EXPERTS)
    assert q is not None
    assert experts is not None
    assert q.dtype == np.float32
    assert np.array_equal(q, FOUND.sums[Q].in_sum2[0] / np.float32(512))
    assert np.array_equal(experts[32:64], np.ones(32, np.float32))
    assert np.array_equal(experts[64:], FOUND.sums[EXPERTS].in_sum2[2] / np.float32(7))
    assert FOUND.weights("output.weight") is None


def test_the_file_is_laid_out_as_llama_cpps_loader_wants_it(tmp_path: Path) -> None:
    importance.write(FOUND, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    fields = reader.fields
    assert fields["general.type"].contents() == "imatrix"
    assert fields["imatrix.datasets"].contents() == ["calls.jsonl", "wiki.txt"]
    for key, value in (("imatrix.chunk_count", 2), ("imatrix.chunk_size", 256)):
        assert fields[key].types == [gguf.GGUFValueType.UINT32]
        assert fields[key].contents() == value
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors) == [
        f"{name}{suffix}" for name in sorted(FOUND.sums) for suffix in (".in_sum2", ".counts")
    ]
    assert {tensor.tensor_type.name for tensor in tensors.values()} == {"F32"}
    assert tensors[f"{EXPERTS}.in_sum2"].shape.tolist() == [32, 3]  # ne: n_in, then experts
    assert tensors[f"{EXPERTS}.counts"].shape.tolist() == [1, 3]
    assert np.array_equal(tensors[f"{Q}.in_sum2"].data, FOUND.sums[Q].in_sum2)


def test_a_file_of_gguf_pys_own_writer_is_read(tmp_path: Path) -> None:
    """With an architecture in front, and counts of one dimension: both are legal."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen3")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 9)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor(f"{Q}.in_sum2", np.full(64, 8, np.float32))
    writer.add_tensor(f"{Q}.counts", np.full(1, 16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = importance.read(tmp_path / "m.gguf")
    assert found.chunk_count == 9
    assert found.weights(Q).tolist() == [0.5] * 64


def test_the_older_form_keeps_the_means(tmp_path: Path) -> None:
    importance.write_dat(FOUND, tmp_path / "m.dat")
    again = importance.read(tmp_path / "m.dat")
    assert (again.datasets, again.chunk_count) == (("calls.jsonl, wiki.txt",), 2)
    for name in FOUND.sums:
        wanted = FOUND.weights(name)
        assert np.allclose(again.weights(name), wanted, rtol=2e-7, atol=0)


def test_an_older_file_byte_for_byte(tmp_path: Path) -> None:
    """One entry: length, name, calls, values, floats; then chunks, length, data set."""
    raw = struct.pack("<i", 1) + struct.pack("<i", 5) + b"blk.0" + struct.pack("<ii", 4, 2)
    raw += struct.pack("<2f", 8, 2)
    (tmp_path / "first.dat").write_bytes(raw)
    found = importance.read(tmp_path / "first.dat")
    assert found.weights("blk.0").tolist() == [2, 0.5]
    assert found.datasets == ()
    raw += struct.pack("<ii", 4, 4) + b"wiki"
    (tmp_path / "later.dat").write_bytes(raw)
    assert importance.read(tmp_path / "later.dat").datasets == ("wiki",)
    made = Importance(
        {"blk.0": Sums(np.array([[8, 2]], np.float32), np.array([4], np.float32))}, ("wiki",), 4, 0
    )
    importance.write_dat(made, tmp_path / "ours.dat")
    assert (tmp_path / "ours.dat").read_bytes() == raw


def gguf_with(
    change: Callable[[dict[str, np.ndarray]], object], keys: dict[str, object] | None = None
) -> Callable[[Path], None]:
    """Return a writer of a file whose tensors were changed, or whose keys are these."""

    def write(path: Path) -> None:
        writer = gguf.GGUFWriter(path, "qwen3")
        given = {"imatrix.datasets": ["t"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 2}
        for key, value in (given if keys is None else keys).items():
            if isinstance(value, list):
                writer.add_array(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_uint32(key, value)
        tensors = {
            f"{Q}.in_sum2": np.ones((1, 64), np.float32),
            f"{Q}.counts": np.ones((1, 1), np.float32),
        }
        change(tensors)
        for name, values in tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (gguf_with(lambda t: t.pop(f"{Q}.counts")), f"no {Q}.counts"),
        (gguf_with(lambda t: t.pop(f"{Q}.in_sum2")), f"no {Q}.in_sum2"),
        (gguf_with(lambda t: t.clear()), "empty"),
        (gguf_with(lambda t: t.update({"x": np.ones(1, np.float32)})), "'x' is neither"),
        (
            gguf_with(lambda t: t.update({f"{Q}.counts": np.ones((1, 1), np.float16)})),
            f"{Q}.counts is F16",
        ),
        (
            gguf_with(lambda t: t.update({f"{Q}.counts": np.ones((2, 1), np.float32)})),
            "sums for 1 experts and counts for 2",
        ),
        (gguf_with(lambda t: t[f"{Q}.in_sum2"].fill(np.nan)), f"{Q} holds a NaN"),
        (gguf_with(lambda t: t[f"{Q}.in_sum2"].fill(-1)), "negative"),
        (gguf_with(lambda t: None, {}), "holds a model"),
        (gguf_with(lambda t: None, {"imatrix.datasets": ["t"]}), "it lacks"),
        (gguf_with(lambda t: None, {"general.type": "adapter"}), "holds 'adapter'"),
        (lambda path: write_tiny(path), "holds a model"),
        (lambda path: path.write_bytes(b""), "it ends at byte 0"),
        (lambda path: path.write_bytes(b"GGUF"), "ends inside its head"),
        (lambda path: path.write_bytes(struct.pack("<i", -1)), "-1 entries"),
        (lambda path: path.write_bytes(struct.pack("<i", 0)), "no entries"),
        (lambda path: path.write_bytes(struct.pack("<iii", 1, 1 << 30, 0)), "bytes of a name"),
        (lambda path: path.write_text("Once upon a time there was a king."), "entries cannot be"),
    ],
)
def test_what_is_no_importance_matrix_is_refused(
    tmp_path: Path, write: Callable[[Path], object], named: str
) -> None:
    path = tmp_path / "m"
    write(path)
    with pytest.raises(EdgeAgentError) as caught:
        importance.read(path)
    assert named in str(caught.value)


def test_no_file_is_said_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(EdgeAgentError, match="cannot read"):
            importance.read(path)


@pytest.mark.parametrize("write", [importance.write, importance.write_dat])
def test_every_cut_is_noticed(tmp_path: Path, write: Callable[[Importance, Path], None]) -> None:
    write(FOUND, tmp_path / "whole")
    raw = (tmp_path / "whole").read_bytes()
    legal = set()
    for n in range(0, len(raw), 7):
        (tmp_path / "cut").write_bytes(raw[:n])
        try:
            importance.read(tmp_path / "cut")
        except EdgeAgentError:
            continue
        legal.add(n)
    # A .dat without its trailer is the first version of the format; a GGUF file ends in padding.
    trailer = len(raw) - 8 - len("calls.jsonl, wiki.txt")
    padding = range(len(raw) - 20, len(raw))
    assert legal <= ({trailer} if write is importance.write_dat else set(padding))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 2000), patch=st.binary(min_size=1, max_size=9), dat=st.booleans())
def test_no_bytes_can_do_more_than_be_refused(
    tmp_path: Path, at: int, patch: bytes, dat: bool
) -> None:
    write = importance.write_dat if dat else importance.write
    write(FOUND, tmp_path / "m")
    raw = bytearray((tmp_path / "m").read_bytes())
    at %= len(raw)
    raw[at : at + len(patch)] = patch
    (tmp_path / "m").write_bytes(raw)
    try:
        found = importance.read(tmp_path / "m")
    except EdgeAgentError:
        return
    for name in found.sums:
        found.weights(name)
