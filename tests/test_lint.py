"""The lint finds what it is for in files that were broken on purpose, and passes sound ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert import bpe, checkpoint, forward, importance, lint, tokenizer
from convert.comparison import Logits, Weights
from convert.hf_to_gguf import convert
from convert.importance import Importance, Sums
from convert.lint import Finding, Level
from convert.tokenizer import Tokenizer
from convert.wish import wish
from edgeagent import gguf_header
from edgeagent.errors import EdgeAgentError
from tests import qwen3_forward, tiny_checkpoint
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]
WIDE = Tiny(n_embd=256, n_ff=256, n_head=4, head_dim=64)


def made(folder: Path, tiny: Tiny, kind: str, **options: Any) -> tuple[Path, Path]:
    source = tiny_checkpoint.write(folder / "tiny", tiny)
    out = folder / f"{kind}.gguf"
    list(convert(source, out, wish(kind, **options)))
    return source, out


def findings(path: Path, source: Path | None = None) -> dict[str, list[tuple[Level, str]]]:
    found: dict[str, list[tuple[Level, str]]] = {}
    for step in lint.lint(path, source):
        if isinstance(step, Finding):
            found.setdefault(step.check, []).append((step.level, step.detail))
    return found


def errors(path: Path, source: Path | None = None) -> set[str]:
    found = findings(path, source)
    return {check for check, rows in found.items() if Level.ERROR in [row[0] for row in rows]}


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m", "q4_0", "iq4_xs"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_sound_build_passes(tmp_path: Path, kind: str, tied: bool) -> None:
    tiny = Tiny(n_embd=256, n_ff=256, n_head=4, head_dim=64, tied=tied)
    source, out = made(tmp_path, tiny, kind)
    found = findings(out, source)
    assert {row for rows in found.values() for row in rows if row[0] is Level.ERROR} == set()
    assert found.keys() >= {
        "template", "ends", "tags", "pre-tokenizer", "tie", "values", "f16", "weights", "facts",
        "tokens", "logits",
    }  # fmt: skip


def test_the_error_of_each_tensor_is_what_gguf_pys_own_decoding_gives(tmp_path: Path) -> None:
    source, out = made(tmp_path, WIDE, "q4_k_m")
    exact = {
        name: tiny_checkpoint.exact(values, "BF16")
        for name, values in tiny_checkpoint.weights(WIDE, 283).items()
    }
    measured = {step.name: step for step in lint.lint(out, source) if isinstance(step, Weights)}
    for tensor in gguf.GGUFReader(out).tensors:
        wanted = exact_of(exact, tensor.name)
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        error = np.sqrt(((decoded - wanted) ** 2).sum() / (wanted**2).sum())
        assert measured[tensor.name].rel_rmse == pytest.approx(error, rel=1e-3, abs=1e-7)
        assert measured[tensor.name].n_weights == wanted.size
    assert len(measured) == 24


def exact_of(exact: dict[str, np.ndarray], target: str) -> np.ndarray:
    from tests.test_convert import target_name

    return next(values for name, values in exact.items() if target_name(name) == target)


def test_logits_are_compared_with_an_independent_pass_over_the_checkpoint(tmp_path: Path) -> None:
    tiny = Tiny(dtype="F32", tied=False)
    source, _ = made(tmp_path, tiny, "f32")
    read = checkpoint.read(source)
    tokens = [5, 77, 200, 256, 260, 100, 3, 266, 17, 9]
    ours = forward.Forward(read).logits(tokens)
    wanted = qwen3_forward.logits(tiny_checkpoint.weights(tiny, 283), dict(read.config), tokens)
    assert np.abs(ours - wanted).max() < 1e-4


def patched(path: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Change a tensor's bytes where they lie."""
    tensor = next(t for t in gguf_header.read(path).tensors if t.name == name)
    raw = bytearray(path.read_bytes())
    values = np.frombuffer(raw, np.uint8, tensor.n_bytes, tensor.offset)
    change(values)
    path.write_bytes(raw)


def as_type(dtype: Any, change: Callable[[np.ndarray], object]) -> Callable[[np.ndarray], object]:
    return lambda raw: change(raw.view(dtype))


