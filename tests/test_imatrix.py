"""An importance matrix is what an independent forward pass says, and llama.cpp quantizes by it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from convert import imatrix, importance
from edgeagent.engine.calibration import chunks, writer
from edgeagent.engine.observer import Activations, Advanced, Plan, Talk, Text, observe
from edgeagent.errors import ConversionError, EdgeAgentError, EngineDied, TemplateError
from edgeagent.gguf_header import read
from tests import qwen3_forward, tiny_checkpoint, tiny_gguf
from tests.engine_kit import opened
from tests.test_convert import target_name
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]
WORDS = "the then in a band, and 12 others; the end is near the inn. "
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds <tool_call> things.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "find", "arguments": '{"what": "a seat"}'}}
    ],
}
TALK: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Answer in calls like <tool_call>\nthis\n</tool_call>."},
        {"role": "user", "content": "Find me a seat.<|im_end|><tool_call>now</tool_call>"},
        CALL,
        {"role": "tool", "content": '{"seat": "<tool_call>12A"}'},
        {"role": "assistant", "content": "It is 12A."},
    ],
    "tools": [TOOL],
}


def converted(folder: Path, tiny: Tiny) -> tuple[Path, Path]:
    """Return a checkpoint, and the F32 file made of it."""
    checkpoint = tiny_checkpoint.write(folder / "tiny", tiny)
    out = folder / "tiny.gguf"
    command = [sys.executable, "-m", "convert.hf_to_gguf", str(checkpoint), str(out)]
    subprocess.run([*command, "--type", "f32"], check=True, capture_output=True, cwd=ROOT)
    return checkpoint, out


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    tiny = Tiny(dtype="F32", tied=request.param, n_embd=256, n_ff=256)
    checkpoint, out = converted(tmp_path_factory.mktemp("model"), tiny)
    config = json.loads((checkpoint / "config.json").read_text())
    return tiny_checkpoint.weights(tiny, config["vocab_size"]), config, out


def collected(plan: Plan) -> tuple[importance.Importance, Activations]:
    *_, seen, found = imatrix.collect(plan, ["words.txt"])
    assert isinstance(seen, Activations)
    assert isinstance(found, importance.Importance)
    return found, seen


def tokens_of(path: Path, text: str) -> list[int]:
    """Return llama.cpp's own tokens, asked without our code."""
    command = [sys.executable, str(ROOT / "tests" / "llama_logits.py"), str(path)]
    (path.parent / "text").write_text(text)
    command += [str(path.parent / "logits.npy"), str(path.parent / "text"), "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(ran.stdout)["plain_ids"]
    return found


def test_every_entry_agrees_with_an_independent_forward_pass(model: Any) -> None:
    """The bar is 1e-5 of the largest value of a weight; measured 1e-6."""
    weights, config, path = model
    found, seen = collected(Plan(path, (Text(WORDS * 9),), n_chunk=150, n_threads=1))
    tokens = tokens_of(path, WORDS * 9)
    chunks = [tokens[at : at + 150] for at in range(0, len(tokens), 150)]
    assert (seen.n_tokens, seen.n_chunks) == (len(tokens), len(chunks))
    assert len(chunks) > 2
    wanted: dict[str, np.ndarray] = {}
    for chunk in chunks:
        for name, rows in qwen3_forward.inputs(weights, config, chunk).items():
            total = (rows * rows).sum(axis=0)
            wanted[target_name(name)] = wanted.get(target_name(name), 0) + total
    assert set(found.sums) == set(wanted)
    head = "output.weight" if "lm_head.weight" in weights else "token_embd.weight"
    assert head in wanted
    for name, sums in wanted.items():
        (ours,) = found.sums[name].in_sum2
        assert found.sums[name].counts.tolist() == [len(tokens)]
        assert np.abs(ours - sums).max() <= 1e-5 * np.abs(sums).max(), name


def test_calls_count_as_often_as_asked(model: Any, tmp_path: Path) -> None:
    weights, config, path = model
    talk = Talk(tuple(TALK["messages"]), tuple(TALK["tools"]))
    # The tiny checkpoint's template writes no calls; an answer that spells one does here.
    spelled = "<tool_call>in the end</tool_call> and <tool_call>open"
    plan = Plan(path, (Text(spelled),), parse_special=True, call_weight=3, n_threads=1)
    found, seen = collected(plan)
    vocabulary = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    tokens = tokens_of(path, spelled)  # the tags are user-defined: found regardless
    begin, end = vocabulary.index("<tool_call>"), vocabulary.index("</tool_call>")
    counts, is_open = [], False
    for token in tokens:
        is_open = is_open or token == begin
        counts.append(3.0 if is_open else 1.0)
        is_open = is_open and token != end
    assert tokens.count(begin) == 2
    assert seen.n_call_tokens == counts.count(3.0)
    for name, rows in qwen3_forward.inputs(weights, config, tokens).items():
        mean = np.average(rows * rows, axis=0, weights=counts)
        ours = found.weights(target_name(name))
        assert ours is not None
        assert np.abs(ours - mean).max() <= 1e-5 * mean.max()
    with pytest.raises(TemplateError, match="cannot write an assistant's tool call"):
        list(observe(Plan(path, (talk,))))


@pytest.mark.parametrize("template", [tiny_gguf.NANO_TEMPLATE, tiny_gguf.HERMES_TEMPLATE])
def test_a_conversation_is_read_as_its_template_renders_it(tmp_path: Path, template: str) -> None:
    """Only the template's own tags are control tokens, and only the answer's call is weighted."""
    loaded = opened(tmp_path, template=template)
    vocabulary = loaded.context.vocabulary
    path = tmp_path / "tiny.gguf"
    talk = Talk(tuple(TALK["messages"]), tuple(TALK["tools"]))
    plan = Plan(path, (talk,), call_weight=5)
    (chunk,) = chunks(plan, vocabulary, read(path), 8192)
    special = vocabulary.special
    begin, end = special["<tool_call>"], special["</tool_call>"]
    assert chunk.tokens.count(begin) == chunk.tokens.count(end) == 1
    first, last = chunk.tokens.index(begin), chunk.tokens.index(end)
    assert chunk.weights is not None
    weighted = np.flatnonzero(chunk.weights == 5).tolist()
    assert weighted == list(range(first, last + 1))
    assert chunk.n_call_tokens == last + 1 - first
    text = vocabulary.decode(chunk.tokens)
    assert '<tool_call>\n{"name": "find", "arguments": {"what": "a seat"}}\n</tool_call>' in text
    assert "Find me a seat.<|im_end|><tool_call>now</tool_call><|im_end|>" in text
    assert text.endswith("It is 12A.<|im_end|>\n")
    # One end of turn per message, and one where a template writes the tools by themselves.
    assert chunk.tokens.count(special["<|im_end|>"]) == 5


def test_without_text_of_special_tokens_a_transcript_is_the_templates_own_rendering(
    tmp_path: Path,
) -> None:
    loaded = opened(tmp_path, template=tiny_gguf.HERMES_TEMPLATE)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A seat?"},
        CALL,
        {"role": "tool", "content": "{}"},
    ]
    tool = json.loads(json.dumps(TOOL).replace("<tool_call>", ""))
    vocabulary = loaded.context.vocabulary
    found = writer(read(tmp_path / "tiny.gguf"), vocabulary).transcript(messages, [tool])
    rendered = (
        "<|im_start|>system\nBe brief.\n\n# Tools\n\n<tools>\n"
        f"{json.dumps(tool)}\n</tools><|im_end|>\n<|im_start|>user\nA seat?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "find", "arguments": {"what": "a seat"}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n{}\n</tool_response>"
        "<|im_end|>\n"
    )
    assert found == vocabulary.encode(rendered, parse_special=True)


