"""A build's entry in a model's manifest: quant, bytes, sha256 and recipe, measured from the file.

    python -m convert.manifest_entry models/nano.toml models/nano/nano-q8_0.gguf

Makes the manifest if it is not there; replaces the build of the same quant if it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.lora import WEIGHTS
from convert.wish import Wish
from edgeagent import gguf_header, manifest
from edgeagent.errors import ConversionError, EdgeAgentError
from edgeagent.gguf_header import Header
from edgeagent.manifest import Build, Manifest, Origin

SNAPSHOT = re.compile(
    r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})"
)
LICENCES = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "gpl-3.0": "GPL-3.0-only",
}  # fmt: skip
"""The hub's names of licences → SPDX."""
MOST_CONTEXT = 8192
"""Tokens that a new manifest opens at most."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a file was made."""

    options: str
    """As options of `edgeagent convert`, those with files left out."""
    made_from: str
    imatrix: str | None = None
    """sha256 of the importance matrix."""
    lora: str | None = None
    """sha256 of the adapter's weights."""
    origin: Origin | None = None
    """The repository of the checkpoint, where its folder tells."""


def recipe(wish: Wish, source: Path) -> Recipe:
    """Return how a file is made of `source`, a checkpoint's folder or a GGUF file.

    Reads the importance matrix and the adapter whole, for their hashes.
    """
    origin = origin_of(source)
    made_from = f"{origin.repo}@{origin.revision}" if origin else source.resolve().name
    lora = None if wish.adapter is None else manifest.sha256(wish.adapter.folder / WEIGHTS)
    imatrix = manifest.sha256(Path(wish.importance_file)) if wish.importance is not None else None
    return Recipe(wish.choice.options, made_from, imatrix, lora, origin)


def origin_of(source: Path) -> Origin | None:
    """Return the repository and commit of a folder in Hugging Face's cache; None for another."""
    found = SNAPSHOT.search(source.absolute().as_posix())
    if found is None:
        return None
    return Origin(
        repo=f"{found['owner']}/{found['name']}",
        revision=found["commit"],
        format="safetensors" if source.is_dir() else "gguf",
    )


def record(path: Path, file: Path, made: Recipe) -> None:
    """Write the file as a build into the manifest `path`, which is made if it is not there.

    Title, licence and context of a new manifest come from the file's own metadata.

    Raises:
        ConfigError: the manifest is there and cannot be read.
        ModelLoadError, ConversionError: `with_build` says when.
    """
    check_place(path)
    found = manifest.read(path) if path.exists() else _begun(path, gguf_header.read(file))
    if made.origin is not None:
        found = found.model_copy(update={"origin": made.origin})
    manifest.write(with_build(found, file, _listed_as(path, file), made), path)


def check_place(path: Path) -> None:
    """Return if a manifest can be at that place.

    Raises:
        ConversionError: it cannot.
        ConfigError: one is there and cannot be read.
    """
    if path.suffix != ".toml" or path.is_dir() or not path.absolute().parent.is_dir():
        raise ConversionError(f"{path} is no place for a manifest: name a .toml file in a folder")
    if path.exists():
        manifest.read(path)


def with_build(found: Manifest, file: Path, listed_as: str, made: Recipe | None = None) -> Manifest:
    """Return the manifest with the file as a build; the first build becomes the default.

    Raises:
        ModelLoadError: the file is damaged.
        ConversionError: the file does not say what type its weights have.
    """
    head = gguf_header.read(file)
    if not head.quant:
        raise ConversionError(f"{file} does not say its type (general.file_type); it is no build")
    build = Build(
        file=listed_as,
        quant=head.quant,
        size_bytes=head.size_bytes,
        sha256=manifest.sha256(file),
        recipe=made.options if made else None,
        made_from=made.made_from if made else None,
        imatrix_sha256=made.imatrix if made else None,
        lora_sha256=made.lora if made else None,
    )
    others = [other for other in found.builds if other.quant.lower() != head.quant.lower()]
    return found.model_copy(
        update={
            "builds": tuple(sorted([*others, build], key=lambda one: one.quant)),
            "default_build": found.default_build or head.quant,
        }
    )


def _begun(path: Path, head: Header) -> Manifest:
    """Return the manifest of a model that had none."""
    licence = head.text("general.license")
    trained = head.number(f"{head.text('general.architecture')}.context_length") or MOST_CONTEXT
    return manifest.DEFAULT.model_copy(
        update={
            "name": path.stem,
            "title": head.text("general.name") or path.stem,
            "licence": LICENCES.get(licence.lower(), licence) or "unknown",
            "n_ctx": max(256, min(MOST_CONTEXT, trained)),
        }
    )


def _listed_as(path: Path, file: Path) -> str:
    """Return the file's place as the manifest gives it: below itself, or from the root."""
    whole, folder = file.resolve(), path.resolve().parent
    return (whole.relative_to(folder) if whole.is_relative_to(folder) else whole).as_posix()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the entry from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert.manifest_entry", description=__doc__)
    parser.add_argument("manifest", type=Path, help="the model's manifest; its name is the model's")
    parser.add_argument("file", type=Path, help="GGUF file, in the manifest's folder or below")
    parser.add_argument("--title")
    parser.add_argument("--licence")
    parser.add_argument("--attribution")
    parser.add_argument("--n-ctx", type=int)
    given = parser.parse_args(arguments)
    try:
        listed_as = given.file.resolve().relative_to(given.manifest.resolve().parent).as_posix()
        found = manifest.DEFAULT.model_copy(update={"name": given.manifest.stem})
        if given.manifest.exists():
            found = manifest.read(given.manifest)
        keys = ("title", "licence", "attribution", "n_ctx")
        changes = {key: getattr(given, key) for key in keys if getattr(given, key) is not None}
        changed = with_build(found.model_copy(update=changes), given.file, listed_as)
        manifest.write(changed, given.manifest)
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except ValueError:
        print(f"error: {given.file} is not below {given.manifest.parent}", file=sys.stderr)
        return 2
    print(given.manifest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
