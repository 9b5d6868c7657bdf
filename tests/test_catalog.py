"""Names find files without a socket; fetching resumes, checks and says what went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convert.hf_to_gguf import Type, convert
from edgeagent import catalog, manifest, paths
from edgeagent.catalog import Source
from edgeagent.errors import ConfigError, ModelLoadError, ModelNotFound, UsageError
from edgeagent.manifest import Build, Dialect, Manifest, Origin
from tests import tiny_checkpoint
from tests.loopback_hub import COMMIT, Hub, serving

ROOT = Path(__file__).parents[1]
REPO = "someone/a-model-gguf"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real GGUF file."""
    folder = tmp_path_factory.mktemp("build")
    checkpoint = tiny_checkpoint.write(folder / "tiny")
    list(convert(checkpoint, folder / "m.gguf", Type.Q8_0))
    return (folder / "m.gguf").read_bytes()


def edgeagent(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would; huggingface_hub reads its settings on import."""
    return subprocess.run(
        [sys.executable, "-m", "edgeagent", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def cached(repo: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """Lay out Hugging Face's cache as its own tools do; return the snapshot's folder."""
    folder = paths.hub_cache() / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for part in ("blobs", "refs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for name, data in files.items():
        blob = folder / "blobs" / Hub(repo, files).sha256(name)
        blob.write_bytes(data)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def own(name: str, **fields: object) -> Manifest:
    """Write a manifest among the person's own."""
    values = {"title": name.title(), "licence": "MIT", "n_ctx": 2048} | fields
    written = Manifest.model_validate({"name": name} | values)
    catalog.own_folder().mkdir(parents=True, exist_ok=True)
    manifest.write(written, catalog.own_folder() / f"{name}.toml")
    return written


@pytest.mark.parametrize(
    ("file", "quant"),
    [
        ("nano-q8_0.gguf", "Q8_0"),
        ("Qwen3-1.7B-Q4_K_M.gguf", "Q4_K_M"),
        ("Qwen3-1.7B-Q4_K_M-00001-of-00003.gguf", "Q4_K_M"),
        ("model.IQ4_XS.gguf", "IQ4_XS"),
        ("model-bf16.gguf", "BF16"),
        ("model_f16.gguf", "F16"),
        ("Q8-not-a-quant/plain.gguf", ""),
        ("distil-qwen3-1.7b-customer-support-deferral.gguf", ""),
    ],
)
def test_a_file_name_tells_its_quant(file: str, quant: str) -> None:
    assert catalog.quant_of(Path(file)) == quant


def test_a_file_that_does_not_tell_its_quant_is_looked_into(tmp_path: Path, build: bytes) -> None:
    (tmp_path / "plain.gguf").write_bytes(build)
    assert catalog.quant_of(tmp_path / "plain.gguf") == "Q8_0"


def test_a_path_is_a_model_and_a_manifest_beside_it_is_its_own(
    tmp_path: Path, build: bytes
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(build)
    loose = catalog.resolve(str(path))
    assert (loose.path, loose.quant, loose.source) == (path, "Q8_0", Source.FILE)
    assert loose.manifest == manifest.DEFAULT.model_copy(update={"name": "mine"})
    beside = Manifest(name="mine", title="Mine", licence="MIT", n_ctx=1024)
    manifest.write(beside, tmp_path / "mine.toml")
    assert catalog.resolve(str(path)).manifest == beside


def test_a_name_takes_its_default_build_and_another_by_quant(build: bytes) -> None:
    builds = (Build(file="mine-f16.gguf", quant="F16"), Build(file="mine-q8.gguf", quant="Q8_0"))
    written = own("mine", builds=builds, default_build="Q8_0")
    for one in builds:
        (catalog.own_folder() / one.file).write_bytes(build)
    assert catalog.resolve("mine").path.name == "mine-q8.gguf"
    found = catalog.resolve("mine:f16")
    assert (found.path.name, found.quant, found.source) == ("mine-f16.gguf", "F16", Source.OWN)
    assert found.manifest == written
    by_path = catalog.resolve(str(found.path))
    assert (by_path.manifest, by_path.quant) == (written, "F16")
    with pytest.raises(ModelNotFound, match="no build 'Q2_K'; it has F16, Q8_0"):
        catalog.resolve("mine:Q2_K")


def test_a_repository_in_the_cache_is_found_without_a_socket(build: bytes) -> None:
    files = {"m-Q8_0.gguf": build, "m-Q4_K_M.gguf": build + b"0", "mmproj-F16.gguf": build + b"1"}
    snapshot = cached(REPO, files)
    assert catalog.resolve(REPO).path == snapshot / "m-Q4_K_M.gguf"
    assert catalog.resolve(f"{REPO}:q8_0").path == snapshot / "m-Q8_0.gguf"
    assert catalog.resolve(REPO).source is Source.HUB
    with pytest.raises(ModelNotFound, match=rf"edgeagent models pull {REPO}:Q2_K"):
        catalog.resolve(f"{REPO}:Q2_K")


def test_a_cached_repository_lends_its_manifest_to_both_of_its_names(build: bytes) -> None:
    written = own("mine", origin=Origin(repo=REPO), dialect=Dialect(tool_results="user"))
    with pytest.raises(ModelNotFound, match=f"edgeagent models pull {REPO}$"):
        catalog.resolve("mine")
    cached(REPO, {"m-Q8_0.gguf": build})
    assert catalog.resolve("mine").manifest == written
    assert catalog.resolve(REPO).manifest == written


def test_a_model_that_is_published_unconverted_says_how_to_convert_it(build: bytes) -> None:
    own("mine", origin=Origin(repo=REPO, format="safetensors"))
    with pytest.raises(ModelNotFound, match="convert it: edgeagent convert mine"):
        catalog.resolve("mine")
    (catalog.own_folder() / "mine-q8_0.gguf").write_bytes(build)
    assert catalog.resolve("mine").source is Source.OWN
    assert catalog.resolve("mine").quant == "Q8_0"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("qwen3-1.7b-fv", "did you mean qwen3-1.7b-fc?"),
        ("nothing-like-it", "edgeagent models pull OWNER/NAME"),
        ("someone/else:Q4_0", "edgeagent models pull someone/else:Q4_0"),
        ("missing.gguf", "there is no file missing.gguf"),
        ("../../etc/nothing", "no model is called"),
        ("distil-customer-support-deferral", "edgeagent models pull distil-labs/"),
    ],
)
def test_an_unknown_name_is_answered_with_what_to_do(name: str, says: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        catalog.resolve(name)
    assert says in str(refused.value)


def test_the_list_has_every_manifest_and_what_is_here_first(build: bytes) -> None:
    cached(REPO, {"m-Q8_0.gguf": build})
    rows = catalog.listing()
    is_here = [row.path is not None for row in rows]
    assert is_here == sorted(is_here, reverse=True)
    assert any(row.name == f"{REPO}:Q8_0" for row in rows)
    assert {"distil-customer-support-deferral", "qwen3-1.7b-fc"} <= {row.name for row in rows}
    assert all(bool(row.fetch) == (row.path is None) for row in rows)


@pytest.mark.parametrize("file", sorted(paths.bundled("").glob("*.toml")), ids=lambda f: f.stem)
def test_a_bundled_manifest_is_named_for_its_file_and_its_builds_are_there(file: Path) -> None:
    found = manifest.read(file)
    assert found.name == file.stem
    assert found.origin is not None or found.builds
    if found.origin is None:
        for one in found.builds:
            shipped = paths.bundled(one.file)
            assert shipped.stat().st_size == one.size_bytes
            assert manifest.sha256(shipped) == one.sha256


def test_a_changed_file_does_not_verify(build: bytes) -> None:
    sound = Build(file="m.gguf", quant="Q8_0", sha256=Hub(REPO, {"m": build}).sha256("m"))
    own("mine", builds=(sound,), default_build="Q8_0")
    path = catalog.own_folder() / "m.gguf"
    path.write_bytes(build)
    assert catalog.verify(catalog.resolve("mine")) == sound.sha256
    path.write_bytes(build[:-1] + b"!")
    with pytest.raises(ModelLoadError, match="has the sha256"):
        catalog.verify(catalog.resolve("mine"))
    path.write_bytes(build[: len(build) // 2])
    with pytest.raises(ModelLoadError, match="damaged or incomplete"):
        catalog.verify(catalog.resolve("mine"))


def test_a_cached_file_is_held_against_the_hash_it_was_published_with(build: bytes) -> None:
    snapshot = cached(REPO, {"m-Q8_0.gguf": build})
    assert catalog.verify(catalog.resolve(REPO)) is not None
    (snapshot / "m-Q8_0.gguf").resolve().write_bytes(build[:-1] + b"!")
    with pytest.raises(ModelLoadError, match="has the sha256"):
        catalog.verify(catalog.resolve(REPO))


def test_removing_frees_the_blob_unless_another_snapshot_needs_it(build: bytes) -> None:
    older = cached(REPO, {"m-Q8_0.gguf": build}, "0" * 40)
    newer = cached(REPO, {"m-Q8_0.gguf": build})
    blob = (newer / "m-Q8_0.gguf").resolve()
    catalog.remove(catalog.resolve(REPO))
    assert not (newer / "m-Q8_0.gguf").is_symlink()
    assert blob.exists()
    (older.parents[1] / "refs" / "main").write_text("0" * 40)
    assert catalog.remove(catalog.resolve(REPO)) == len(build)
    assert not blob.exists()


def test_what_edgeagent_did_not_bring_it_does_not_delete(tmp_path: Path, build: bytes) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(build)
    with pytest.raises(UsageError, match="file of yours"):
        catalog.remove(catalog.resolve(str(path)))
    assert path.exists()


def test_a_broken_manifest_is_named_not_skipped() -> None:
    catalog.own_folder().mkdir(parents=True)
    (catalog.own_folder() / "mine.toml").write_text("title = 3")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        catalog.resolve("mine")


def test_pull_fetches_the_preferred_file_and_the_name_then_resolves(build: bytes) -> None:
    with serving(Hub(REPO, {"m-Q8_0.gguf": build, "m-Q4_K_M.gguf": build + b"0"})) as hub:
        ran = edgeagent("models", "pull", REPO, HF_ENDPOINT=hub.url)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).read_bytes() == build + b"0"
    assert catalog.resolve(REPO).path == Path(ran.stdout.strip())
    assert catalog.verify(catalog.resolve(REPO)) == hub.sha256("m-Q4_K_M.gguf")
    asked = len(hub.asked)
    assert edgeagent("models", "verify", REPO, HF_ENDPOINT=hub.url).returncode == 0
    assert len(hub.asked) == asked


def test_a_download_that_breaks_off_goes_on_where_it_stopped(build: bytes) -> None:
    # The library hands over 10 MB at a time; what it has not handed over is asked for again.
    large = build + bytes(25_000_000)
    hub = Hub(REPO, {"m-Q8_0.gguf": large}, drop_after=11_000_000, drops=2)
    with serving(hub):
        ran = edgeagent("models", "pull", REPO, HF_ENDPOINT=hub.url)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).read_bytes() == large
    resumed = [asked.split()[2] for asked in hub.asked if "bytes=" in asked]
    assert len(resumed) == 2
    assert all(int(part.strip("bytes=-")) >= 10_000_000 for part in resumed)


def test_nothing_but_the_file_is_asked_of_the_hub(build: bytes) -> None:
    """huggingface_hub 2.4 also fetches a list of agents to report; it must not."""
    with serving(Hub(REPO, {"m-Q8_0.gguf": build})) as hub:
        edgeagent("models", "pull", REPO, HF_ENDPOINT=hub.url)
    assert hub.asked
    assert all(REPO in asked for asked in hub.asked)


def test_a_later_pull_goes_on_with_what_an_earlier_one_left(build: bytes) -> None:
    hub = Hub(REPO, {"m-Q8_0.gguf": build})
    blobs = catalog.repository_folder(REPO) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.sha256('m-Q8_0.gguf')}.part").write_bytes(build[:70_000])
    with serving(hub):
        ran = edgeagent("models", "pull", f"{REPO}:Q8_0", HF_ENDPOINT=hub.url)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).read_bytes() == build
    assert [asked.split()[2] for asked in hub.asked if "bytes=" in asked] == ["bytes=70000-"]
    assert [p.name for p in blobs.iterdir()] == [hub.sha256("m-Q8_0.gguf")]