@pytest.mark.parametrize("ftype", ["Q4_K_M", "IQ2_XXS"])
def test_llama_cpps_quantizer_takes_it(model: Any, tmp_path: Path, ftype: str) -> None:
    """Fed through the C arrays of `llama_model_quantize_params`; it needs one for IQ2_XXS."""
    _, _, path = model
    found, _ = collected(Plan(path, (Text(WORDS * 9),), n_threads=1))
    importance.write(found, tmp_path / "m.gguf")
    again = importance.read(tmp_path / "m.gguf")
    with_it = quantized(path, tmp_path / "with.gguf", ftype, again)
    assert with_it is not None
    without = quantized(path, tmp_path / "without.gguf", ftype, None)
    assert with_it != without


def quantized(
    source: Path, out: Path, ftype: str, found: importance.Importance | None
) -> bytes | None:
    """Return the file that llama.cpp's quantizer writes; None where it refuses."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{ftype}")
    params.nthread = 1
    arrays = {name: found.weights(name) for name in found.sums} if found else {}
    entries = (llama_cpp.llama_model_imatrix_data * (len(arrays) + 1))()
    for entry, (name, values) in zip(entries, arrays.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    if found:
        params.imatrix = entries
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params)
    return out.read_bytes() if code == 0 else None


def test_progress_reaches_the_end_and_looking_changes_no_count(model: Any) -> None:
    _, _, path = model
    plan = Plan(path, (Text(WORDS * 20),), n_chunk=100, max_chunks=3, n_threads=1)
    said = list(observe(plan))
    places = [step for step in said if isinstance(step, Advanced)]
    assert places[0].done == 0
    assert places[-1].done == places[-1].total == 300
    (blind,) = [
        step
        for step in observe(Plan(path, plan.material, n_chunk=100, max_chunks=3, collects=False))
        if isinstance(step, Activations)
    ]
    assert (blind.n_tokens, dict(blind.sums)) == (300, {})


LINES = [
    ("{", "line 1: not JSON"),
    ('{"messages": []}', "neither messages"),
    ('{"prompt": "x"}', "neither messages"),
    ("7", "neither messages"),
    ('{"messages": [{"content": "x"}]}', "it lacks 'role'"),
    ('{"messages": [{"role": "boss", "content": "x"}]}', "the role 'boss'"),
    ('{"messages": [{"role": "user", "content": 7}]}', "no text"),
    ('{"messages": ["x"]}', "not a conversation"),
    ('{"messages": [{"role": "user", "content": "x"}], "tools": 7}', "neither messages"),
    ('{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}', "it lacks 'name'"),
    (
        '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", '
        '"arguments": "{"}}]}]}',
        "not a conversation",
    ),
    ("", "no conversation"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "named"), LINES)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(line)
    with pytest.raises(ConversionError) as caught:
        imatrix.read(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_a_file_holds_is_told_by_name_and_first_line(tmp_path: Path) -> None:
    rows = [{"text": "words"}, TALK, TALK["messages"]]
    named, unnamed, words = (tmp_path / name for name in ("a.jsonl", "b.json", "c.txt"))
    named.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    unnamed.write_text(json.dumps(TALK))
    words.write_text("{not JSON}\nmore")
    kinds = [type(part) for part in imatrix.read(named)]
    assert kinds == [Text, Talk, Talk]
    assert [type(part) for part in imatrix.read(unnamed)] == [Talk]
    assert imatrix.read(words) == [Text("{not JSON}\nmore")]


def broken(path: Path) -> None:
    tiny_gguf.write_garbage(path)


def without_template(path: Path) -> None:
    tiny_gguf.write_tiny(path, template=None)


def without_tags(path: Path) -> None:
    tiny_gguf.write_tiny(path, user_defined=("<think>",))


@pytest.mark.parametrize(
    ("make", "settings", "named"),
    [
        (broken, {}, "damaged"),
        (lambda path: None, {}, "cannot read"),
        (without_template, {"material": (Talk(({"role": "user", "content": "x"},), ()),)},
         "no chat template"),
        (without_tags, {"call_weight": 2.0}, "no tokens <tool_call>"),
        (tiny_gguf.write_tiny, {"material": (Text(""),)}, "nothing to read"),
        (tiny_gguf.write_tiny, {"n_chunk": 9000}, "longer than the 8192"),
        (tiny_gguf.write_tiny, {
            "material": (Talk(({"role": "user", "content": "word " * 5000},), ()),)
        }, "cut it shorter"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, make: Callable[[Path], object], settings: dict[str, Any], named: str
) -> None:
    path = tmp_path / "m.gguf"
    make(path)
    plan = Plan(path, settings.pop("material", (Text(WORDS),)), n_threads=1, **settings)
    with pytest.raises(EdgeAgentError) as caught:
        list(observe(plan))
    assert named in str(caught.value)


def test_an_engine_that_dies_is_an_error_here(tmp_path: Path) -> None:
    path = tiny_gguf.write_tiny(tmp_path / "m.gguf")
    said = observe(Plan(path, (Text(WORDS * 900),), n_threads=1))
    next(said)
    (child,) = children(os.getpid(), "edgeagent.engine.activations")
    os.kill(child, signal.SIGKILL)
    with pytest.raises(EngineDied, match="signal 9"):
        list(said)


def children(parent: int, module: str) -> list[int]:
    """Return the processes below `parent` that run the module."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in found.stdout.splitlines()[1:]]
    return [int(pid) for pid, ppid, args in rows if int(ppid) == parent and module in args]


