"""`convert --for` makes the build it explains, and `--manifest` keeps a record of any build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert import importance
from convert.importance import Importance, Sums
from edgeagent import gguf_header, manifest
from tests import tiny_adapter, tiny_checkpoint
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]
Q = "model.layers.0.self_attn.q_proj"


def verb(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeagent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_build_for_a_device_is_explained_and_made(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    out = tmp_path / "out.gguf"
    ran = verb("convert", folder, out, "--for", "pi5", "--ram", "2GB", "--context", 300)
    assert (ran.returncode, ran.stdout.strip()) == (0, str(out)), ran.stderr
    assert "2048 MB: --type q8_0" in ran.stderr
    assert "for 300 tokens of context" in ran.stderr
    assert gguf_header.read(out).quant == "Q8_0"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--for", "pi5"), "--ram"),
        (("--ram", "2GB"), "--for"),
        (("--context", 512), "--for"),
        (("--for", "pi9", "--ram", "2GB"), "pi9"),
        (("--for", "pi5", "--ram", "2"), "2GB, 4G or 8192M"),
        (("--for", "pi5", "--ram", "2GB", "--type", "q4_0"), "leave out"),
        (("--for", "pi5", "--ram", "2GB", "--pure"), "leave out"),
        (("--for", "pi5", "--ram", "450M"), "no build of this model fits"),
        (("--manifest", "nowhere/x.toml"), "no place for a manifest"),
        (("--manifest", "x.txt"), "no place for a manifest"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_first(
    tmp_path: Path, options: tuple[object, ...], named: str
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    ran = verb("convert", folder, tmp_path / "out.gguf", *options)
    assert ran.returncode == 2, ran.stderr
    assert named in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_a_build_is_entered_with_origin_licence_and_recipe(tmp_path: Path) -> None:
    """The folder of Hugging Face's cache tells the repository and the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--some--tiny" / "snapshots" / commit
    folder = tiny_checkpoint.write(snapshot, Tiny(n_embd=256, n_ff=256))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    weights = tiny_checkpoint.weights(Tiny(n_embd=256, n_ff=256), 283)
    parts = tiny_adapter.lora(weights[f"{Q}.weight"], 4, np.random.default_rng(1))
    adapter = tiny_adapter.write(tmp_path / "adapter", {Q: parts})
    found = Importance({"x": Sums(np.ones((1, 4), np.float32), np.ones(1, np.float32))}, (), 1, 1)
    importance.write(found, tmp_path / "m.imatrix")
    entry, out = tmp_path / "tiny.toml", tmp_path / "out.gguf"
    ran = verb(
        "convert", folder, out, "--type", "q4_k_m", "--tensor-type", "attn_q=q8_0",
        "--lora", adapter, "--imatrix", tmp_path / "m.imatrix", "--manifest", entry,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    made = manifest.read(entry)
    assert (made.name, made.licence, made.n_ctx, made.default_build) == (
        "tiny", "Apache-2.0", 512, "Q4_K_M",
    )  # fmt: skip
    assert made.origin == manifest.Origin(repo="some/tiny", revision=commit, format="safetensors")
    (build,) = made.builds
    assert build.file == "out.gguf"
    assert build.recipe == "--type q4_k_m --tensor-type attn_q=q8_0"
    assert build.made_from == f"some/tiny@{commit}"
    assert build.imatrix_sha256 == manifest.sha256(tmp_path / "m.imatrix")
    assert build.lora_sha256 == manifest.sha256(adapter / "adapter_model.safetensors")
    assert (build.size_bytes, build.sha256) == (out.stat().st_size, manifest.sha256(out))


def test_a_second_build_joins_the_first_and_leaves_what_was_written_by_hand(
    tmp_path: Path,
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    entry = tmp_path / "tiny.toml"
    whole, smaller = tmp_path / "f16.gguf", tmp_path / "below" / "q8_0.gguf"
    smaller.parent.mkdir()
    assert verb("convert", folder, whole, "--type", "f16", "--manifest", entry).returncode == 0
    entry.write_text(entry.read_text().replace('licence = "unknown"', 'licence = "MIT"'))
    ran = verb("quantize", whole, smaller, "q8_0", "--manifest", entry)
    assert ran.returncode == 0, ran.stderr
    made = manifest.read(entry)
    assert made.licence == "MIT"
    assert [(b.quant, b.file, b.made_from) for b in made.builds] == [
        ("F16", "f16.gguf", "tiny"),
        ("Q8_0", "below/q8_0.gguf", "f16.gguf"),
    ]
    damaged = tmp_path / "damaged.toml"
    damaged.write_text("name = ")
    ran = verb("convert", folder, tmp_path / "x.gguf", "--manifest", damaged)
    assert (ran.returncode, "is not TOML" in ran.stderr) == (2, True)
    assert not (tmp_path / "x.gguf").exists()
