"""Fetching from Hugging Face: resumable, checked against the hub's own hash, into its cache.

The only importer of huggingface_hub. Knows which file is wanted only by name; which name a model
has is `catalog`'s business. Honours HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias

from edgeagent import catalog, gguf_header, manifest, paths
from edgeagent.errors import DownloadFailed, ModelLoadError, ModelNotFound, UsageError

Progress: TypeAlias = Callable[[int, int], None]
"""Is told the bytes done and the bytes in all."""

CHECKPOINT = ("*.safetensors", "*.json", "*.jinja", "README.md", "merges.txt")
"""What a conversion reads."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository, as the hub describes it."""

    name: str
    size_bytes: int
    sha256: str | None
    """None for a small file that git itself holds."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    repo: str
    revision: str
    """What was asked for: a branch, a tag or a commit."""
    commit: str
    files: tuple[RemoteFile, ...]


def look(repo: str, revision: str = "main") -> Repository:
    """Return what the repository holds at that revision. One request.

    Raises:
        ModelNotFound: the hub has no such repository or revision, or keeps it from this token.
        UsageError: HF_HUB_OFFLINE is set.
        DownloadFailed: the hub could not be reached or did not answer sensibly.
    """
    # It reports which agent calls it, and asks the hub for a list of agents first.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi  # 220 ms

    with _translated(repo):
        found = HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = tuple(
            RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None)
            for s in found.siblings or ()
        )
        if not found.sha:
            raise DownloadFailed(f"the hub does not say which commit {repo}@{revision} is")
    return Repository(repo, revision, found.sha, files)


def pull(repo: str, quant: str, progress: Progress, *, offline: bool) -> Path:
    """Fetch the GGUF file of that quant; "" means Q4_K_M, or the first. Return where it lies.

    A broken download goes on where it stopped, in this run or a later one.

    Raises:
        UsageError: it may not use the network, or the disk is too small.
        ModelNotFound: no such repository, or no such file in it.
        DownloadFailed: it broke off, or what came is not what the hub describes.
    """
    _check_online(offline, f"fetch {repo}")
    repository = look(repo)
    models = [Path(f.name) for f in repository.files if catalog.is_model(f.name)]
    if not models:
        raise ModelNotFound(
            f"{repo} holds no GGUF file; convert it: edgeagent convert {repo} OUT.gguf"
        )
    chosen = catalog.choose(models, quant)
    if chosen is None:
        there = ", ".join(sorted({catalog.quant_of(path) or path.name for path in models}))
        raise ModelNotFound(f"{repo} has no {quant} file; it has {there}")
    shards = sorted(
        m for m in models if catalog.SHARD.sub("", str(m)) == catalog.SHARD.sub("", str(chosen))
    )
    wanted = [f for f in repository.files if Path(f.name) in shards]
    first = _fetch_all(repository, wanted, progress)[0]
    try:
        gguf_header.read(first)
    except ModelLoadError as exc:
        raise DownloadFailed(f"{repo} published a file that cannot be run: {exc}") from exc
    return first


def pull_checkpoint(repo: str, revision: str, progress: Progress, *, offline: bool) -> Path:
    """Fetch what a conversion reads; return the folder that it lies in.

    Raises:
        UsageError: it may not use the network, or the disk is too small.
        ModelNotFound: no such repository or revision.
        DownloadFailed: it broke off, or what came is not what the hub describes.
    """
    _check_online(offline, f"fetch {repo}")
    repository = look(repo, revision)
    wanted = [
        f for f in repository.files
        if "/" not in f.name and any(Path(f.name).match(pattern) for pattern in CHECKPOINT)
    ]  # fmt: skip
    if not any(f.name == "config.json" for f in wanted):
        raise ModelNotFound(f"{repo} holds no checkpoint: there is no config.json")
    return _fetch_all(repository, wanted, progress)[0].parent


def _fetch_all(repository: Repository, wanted: list[RemoteFile], progress: Progress) -> list[Path]:
    missing = [f for f in wanted if not _place(repository, f.name).exists()]
    left = sum(f.size_bytes - _part_size(repository, f) for f in missing)
    paths.hub_cache().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(paths.hub_cache()).free
    if left > free:
        raise UsageError(
            f"{repository.repo} needs {left:,} more bytes and the disk of {paths.hub_cache()} "
            f"has {free:,} left; make room or set HF_HOME to another disk"
        )
    total, done = sum(f.size_bytes for f in wanted), 0
    fetched = []
    for file in wanted:
        fetched.append(_fetch(repository, file, partial(_report, progress, done, total)))
        done += file.size_bytes
        progress(done, total)
    _remember(repository)
    return fetched


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _fetch(repository: Repository, file: RemoteFile, progress: Callable[[int], None]) -> Path:
    """Bring one file into the cache, unless it is there."""
    from huggingface_hub import hf_hub_download  # 220 ms, paid by `look` already

    place = _place(repository, file.name)
    if place.exists():
        return place
    with _translated(repository.repo):
        if file.sha256 is not None:
            _fetch_blob(repository, file, file.sha256, progress)
        # Finds the blob that was just put there, and lays the cache's links out around it.
        return Path(
            hf_hub_download(
                repository.repo,
                file.name,
                revision=repository.commit,
                cache_dir=paths.hub_cache(),
            )
        )


def _fetch_blob(
    repository: Repository, file: RemoteFile, sha256: str, progress: Callable[[int], None]
) -> None:
    # huggingface_hub itself throws a broken download away since its pull request 4228; a Pi on a
    # slow line must not begin 1.1 GB again. Its transfer loop is used, with a file that stays.
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils.tqdm import disable_progress_bars

    blob = _blob(repository.repo, sha256)
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    disable_progress_bars("huggingface_hub.http_get")
    part = _part(repository.repo, sha256)
    if part.exists() and part.stat().st_size > file.size_bytes:
        part.unlink()
    with part.open("ab") as raw:
        http_get(
            hf_hub_url(repository.repo, file.name, revision=repository.commit),
            _Counted(raw, progress),  # type: ignore[arg-type]  # the four methods it uses
            resume_size=raw.tell(),
            headers=build_hf_headers(),
            expected_size=file.size_bytes,
        )
    found = manifest.sha256(part)
    if found != sha256:
        part.unlink()
        raise DownloadFailed(
            f"{repository.repo}/{file.name} arrived with the sha256 {found}, and the hub gives "
            f"{sha256}; it was deleted, try again"
        )
    os.replace(part, blob)


class _Counted:
    """A file that tells how far it has been written."""

    def __init__(self, raw: BinaryIO, progress: Callable[[int], None]) -> None:
        self._raw = raw
        self._progress = progress
        self.seek, self.tell, self.truncate = raw.seek, raw.tell, raw.truncate

    def write(self, chunk: bytes) -> int:
        written = self._raw.write(chunk)
        self._progress(self._raw.tell())
        return written


def _check_online(offline: bool, what: str) -> None:
    if offline:
        raise UsageError(f"cannot {what} while offline is set; run it again without")


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    """Turn what the library raises into what a person can act on."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as exc:
        raise UsageError(f"cannot fetch {repo} while HF_HUB_OFFLINE is set") from exc
    except errors.GatedRepoError as exc:
        raise ModelNotFound(
            f"{repo} asks for consent: give it on its page, then set HF_TOKEN"
        ) from exc
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as exc:
        raise ModelNotFound(
            f"the hub has no {repo} for this token; check the spelling or set HF_TOKEN"
        ) from exc
    except errors.HFValidationError as exc:
        raise ModelNotFound(f"{repo!r} is not a repository's name: {exc}") from exc
    except (httpx2.HTTPError, errors.EntryNotFoundError, OSError, ValueError) as exc:
        reason = str(exc).strip().partition("\n")[0]
        raise DownloadFailed(f"fetching {repo} broke off: {reason}; run it again to go on") from exc


def _place(repository: Repository, file: str) -> Path:
    folder = catalog.repository_folder(repository.repo)
    return folder / "snapshots" / repository.commit / file


def _blob(repo: str, sha256: str) -> Path:
    return catalog.repository_folder(repo) / "blobs" / sha256


def _part(repo: str, sha256: str) -> Path:
    return _blob(repo, sha256 + ".part")


def _part_size(repository: Repository, file: RemoteFile) -> int:
    part = _part(repository.repo, file.sha256 or "")
    return min(part.stat().st_size, file.size_bytes) if part.exists() else 0


def _remember(repository: Repository) -> None:
    """Let the branch mean this commit offline, as the cache's own tools would."""
    if repository.revision == repository.commit:
        return
    ref = catalog.repository_folder(repository.repo) / "refs" / repository.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(repository.commit, encoding="ascii")