def put(at: int, value: float) -> Callable[[np.ndarray], object]:
    return lambda values: values.__setitem__(at, value)


def shuffle(raw: np.ndarray) -> None:
    np.random.default_rng(1).shuffle(raw)


DOWN = "blk.1.ffn_down.weight"


@pytest.mark.parametrize(
    ("kind", "change", "wanted"),
    [
        ("f32", as_type(np.float32, put(7, np.nan)), {"values"}),
        ("f16", as_type(np.float16, put(7, np.inf)), {"values"}),
        ("q8_0", as_type(np.float16, put(0, np.nan)), {"values"}),
        ("q8_0", as_type(np.int8, lambda raw: np.negative(raw, out=raw)), {"weights"}),
        ("f32", as_type(np.float32, lambda v: v.sort()), {"weights", "logits"}),
        ("f32", as_type(np.float32, put(0, 3.0)), {"weights"}),
    ],
)
def test_damaged_weights_are_found(
    tmp_path: Path, kind: str, change: Callable[[np.ndarray], object], wanted: set[str]
) -> None:
    source, out = made(tmp_path, Tiny(), kind)
    patched(out, DOWN, change)
    found = findings(out, source)
    wrong = {check for check, rows in found.items() if rows[0][0] is Level.ERROR}
    assert wanted <= wrong <= wanted | {"logits", "runs"}
    assert any(DOWN in detail for check in wanted for _, detail in found[check])
    assert errors(out) == wanted & {"values"}


def test_weights_beyond_f16_and_below_it_are_notes(tmp_path: Path) -> None:
    _, out = made(tmp_path, Tiny(dtype="F32"), "f32")
    patched(out, DOWN, as_type(np.float32, put(3, 70000.0)))
    patched(out, "blk.0.attn_q.weight", as_type(np.float32, put(3, 1e-9)))
    patched(out, "blk.0.attn_k.weight", lambda raw: raw.fill(0))
    found = findings(out)
    assert [row[0] for row in found["f16"]] == [Level.NOTE, Level.NOTE]
    assert f"{DOWN} (1)" in found["f16"][0][1]
    assert "blk.0.attn_k.weight" in found["zeros"][0][1]
    assert errors(out) == set()


