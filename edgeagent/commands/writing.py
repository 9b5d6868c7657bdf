"""What `convert` and `quantize` share: the options for types and importance, and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeagent.commands.models import shown
from edgeagent.commands.terminal import plain
from edgeagent.errors import WriteFailed

if TYPE_CHECKING:
    from convert.stream import Step
    from convert.wish import Wish

Verb = TypeVar("Verb", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)


def type_options(verb: Verb) -> Verb:
    """Add the options that say how a file's tensors are to be written."""
    options = (
        click.option(
            "--imatrix", type=FILE, metavar="F", help="Importance matrix, GGUF or .dat."
        ),
        click.option(
            "--tensor-type", "tensor_types", multiple=True, metavar="REGEX=TYPE",
            help="Type of the tensors whose names match; the first that matches counts.",
        ),
        click.option(
            "--head-type", metavar="TYPE", help="Type of the head, tied to the embedding or not."
        ),
        click.option(
            "--embedding-type", metavar="TYPE",
            help="Type of the embedding; goes before --head-type where they are one.",
        ),
        click.option("--pure", "is_pure", is_flag=True, help="One type for all, no recipe."),
    )  # fmt: skip
    for option in reversed(options):
        verb = option(verb)
    return verb


def manifest_option(verb: Verb) -> Verb:
    """Add the option that keeps a record of the build."""
    return click.option(
        "--manifest", "manifest_file", type=FILE, metavar="F",
        help="Enter the build there: origin, licence, recipe, bytes, sha256. F is a .toml file.",
    )(verb)  # fmt: skip


def check_manifest(manifest_file: Path | None) -> None:
    """Return if the build can be entered, before hours go into making it.

    Raises:
        ConversionError, ConfigError: it cannot.
    """
    if manifest_file is not None:
        from convert import manifest_entry  # 150 ms: gguf and numpy

        manifest_entry.check_place(manifest_file)


def enter(manifest_file: Path | None, out: Path, wish: Wish, source: Path) -> None:
    """Write the build into the manifest where one was named."""
    if manifest_file is not None:
        from convert import manifest_entry

        manifest_entry.record(manifest_file, out, manifest_entry.recipe(wish, source))


def write(out: Path, steps: Iterator[Step]) -> None:
    """Go through the steps: notes to stderr, progress to a terminal, the file's name to stdout."""
    from convert.stream import Converted, Noted  # 150 ms: gguf and numpy

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise WriteFailed(f"cannot make the folder {out.parent}: {exc.strerror}") from exc
    with shown(out.name) as progress:
        for step in steps:
            match step:
                case Noted(text=note):
                    click.echo(plain(f"note: {note}"), err=True)
                case Converted(done_bytes=done, total_bytes=total):
                    progress(done, total)
    click.echo(str(out))
