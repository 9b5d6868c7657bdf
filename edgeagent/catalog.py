"""Names of models, and the files behind them.

A name is a manifest's (`nano`, `nano:Q8_0`), a path to a GGUF file, or a repository in Hugging
Face's cache (`owner/name:Q4_K_M`). Looking things up here reads the disk and nothing else; what
has to be fetched is `hub`'s business.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from edgeagent import gguf_header, manifest, paths
from edgeagent.errors import ModelLoadError, ModelNotFound, UsageError
from edgeagent.manifest import Build, Manifest

PREFERRED = "Q4_K_M"
"""What a repository's bare name means where it has such a file."""

QUANT = re.compile(r"(?:^|[-._])((?:I?Q\d\w*?|TQ\d_0|MXFP4\w*?|BF16|F16|F32))(?=[-.]|$)", re.I)
SHARD = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
LFS_BLOB = re.compile(r"[0-9a-f]{64}")


class Source(StrEnum):
    """Where a file came from."""

    BUNDLED = "bundled"
    """Ships with the package."""
    OWN = "own"
    """Converted or added by the person, under the data folder."""
    HUB = "hub"
    """In Hugging Face's cache."""
    FILE = "file"
    """Named by its path."""


@dataclass(frozen=True, slots=True)
class Model:
    """A file that is there, and what is known of it."""

    path: Path
    manifest: Manifest
    quant: str
    """Short name of the weight types; "" where neither manifest nor file name tells."""
    source: Source


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the list of models."""

    name: str
    quant: str
    title: str
    path: Path | None
    """None: not on this machine."""
    size_bytes: int | None
    fetch: str
    """The command that brings it; "" for one that is here."""


def resolve(name: str) -> Model:
    """Return the file that the name means, and its manifest. Opens no socket.

    Raises:
        ModelNotFound: no such model, or it is not on this machine; says what to run.
        ConfigError: its manifest cannot be read.
    """
    if name.endswith(".gguf") or ("/" in name and Path(name).expanduser().is_file()):
        return _from_file(Path(name).expanduser())
    bare, _, quant = name.partition(":")
    found = find_manifest(bare)
    if found is not None:
        return _from_manifest(found, quant)
    if REPOSITORY.fullmatch(bare):
        return _from_repository(bare, quant)
    names = manifest_names()
    near = difflib.get_close_matches(bare, names, n=1)
    raise ModelNotFound(
        f"no model is called {name!r}; {f'did you mean {near[0]}? ' if near else ''}"
        f"there are {', '.join(names)}, any .gguf file, and any repository after: "
        "edgeagent models pull OWNER/NAME"
    )


def listing() -> list[Row]:
    """Return every model that a manifest or the cache names, those on this machine first."""
    rows = [row for name in manifest_names() for row in _rows(name)]
    listed = {row.path for row in rows}
    for repo in _cached_repositories():
        for path in cached_files(repo):
            if path not in listed:
                size = path.stat().st_size
                rows.append(Row(f"{repo}:{quant_of(path)}", quant_of(path), repo, path, size, ""))
    return sorted(rows, key=lambda row: row.path is None)


def manifest_names() -> list[str]:
    """Return the names that a manifest gives, the person's own among them."""
    folders = (paths.bundled(""), own_folder())
    return sorted({file.stem for folder in folders for file in folder.glob("*.toml")})


def find_manifest(name: str) -> Manifest | None:
    """Return the manifest by that name, the person's own before the bundled; None without one."""
    if Path(name).name != name:
        return None
    for file in (own_folder() / f"{name}.toml", paths.bundled(f"{name}.toml")):
        if file.is_file():
            return manifest.read(file)
    return None


def own_folder() -> Path:
    """Return the folder of the person's own manifests and builds; it may not exist."""
    return paths.data_dir() / "models"


def quant_of(path: Path) -> str:
    """Return the quant that a file's name ends on, or else the one that its head gives."""
    found = QUANT.findall(SHARD.sub(".gguf", path.name))
    if found:
        return str(found[-1]).upper()
    try:
        return gguf_header.read(path).quant
    except ModelLoadError:
        return ""