def rewritten(path: Path, out: Path, changes: dict[str, Any]) -> Path:
    """Copy a GGUF file with gguf-py, metadata changed; None leaves a key out."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = changes.get(key, field.contents()) if key in changes else field.contents()
        if value is not None:
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, value, field.types[0], sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def kinds_with(path: Path, token: str, kind: int) -> list[int]:
    metadata = gguf_header.read(path).metadata
    kinds = list(metadata["tokenizer.ggml.token_type"])
    kinds[metadata["tokenizer.ggml.tokens"].index(token)] = kind
    return kinds


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"tokenizer.chat_template": None}, "template", Level.ERROR),
        ({"tokenizer.chat_template": "{{ messages }}"}, "template", Level.ERROR),
        ({"tokenizer.chat_template": "{{ tools }}{% for m in messages %}{{ m.content }}"
          "{% endfor %}"}, "ends", Level.ERROR),
        ({"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.eot_token_id": None}, "ends",
         Level.ERROR),
        ({"tokenizer.ggml.eos_token_id": 9999}, "ends", Level.ERROR),
        ({"tokenizer.ggml.eos_token_id": 3}, "ends", Level.ERROR),
        ({"tokenizer.ggml.eot_token_id": None}, "ends", Level.NOTE),
        ({"tokenizer.ggml.pre": "default"}, "pre-tokenizer", Level.ERROR),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "pre-tokenizer", Level.ERROR),
        ({"tokenizer.ggml.pre": None}, "pre-tokenizer", Level.ERROR),
        ({"tokenizer.ggml.add_bos_token": True}, "pre-tokenizer", Level.ERROR),
    ],
)  # fmt: skip
def test_what_breaks_an_agent_is_found_in_the_head(
    tmp_path: Path, changes: dict[str, Any], check: str, level: Level
) -> None:
    _, out = made(tmp_path, Tiny(), "f16")
    other = rewritten(out, tmp_path / "other.gguf", changes)
    assert findings(other)[check][0][0] is level


@pytest.mark.parametrize(("kind", "level"), [(3, Level.ERROR), (1, Level.ERROR), (4, Level.OK)])
def test_the_types_of_the_tool_tags_are_checked(tmp_path: Path, kind: int, level: Level) -> None:
    _, out = made(tmp_path, Tiny(), "f16")
    kinds = kinds_with(out, "</tool_call>", kind)
    other = rewritten(out, tmp_path / "other.gguf", {"tokenizer.ggml.token_type": kinds})
    assert findings(other)["tags"][0][0] is level


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"qwen3.rope.freq_base": 10000.0}, {"facts", "logits"}),
        ({"qwen3.attention.layer_norm_rms_epsilon": 1e-5}, {"facts"}),
        ({"tokenizer.ggml.eos_token_id": 263}, {"facts"}),
        ({"tokenizer.ggml.add_eos_token": True}, {"facts"}),
    ],
)
def test_facts_that_are_not_the_sources_are_found(
    tmp_path: Path, changes: dict[str, Any], wanted: set[str]
) -> None:
    source, out = made(tmp_path, Tiny(), "f32")
    other = rewritten(out, tmp_path / "other.gguf", changes)
    assert errors(other, source) == wanted
    assert errors(other, out) == wanted


def test_a_vocabulary_in_another_order_is_found_by_its_tokens(tmp_path: Path) -> None:
    source, out = made(tmp_path, Tiny(), "f16")
    tokens = list(gguf_header.read(out).metadata["tokenizer.ggml.tokens"])
    a, b = tokens.index("e"), tokens.index("o")
    tokens[a], tokens[b] = tokens[b], tokens[a]
    other = rewritten(out, tmp_path / "other.gguf", {"tokenizer.ggml.tokens": tokens})
    assert errors(other, source) >= {"facts", "tokens"}


def test_an_equal_head_is_noted_and_another_source_is_refused(tmp_path: Path) -> None:
    _, out = made(tmp_path, Tiny(tied=False, lm_head="other"), "f16")
    embedding = next(t for t in gguf.GGUFReader(out).tensors if t.name == "token_embd.weight")
    raw = embedding.data.tobytes()
    patched(out, "output.weight", lambda values: values.__setitem__(slice(None), list(raw)))
    assert findings(out)["tie"][0][0] is Level.NOTE
    other, _ = made(tmp_path / "more", Tiny(n_layers=3), "f16")
    assert errors(out, other) >= {"tensors", "facts"}
    with pytest.raises(EdgeAgentError):
        list(lint.lint(out, tmp_path))


def test_the_reference_tokenizer_splits_as_qwen_does(tmp_path: Path) -> None:
    """By hand from Qwen's pattern: digits one by one, words with their blank, marks together."""
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    words = tokenizer.read(folder, 283)
    reference = bpe.Reference(words)

    def text_of(ids: list[int]) -> list[str]:
        return [words.tokens[i] for i in ids]

    assert text_of(reference.encode("the then in 12")) == [
        "the", "\u0120the", "n", "\u0120", "in", "\u0120", "1", "2",
    ]  # fmt: skip
    assert text_of(reference.encode("in<tool_call>an")) == ["in", "<tool_call>", "an"]
    assert reference.encode("") == []
    assert reference.encode("e\u0301") == reference.encode("\u00e9")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'll  go", ["I", "'ll", " ", " go"]),
        ("x.y", ["x", ".y"]),
        ("a\r\n\n b", ["a", "\r\n\n", " b"]),
        ("\u0661\u00bd", ["\u0661", "\u00bd"]),
        (" ?!\n", [" ?!\n"]),
        ("\u4f60\u597d", ["\u4f60\u597d"]),
        ("DON'T", ["DON", "'T"]),
    ],
)
def test_the_split_knows_unicodes_letters_and_numbers(text: str, words: list[str]) -> None:
    alphabet = list(bpe._alphabet().values())
    reference = bpe.Reference(Tokenizer(alphabet, [1] * 256, [], {}, {}, {}, ()))
    assert bpe._pattern().findall(text) == words
    assert len(reference.encode(text)) == len(text.encode())


