"""How much memory a model takes: the arithmetic against llama.cpp's own words, and refusals."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeagent import gguf_header
from edgeagent.engine import memory
from edgeagent.engine.context import N_BATCH
from edgeagent.errors import ModelLoadError
from edgeagent.gguf_header import Header, Tensor, TensorType
from tests.engine_kit import engine
from tests.tiny_gguf import write_tiny

Q4 = frozenset({TensorType.Q4_0, TensorType.Q4_K})
"""What a laptop's processor puts into another layout; a small board's takes the head's Q6_K too."""
BOARD = Q4 | {TensorType.Q6_K}
N_VOCAB = 151_936


def qwen(head: TensorType = TensorType.Q6_K, inner: TensorType = TensorType.Q4_0) -> Header:
    """Return the head of a build of Qwen3-1.7B, whose embedding is its head."""
    n_embd, n_ff = 2048, 6144
    shapes = {
        "attn_q": (2048, n_embd), "attn_k": (1024, n_embd), "attn_v": (1024, n_embd),
        "attn_output": (n_embd, 2048), "ffn_gate": (n_ff, n_embd), "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }  # fmt: skip
    tensors = [
        Tensor("token_embd.weight", head, (N_VOCAB, n_embd), 0, head.n_bytes(N_VOCAB * n_embd))
    ]
    tensors += [
        Tensor(f"blk.{layer}.{name}.weight", inner, shape, 0, inner.n_bytes(shape[0] * shape[1]))
        for layer in range(28)
        for name, shape in shapes.items()
    ]
    metadata: dict[str, gguf_header.Value] = {
        "general.architecture": "qwen3", "qwen3.block_count": 28, "qwen3.embedding_length": n_embd,
        "qwen3.feed_forward_length": n_ff, "qwen3.attention.head_count": 16,
        "qwen3.attention.head_count_kv": 8, "qwen3.attention.key_length": 128,
        "qwen3.attention.value_length": 128, "tokenizer.ggml.tokens": ["a"] * N_VOCAB,
    }  # fmt: skip
    return Header(3, metadata, {}, tuple(tensors), sum(tensor.n_bytes for tensor in tensors))


def held(free: int | None, n_ctx: int = 8192, header: Header | None = None) -> memory.Holding:
    return memory.choose(header or qwen(), "q.gguf", n_ctx, N_BATCH, 16, Q4, free)


def test_the_arithmetic_of_a_known_model() -> None:
    """Keys and values, weights and work as llama.cpp 0c1e57098 prints them for such a file."""
    need = memory.needed(qwen(), 8192, 128, 1, "f16", Q4, is_mapped=False)
    assert need.kv == 896 << 20
    assert need.weights == pytest.approx((243.90 + 756.00) * 2**20, rel=0.001)
    assert need.work == pytest.approx((74.00 + 0.58) * 2**20, rel=0.02)
    narrow = memory.needed(qwen(), 8192, 128, 1, "q8_0", Q4, is_mapped=False)
    assert narrow.kv == (896 << 20) * (34 / 32 + 2) / 4


def test_eight_thousand_tokens_of_a_1_7b_fit_into_two_gigabytes() -> None:
    python = 62_000_000
    way = held(2_000_000_000 - python)
    assert way.k_type == "q8_0"
    assert not way.is_mapped
    assert way.need.total <= 2_000_000_000 - python


def test_with_room_nothing_is_narrowed() -> None:
    for free in (None, 16 << 30):
        way = held(free)
        assert (way.k_type, way.n_ubatch) == ("f16", N_BATCH)
    # First less is computed at once, then the keys are narrowed.
    full = held(None).need.total
    assert (held(full).k_type, held(full).n_ubatch) == ("f16", N_BATCH)
    assert (held(full - 1).k_type, held(full - 1).n_ubatch) == ("f16", memory.SMALL_UBATCH)


def test_no_weight_is_in_memory_in_two_layouts() -> None:
    assert not held(None).is_mapped
    assert held(None, header=qwen(inner=TensorType.Q8_0)).is_mapped, "nothing is copied"
    mapped = memory.needed(qwen(), 256, 1, 1, "f16", Q4, is_mapped=True)
    read = memory.needed(qwen(), 256, 1, 1, "f16", Q4, is_mapped=False)
    assert mapped.weights - read.weights == pytest.approx(756 << 20, rel=0.001)
    # A board's processor copies the head, which as the embedding is needed in its first form too.
    board = memory.needed(qwen(), 256, 1, 1, "f16", BOARD, is_mapped=False)
    assert board.weights - read.weights == TensorType.Q6_K.n_bytes(N_VOCAB * 2048)


def test_a_board_that_holds_its_head_twice_gives_that_up_last() -> None:
    def on_board(free: int) -> memory.Holding:
        return memory.choose(qwen(), "q.gguf", 8192, N_BATCH, 16, BOARD, free)

    assert on_board(2_200_000_000).repacks
    last = on_board(1_940_000_000)
    assert (last.repacks, last.is_mapped, last.k_type) == (False, True, "q8_0")
    with pytest.raises(ModelLoadError):
        on_board(1_900_000_000)


FITS = re.compile(
    r"q\.gguf with a context of 8192 tokens needs about (\d+) MB of memory \(weights 1048, keys "
    r"and values 719, work (\d+), vocabulary (\d+), other 8\) and (\d+) MB are free; (.*)"
)


@pytest.mark.parametrize("free_mb", [1900, 1700, 1500])
def test_a_refusal_shows_the_sum_and_what_would_fit(free_mb: int) -> None:
    with pytest.raises(ModelLoadError) as caught:
        held(free_mb * 1_000_000)
    found = FITS.fullmatch(str(caught.value))
    assert found is not None, str(caught.value)
    need, work, vocabulary, free = map(int, found.groups()[:4])
    assert abs(need - (1048 + 719 + work + vocabulary + 8)) <= 3
    assert free == free_mb
    shorter = re.search(r"lower model\.n_ctx to (\d+)", found[5])
    assert shorter is not None
    held(free_mb * 1_000_000, int(shorter[1]))  # is taken at its word
    with pytest.raises(ModelLoadError):
        held(free_mb * 1_000_000, int(shorter[1]) + 512)
    smaller = re.search(r"take a build of at most (\d+) MB", found[5])
    assert smaller is not None
    assert int(smaller[1]) == pytest.approx(1048 - (need - free_mb), abs=2)


def test_a_refusal_that_no_context_would_help() -> None:
    with pytest.raises(ModelLoadError) as caught:
        held(1_000_000_000)
    assert "model.n_ctx" not in str(caught.value)
    assert "take a build of at most" in str(caught.value)
    with pytest.raises(ModelLoadError) as caught:
        held(100_000_000)
    assert str(caught.value).endswith("close other programs, or take a smaller model")


def test_llama_cpp_allocates_what_was_foreseen(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", n_ctx=65536)
    with engine(path, n_ctx=65536) as made:
        made.start()
    said = path.with_suffix(".log").read_text()
    mib = {
        name: sum(float(size) for size in re.findall(rf"{name} buffer size =\s*([\d.]+) MiB", said))
        for name in ("model", "KV", "compute", "output")
    }
    need = memory.needed(gguf_header.read(path), 65536, N_BATCH)
    assert need.kv == pytest.approx(mib["KV"] * 2**20, rel=0.01)
    assert need.weights == pytest.approx(mib["model"] * 2**20, rel=0.02, abs=1 << 14)
    assert need.work == pytest.approx((mib["compute"] + mib["output"]) * 2**20, rel=0.03)


def test_a_context_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", n_ctx=2**31 - 1)
    with engine(path, n_ctx=2**30) as made, pytest.raises(ModelLoadError) as caught:
        made.start()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert "lower model.n_ctx to " in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_shells_limit_counts(tmp_path: Path) -> None:
    """`ulimit -v` bounds addresses; the process that has it asks for what is left."""
    path = write_tiny(tmp_path / "tiny.gguf", n_ctx=1 << 20)
    code = (
        "import ctypes, mmap, resource, sys; from pathlib import Path\n"
        "from edgeagent.engine import library\n"
        "from edgeagent.errors import ModelLoadError\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (150 << 20),) * 2)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(mmap.mmap(-1, 2)))\n"
        "try: library.open_model(Path(sys.argv[1]), int(sys.argv[2]), 1, address)\n"
        "except ModelLoadError as exc: sys.exit(f'refused: {exc}')\n"
    )

    def opened(n_ctx: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(path), str(n_ctx)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    small, large = opened(4096), opened(1 << 20)
    assert small.returncode == 0, small.stderr
    assert large.returncode == 1
    assert "refused: tiny.gguf with a context of 1048576 tokens needs" in large.stderr


FEATURES = [
    ("CPU : AVX = 1 | AVX2 = 1 | F16C = 1 | REPACK = 1 | ", {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
    (
        "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1 | REPACK = 1 | ",
        {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"},
    ),
    ("CPU : AVX2 = 1 | AVX512 = 1 | ", set()),  # built without
    ("CPU : NEON = 1 | ARM_FMA = 1 | REPACK = 1 | ", set()),  # Raspberry Pi 4
    (
        "CPU : NEON = 1 | ARM_FMA = 1 | FP16_VA = 1 | DOTPROD = 1 | REPACK = 1 | ",  # Pi 5
        {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "Q8_0", "MXFP4"},
    ),
    ("", set()),
]


@pytest.mark.parametrize(("features", "types"), FEATURES)
def test_what_is_copied_depends_on_the_processor(features: str, types: set[str]) -> None:
    assert {kind.name for kind in memory.repacked_types(features)} == types


MEMINFO = "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable:    4000 kB\n"


def machine(root: Path, meminfo: str, **cgroup: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(meminfo)
    limits(root / "sys/fs/cgroup", **cgroup)
    return root


def limits(folder: Path, **cgroup: str) -> None:
    folder.mkdir(parents=True)
    for name, text in cgroup.items():
        (folder / name.replace("_", ".")).write_text(text)


def test_a_container_may_have_less_than_the_machine(tmp_path: Path) -> None:
    root = machine(
        tmp_path, MEMINFO, memory_max="3000000\n", memory_current="2000000\n",
        memory_stat="anon 1\ninactive_file 500000\nactive_file 100000\n",
    )  # fmt: skip
    assert memory.available(root) == 1_600_000


def test_a_service_may_have_less_than_its_container(tmp_path: Path) -> None:
    root = machine(
        tmp_path, MEMINFO, memory_max="max\n", memory_current="0\n", memory_stat="anon 1\n"
    )
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text("0::/system.slice/agent.service\n")
    limits(
        root / "sys/fs/cgroup/system.slice/agent.service",
        memory_max="2000000\n", memory_current="500000\n", memory_stat="anon 1\n",
    )  # fmt: skip
    assert memory.available(root) == 1_500_000


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    root = machine(
        tmp_path, MEMINFO, memory_max="max\n", memory_current="2000000\n", memory_stat="anon 1\n"
    )
    assert memory.available(root) == 4_096_000


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert memory.available(tmp_path) is None
