"""A quantized file is the one that llama.cpp's quantizer writes, to the byte, in every type."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert import importance as matrices
from convert.file_types import Type
from convert.hf_to_gguf import convert
from convert.quantize import main, quantize
from convert.stream import Noted
from convert.type_plan import NEEDS_IMPORTANCE, Choice, overrides
from convert.wish import Wish, wish
from edgeagent import gguf_header
from edgeagent.engine import quantizer
from edgeagent.errors import ConversionError, ModelLoadError
from edgeagent.gguf_header import TensorType
from tests import tiny_checkpoint
from tests.test_type_plan import UNSET, asked
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]

# Rows of 256, so that every block fits; n_head / n_head_kv is 2.
WIDE = Tiny(n_layers=2, n_embd=256, n_ff=256, n_head=2, n_head_kv=1, head_dim=128, n_unused=20)
# Rows that K-quants do not fit, a head of its own, grouped queries, and f16.
ODD = Tiny(n_layers=2, n_embd=288, n_ff=304, n_head_kv=1, head_dim=64, tied=False, dtype="F16")
MODELS = {"wide": WIDE, "odd": ODD}


class Made:
    """One small model: its checkpoint, the GGUF file of its own dtype, an importance matrix."""

    def __init__(self, folder: Path, tiny: Tiny) -> None:
        self.checkpoint = tiny_checkpoint.write(folder / "checkpoint", tiny)
        self.source = folder / "source.gguf"
        list(convert(self.checkpoint, self.source, Type[tiny.dtype]))
        rng = np.random.default_rng(1)
        tensors = gguf_header.read(self.source).tensors
        sums = {
            t.name: matrices.Sums(
                rng.lognormal(0, 2, (1, t.shape[-1])).astype(np.float32) * np.float32(90),
                np.array([90], np.float32),
            )
            for t in tensors
            if len(t.shape) == 2
        }
        self.importance = matrices.Importance(sums, ("a text.txt",), 7, 512)
        self._answers: dict[tuple[Type, bool], tuple[dict, Path]] = {}
        self._folder = folder
        self.matrix = folder / "imatrix.npz"
        np.savez(self.matrix, **{name: self.importance.weights(name) for name in sums})

    def wish(self, choice: Choice, has_importance: bool) -> Wish:
        matrix = self.importance if has_importance else None
        return Wish(choice, importance=matrix, importance_file="im.gguf" if matrix else "")

    def theirs(self, kind: Type, has_importance: bool) -> tuple[dict, Path]:
        """Return llama.cpp's answer and file; all are made at once, for its start takes longest."""
        if not self._answers:
            cases = [(kind, has) for kind in Type for has in (False, True)]
            outs = [self._folder / f"theirs-{kind}-{has}" for kind, has in cases]
            jobs = [
                self.job(Choice(kind), has, out)
                for (kind, has), out in zip(cases, outs, strict=True)
            ]
            answers = zip(asked(jobs), outs, strict=True)
            self._answers = dict(zip(cases, answers, strict=True))
        return self._answers[kind, has_importance]

    def job(self, choice: Choice, has_importance: bool, out: Path) -> dict:
        entries = [
            ["quantize.imatrix.file", "im.gguf"],
            ["quantize.imatrix.dataset", "a text.txt"],
            ["quantize.imatrix.entries_count", len(self.importance.sums)],
            ["quantize.imatrix.chunks_count", 7],
        ]
        return {
            "source": str(self.source),
            "out": str(out),
            "file_type": choice.kind.number,
            "imatrix": str(self.matrix) if has_importance else None,
            "entries": entries if has_importance else [],
            "pure": choice.is_pure,
            "overrides": [[p.pattern, int(kind)] for p, kind in choice.overrides],
            "output_tensor_type": UNSET if choice.head is None else int(choice.head),
            "token_embedding_type": UNSET if choice.embedding is None else int(choice.embedding),
        }


