"""The settings, read once: default < file < environment < flag.

`config.toml` has one table per section below; `EDGEAGENT_SECTION__KEY` overrides it, flags
override both. Knows no model and opens no socket. See them with: edgeagent config show
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from edgeagent import paths
from edgeagent.errors import ConfigError

ENV_PREFIX = "EDGEAGENT_"
OPENAI_HOST = "api.openai.com"
SECRETS = frozenset({"remote.api_key"})

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """The local model."""

    name: Annotated[str, Field(min_length=1)] = "nano"
    """A manifest's name, `name:QUANT`, a path, `repo:QUANT`, or `http(s)://host/v1`."""
    n_ctx: Annotated[int, Field(ge=256)] | None = None
    """Context in tokens; None: what the manifest says."""
    n_threads: Count | None = None
    """None: chosen by measurement."""
    max_tokens: Annotated[int, Field(ge=16)] = 512
    """Tokens that one step may write; there is always room to close the call."""
    prefix_mb: Annotated[int, Field(ge=0, le=1 << 20)] = 2048
    """MiB on disk for prompts that were read once; the least recently used goes first, 0 keeps
    none."""


class RemoteConfig(_Section):
    """The larger model: any OpenAI-compatible endpoint."""

    base_url: str | None = None
    """For instance `http://host:8000/v1`; None: there is no larger model."""
    api_key: SecretStr | None = None
    model: str | None = None
    connect_s: Seconds = 3.0
    first_byte_s: Seconds = 10.0
    turn_s: Seconds = 60.0
    """For all remote steps of one turn together, retries included."""
    usd_per_mtok_in: Price = 0.0
    """US dollars per million prompt tokens, for the ledger."""
    usd_per_mtok_out: Price = 0.0

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("it should look like http://host:8000/v1")
        return url


class DeferConfig(_Section):
    """When a turn may go to the larger model."""

    mode: Literal["auto", "ask", "never"] = "auto"
    scope: Literal["turn", "conversation"] = "turn"
    """For how long the larger model keeps the conversation."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Probability of the deferral call from which a turn is deferred; None: the manifest's."""


class LimitsConfig(_Section):
    """Where a turn that goes nowhere is stopped."""

    max_steps: Count = 12
    """Calls in one turn."""
    tool_timeout_s: Seconds = 30.0
    repeat: Annotated[int, Field(ge=2)] = 3
    """The same call this many times in a turn stops the loop."""


class UiConfig(_Section):
    """How the app looks and listens."""

    theme: str = ""
    """Name of a theme; empty: the app's own."""
    keymap: dict[str, str] = Field(default_factory=dict)
    """Binding id to keys, for instance `cancel = "escape,ctrl+g"`."""


class Config(BaseSettings):
    """Every setting; build it with `load`, or directly in tests (it reads nothing by itself)."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    model: ModelConfig = ModelConfig()
    remote: RemoteConfig = RemoteConfig()
    defer: DeferConfig = DeferConfig()
    limits: LimitsConfig = LimitsConfig()
    ui: UiConfig = UiConfig()
    offline: bool = False
    """No socket is opened at all, by anything."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let `Config(...)` take only what it is given; `load` stacks the layers itself."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings that one source gives, as nested tables."""

    title: str
    """`default`, the file's path, `environment`, or `flag`."""
    table: Mapping[str, Any]


def load(flags: Mapping[str, object]) -> Config:
    """Return the settings in force; `flags` has dotted keys, None means not given.

    Raises:
        ConfigError: the file, a variable or a flag is malformed, unknown or out of range.
    """
    return resolve(layers(flags))


def layers(flags: Mapping[str, object]) -> list[Layer]:
    """Return what each source says, weakest first."""
    file = paths.config_file()
    environment = dict(os.environ)
    return [
        Layer(str(file), _read_file(file)),
        Layer("environment", _read_defer(environment)),
        Layer("environment", _read_environment(environment)),
        Layer("flag", _nested({k: v for k, v in flags.items() if v is not None})),
        Layer("environment", {"openai_api_key": environment.get("OPENAI_API_KEY", "")}),
    ]


