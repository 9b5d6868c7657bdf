"""Put a session together from settings and a scenario; the app and `run` both come here.

The one place that knows which class stands behind each part. Reads no environment.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgeagent import catalog, paths
from edgeagent.cascade import LocalTier
from edgeagent.config import Config
from edgeagent.engine.client import Engine, EngineOptions, Tuning
from edgeagent.errors import ConfigError
from edgeagent.link import Link
from edgeagent.manifest import DEFAULT, Manifest
from edgeagent.remote import Remote
from edgeagent.served import Served
from edgeagent.session import Scenario, Session
from edgeagent.store import Store


@dataclass(frozen=True, slots=True)
class Local:
    """The model that drafts, and what is known of it; not started."""

    name: str
    """As the person gave it: a name, a path, or an address."""
    tier: LocalTier
    """Whoever opened it closes it."""
    manifest: Manifest
    quant: str = ""
    path: Path | None = None
    """None for a model on a server."""
    max_tokens: int = 512
    """Tokens that one step may write."""


def open_store() -> Store:
    """Return the person's sessions; close it when done.

    Raises:
        StoreError: the database is damaged, locked or not writable.
    """
    return Store(store_path())


def store_path() -> Path:
    """Return where the sessions are kept."""
    return paths.data_dir() / "sessions.db"


def engine_log() -> Path:
    """Return the file that takes everything llama.cpp prints."""
    return paths.state_dir() / "engine.log"


def open_session(
    config: Config,
    scenario: Scenario,
    scenario_ref: str,
    resume: str | None = None,
    *,
    is_parking: bool = False,
) -> Session:
    """Return a session that is ready for `start`, `recover` and `turn`; nothing is loaded yet.

    `scenario_ref` is what loads the scenario again when the session is resumed: its name or the
    absolute path of its folder. `resume` is a session's whole id; None begins a new one.
    `is_parking` keeps what the model has read on disk, so that going on costs no reading.

    Raises:
        ModelNotFound: the model has no file; the message says how to fetch it.
        ConfigError: the model is a server's address and `--offline` forbids it.
        StoreError: the session is open elsewhere or cannot be read.
    """
    with ExitStack() as stack:
        stack.callback(scenario.backend.close)
        local = open_local(config, is_parking=is_parking)
        store = open_store()
        stack.callback(store.close)
        session_id = resume or store.create_session(scenario_ref, config.model.name)
        store.use_model(session_id, config.model.name)
        stack.pop_all()  # the session closes them from here on, whatever happens
    return Session(
        store,
        session_id,
        scenario,
        local.tier,
        Remote(config.remote) if config.remote.base_url and not config.offline else None,
        _started_link(config),
        config,
        config.defer.threshold
        if config.defer.threshold is not None
        else local.manifest.defer_threshold,
    )


def open_local(config: Config, tuning: Tuning = "kept", *, is_parking: bool = False) -> Local:
    """Return the model that the settings name; nothing is loaded yet.

    `tuning` and `is_parking` are as in `EngineOptions`.

    Raises:
        ModelNotFound: the model has no file; the message says how to fetch it.
        ConfigError: the model is a server's address and `--offline` forbids it.
    """
    name = config.model.name
    if name.startswith(("http://", "https://")):
        if config.offline:
            raise ConfigError(f"the model {name} is a server and --offline opens no socket")
        # A key is for the server it was given for, and goes to no other.
        is_same = urlsplit(name).netloc == urlsplit(config.remote.base_url or "").netloc
        served = Served(name, config.remote.api_key if is_same else None, config.model.n_ctx)
        return Local(name, served, DEFAULT, max_tokens=config.model.max_tokens)
    model = catalog.resolve(name)
    return Local(
        name,
        open_engine(config, model, tuning=tuning, is_parking=is_parking),
        model.manifest,
        model.quant,
        model.path,
        config.model.max_tokens,
    )


def open_engine(
    config: Config,
    model: catalog.Model,
    n_outputs: int = 1,
    tuning: Tuning = "kept",
    *,
    is_parking: bool = False,
) -> Engine:
    """Return the engine that runs the model's file; nothing is loaded yet.

    `n_outputs`, `tuning` and `is_parking` are as in `EngineOptions`.
    """
    options = EngineOptions(
        path=model.path,
        dialect=model.manifest.dialect,
        n_ctx=config.model.n_ctx or model.manifest.n_ctx,
        n_threads=config.model.n_threads,
        cache_dir=paths.cache_dir(),
        cache_bytes=config.model.prefix_mb << 20,
        is_parking=is_parking,
        log_file=engine_log(),
        n_outputs=n_outputs,
        tuning=tuning,
    )
    return Engine(options)


def _started_link(config: Config) -> Link:
    link = Link(config.remote, config.offline)
    if config.defer.mode != "never":
        link.start()
    return link