@pytest.fixture(scope="module", params=list(MODELS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp(request.param), MODELS[request.param])


def contents(path: Path) -> dict[str, tuple[TensorType, bytes]]:
    """Return tensor name → type and bytes."""
    raw = path.read_bytes()
    return {
        t.name: (t.type, raw[t.offset : t.offset + t.n_bytes])
        for t in gguf_header.read(path).tensors
    }


@pytest.mark.parametrize("has_importance", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("kind", list(Type))
def test_the_file_is_the_one_that_llama_cpp_writes(
    tmp_path: Path, made: Made, kind: Type, has_importance: bool
) -> None:
    choice = Choice(kind)
    wished = made.wish(choice, has_importance)
    ours, direct = tmp_path / "ours", tmp_path / "direct"
    answer, theirs = made.theirs(kind, has_importance)
    if answer["code"]:
        assert any("requires an imatrix" in line or "no tensor type" in line
                   for line in answer["log"])  # fmt: skip
        for refused in (
            quantize(made.source, ours, wished),
            convert(made.checkpoint, ours, wished),
        ):
            with pytest.raises(ConversionError):
                list(refused)
        assert not ours.exists()
        return
    list(quantize(made.source, ours, wished))
    assert ours.read_bytes() == theirs.read_bytes()
    list(convert(made.checkpoint, direct, wished))
    assert contents(direct) == contents(theirs)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(Type.Q4_K_M, overrides(["ffn_down=q8_0", r"blk\.1\.=f16"])),
        Choice(Type.Q4_0, is_pure=True),
        Choice(Type.Q4_0, head=TensorType.Q5_1),
        Choice(Type.Q5_0, head=TensorType.Q8_0, embedding=TensorType.Q4_1),
        Choice(Type.Q6_K, overrides(["attn_q=mxfp4", "attn_k=bf16", "ffn_up=iq4_nl"])),
    ],
)  # fmt: skip
def test_wishes_beyond_the_type_give_llama_cpps_bytes_too(
    tmp_path: Path, made: Made, choice: Choice
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    (answer,) = asked([made.job(choice, False, theirs)])
    assert answer["code"] == 0, answer["log"]
    list(quantize(made.source, ours, made.wish(choice, False)))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("middle", [Type.Q8_0, Type.Q4_K_M, Type.IQ4_XS, Type.TQ2_0, Type.Q2_K])
def test_quantizing_again_has_to_be_said_and_equals_llama_cpp(
    tmp_path: Path, made: Made, middle: Type
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    first = tmp_path / "first.gguf"
    list(quantize(made.source, first, Wish(Choice(middle))))
    again = Wish(Choice(Type.Q5_1))
    with pytest.raises(ConversionError, match=r"\.weight is \w+ already"):
        list(quantize(first, ours, again))
    job = made.job(again.choice, False, theirs)
    assert asked([job | {"source": str(first), "allow_requantize": True}])[0]["code"] == 0
    list(quantize(first, ours, replace(again, may_requantize=True)))
    assert ours.read_bytes() == theirs.read_bytes()


def test_chunks_and_threads_do_not_show(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    wished = made.wish(Choice(Type.Q4_K_M), True)
    list(quantize(made.source, tmp_path / "whole", wished, n_threads=1))
    monkeypatch.setattr("convert.stream.CHUNK_WEIGHTS", 1000)
    list(quantize(made.source, tmp_path / "parts", wished, n_threads=7))
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_stack_of_experts_is_weighed_matrix_by_matrix(tmp_path: Path) -> None:
    """llama.cpp gives each expert its own importance; so must a chunk that two of them share."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(4, 3, 256)).astype(np.float32)
    weighs = rng.lognormal(0, 2, (4, 256)).astype(np.float32)
    together = quantizer.encode(weights.reshape(-1), TensorType.Q4_K, 256, weighs[0])
    apart = [
        quantizer.encode(w.reshape(-1), TensorType.Q4_K, 256, i)
        for w, i in zip(weights, weighs, strict=True)
    ]
    assert together.tobytes() != b"".join(map(bytes, apart))
    from convert.checkpoint import Stored
    from convert.gguf_file import Slot
    from convert.stream import Move, written

    source = tmp_path / "raw"
    source.write_bytes(weights.tobytes())
    stored = Stored("x", TensorType.F32, weights.shape, source, 0)
    move = Move(stored, Slot("x", TensorType.Q4_K, weights.shape), weighs.reshape(-1))
    list(written(tmp_path / "out", b"", [move], 2))
    found = (tmp_path / "out").read_bytes()
    assert found[: together.size] == b"".join(map(bytes, apart))


def test_what_the_matrix_lacks_is_noted_or_refused(tmp_path: Path, made: Made) -> None:
    sums = dict(made.importance.sums)
    sums.pop("blk.0.attn_k.weight")
    lacking = replace(made.importance, sums=sums)
    wished = Wish(Choice(Type.Q4_0), importance=lacking)
    steps = list(quantize(made.source, tmp_path / "out", wished))
    notes = [step.text for step in steps if isinstance(step, Noted) and "importance" in step.text]
    assert notes == ["the importance matrix has nothing for blk.0.attn_k.weight"]
    sums["blk.0.attn_k.weight"] = matrices.Sums(np.ones((1, 5), np.float32), np.ones(1, np.float32))
    with pytest.raises(ConversionError, match=r"5 columns for blk\.0\.attn_k\.weight"):
        list(quantize(made.source, tmp_path / "out", replace(wished, importance=lacking)))


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (np.inf, Type.Q4_K_M, "NaN or infinite"),
        (np.nan, Type.Q8_0, "NaN or infinite"),
        (np.nan, Type.F16, "NaN or infinite"),
        (1e9, Type.F16, "too large for F16"),
        (1e30, Type.Q4_0, "too large for Q4_0"),
    ],
)
def test_weights_that_no_build_could_hold_are_named(
    tmp_path: Path, value: float, kind: Type, says: str
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", Tiny(dtype="F32"))
    shard = folder / "model.safetensors"
    raw = shard.read_bytes()
    length = struct.unpack_from("<Q", raw)[0]
    at = json.loads(raw[8 : 8 + length])["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
    at += 8 + length + 400
    shard.write_bytes(raw[:at] + struct.pack("<f", value) + raw[at + 4 :])
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(ConversionError, match=f"model.layers.1.mlp.up_proj.weight: .*{says}"):
        list(convert(folder, target / "m.gguf", kind))
    assert list(target.iterdir()) == []


def test_every_type_that_ggml_aborts_on_is_known() -> None:
    aborting = {kind for kind in quantizer.TARGETS if quantizer.requires_importance(kind)}
    assert aborting == {TensorType.IQ1_S, TensorType.IQ2_XXS, TensorType.IQ2_XS}
    assert aborting < NEEDS_IMPORTANCE


def test_the_verb_quantizes_by_name_and_says_what_it_refuses(tmp_path: Path, made: Made) -> None:
    matrix = tmp_path / "im.gguf"
    matrices.write(made.importance, matrix)
    out = tmp_path / "deeper" / "out.gguf"

    def verb(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgeagent", "quantize", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    options = ("--imatrix", matrix, "--tensor-type", "attn_v=q8_0", "--head-type", "Q8_0")
    ran = verb(made.source, out, "IQ4_NL", *options)
    assert (ran.stdout, ran.returncode) == (f"{out}\n", 0), ran.stderr
    header = gguf_header.read(out)
    types = {tensor.name: tensor.type for tensor in header.tensors}
    assert types["blk.1.attn_v.weight"] is TensorType.Q8_0
    assert header.quant == "IQ4_NL"
    assert header.number("quantize.imatrix.entries_count") == len(made.importance.sums)
    for arguments, says in (
        ((made.source, out, "q4_2"), "'q4_2' is no file type"),
        ((made.source, out, "q4_0", "--tensor-type", "x"), "is not like"),
        ((made.source, out, "q4_0", "--imatrix", tmp_path / "no"), "cannot read"),
        ((made.source, out, "iq2_xxs"), "needs an importance matrix"),
        ((out, tmp_path / "again.gguf", "q4_0"), "--allow-requantize"),
        ((tmp_path / "no.gguf", out, "q4_0"), "no.gguf"),
        ((matrix, tmp_path / "m.gguf", "q4_0"), "im.gguf"),
    ):
        refused = verb(*arguments)
        assert refused.returncode == 2, (arguments, refused.stderr)
        assert says in refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr
    nowhere = verb(made.source, matrix / "out.gguf", "q4_0")
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith(f"edgeagent: cannot make the folder {matrix}")
    assert [path.name for path in out.parent.iterdir()] == ["out.gguf"]
    assert list(tmp_path.glob("*.gguf")) == [matrix]


def test_the_module_takes_the_same_options(
    tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert main([str(made.source), str(out), "q4_0", "--pure", "--tensor-type", "ffn=q8_0"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    types = {tensor.name: tensor.type for tensor in gguf_header.read(out).tensors}
    assert types["token_embd.weight"] is TensorType.Q4_0
    assert types["blk.0.ffn_up.weight"] is TensorType.Q8_0
    assert main([str(made.source), str(tmp_path), "q4_0"]) == 1
    assert "folder that exists" in capsys.readouterr().err


def test_metadata_is_carried_as_it_is_and_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_custom_alignment(64)
    writer.add_uint8("a.byte", 7)
    writer.add_array("a.list", [1.5, 2.5])
    writer.add_string("general.name", "before")
    writer.add_bool("a.flag", True)
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((4, 64), np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    list(quantize(path, tmp_path / "out.gguf", wish("q8_0", name="after")))
    before, after = (
        gguf_header.read(path).metadata,
        gguf_header.read(tmp_path / "out.gguf").metadata,
    )
    new = {
        "general.name": "after",
        "general.file_type": 7,
        "general.quantization_version": 2,
    }
    assert dict(after) == {k: v for k, v in before.items() if k != "general.alignment"} | new
    part = path.rename(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(ConversionError, match="one part of a model"):
        list(quantize(part, tmp_path / "x.gguf", wish("q8_0")))


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, made: Made) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(made.source.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="and the file has"):
        list(quantize(path, tmp_path / "out.gguf", Wish(Choice(Type.Q4_0))))
