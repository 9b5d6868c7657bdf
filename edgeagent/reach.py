"""What an HTTP exchange says about the server: one table from its failures to our errors.

Used by the link's probe and by the larger model's client, so that a refused key or a dead
network has one name and one sentence wherever it is met. Knows no conversation and no model.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgeagent.errors import (
    RemoteBroken,
    RemoteError,
    RemoteLimited,
    RemoteOffline,
    RemoteRefused,
    RemoteTimeout,
)

if TYPE_CHECKING:
    import httpx2

USER_AGENT = "edgeagent"
RETRY_AFTER_S = 30.0
"""How long a 429 without a `Retry-After` is obeyed."""
RETRY_AFTER_CAP_S = 3600.0

REFUSALS = {
    401: "check DEFER_API_KEY",
    402: "{host} wants to be paid; check the account",
    403: "this key may not use the model; check DEFER_API_KEY and DEFER_MODEL",
    404: "nothing at this address by that name; check DEFER_BASE_URL and DEFER_MODEL",
}
"""Statuses that no second try will change, with what the person can do."""


def host_of(url: str) -> str:
    """Return `host:port` of an address, without user, password or path."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def from_status(
    status: int, headers: Mapping[str, str], host: str, detail: str = ""
) -> RemoteError:
    """Return what an HTTP status other than 2xx means."""
    said = f" ({detail})" if detail else ""
    if status in REFUSALS:
        return RemoteRefused(f"{status}: {REFUSALS[status].format(host=host)}{said}")
    if 300 <= status < 400:
        return RemoteRefused(f"{status}: {host} sends us elsewhere; check DEFER_BASE_URL")
    if status == 429:
        wait_s = retry_after_s(headers)
        return RemoteLimited(f"429: wait {wait_s:.0f} s", wait_s)
    if status in (408, 504):
        return RemoteTimeout(f"{status}: {host} gave up waiting{said}")
    if status >= 500:
        return RemoteBroken(f"{status}: {host} failed{said}")
    return RemoteBroken(f"{status}: {host} did not take the request{said}")


def from_transport(exc: Exception, host: str) -> RemoteError:
    """Return what an exception of httpx2 means."""
    import httpx2  # 100 ms, and only a configured remote needs it

    match exc:
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return RemoteOffline(f"no connection to {host} in time")
        case httpx2.TimeoutException():
            return RemoteTimeout(f"{host} went silent")
        case httpx2.ConnectError() | httpx2.ProxyError():
            return RemoteOffline(_why_no_connection(exc, host))
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return RemoteRefused(f"{host} is no address to call; check DEFER_BASE_URL")
        case _:
            return RemoteBroken(f"the connection to {host} broke off ({type(exc).__name__})")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return how long a 429 asks to wait: seconds or a date, within reason."""
    said = headers.get("retry-after", "")
    try:
        wait_s = float(said)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            wait_s = math.nan
    return min(max(wait_s, 1.0), RETRY_AFTER_CAP_S) if math.isfinite(wait_s) else RETRY_AFTER_S


def probe(url: str, key: str | None, connect_s: float) -> RemoteError | None:
    """Ask once whether the server is there; return what is wrong, None when it answers.

    Blocks for at most a few times `connect_s`. The body of the answer is not read: any answer
    that is not a web page or a failure will do, since not every server lists its models and a
    restricted key may be forbidden to ask (403).
    """
    import httpx2  # 100 ms, paid by the link's own thread

    headers = {"user-agent": USER_AGENT, **({"authorization": f"Bearer {key}"} if key else {})}
    host = host_of(url)
    try:
        with (
            httpx2.Client(timeout=connect_s, follow_redirects=False) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            return _from_probe(response, host)
    except (httpx2.TransportError, httpx2.InvalidURL) as exc:
        error = from_transport(exc, host)
        if isinstance(error, RemoteTimeout):
            return RemoteOffline(f"no answer from {host} within {connect_s:g} s")
        return error


def _from_probe(response: httpx2.Response, host: str) -> RemoteError | None:
    if response.headers.get("content-type", "").startswith("text/html"):
        return RemoteBroken(f"{host} answers with a web page; is this a sign-in network?")
    if response.status_code in (401, 402, 429) or response.status_code >= 500:
        return from_status(response.status_code, response.headers, host)
    return None


def _why_no_connection(exc: BaseException, host: str) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        match cause:
            case ConnectionRefusedError():
                return f"connection refused by {host}"
            case socket.gaierror():
                return f"no address known for {host}"
            case ssl.SSLError():
                return f"TLS with {host} failed ({cause.reason or 'no reason given'})"
            case OSError() if cause.strerror:
                return f"{host}: {cause.strerror.lower()}"
        cause = cause.__cause__ or cause.__context__
    return f"cannot reach {host} ({exc})"