def verb(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeagent", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_verb_says_it_in_text_and_in_json(tmp_path: Path) -> None:
    source, out = made(tmp_path, WIDE, "q8_0")
    ran = verb(out, "--source", source)
    assert ran.returncode == 0, ran.stderr
    assert "Q8_0" in ran.stdout
    assert "ok     logits" in ran.stdout
    logits = json.loads(verb(out, "--json", "--source", source).stdout)["lint"]["logits"]
    assert Logits(**logits).n_tokens == 48
    record = json.loads(verb(out, "--lint", "--json").stdout)
    assert record["lint"]["ok"]
    assert record["lint"]["logits"] is None
    assert {row["rel_rmse"] for row in record["lint"]["tensors"]} == {None}
    patched(out, DOWN, as_type(np.float16, put(0, np.inf)))
    ran = verb(out, "--json", "--source", source)
    assert ran.returncode == 1
    record = json.loads(ran.stdout)
    assert not record["lint"]["ok"]
    assert "values" in {
        row["check"] for row in record["lint"]["findings"] if row["level"] == "error"
    }
    assert "lint" not in json.loads(verb(out, "--json").stdout)
    assert verb(out, "--source", tmp_path / "nowhere").returncode == 2
    ran = verb(out, "--source", tmp_path)
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)


def test_a_source_with_a_smaller_vocabulary_is_a_finding(tmp_path: Path) -> None:
    """Tokens of the build that the source has no row for are not looked up."""
    source, _ = made(tmp_path, Tiny(n_unused=0), "f16")
    _, smaller = made(tmp_path / "s", Tiny(n_unused=0), "f16")
    other = tiny_checkpoint.write(tmp_path / "other", Tiny(n_unused=40))
    list(convert(other, tmp_path / "large.gguf", wish("f16")))
    for held_to in (source, smaller):
        found = findings(tmp_path / "large.gguf", held_to)
        assert found["shapes"][0][0] is Level.ERROR
        assert found["logits"][0][0] is Level.NOTE


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1))
def test_no_bytes_can_do_more_than_be_refused(
    tmp_path: Path, sound: bytes, edits: list[tuple[int, int]]
) -> None:
    raw = bytearray(sound)
    for at, value in edits:
        raw[at % len(raw)] = value
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    try:
        steps = list(lint.lint(path))
    except EdgeAgentError:
        return
    assert all("\n" not in line for line in lint.lines(steps))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    _, out = made(tmp_path_factory.mktemp("sound"), Tiny(n_layers=1), "q8_0")
    return out.read_bytes()


def test_a_model_with_biases_is_run_for_comparison_too(tmp_path: Path) -> None:
    tiny = Tiny(family="qwen2", n_embd=256, n_head=4, n_head_kv=1, n_ff=512, dtype="F32")
    source, out = made(tmp_path, tiny, "f32")
    found = [step for step in lint.lint(out, source) if isinstance(step, Logits)]
    assert found[0].rel_rms < 1e-4
    assert errors(out, source) == set()


def test_a_number_that_json_has_no_word_for_is_written_as_text(tmp_path: Path) -> None:
    _, out = made(tmp_path, Tiny(), "f16")
    other = rewritten(out, tmp_path / "other.gguf", {"qwen3.rope.freq_base": float("nan")})
    ran = verb(other, "--json", "--lint")
    record = json.loads(ran.stdout, parse_constant=lambda name: pytest.fail(name))
    assert record["metadata"]["qwen3.rope.freq_base"] == "nan"


def test_a_build_of_two_bits_is_not_called_damaged_for_its_bits(tmp_path: Path) -> None:
    source = tiny_checkpoint.write(tmp_path / "tiny", WIDE)
    names = [
        tensor.name for tensor in gguf_header.read(made(tmp_path / "m", WIDE, "f16")[1]).tensors
    ]
    rng = np.random.default_rng(2)
    sums = {
        name: Sums(rng.uniform(1, 2, (1, 256)).astype(np.float32), np.ones(1, np.float32))
        for name in names
    }
    importance.write(Importance(sums, (), 1, 1), tmp_path / "m.imatrix")
    options = {"imatrix": tmp_path / "m.imatrix", "head_type": "q2_k"}
    list(convert(source, tmp_path / "small.gguf", wish("iq2_xxs", **options)))
    assert "logits" not in errors(tmp_path / "small.gguf", source)
