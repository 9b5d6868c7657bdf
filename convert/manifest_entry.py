"""A build's line in a model's manifest: quant, bytes and sha256, measured from the file.

    python -m convert.manifest_entry models/nano.toml models/nano/nano-q8_0.gguf

Makes the manifest if it is not there; replaces the build of the same quant if it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeagent import gguf_header, manifest
from edgeagent.errors import ConversionError, EdgeAgentError
from edgeagent.manifest import Build, Manifest


def with_build(found: Manifest, file: Path, listed_as: str) -> Manifest:
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
    )
    others = [other for other in found.builds if other.quant.lower() != head.quant.lower()]
    return found.model_copy(
        update={
            "builds": tuple(sorted([*others, build], key=lambda one: one.quant)),
            "default_build": found.default_build or head.quant,
        }
    )


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
