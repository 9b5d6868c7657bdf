"""What cannot be converted or read is refused in one sentence that names the file or tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert import inspect
from convert.hf_to_gguf import Type, convert, main
from edgeagent import gguf_header
from edgeagent.errors import ConversionError, EdgeAgentError, ModelLoadError
from tests import tiny_checkpoint
from tests.tiny_checkpoint import Tiny

Damage = Callable[[Path], None]


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Damage a JSON file of the checkpoint."""

    def damage(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        change(found)
        (folder / name).write_text(json.dumps(found))

    return damage


def retensored(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Damage the header of model.safetensors, its data left as it is."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        length = struct.unpack_from("<Q", raw)[0]
        header = json.loads(raw[8 : 8 + length])
        change(header)
        encoded = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :])

    return damage


def cut(name: str, n_bytes: int) -> Damage:
    """Cut a file of the checkpoint short."""

    def damage(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[:n_bytes])

    return damage


def gone(name: str, instead: str = "") -> Damage:
    """Remove a file of the checkpoint, and perhaps leave another."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        if instead:
            (folder / instead).write_text("{}")

    return damage


def moved(tensor: str, shard: str) -> Damage:
    """Let the index place a tensor in another shard."""
    index = "model.safetensors.index.json"
    return edited(index, lambda found: found["weight_map"].update({tensor: shard}))


SHARD = "model-00002-of-00003.safetensors"
NORM = "model.norm.weight"
REFUSED: list[tuple[str, Tiny, Damage, str]] = [
    ("no config", Tiny(), gone("config.json"), "config.json"),
    ("config is no JSON", Tiny(), cut("config.json", 20), "is not JSON"),
    ("no weights", Tiny(), gone("model.safetensors"), "has no model.safetensors"),
    ("pickles", Tiny(), gone("model.safetensors", "pytorch_model.bin"), "pickles"),
    ("adapter", Tiny(), gone("model.safetensors", "adapter_config.json"), "LoRA adapter"),
    ("cut header", Tiny(), cut("model.safetensors", 100), "is cut short"),
    ("cut data", Tiny(), cut("model.safetensors", 100_000), "is cut short"),
    ("empty weights", Tiny(), cut("model.safetensors", 0), "is cut short"),
    ("missing shard", Tiny(n_shards=3), gone(SHARD), f"{SHARD} is missing"),
    ("cut shard", Tiny(n_shards=3), cut(SHARD, 30_000), f"{SHARD} is cut short"),
    ("index lies", Tiny(n_shards=3), moved(NORM, SHARD), f"places {NORM} in"),
    ("index invents", Tiny(n_shards=3), moved("model.x", SHARD), "does not have it"),
    ("index escapes", Tiny(n_shards=3), moved(NORM, "../../x.safetensors"), "no file beside it"),
    (
        "index forgets",
        Tiny(n_shards=3),
        edited("model.safetensors.index.json", lambda i: i["weight_map"].pop(NORM)),
        f"places {NORM} in None",
    ),
    (
        "bitsandbytes",
        Tiny(config={"quantization_config": {"quant_method": "bitsandbytes"}}),
        lambda folder: None,
        "already quantized (bitsandbytes)",
    ),
    (
        "GPTQ",
        Tiny(config={"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        lambda folder: None,
        "already quantized (gptq)",
    ),
    (
        "unknown architecture",
        Tiny(config={"architectures": ["GemmaForCausalLM"]}),
        lambda folder: None,
        "GemmaForCausalLM",
    ),
    ("no architecture", Tiny(config={"architectures": None}), lambda folder: None, "known: Qwen2"),
    ("no rope", Tiny(config={"rope_theta": None}), lambda folder: None, "rope_theta"),
    ("text for number", Tiny(config={"hidden_size": "64"}), lambda folder: None, "hidden_size"),
    (
        "rope of another kind",
        Tiny(config={"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}),
        lambda folder: None,
        "llama3",
    ),
    (
        "more layers than tensors",
        Tiny(config={"num_hidden_layers": 3}),
        lambda folder: None,
        "lacks the tensor model.layers.2.",
    ),
    (
        "fewer layers than tensors",
        Tiny(config={"num_hidden_layers": 1}),
        lambda folder: None,
        "model.layers.1.",
    ),
    (
        "another width",
        Tiny(config={"intermediate_size": 128}),
        lambda folder: None,
        "asks for [",
    ),
    (
        "untied without a head",
        Tiny(config={"tie_word_embeddings": False}),
        lambda folder: None,
        "lm_head",
    ),
    (
        "smaller vocabulary",
        Tiny(config={"vocab_size": 100}),
        lambda folder: None,
        "asks for [100",
    ),
    (
        "integers",
        Tiny(),
        retensored(lambda h: h[NORM].update(dtype="I64")),
        "I64",
    ),
    ("no dtype", Tiny(), retensored(lambda h: h[NORM].pop("dtype")), "without dtype"),
    ("no entry", Tiny(), retensored(lambda h: h.update({NORM: 3})), "without dtype"),
    ("backwards", Tiny(), retensored(lambda h: h[NORM].update(data_offsets=[8, 0])), "8..0"),
    ("negative", Tiny(), retensored(lambda h: h[NORM].update(shape=[-64])), "(-64,)"),
    ("renamed", Tiny(), retensored(lambda h: h.update(other=h.pop(NORM))), "tensor other"),
    ("no tokenizer", Tiny(), gone("tokenizer.json"), "tokenizer.json"),
    ("no tokenizer config", Tiny(), gone("tokenizer_config.json"), "tokenizer_config.json"),
    (
        "another split",
        Tiny(),
        edited(
            "tokenizer.json",
            lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+"),
        ),
        "not Qwen's tokenizer",
    ),
    (
        "sentencepiece",
        Tiny(),
        edited("tokenizer.json", lambda t: t["model"].update(type="Unigram")),
        "its model is not BPE",
    ),
    (
        "lower case",
        Tiny(),
        edited("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"})),
        "normalizes",
    ),
    (
        "merges of three",
        Tiny(merges="strings"),
        edited("tokenizer.json", lambda t: t["model"]["merges"].append("a b c")),
        "is not a merge of two",
    ),
    (
        "no merges",
        Tiny(),
        edited("tokenizer.json", lambda t: t["model"].pop("merges")),
        "has no merges",
    ),
    (
        "grown vocabulary",
        Tiny(n_unused=0),
        edited(
            "tokenizer.json",
            lambda t: t["added_tokens"].append({"id": 9999, "content": "<new>", "special": False}),
        ),
        "'<new>' has the id 9999",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tiny", "damage", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_checkpoint_that_cannot_be_converted_is_refused_by_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tiny: Tiny,
    damage: Damage,
    says: str,
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", tiny)
    damage(folder)
    target = tmp_path / "out"
    target.mkdir()
    assert main([str(folder), str(target / "m.gguf")]) == ConversionError.exit_code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "says"), [("missing/m.gguf", "folder that exists"), (".", "folder that exists")]
)
def test_a_place_that_cannot_be_written_is_refused_first(
    tmp_path: Path, out: str, says: str
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    with pytest.raises(ConversionError, match=says):
        list(convert(folder, tmp_path / out, Type.F16))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF file that is whole."""
    folder = tmp_path_factory.mktemp("sound")
    checkpoint = tiny_checkpoint.write(folder / "tiny", Tiny(n_layers=1, n_unused=0))
    list(convert(checkpoint, folder / "m.gguf", Type.Q8_0))
    return (folder / "m.gguf").read_bytes()


