"""Where files live: the XDG folders of the person, and what ships inside the package.

Knows no file's format. Folders are made on first use, readable by their owner only.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeagent.errors import ConfigError

APP = "edgeagent"


def config_file() -> Path:
    """Return the settings file, `$XDG_CONFIG_HOME/edgeagent/config.toml`; it may not exist."""
    return _home("XDG_CONFIG_HOME", ".config") / "config.toml"


def data_dir() -> Path:
    """Return the folder of sessions and scenario databases, made if needed."""
    return _made(_home("XDG_DATA_HOME", ".local/share"))


def cache_dir() -> Path:
    """Return the folder of prefixes and cost tables, made if needed; losing it costs only time."""
    return _made(_home("XDG_CACHE_HOME", ".cache"))


def state_dir() -> Path:
    """Return the folder of the logs, made if needed."""
    return _made(_home("XDG_STATE_HOME", ".local/state"))


def bundled(name: str) -> Path:
    """Return the path of a file or folder that ships under `models/`.

    `models` lies beside `edgeagent` in a checkout and in an installed wheel alike.
    """
    return Path(__file__).resolve().parent.parent / "models" / name


def hub_cache() -> Path:
    """Return the cache that Hugging Face's own tools share; it may not exist.

    Read here, not from their package, whose import costs 220 ms and fixes the folder for good.
    """
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _home(variable: str, fallback: str) -> Path:
    # The XDG specification (0.8) says that a relative path there is to be ignored.
    given = os.environ.get(variable, "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / fallback) / APP


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"cannot make the folder {folder}: {exc.strerror}; "
            "make it writable or point the XDG_*_HOME variables elsewhere"
        ) from exc
    return folder