def resolve(stack: list[Layer]) -> Config:
    """Return the settings that the layers of `layers` amount to.

    Raises:
        ConfigError: the merged settings are not valid; the message names the guilty source.
    """
    *sources, last = stack
    merged: dict[str, Any] = {}
    for layer in sources:
        _merge(merged, _without_strange_key(merged, layer.table))
    remote = merged.get("remote")
    if isinstance(remote, dict) and not remote.get("api_key") and last.table["openai_api_key"]:
        url = urlsplit(str(remote.get("base_url") or ""))
        if url.scheme == "https" and url.hostname == OPENAI_HOST:
            remote["api_key"] = last.table["openai_api_key"]
    try:
        return Config(**merged)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, sources)) from exc


def origin(key: str, stack: list[Layer]) -> str:
    """Return which source set the dotted key, `default` where none did."""
    for layer in reversed(stack[:-1]):
        if _lookup(layer.table, key.split(".")) is not None:
            return layer.title
    return "default"


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise ConfigError(f"cannot read the settings {file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the settings {file} are not TOML: {exc}; correct that line") from exc


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    for name in environment:
        section, nested, _ = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if name.startswith(ENV_PREFIX) and nested and section not in Config.model_fields:
            raise ConfigError(
                f"the variable {name} names no section; {_known(section, Config.model_fields)}"
            )
    try:
        return dict(EnvSettingsSource(Config)())
    except SettingsError as exc:
        raise ConfigError(f"environment: {exc}; it should be JSON, or use SECTION__KEY") from exc


def _read_defer(environment: Mapping[str, str]) -> dict[str, Any]:
    names = {"DEFER_BASE_URL": "base_url", "DEFER_API_KEY": "api_key", "DEFER_MODEL": "model"}
    given = {key: environment[name] for name, key in names.items() if environment.get(name)}
    return {"remote": given} if given else {}


def _nested(flat: Mapping[str, object]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        inner = table
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = value
    return table


def _merge(into: dict[str, Any], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _without_strange_key(merged: dict[str, Any], table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Forget a weaker source's key when a stronger one points to another address.

    A key belongs to the server it was given for and is sent to no other.
    """
    ours, theirs = merged.get("remote"), table.get("remote")
    if isinstance(ours, dict) and isinstance(theirs, Mapping) and theirs.get("base_url"):
        address = ours.get("base_url")
        if address and urlsplit(str(address)).netloc != urlsplit(str(theirs["base_url"])).netloc:
            ours.pop("api_key", None)
    return table


def _lookup(table: Mapping[str, Any], path: list[str]) -> Any:
    found: Any = table
    for part in path:
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _explain(exc: ValidationError, sources: list[Layer]) -> str:
    problems = exc.errors(include_url=False)
    first = problems[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    guilty = next((s for s in reversed(sources) if _lookup(s.table, path) is not None), sources[0])
    where = guilty.title
    if guilty is sources[0]:
        line = _line_of(Path(guilty.title), path)
        where = f"{guilty.title}, line {line}" if line else guilty.title
    elif guilty.title == "environment":
        where = f"environment, {ENV_PREFIX}{'__'.join(path).upper()} or its alias"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {_problem(key, path, first)}{more}"


def _problem(key: str, path: list[str], error: Any) -> str:
    if error["type"] == "extra_forbidden":
        fields = _fields_at(path[:-1])
        return f"unknown key {key!r}; {_known(path[-1], fields)}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{key!r} is a section; write [{key}] and its keys below it"
    value = "" if key in SECRETS else f" = {error['input']!r}"
    return f"{key}{value}: {error['msg'].removeprefix('Value error, ')}"


def _fields_at(path: list[str]) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = Config.model_fields
    for part in path:
        section = fields[part].annotation if part in fields else None
        fields = getattr(section, "model_fields", {})
    return fields


def _known(name: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(fields)}"


def _line_of(file: Path, path: list[str]) -> int | None:
    """Return the line that sets the key; tomllib keeps no positions."""
    *sections, leaf = path
    current: list[str] = []
    for number, line in enumerate(_read_lines(file), start=1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            current = [part.strip(" \"'") for part in header[1].split(".")]
            if current == path:
                return number
        elif "=" in line:
            keys = [part.strip(" \"'\t") for part in line.partition("=")[0].split(".")]
            if current + keys == [*sections, leaf]:
                return number
    return None


def _read_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