def with_count(raw: bytes, at: int, count: int) -> bytes:
    """Return the file with another 64-bit count at that byte."""
    return raw[:at] + struct.pack("<Q", count) + raw[at + 8 :]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: b"", "is empty"),
        (lambda raw: b"GG", "ends inside its head"),
        (lambda raw: b"ZIP!" + raw[4:], "is not a GGUF file"),
        (lambda raw: raw[:4] + struct.pack("<I", 77) + raw[8:], "version 77"),
        (lambda raw: with_count(raw, 8, 1 << 60), "tensors do not fit"),
        (lambda raw: with_count(raw, 16, 1 << 60), "values do not fit"),
        (lambda raw: with_count(raw, 24, 1 << 63), "ends inside its head"),
        (lambda raw: raw[:1000], "tokens do not fit"),
        (lambda raw: raw[:-100], "and the file has"),
    ],
    ids=["empty", "two bytes", "magic", "version", "tensors", "values", "key", "head", "tail"],
)
def test_a_damaged_file_is_refused_without_a_large_allocation(
    tmp_path: Path, sound: bytes, damage: Callable[[bytes], bytes], says: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(damage(sound))
    with pytest.raises(ModelLoadError, match=says):
        inspect.inspect(path)


def test_every_cut_of_the_file_is_noticed(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "m.gguf"
    for length in [*range(400), *range(400, len(sound), 997), len(sound) - 33]:
        path.write_bytes(sound[:length])
        with pytest.raises(ModelLoadError):
            gguf_header.read(path)


@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_no_bytes_in_the_head_can_do_more_than_be_refused(
    tmp_path: Path, sound: bytes, edits: list[tuple[int, int]]
) -> None:
    raw = bytearray(sound)
    for at, value in edits:
        raw[at % len(raw)] = value
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    try:
        found = inspect.inspect(path)
    except EdgeAgentError:
        return
    json.dumps(found.metadata)
    inspect.lines(found)


def test_inspect_says_what_an_agent_needs_to_know(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(sound)
    found = inspect.inspect(path)
    assert found.template == "renders tools"
    assert set(found.tags.values()) == {"USER_DEFINED"}
    assert found.special["eos"].endswith("<|im_end|>")
    assert found.special["eos"] == found.special["eot"]
    assert found.types == {"Q8_0": 8, "F32": 5}
    assert found.is_tied
    assert found.size_bytes == len(sound)


@pytest.mark.parametrize(
    ("template", "verdict"),
    [
        (tiny_checkpoint.TEMPLATE, "renders tools"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ignores tools"),
        ("", "missing"),
        ("{% if %}", "fails:"),
        ("{{ raise_exception('no tools here') }}", "fails: no tools here"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "fails:"),
        ("{{ 1 // 0 }}", "fails:"),
    ],
)
def test_a_template_is_judged_by_what_it_renders(template: str, verdict: str) -> None:
    assert inspect.template_verdict(template).startswith(verdict)
