"""A model's manifest: where it comes from, how to talk to it, which builds there are.

One TOML file per model under `models/`; the file name is the model's name. Knows nothing of
downloading or of running a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgeagent.errors import ConfigError

SHA256 = r"^[0-9a-f]{64}$"
PLACEHOLDER = "{task_description}"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class Origin(_Table):
    """The repository that a model was published in."""

    repo: str
    """Hugging Face repository, `owner/name`."""
    revision: str | None = None
    """Commit that the hashes below were taken from; None: whatever `main` is when fetched."""
    format: Literal["gguf", "safetensors"] = "gguf"
    """What is published there; safetensors have to be converted before they run."""


class Dialect(_Table):
    """What a model's card asks for beyond its chat template."""

    system: str = PLACEHOLDER
    """Wrapper around a scenario's policy, with the one placeholder `{task_description}`."""
    tool_results: Literal["tool", "user"] = "tool"
    """Role that carries a tool's result in the message list."""
    thinking: bool = False
    calls: Literal["one", "parallel", "parallel_or_text"] = "one"
    """How many calls one step may make, and whether plain words are allowed instead."""
    append_only: bool = False
    """Nothing that the model has read is written anew, even where its template would; choose it
    where an evaluation shows that it costs no accuracy."""
    copied_ids: tuple[str, ...] = ()
    """Arguments, by name, whose value is an id that customer or tools have said; nor does any text
    go on with digits that they have not said once it has begun as such an id does."""
    copied_words: tuple[str, ...] = ()
    """Arguments, by name, whose every word customer or tools have said, but for capitals."""

    @field_validator("system")
    @classmethod
    def _has_one_placeholder(cls, system: str) -> str:
        if system.count(PLACEHOLDER) != 1:
            raise ValueError(f"the wrapper needs the placeholder {PLACEHOLDER} exactly once")
        return system


class Build(_Table):
    """One GGUF file of the model."""

    file: str
    """Name in the repository, or path under `models/` for a build that ships with the package."""
    quant: str
    """Short name of the weight types, for instance `Q4_K_M`; `-m name:QUANT` chooses by it."""
    size_bytes: Annotated[int, Field(gt=0)] | None = None
    sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """None: not known here, and checked against the hub's own when it is fetched."""
    recipe: str | None = None
    """How it was made, as options of `edgeagent convert`; None for a file published as it is."""
    made_from: str | None = None
    """`owner/name@revision`, or the name of the folder or file that it was made from."""
    imatrix_sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """Of the importance matrix that it was made with."""
    lora_sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """Of the adapter's weights that were merged in."""


class Measured(_Table):
    """One number that was measured, and how to measure it again."""

    build: str
    """The `quant` of the build."""
    suite: str
    metric: str
    value: float
    low: float | None = None
    """Lower end of the 95 % interval; None where an interval makes no sense (bytes)."""
    high: float | None = None
    n: int | None = None
    """Items that the number stands on."""
    command: str
    """The command that prints it."""


class Share(_Table):
    """A share with its 95 % interval."""

    value: Annotated[float, Field(ge=0, le=1)]
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]


class CurvePoint(_Table):
    """What deferring from one probability on comes to."""

    threshold: Annotated[float, Field(ge=0, le=1)]
    n_deferred: int
    precision: Share | None = None
    """Of the turns deferred, those that are hard; None where none was deferred."""
    recall: Share
    """Of the hard turns, those deferred."""


class Calibration(_Table):
    """How `defer_threshold` was chosen, and what it does on conversations it was not chosen on."""

    build: str
    """The `quant` of the build."""
    sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """Of the file that was measured; a build made anew wants to be calibrated anew."""
    threshold: Annotated[float, Field(ge=0, le=1)]
    rule: str
    """What the threshold was chosen by."""
    chosen_on_seed: int
    seed: int
    """Of the episodes that the curve stands on."""
    n: int
    """Turns of the curve."""
    n_hard: int
    """Of these, the turns that are to be deferred."""
    command: str
    """The command that prints it."""
    curve: Annotated[tuple[CurvePoint, ...], Field(min_length=1)]


