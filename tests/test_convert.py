"""A converted file holds what llama.cpp's own converter would have written, and runs the same."""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert import manifest_entry
from convert.file_types import Type
from convert.hf_to_gguf import convert, main
from convert.stream import Converted, Noted
from convert.type_plan import Choice
from convert.wish import Wish
from edgeagent import gguf_header, manifest
from edgeagent.engine import quantizer
from edgeagent.gguf_header import BLOCKS, TensorType
from tests import qwen3_forward, tiny_checkpoint
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]
ROLES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def target_name(source: str) -> str:
    if source in ROLES:
        return ROLES[source]
    _, _, n, role = source.removesuffix(".weight").split(".", 3)
    return f"blk.{n}.{ROLES[role]}.weight"


def made(tmp_path: Path, tiny: Tiny | None = None, kind: Type = Type.F32) -> tuple[Path, Path]:
    folder = tiny_checkpoint.write(tmp_path / "tiny-qwen3", tiny)
    out = tmp_path / f"out-{kind}.gguf"
    list(convert(folder, out, kind))
    return folder, out


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_equals_gguf_pys_own_bytes(
    tmp_path: Path, dtype: str, kind: Type, tied: bool
) -> None:
    tiny = Tiny(dtype=dtype, tied=tied)
    folder, out = made(tmp_path, tiny, kind)
    source = tiny_checkpoint.weights(tiny, config_of(folder)["vocab_size"])
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    assert set(found) == {target_name(name) for name in source}
    for name, values in source.items():
        written = found[target_name(name)]
        wanted = gguf.GGMLQuantizationType[kind.name if values.ndim > 1 else "F32"]
        exact = tiny_checkpoint.exact(values, dtype)
        assert written.tensor_type == wanted
        assert list(written.shape) == list(reversed(values.shape))
        assert written.data.tobytes() == gguf.quants.quantize(exact, wanted).tobytes()


def test_the_metadata_stands_in_the_order_of_llama_cpps_converter(tmp_path: Path) -> None:
    folder, out = made(tmp_path, kind=Type.Q8_0)
    header = gguf_header.read(out)
    config = config_of(folder)
    n = config["vocab_size"]
    scalars = {k: v for k, v in header.metadata.items() if not isinstance(v, list)}
    assert list(header.metadata) == [
        "general.architecture",
        "general.type",
        "general.name",
        "general.size_label",
        "qwen3.block_count",
        "qwen3.context_length",
        "qwen3.embedding_length",
        "qwen3.feed_forward_length",
        "qwen3.attention.head_count",
        "qwen3.attention.head_count_kv",
        "qwen3.rope.freq_base",
        "qwen3.attention.layer_norm_rms_epsilon",
        "qwen3.attention.key_length",
        "qwen3.attention.value_length",
        "general.file_type",
        "general.quantization_version",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.chat_template",
    ]
    assert scalars["general.architecture"] == "qwen3"
    assert scalars["general.file_type"] == 7
    assert scalars["general.quantization_version"] == 2
    assert scalars["qwen3.attention.key_length"] == 32
    assert scalars["qwen3.rope.freq_base"] == 1e6
    assert scalars["tokenizer.ggml.model"] == "gpt2"
    assert scalars["tokenizer.ggml.pre"] == "qwen2"
    assert scalars["tokenizer.ggml.eos_token_id"] == config["eos_token_id"]
    assert scalars["tokenizer.ggml.eot_token_id"] == config["eos_token_id"]
    assert scalars["tokenizer.ggml.bos_token_id"] == config["bos_token_id"]
    assert scalars["tokenizer.ggml.add_bos_token"] is False
    assert scalars["tokenizer.chat_template"] == tiny_checkpoint.TEMPLATE
    tokens, types = (header.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    assert len(tokens) == len(types) == n
    by_token = dict(zip(tokens, types, strict=True))
    assert {by_token[t] for t in tiny_checkpoint.SPECIAL} == {3}
    assert {by_token[t] for t in tiny_checkpoint.TAGS} == {4}
    assert tokens[-1] == f"[PAD{n - 1}]"
    assert types[-11:] == [5] * 11


@pytest.mark.parametrize(
    ("overrides", "written"),
    [
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}, {}),
        (
            {"rope_theta": 5e6, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"type": "linear", "factor": 2.0},
        ),
        (
            {
                "rope_theta": 5e6,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                    "beta_fast": 32.0,
                },
            },
            {"type": "yarn", "factor": 4.0, "original_context_length": 128, "yarn_beta_fast": 32.0},
        ),
    ],
)
def test_rope_settings_are_read_from_either_place(
    tmp_path: Path, overrides: dict, written: dict
) -> None:
    _, out = made(tmp_path, Tiny(config=overrides))
    metadata = gguf_header.read(out).metadata
    prefix = "qwen3.rope.scaling."
    assert metadata["qwen3.rope.freq_base"] == 5e6
    assert {k.removeprefix(prefix): v for k, v in metadata.items() if prefix in k} == written