def choose(files: list[Path], quant: str) -> Path | None:
    """Return the file of that quant; without one the preferred, else the first; None for none."""
    firsts = [
        f for f in sorted(files) if (shard := SHARD.search(f.name)) is None or shard[1] == "00001"
    ]
    if quant:
        return next((f for f in firsts if quant_of(f).lower() == quant.lower()), None)
    return next((f for f in firsts if quant_of(f) == PREFERRED), firsts[0] if firsts else None)


def cached_files(repo: str, revision: str | None = None) -> list[Path]:
    """Return the GGUF models of a repository that lie in Hugging Face's cache."""
    folder = _snapshot(repo, revision)
    files = sorted(folder.rglob("*.gguf")) if folder else []
    return [file for file in files if is_model(file.name) and file.exists()]


def is_model(file: str) -> bool:
    """Say whether a GGUF file of that name is a model, not a projector or an importance matrix."""
    return file.endswith(".gguf") and not re.search(r"mmproj|imatrix", file, re.I)


def expected_sha256(model: Model) -> str | None:
    """Return the hash that the file should have: its manifest's, else its name in the cache."""
    build = model.manifest.build(model.quant)
    if build is not None and build.sha256 is not None:
        return build.sha256
    blob = model.path.resolve().name
    return blob if model.source is Source.HUB and LFS_BLOB.fullmatch(blob) else None


def verify(model: Model) -> str | None:
    """Check head and hash of the model's file; return the hash it was held against, if any.

    Raises:
        ModelLoadError: the file is damaged, or is not the one that was published.
    """
    gguf_header.read(model.path)
    expected = expected_sha256(model)
    if expected is not None and (found := manifest.sha256(model.path)) != expected:
        raise ModelLoadError(
            f"{model.path} has the sha256 {found}, not {expected}; "
            "remove it and fetch it again: edgeagent models rm"
        )
    return expected


def remove(model: Model) -> int:
    """Delete the model's file, and its blob in the cache; return the bytes that were freed.

    A file that was only given a name loses the name and stays.

    Raises:
        UsageError: the file ships with the package, or was named by its path.
    """
    match model.source:
        case Source.BUNDLED:
            raise UsageError(f"{model.manifest.name} ships with edgeagent; uninstall that instead")
        case Source.FILE:
            raise UsageError(f"{model.path} is a file of yours; edgeagent did not put it there")
        case Source.OWN:
            return _remove_own(model)
        case Source.HUB:
            return _remove_cached(model)
        case _:
            assert_never(model.source)


def _remove_own(model: Model) -> int:
    file = own_folder() / f"{model.manifest.name}.toml"
    left = tuple(b for b in model.manifest.builds if b.quant != model.quant)
    if file.is_file() and left:
        default = model.manifest.default_build
        default = default if default != model.quant else left[0].quant
        changes = {"builds": left, "default_build": default}
        manifest.write(model.manifest.model_copy(update=changes), file)
    elif file.is_file():
        file.unlink()
    if not model.path.is_relative_to(own_folder()):
        return 0
    size = model.path.stat().st_size
    model.path.unlink()
    return size


def _remove_cached(model: Model) -> int:
    blob = model.path.resolve()
    size = blob.stat().st_size
    model.path.unlink()
    snapshots = _repository(model.path).joinpath("snapshots")
    if any(link.resolve() == blob for link in snapshots.rglob("*") if link.is_symlink()):
        return 0
    blob.unlink(missing_ok=True)
    return size


def _from_file(path: Path) -> Model:
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}; see what there is: edgeagent models list")
    beside = path.with_suffix(".toml")
    if beside.is_file():
        return Model(path, manifest.read(beside), quant_of(path), Source.FILE)
    for name in manifest_names():
        known = find_manifest(name)
        for build in known.builds if known else ():
            if known and any(p.resolve() == path.resolve() for p in _places(known, build)):
                return Model(path, known, build.quant, Source.FILE)
    return Model(path, _loose(path.stem), quant_of(path), Source.FILE)