class Manifest(_Table):
    """Everything that is known of a model without opening its file."""

    name: str
    title: str
    licence: str
    """SPDX expression, or `unknown`."""
    origin: Origin | None = None
    """None for a model that ships with the package and for a loose file."""
    attribution: str = ""
    """What the licences of model and training data ask to be named."""
    n_ctx: Annotated[int, Field(ge=256)]
    """Context in tokens that is opened unless the person sets `model.n_ctx`."""
    dialect: Dialect = Dialect()
    builds: tuple[Build, ...] = ()
    default_build: str = ""
    """The `quant` that the bare name means; empty only where there are no builds."""
    defer_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Probability of the deferral call from which a turn is deferred; None: greedy decides."""
    calibration: Calibration | None = None
    """None: nobody has measured what deferring by probability does."""
    measured: tuple[Measured, ...] = ()

    @model_validator(mode="after")
    def _threshold_is_the_calibrated_one(self) -> Manifest:
        found = self.calibration
        if found and self.defer_threshold not in (None, found.threshold):
            raise ValueError(
                f"defer_threshold is {self.defer_threshold}, the calibration chose"
                f" {found.threshold}; give one, or leave the calibration out"
            )
        return self

    @model_validator(mode="after")
    def _default_is_a_build(self) -> Manifest:
        quants = [build.quant for build in self.builds]
        if len(set(quants)) != len(quants):
            raise ValueError(f"two builds share a quant: {', '.join(quants)}")
        if self.default_build not in (quants or [""]):
            raise ValueError(
                f"default_build {self.default_build!r} is none of the builds: {', '.join(quants)}"
            )
        return self

    def build(self, quant: str) -> Build | None:
        """Return the build by that quant, letter case ignored; None where there is none."""
        return next((b for b in self.builds if b.quant.lower() == quant.lower()), None)


DEFAULT = Manifest(name="", title="a GGUF file without a manifest", licence="unknown", n_ctx=8192)
"""What is assumed of a loose file: its own template, one call per step, greedy deferral."""


def read(path: Path) -> Manifest:
    """Return the manifest in the file.

    Raises:
        ConfigError: the file is missing, is not TOML, or says something that is not known.
    """
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise ConfigError(f"cannot read the manifest {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the manifest {path} is not TOML: {exc}; correct that line") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ConfigError(f"the manifest {path}, {key}: {first['msg']}") from exc


def write(manifest: Manifest, path: Path) -> None:
    """Write the manifest whole; equal manifests give equal bytes."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(to_toml(manifest), encoding="utf-8", newline="\n")
    os.replace(partial, path)


def sha256(path: Path) -> str:
    """Return a build's hash in hex. Reads the whole file: 0.6 s per GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_toml(manifest: Manifest) -> str:
    """Return the manifest as TOML: plain keys first, then tables, then lists of tables."""
    return "\n".join(_blocks("", manifest.model_dump(exclude_none=True)))


def calibration_toml(calibration: Calibration) -> str:
    """Return the lines of the `[calibration]` table."""
    return "\n".join(_blocks("calibration", calibration.model_dump(exclude_none=True)))


def _blocks(path: str, record: dict[str, Any]) -> Iterator[str]:
    inside = f"{path}." if path else ""
    plain = {k: v for k, v in record.items() if not isinstance(v, dict) and not _is_rows(v)}
    yield (f"[{path}]\n" if path else "") + _lines(plain)
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _blocks(inside + key, value)
    for key, rows in record.items():
        if _is_rows(rows):
            yield from (f"[[{inside}{key}]]\n{_lines(row)}" for row in rows)


def _is_rows(value: object) -> bool:
    """Tell whether the value is a list of tables; an empty list is written as neither."""
    return isinstance(value, tuple) and all(isinstance(row, dict) for row in value)


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_scalar(value)}\n" for key, value in table.items())


def _scalar(value: str | bool | int | float | tuple[str, ...] | dict[str, Any]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_scalar(one)}' for key, one in value.items())} }}"
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