def test_a_file_with_another_hash_is_refused_and_deleted(build: bytes) -> None:
    with serving(Hub(REPO, {"m-Q8_0.gguf": build}, lies={"m-Q8_0.gguf"})) as hub:
        ran = edgeagent("models", "pull", REPO, HF_ENDPOINT=hub.url)
    assert ran.returncode == 1
    assert "sha256" in ran.stderr
    assert list((catalog.repository_folder(REPO) / "blobs").iterdir()) == []
    with pytest.raises(ModelNotFound):
        catalog.resolve(REPO)


@pytest.mark.parametrize(
    ("arguments", "hub", "code", "says"),
    [
        (["models", "pull", REPO, "--offline"], Hub(REPO, {}), 2, "offline"),
        (["models", "pull", "no/body"], Hub(REPO, {}), 2, "the hub has no no/body"),
        (["models", "pull", REPO], Hub(REPO, {"a.txt": b"x"}), 2, "holds no GGUF file"),
        (["models", "pull", f"{REPO}:Q2_K"], Hub(REPO, {"m-Q8_0.gguf": b""}), 2, "it has Q8_0"),
        (["models", "pull", REPO], Hub(REPO, {}, status=500), 1, "broke off"),
        (["models", "pull", REPO], Hub(REPO, {"m-Q8_0.gguf": b"no"}), 1, "cannot be run"),
        (["convert", REPO, "out.gguf"], Hub(REPO, {"a.txt": b"x"}), 2, "holds no checkpoint"),
    ],
    ids=["offline", "unknown", "no gguf", "no such quant", "server error", "no model", "no config"],
)
def test_a_pull_that_cannot_be_is_refused_in_one_line(
    arguments: list[str], hub: Hub, code: int, says: str
) -> None:
    hub.asked.clear()
    with serving(hub):
        ran = edgeagent(*arguments, HF_ENDPOINT=hub.url)
    assert (ran.returncode, says in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    if "--offline" in arguments:
        assert hub.asked == []


def test_the_hubs_own_offline_switch_is_honoured(build: bytes) -> None:
    cached(REPO, {"m-Q8_0.gguf": build})
    with serving(Hub(REPO, {"m-Q8_0.gguf": build})) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
        refused = edgeagent("models", "pull", f"{REPO}:Q4_0", **settings)
        shown = edgeagent("models", "show", REPO, "--json", **settings)
    assert refused.returncode == 2
    assert "HF_HUB_OFFLINE" in refused.stderr
    assert json.loads(shown.stdout)["source"] == "hub"
    assert hub.asked == []


def test_a_hub_that_is_not_there_is_said_in_one_line() -> None:
    ran = edgeagent("models", "pull", REPO, HF_ENDPOINT="http://127.0.0.1:9")
    assert ran.returncode == 1
    assert "broke off" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_checkpoint_on_the_hub_is_fetched_and_converted(tmp_path: Path, build: bytes) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    out = tmp_path / "out.gguf"
    with serving(Hub("someone/tiny", files)) as hub:
        ran = edgeagent("convert", "someone/tiny", str(out), "--name", "Tiny", HF_ENDPOINT=hub.url)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(out)
    assert len(out.read_bytes()) == pytest.approx(len(build), rel=0.01)


def test_adding_a_file_gives_it_a_name_and_a_lists_dialect(tmp_path: Path, build: bytes) -> None:
    path = tmp_path / "tuned.gguf"
    path.write_bytes(build)
    ran = edgeagent("models", "add", str(path), "--name", "tft-benchmark-s4-direct")
    assert ran.returncode == 0, ran.stderr
    found = catalog.resolve("tft-benchmark-s4-direct")
    assert (found.path, found.quant) == (path, "Q8_0")
    assert found.manifest.dialect.tool_results == "user"
    assert catalog.verify(found) == manifest.sha256(path)


def test_an_added_file_loses_its_name_and_stays(tmp_path: Path, build: bytes) -> None:
    path = tmp_path / "tuned.gguf"
    path.write_bytes(build)
    assert edgeagent("models", "add", str(path), "--name", "tuned").returncode == 0
    assert catalog.remove(catalog.resolve("tuned")) == 0
    assert path.read_bytes() == build
    with pytest.raises(ModelNotFound):
        catalog.resolve("tuned")


def test_removing_one_build_leaves_the_others(build: bytes) -> None:
    builds = (Build(file="mine-f16.gguf", quant="F16"), Build(file="mine-q8.gguf", quant="Q8_0"))
    own("mine", builds=builds, default_build="Q8_0")
    for one in builds:
        (catalog.own_folder() / one.file).write_bytes(build)
    assert catalog.remove(catalog.resolve("mine")) == len(build)
    assert catalog.resolve("mine").quant == "F16"


def test_a_stray_file_does_not_take_a_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("notes")
    own("mine", builds=(Build(file="m.gguf", quant="Q8_0"),), default_build="Q8_0")
    (catalog.own_folder() / "m.gguf").write_bytes(build)
    assert catalog.resolve("mine").path == catalog.own_folder() / "m.gguf"


def test_verbs_run_from_end_to_end(build: bytes) -> None:
    cached(REPO, {"m-Q8_0.gguf": build})
    rows = json.loads(edgeagent("models", "list", "--json").stdout)
    assert rows[0].keys() >= {"name", "quant", "title", "path", "size_bytes", "fetch"}
    assert "someone/a-model-gguf:Q8_0" in edgeagent("models", "list").stdout
    assert "licence = " in edgeagent("models", "show", REPO).stdout
    removed = edgeagent("models", "rm", REPO)
    assert removed.returncode == 0, removed.stderr
    assert edgeagent("models", "show", REPO).returncode == 2
