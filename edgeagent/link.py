"""Whether the larger model is in reach, known before a turn needs it.

A breaker for one person: what means "not reachable" opens it at once, what means "slow down"
waits as long as it was told, what means "wrong key" stays open until the configuration changes.
A background thread asks `GET {base_url}/models` when it is time, off the turn's path. Knows no
conversation; offline or unconfigured it opens no socket and starts no thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from edgeagent import reach
from edgeagent.errors import (
    RemoteBroken,
    RemoteError,
    RemoteLimited,
    RemoteOffline,
    RemoteRefused,
)

if TYPE_CHECKING:
    from edgeagent.config import RemoteConfig

log = logging.getLogger(__name__)

REFRESH_S = 60.0
"""How often a link that is up is asked whether it still is."""
BACKOFF_S = 2.0
"""Wait after the first failure; doubled by each one that follows."""
UNREACHED_CAP_S = 30.0
"""Longest wait while nothing answers: a network that returns is noticed soon."""
FAILING_CAP_S = 300.0
"""Longest wait while the server answers and fails: each try costs a turn its patience."""


class LinkState(StrEnum):
    """What is known of the larger model's server."""

    ONLINE = "online"
    PROBING = "probing"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known and when to ask again, as a value; the clock is the caller's."""

    state: LinkState
    reason: str
    """In words for the footer."""
    retry_at: float
    """When to probe, on the caller's clock; infinite: never."""
    n_failures: int = 0
    """Failures since the last step that the server completed."""

    @property
    def is_up(self) -> bool:
        """Whether a turn may go there; a server that was never asked gets its chance."""
        untried = self.state is LinkState.PROBING and self.n_failures == 0
        return self.state is LinkState.ONLINE or untried


def untried(now: float) -> Breaker:
    """Return the breaker of a server that was not asked yet."""
    return Breaker(LinkState.PROBING, "not tried yet", now)


def after_success(host: str, now: float) -> Breaker:
    """Return the breaker after the server completed a step."""
    return Breaker(LinkState.ONLINE, f"{host} answers", now + REFRESH_S)


def after_answer(breaker: Breaker, host: str, now: float) -> Breaker:
    """Return the breaker after a probe was answered.

    The failures stay counted: a server may list its models and still fail every step.
    """
    return replace(after_success(host, now), n_failures=breaker.n_failures)


def after_failure(breaker: Breaker, error: RemoteError, now: float) -> Breaker:
    """Return the breaker after a step failed."""
    n_failures = breaker.n_failures + 1
    opened = Breaker(LinkState.OFFLINE, str(error), math.inf, n_failures)
    match error:
        case RemoteRefused():
            return opened
        case RemoteLimited():
            return replace(opened, retry_at=now + error.retry_after_s)
        case RemoteOffline():
            wait_s = _backoff_s(n_failures, UNREACHED_CAP_S)
            return replace(opened, reason=f"offline: {error}", retry_at=now + wait_s)
        case RemoteBroken() if n_failures == 1:
            # It was there, and one bad answer says little about the next.
            return Breaker(LinkState.ONLINE, str(error), now + BACKOFF_S, n_failures)
        case _:
            return replace(opened, retry_at=now + _backoff_s(n_failures, FAILING_CAP_S))


class Link:
    """The state of the way to one server; `start` begins to watch it, `close` stops."""

    def __init__(self, config: RemoteConfig, offline: bool = False) -> None:
        self._config = config
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        if offline or config.base_url is None:
            reason = "--offline" if offline else "not configured"
            self._is_closed = True
            self._breaker = Breaker(LinkState.OFFLINE, reason, math.inf)
            self._host = ""
        else:
            self._breaker = untried(time.monotonic())
            self._host = reach.host_of(config.base_url)

    @property
    def state(self) -> LinkState:
        return self._breaker.state

    @property
    def is_up(self) -> bool:
        """Whether a turn may go to the larger model; never blocks."""
        return self._breaker.is_up

    @property
    def reason(self) -> str:
        """Why the state is what it is, in words for the footer."""
        breaker = self._breaker
        if breaker.reason.startswith("429"):
            return f"429: wait {max(0.0, breaker.retry_at - time.monotonic()):.0f} s"
        return breaker.reason

    def start(self) -> None:
        """Begin to probe in the background; again, or where nothing may be asked, no effect."""
        with self._lock:
            if self._is_closed or self._thread is not None:
                return
            self._thread = threading.Thread(target=self._watch, name="link", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop probing; a probe under way is left to its timeout."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()

    def record_success(self) -> None:
        """Tell that the server completed a step."""
        self._set(after_success(self._host, time.monotonic()))

    def record_failure(self, error: RemoteError) -> None:
        """Tell that a step failed, and how."""
        self._set(after_failure(self._breaker, error, time.monotonic()))

    def _set(self, breaker: Breaker) -> None:
        with self._lock:
            if breaker.state is not self._breaker.state:
                log.info("link state=%s reason=%r", breaker.state, breaker.reason)
            self._breaker = breaker
            self._lock.notify_all()

    def _watch(self) -> None:
        while self._wait_for_turn():
            before = self._breaker
            if before.state is LinkState.OFFLINE:
                before = replace(before, state=LinkState.PROBING)
                self._set(before)
            error = self._probe()
            now = time.monotonic()
            after = (
                after_answer(before, self._host, now)
                if error is None
                else after_failure(
                    replace(before, n_failures=max(1, before.n_failures)), error, now
                )
            )
            with self._lock:
                # What a step learned meanwhile is newer than what this probe asked for.
                is_newest = self._breaker is before
            if is_newest:
                self._set(after)

    def _wait_for_turn(self) -> bool:
        """Sleep until it is time to probe; False when the link is closed."""
        with self._lock:
            while not self._is_closed:
                wait_s = self._breaker.retry_at - time.monotonic()
                if wait_s <= 0:
                    return True
                self._lock.wait(None if math.isinf(wait_s) else wait_s)
        return False

    def _probe(self) -> RemoteError | None:
        config = self._config
        assert config.base_url is not None
        key = config.api_key.get_secret_value() if config.api_key else None
        return reach.probe(config.base_url, key, config.connect_s)


def _backoff_s(n_failures: int, cap_s: float) -> float:
    return float(min(cap_s, BACKOFF_S * 2 ** min(n_failures - 1, 16)))