def _from_manifest(found: Manifest, quant: str) -> Model:
    if not found.builds:
        own = [path for path in own_folder().glob(f"{found.name}-*.gguf") if path.is_file()]
        if own_choice := choose(own, quant):
            return Model(own_choice, found, quant_of(own_choice), Source.OWN)
        if found.origin and (cached := choose(cached_files(found.origin.repo), quant)):
            return Model(cached, found, quant_of(cached), Source.HUB)
        raise ModelNotFound(f"{found.name} is not on this machine; {how_to_fetch(found, quant)}")
    build = found.build(quant or found.default_build)
    if build is None:
        quants = ", ".join(build.quant for build in found.builds)
        raise ModelNotFound(f"{found.name} has no build {quant!r}; it has {quants}")
    for path in _places(found, build):
        if path.is_file():
            return Model(path, found, build.quant, _source(path))
    raise ModelNotFound(
        f"{found.name}:{build.quant} is not on this machine; {how_to_fetch(found, build.quant)}"
    )


def _from_repository(repo: str, quant: str) -> Model:
    files = cached_files(repo)
    path = choose(files, quant)
    if path is None:
        there = f" (there: {', '.join(quant_of(file) for file in files)})" if files else ""
        wanted = f"{repo}:{quant}" if quant else repo
        raise ModelNotFound(
            f"{wanted} is not on this machine{there}; fetch it: edgeagent models pull {wanted}"
        )
    known = (find_manifest(name) for name in manifest_names())
    of_repo = (m for m in known if m and m.origin and m.origin.repo == repo)
    return Model(path, next(of_repo, _loose(repo)), quant_of(path), Source.HUB)


def how_to_fetch(found: Manifest, quant: str) -> str:
    """Return a sentence with the command that brings a model of the manifest."""
    if found.origin is None:
        return "it was to ship with edgeagent: reinstall it"
    if found.origin.format == "gguf":
        return f"fetch it: edgeagent models pull {found.origin.repo}{':' + quant if quant else ''}"
    kind = f" --type {quant.lower()}" if quant else ""
    return f"convert it: edgeagent convert {found.name}{kind}"


def _rows(name: str) -> Iterator[Row]:
    found = find_manifest(name)
    assert found is not None
    for quant in [build.quant for build in found.builds] or [""]:
        is_default = quant in ("", found.default_build)
        label = name if is_default else f"{name}:{quant}"
        try:
            model = _from_manifest(found, quant)
        except ModelNotFound:
            fetch = how_to_fetch(found, quant).partition(": ")[2]
            build = found.build(quant)
            size_bytes = build.size_bytes if build else None
            yield Row(label, quant, found.title, None, size_bytes, fetch)
        else:
            size_bytes = model.path.stat().st_size
            yield Row(label, model.quant, found.title, model.path, size_bytes, "")


def _places(found: Manifest, build: Build) -> Iterator[Path]:
    """Yield where a build may lie: beside the person's manifests, in the package, in the cache."""
    yield own_folder() / build.file
    yield paths.bundled(build.file)
    if found.origin is not None:
        snapshot = _snapshot(found.origin.repo, found.origin.revision)
        if snapshot is not None:
            yield snapshot / build.file


def _source(path: Path) -> Source:
    if path.is_relative_to(paths.bundled("")):
        return Source.BUNDLED
    return Source.HUB if path.is_relative_to(paths.hub_cache()) else Source.OWN


def _loose(name: str) -> Manifest:
    return manifest.DEFAULT.model_copy(update={"name": name})


def _snapshot(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a repository's files in the cache; None where nothing is cached.

    Source: the cache's layout, https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    folder = repository_folder(repo)
    try:
        commit = revision or (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if Path(commit).name == commit and snapshot.is_dir() else None


def repository_folder(repo: str) -> Path:
    """Return where the cache keeps a model repository; it may not exist."""
    return paths.hub_cache() / f"models--{repo.replace('/', '--')}"


def _repository(cached: Path) -> Path:
    """Return the folder of the repository that a file in the cache belongs to."""
    return next(p for p in cached.parents if p.parent == paths.hub_cache())


def _cached_repositories() -> Iterator[str]:
    for folder in sorted(paths.hub_cache().glob("models--*--*")):
        yield folder.name.removeprefix("models--").replace("--", "/", 1)