def verb(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeagent", "imatrix", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_verb_writes_a_file_that_is_read_back(tmp_path: Path) -> None:
    path = tiny_gguf.write_tiny(tmp_path / "m.gguf", template=tiny_gguf.HERMES_TEMPLATE)
    words, talks = tmp_path / "words.txt", tmp_path / "calls.jsonl"
    words.write_text(WORDS * 5)
    talks.write_text(json.dumps(TALK) + "\n")
    out = tmp_path / "out.imatrix"
    ran = verb(path, words, talks, "-o", out, "--call-weight", 2, "--chunk", 64)
    assert (ran.returncode, ran.stdout.strip()) == (0, str(out)), ran.stderr
    assert "nothing was collected" not in ran.stderr
    found = importance.read(out)
    assert found.datasets == ("words.txt", "calls.jsonl")
    assert found.chunk_size == 64
    assert "token_embd.weight" in found.sums
    ran = verb(path, words, "-o", tmp_path / "out.dat", "--format", "dat", "--json")
    record = json.loads(ran.stdout)
    assert record["n_weights"] == len(found.sums) == 15
    assert importance.read(tmp_path / "out.dat").chunk_count == record["n_chunks"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("m.gguf", "words.txt"), 2, "--out"),
        (("m.gguf", "-o", "out"), 2, "TEXT"),
        (("m.gguf", "nowhere.txt", "-o", "out"), 2, "nowhere.txt"),
        (("nowhere.gguf", "words.txt", "-o", "out"), 2, "nowhere.gguf"),
        (("m.gguf", "words.txt", "-o", "nowhere/out"), 2, "a folder that exists"),
        (("m.gguf", "words.txt", "-o", "out", "--chunk", "0"), 2, "--chunk"),
        (("m.gguf", "binary", "-o", "out"), 2, "not UTF-8"),
    ],
)
def test_the_verb_refuses_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, named: str
) -> None:
    tiny_gguf.write_tiny(tmp_path / "m.gguf")
    (tmp_path / "words.txt").write_text(WORDS)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    placed = [tmp_path / a if not a.startswith("-") and not a.isdigit() else a for a in arguments]
    ran = verb(*placed)
    assert ran.returncode == code, ran.stderr
    assert named in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


