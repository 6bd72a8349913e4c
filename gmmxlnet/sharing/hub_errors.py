"""Hub errors: retries temporary failures and reports others in one line with a remedy.

huggingface_hub repeats some of its requests by itself, but not all of them, and its errors are long and quote what a
server says; here an error is one line, with tokens redacted.
"""

import json
import logging
import re
from collections.abc import Callable
from typing import TypeVar

from funcy import retry
from huggingface_hub import get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    XetDownloadError,
)

from gmmxlnet.errors import HubError, reason_of
from gmmxlnet.messages import keep_secret, said

# OSError: the connection, the disk, offline mode. ValueError: an impossible name, an answer that is not JSON.
# RuntimeError: what hf_xet, which moves large files, raises when it has given up.
FAILURES = (HTTPError, OSError, ValueError, RuntimeError, XetDownloadError)
TRIES = 5  # waiting 1, 2, 4 and 8 seconds between them, or what the Hub asks for
LONGEST_WAIT = 300.0  # seconds, the length of the Hub's own window for counting requests
PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}  # temporary HTTP statuses

_REMEDIES = {
    401: "the Hub does not know this token (401); log in again with `hf auth login`, or set HF_TOKEN to a valid one",
    403: "the token may not do this here (403); use one with write access to this owner, or name another repository",
    404: "there is no such repository, revision or file, or this token may not see it (404); check the name and token",
    409: "somebody else is changing this repository (409); try again in a moment",
    412: "somebody else has changed this repository meanwhile (412); try again",
    413: "the Hub takes no file of this size (413); save the model in shards",
    429: "the Hub has had too many requests from here (429); try again later",
}

_Answer = TypeVar("_Answer")
_logger = logging.getLogger(__name__)


def ask(repo_id: str, action: Callable[[], _Answer], token: str | None = None) -> _Answer:
    """Returns the result of `action`, retried with backoff if the Hub is busy or the connection is lost.

    `action` must be idempotent. Raises HubError without the client's error as its cause, since that may contain the
    token.
    """
    keep_secret(token)
    keep_secret(get_token())
    asked = 0.0  # seconds that the Hub asks clients to wait

    def is_worth_another_try(error: Exception) -> bool:
        nonlocal asked
        asked = _retry_after(error)
        if not _is_passing(error) or asked > LONGEST_WAIT:
            return False
        _logger.warning("%s: %s; trying again", repo_id, said(explain(error)).partition(";")[0])
        return True

    patiently = retry(TRIES, errors=FAILURES, filter_errors=is_worth_another_try, timeout=lambda n: max(2.0**n, asked))
    try:
        return patiently(action)()
    except FAILURES as error:
        reason = explain(error)
    raise HubError(f"{repo_id}: {reason}")


def explain(error: Exception) -> str:
    """Returns problem and remedy in one line; may still contain the server's message."""
    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 429 and _retry_after(error):
            return f"the Hub has had too many requests from here (429); try again in {_retry_after(error):.0f} seconds"
        if status >= 500:
            return f"the Hub is out of order ({status}); try again later, see https://status.huggingface.co"
        said = reason_of(Exception(error.server_message or "no reason given"))
        return _REMEDIES.get(status, f"the Hub refused it ({status}: {said}); check the name and the files")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids going to the Hub; unset it"
    if isinstance(error, HTTPError | ConnectionError):
        return f"the Hub cannot be reached ({reason_of(error)}); check the connection, the proxy and HF_ENDPOINT"
    if isinstance(error, json.JSONDecodeError):
        return "what answers is not the Hub; check the proxy and HF_ENDPOINT"
    return f"failed here ({reason_of(error)}); check the name, the disk and the permissions"


def _is_passing(error: Exception) -> bool:
    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING
    return isinstance(error, HTTPError | json.JSONDecodeError)  # a cut or refused connection, a proxy's error page


def _cause(error: Exception) -> Exception:
    """Returns the original error: snapshot_download wraps all errors in LocalEntryNotFoundError."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def _retry_after(error: Exception) -> float:
    """Seconds to wait according to the Retry-After or RateLimit header; 0 without either."""
    error = _cause(error)
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    plain = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After", ""))
    limits = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("RateLimit", ""))
    return max(float(match[1]) if match else 0.0 for match in (plain, limits))