@pytest.mark.parametrize(
    "tiny",
    [Tiny(n_shards=3), Tiny(merges="strings"), Tiny(template="jinja"), Tiny(template="json")],
    ids=["sharded", "merges as strings", "template.jinja", "template.json"],
)
def test_every_layout_of_a_checkpoint_gives_the_same_model(tmp_path: Path, tiny: Tiny) -> None:
    _, plain = made(tmp_path / "plain")
    _, other = made(tmp_path / "other", tiny)
    one, two = gguf_header.read(plain), gguf_header.read(other)
    assert dict(one.metadata) == dict(two.metadata)
    contents = []
    for path, header in ((plain, one), (other, two)):
        raw = path.read_bytes()
        contents.append({t.name: raw[t.offset : t.offset + t.n_bytes] for t in header.tensors})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("tiny", "has_head", "note"),
    [
        (Tiny(), False, ""),
        (Tiny(lm_head="equal"), False, "was left out"),
        (Tiny(lm_head="other"), True, "broke the tie"),
        (Tiny(tied=False), True, ""),
    ],
)
def test_a_tied_head_is_kept_only_where_it_says_something_else(
    tmp_path: Path, tiny: Tiny, has_head: bool, note: str
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", tiny)
    steps = list(convert(folder, tmp_path / "out.gguf", Type.F16))
    names = [tensor.name for tensor in gguf_header.read(tmp_path / "out.gguf").tensors]
    notes = " ".join(step.text for step in steps if isinstance(step, Noted))
    assert ("output.weight" in names) == has_head
    assert note in notes
    assert bool(notes) == bool(note)


def test_tool_tags_stay_visible_even_when_the_checkpoint_hides_them(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", Tiny(special_tags=True))
    steps = list(convert(folder, tmp_path / "out.gguf", Type.F32))
    metadata = gguf_header.read(tmp_path / "out.gguf").metadata
    types = dict(
        zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True)
    )
    assert {types[tag] for tag in tiny_checkpoint.TAGS} == {4}
    assert any("<tool_call>" in step.text for step in steps if isinstance(step, Noted))


def test_the_model_card_and_the_sampling_advice_travel_along(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    advice = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(advice))
    card = "---\nlicense: apache-2.0\nbase_model: Qwen/Qwen3-1.7B\ntags:\n- tools\n---\n# Tiny\n"
    (folder / "README.md").write_text(card)
    list(convert(folder, tmp_path / "out.gguf", Type.F16))
    metadata = gguf_header.read(tmp_path / "out.gguf").metadata
    assert metadata["general.sampling.top_k"] == 20
    assert metadata["general.sampling.temp"] == pytest.approx(0.6)
    assert metadata["general.sampling.penalty_repeat"] == pytest.approx(1.1)
    assert metadata["general.license"] == "apache-2.0"
    assert metadata["general.base_model.0.repo_url"] == "https://huggingface.co/Qwen/Qwen3-1.7B"
    assert metadata["general.tags"] == ["tools"]


def test_progress_ends_with_the_size_of_the_file(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    out = tmp_path / "out.gguf"
    steps = [s for s in convert(folder, out, Type.Q8_0) if isinstance(s, Converted)]
    done = [step.done_bytes for step in steps]
    assert done == sorted(done)
    assert done[-1] == steps[-1].total_bytes == out.stat().st_size


def test_rows_that_no_block_fits_become_f16(tmp_path: Path) -> None:
    _, out = made(tmp_path, Tiny(n_ff=80), Type.Q8_0)
    types = {tensor.name: tensor.type for tensor in gguf_header.read(out).tensors}
    assert types["blk.0.ffn_down.weight"] is TensorType.F16
    assert types["blk.0.ffn_up.weight"] is TensorType.Q8_0


def test_chunks_and_threads_do_not_show_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    list(convert(folder, tmp_path / "whole.gguf", Type.Q8_0, n_threads=1))
    monkeypatch.setattr("convert.stream.CHUNK_WEIGHTS", 200)
    list(convert(folder, tmp_path / "parts.gguf", Type.Q8_0, n_threads=5))
    assert (tmp_path / "parts.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


# Activations are rounded to the weights' type before ggml multiplies: only f32 is tight.
@pytest.mark.parametrize(
    ("kind", "tolerance"), [(Type.F32, 5e-5), (Type.F16, 0.1), (Type.BF16, 0.5), (Type.Q8_0, 2.0)]
)
def test_llama_cpp_computes_the_logits_of_an_independent_forward_pass(
    tmp_path: Path, kind: Type, tolerance: float
) -> None:
    tiny = Tiny(tied=kind is Type.Q8_0)
    folder, out = made(tmp_path, tiny, kind)
    config = config_of(folder)
    weights = tiny_checkpoint.weights(tiny, config["vocab_size"])
    exact = {name: tiny_checkpoint.exact(value, "BF16") for name, value in weights.items()}
    tokens = [5, 77, 200, 256, 260, 100, 3, 266, 17, 9]
    text = "the then <|im_start|>in <tool_call> 12"
    (tmp_path / "text").write_text(text)
    command = [sys.executable, str(ROOT / "tests" / "llama_logits.py"), str(out)]
    command += [str(tmp_path / "logits.npy"), str(tmp_path / "text"), *map(str, tokens)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(ran.stdout)
    found = np.load(tmp_path / "logits.npy")
    wanted = qwen3_forward.logits(exact, config, tokens)
    assert np.abs(found - wanted).max() < tolerance
    ids = {t: i for i, t in enumerate(gguf_header.read(out).metadata["tokenizer.ggml.tokens"])}
    spelled = ["the", "Ġthe", "n", "Ġ", "<|im_start|>", "in", "Ġ", "<tool_call>", "Ġ", "1", "2"]
    assert facts["ids"] == [ids[token] for token in spelled]
    assert facts["bos"] == ids["<|endoftext|>"]
    assert facts["eos"] == facts["eot"] == ids["<|im_end|>"]
    assert facts["eog"] == [ids["<|endoftext|>"], ids["<|im_end|>"]]
    assert not facts["add_bos"]


def test_block_sizes_are_ggmls_own() -> None:
    # gguf-py 0.19 gives Q8_1 40 bytes; ggml gives it 36.
    ggml = ctypes.CDLL(str(quantizer.library()))
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    for kind, sizes in BLOCKS.items():
        assert ggml.ggml_type_name(kind).decode().upper() == kind.name
        assert (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)) == sizes
    assert set(BLOCKS) == set(TensorType)


def test_the_quantizer_is_found_without_importing_llama_cpp() -> None:
    code = (
        "import sys; from edgeagent.engine import quantizer; import numpy as np;"
        "quantizer.encode(np.ones(32, np.float32), quantizer.TensorType.Q8_0, 32);"
        "print('llama_cpp' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
    assert quantizer.library().is_file()


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16])
def test_widening_loses_nothing(kind: TensorType) -> None:
    # Every finite half; NaN payloads are ggml's business.
    patterns = np.arange(65536, dtype=np.uint16)
    reference = patterns.view(np.float16).astype(np.float32)
    if kind is TensorType.BF16:
        reference = (patterns.astype(np.uint32) << 16).view(np.float32)
    finite = np.isfinite(reference)
    wide = quantizer.widen(memoryview(patterns[finite].tobytes()), kind)
    assert np.array_equal(wide, reference[finite])


def test_the_module_runs_and_prints_where_the_file_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    out = tmp_path / "out.gguf"
    assert main([str(folder), str(out), "--type", "f16", "--name", "Tiny"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert gguf_header.read(out).text("general.name") == "Tiny"


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", Tiny(n_layers=40, n_ff=2048))
    target = tmp_path / "out"
    target.mkdir()
    (target / "model.gguf").write_text("the build of yesterday")
    code = (
        "import signal, sys, time; from pathlib import Path; from convert import hf_to_gguf as h\n"
        # A shell without job control starts what it puts in the background deaf to Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "for step in h.convert(Path(sys.argv[1]), Path(sys.argv[2]), h.Type.F32):\n"
        "    print('.', flush=True); time.sleep(0.2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(target / "model.gguf")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert len(list(target.iterdir())) == 2
    process.send_signal(signal.SIGINT)
    process.wait()
    process.stdout.close()
    assert [p.name for p in target.iterdir()] == ["model.gguf"]
    assert (target / "model.gguf").read_text() == "the build of yesterday"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    target = tmp_path / "out"
    target.mkdir()

    def no_room() -> None:
        # The kernel refuses bytes past the limit as it would on a full disk, in mid-write.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ran = subprocess.run(
        [sys.executable, "-m", "convert.hf_to_gguf", str(folder), str(target / "m.gguf")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=no_room,
    )
    assert ran.returncode == 1
    assert "cannot write" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(target.iterdir()) == []


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Anonymous memory, as the kernel counts it, for 40 MB of weights at two threads."""
    folder = tiny_checkpoint.write(tmp_path / "tiny", Tiny(n_layers=4, n_embd=1024, n_ff=1024))
    code = (
        "import sys; from pathlib import Path; from convert import hf_to_gguf as h\n"
        "def anon():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon'))\n"
        "peak = start = anon()\n"
        "for step in h.convert(Path(sys.argv[1]), Path(sys.argv[2]), h.Type.Q8_0, n_threads=2):\n"
        "    peak = max(peak, anon())\n"
        "print(peak - start)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's own count of anonymous memory")
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out.gguf")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert int(ran.stdout) < 60_000  # KiB


def test_a_builds_manifest_entry_is_measured_and_replaced_by_the_next(tmp_path: Path) -> None:
    _, out = made(tmp_path, kind=Type.Q8_0)
    written = tmp_path / "tiny.toml"
    arguments = [str(written), str(out), "--title", "Tiny", "--licence", "MIT", "--n-ctx", "512"]
    assert manifest_entry.main(arguments) == 0
    first = manifest.read(written)
    assert (first.name, first.title, first.licence, first.n_ctx) == ("tiny", "Tiny", "MIT", 512)
    assert first.default_build == "Q8_0"
    (build,) = first.builds
    assert build.file == out.name
    assert build.size_bytes == out.stat().st_size
    assert build.sha256 == manifest.sha256(out)
    list(convert(tmp_path / "tiny-qwen3", out, Wish(Choice(Type.Q8_0), name="Another")))
    assert manifest_entry.main([str(written), str(out)]) == 0
    (again,) = manifest.read(written).builds
    assert again.sha256 == manifest.sha256(out) != build.sha256
    assert manifest_entry.main([str(tmp_path / "below" / "x.toml"), str(out)]) == 2


def test_the_verbs_convert_and_inspect_run(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    out = tmp_path / "new" / "m.gguf"

    def verb(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgeagent", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    converted = verb("convert", folder, out, "--type", "f16")
    assert (converted.stdout.strip(), converted.returncode) == (str(out), 0), converted.stderr
    found = json.loads(verb("inspect", out, "--json").stdout)
    assert (found["quant"], found["template"]) == ("F16", "renders tools")
    assert len(found["tensors"]) == 24
    assert "template      renders tools" in verb("inspect", out).stdout
    out.write_bytes(out.read_bytes()[:5000])
    refused = verb("inspect", out)
    assert refused.returncode == 2
    assert "damaged or incomplete" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert verb("convert", folder).returncode == 2
