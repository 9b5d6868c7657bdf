"""What an HTTP exchange says about the server: one table from its failures to our errors.

Used by the link's probe and by the larger model's client, so that a refused key or a dead
network has one name and one sentence wherever it is met. Knows no conversation and no model.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

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
LISTING_BYTES = 1024 * 1024
"""A list of models; a catalogue of hundreds has some 300 KiB."""

REFUSALS = {
    401: "check DEFER_API_KEY",
    402: "{host} wants to be paid; check the account",
    403: "this key may not use the model; check DEFER_API_KEY and DEFER_MODEL",
    404: "nothing at this address by that name; check DEFER_BASE_URL and DEFER_MODEL",
}
"""Statuses that no second try will change, with what the person can do."""


def host_of(url: str) -> str:
    """Return `host:port` of an address, without user, password or path."""
    return urlsplit(url).netloc.rpartition("@")[2]


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
    """Return what an exception of httpx2, or of the header's encoding, means."""
    import httpx2

    match exc:
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return RemoteOffline(f"no connection to {host} in time")
        case httpx2.TimeoutException():
            return RemoteTimeout(f"{host} went silent")
        case httpx2.ConnectError() | httpx2.ProxyError():
            return RemoteOffline(_why_no_connection(exc, host))
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return RemoteRefused(f"{host} is no address to call; check DEFER_BASE_URL")
        case httpx2.LocalProtocolError() | UnicodeError():
            # A line break or an accent in the key, and the message would show the key.
            return RemoteRefused("the key cannot be sent as it is; check DEFER_API_KEY")
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


def opened(**options: Any) -> httpx2.Client:
    """Return an HTTP client that follows no redirect: one could carry the turn elsewhere.

    Raises:
        RemoteRefused: the environment asks for a proxy or certificates that cannot be used.
    """
    import httpx2  # 100 ms, and only a configured remote needs it

    try:
        return httpx2.Client(follow_redirects=False, **options)
    except (ImportError, ValueError, OSError) as exc:
        raise RemoteRefused(f"the environment's proxy or certificates: {exc}") from exc


def probe(url: str, key: str | None, connect_s: float) -> RemoteError | None:
    """Ask once whether the server is there; return what is wrong, None when it answers.

    Blocks for at most a few times `connect_s`. The body of the answer is not read: any answer
    that is not a web page or a failure will do, since not every server lists its models and a
    restricted key may be forbidden to ask (403).
    """
    try:
        with _listing(url, key, connect_s) as response:
            return _from_probe(response, host_of(url))
    except RemoteError as error:
        return error


@dataclass(frozen=True, slots=True)
class Offer:
    """The first model that a server lists, and what it tells of it; 0 where it does not."""

    name: str
    n_ctx: int = 0
    n_params: int = 0
    size_bytes: int = 0


def models(url: str, key: str | None, connect_s: float) -> Offer:
    """Return what the server serves.

    Raises:
        RemoteError: it is not there, refuses, or lists no model.
    Source: llama.cpp tools/server README, `GET /v1/models` (`meta`); vLLM's `max_model_len`.
    """
    host = host_of(url)
    with _listing(url, key, connect_s) as response:
        error = _from_probe(response, host)
        if error is not None or response.status_code != 200:
            raise error or from_status(response.status_code, response.headers, host)
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > LISTING_BYTES:
                raise RemoteBroken(f"{host} sends more than a list of models can be")
    try:
        listed = _Listing.model_validate_json(body).data[0]
    except (ValidationError, IndexError) as exc:
        raise RemoteBroken(f"{host} lists no model") from exc
    meta = listed.meta or _Meta()
    return Offer(
        listed.id, listed.max_model_len or meta.n_ctx or meta.n_ctx_train, meta.n_params, meta.size
    )


class _Meta(BaseModel):
    # Servers add fields of their own; what we do not know we do not read.
    model_config = ConfigDict(extra="ignore")
    n_ctx: int = 0
    n_ctx_train: int = 0
    n_params: int = 0
    size: int = 0


class _Listed(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: str
    max_model_len: int = 0
    meta: _Meta | None = None


class _Listing(BaseModel):
    model_config = ConfigDict(extra="ignore")
    data: list[_Listed]


@contextmanager
def _listing(url: str, key: str | None, connect_s: float) -> Iterator[httpx2.Response]:
    """Ask for the list of models; the body is not read yet."""
    import httpx2

    headers = {"user-agent": USER_AGENT, **({"authorization": f"Bearer {key}"} if key else {})}
    host = host_of(url)
    try:
        with (
            opened(timeout=connect_s) as client,
            client.stream("GET", f"{url.rstrip('/')}/models", headers=headers) as response,
        ):
            yield response
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as exc:
        error = from_transport(exc, host)
        if isinstance(error, RemoteTimeout):
            raise RemoteOffline(f"no answer from {host} within {connect_s:g} s") from exc
        raise error from exc


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