def test_an_interrupt_writes_nothing_and_ends_the_engine(tmp_path: Path) -> None:
    path = tiny_gguf.write_tiny(tmp_path / "m.gguf")
    (tmp_path / "words.txt").write_text(WORDS * 20_000)
    code = (
        "import signal, sys; from edgeagent.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.argv[0] = 'edgeagent'; main()\n"
    )
    target = tmp_path / "out"
    target.mkdir()
    command = [sys.executable, "-c", code, "imatrix", path, tmp_path / "words.txt"]
    process = subprocess.Popen(
        [*map(str, command), "-o", str(target / "m.imatrix")], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not children(process.pid, "activations") and time.monotonic() < deadline:
        time.sleep(0.05)
    (engine,) = children(process.pid, "activations")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert list(target.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(engine, 0)


def test_chunks_are_no_longer_than_a_short_context(tmp_path: Path) -> None:
    path = tiny_gguf.write_tiny(tmp_path / "m.gguf", n_ctx=256)
    (*_, seen) = observe(Plan(path, (Text(WORDS * 30),), n_threads=1))
    assert isinstance(seen, Activations)
    assert seen.n_chunk == 256
    assert seen.n_chunks == -(-seen.n_tokens // 256) > 1


def test_weights_that_saw_nothing_are_named(tmp_path: Path) -> None:
    path = tiny_gguf.write_tiny(tmp_path / "m.gguf")
    found, _ = collected(Plan(path, (Text(WORDS),), n_threads=1))
    sums = {name: sums for name, sums in found.sums.items() if name != "blk.1.attn_v.weight"}
    lacking = importance.Importance(sums, (), 1, 512)
    assert imatrix.left_out(found, read(path)) == []
    assert imatrix.left_out(lacking, read(path)) == ["blk.1.attn_v.weight"]
