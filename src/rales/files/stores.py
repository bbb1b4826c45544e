"""Files in object stores and on web servers, through fsspec: what is asked again, and what a failure means.

Some failures are of the file asked for (it is not there, it may not be read): they will be the same tomorrow, and a
job may write them down as its result. Others are of the store or of who asks (it does not answer, the credentials have
expired): a StoreError, after which nothing is known of the file.
"""

import errno
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from rales.errors import FileSystemError, UsageError
from rales.optional_packages import summarise_error

Answer = TypeVar("Answer")
WAITS_S = (0.5, 2.0, 8.0)  # before a request is made again, each half as long to one and a half times as long
LATER = (408, 425, 429)  # answers of web servers of the kind "your fault" that another time may be others
FOR_GOOD = (errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENAMETOOLONG, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT)
# codes of S3; a request for the head of a file alone has its number for an answer
CREDENTIALS = (
    "400",
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
)
NO_CREDENTIALS = re.compile(r"(No|Partial)?Credential|Token|Profile|SSO")  # how botocore's own errors are called


class StoreError(FileSystemError):
    """A store that does not answer, or does not take who asks: nothing is known of the file."""


class RedirectError(ValueError):
    """A web server that sends on to a place that is not allowed."""


@dataclass
class Session:
    """Requests of one job: the places it may ask, and the first StoreError, after which nothing more is asked."""

    places: Sequence[str]
    fault: StoreError | None = None


_session: Session | None = None


@contextmanager
def ask_only(places: Sequence[str]) -> Iterator[Session]:
    """`with ask_only(places) as session:` web servers may not send this process on to other places, and after a
    StoreError, which is then `session.fault`, every further request fails with it at once."""
    import fsspec.config

    global _session
    before, settings = _session, dict(fsspec.config.conf)
    _session = Session(places)
    fsspec.config.conf |= {protocol: {"get_client": _open_client} for protocol in ("http", "https")}
    try:
        yield _session
    finally:
        _session = before
        fsspec.config.conf.clear()
        fsspec.config.conf |= settings


async def _open_client(**options: Any) -> Any:
    """One function for all shards, since fsspec keeps a file system with its connections for each that it is given."""
    import aiohttp

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse_redirect)
    return aiohttp.ClientSession(trace_configs=[trace], **options)


async def _refuse_redirect(_client: Any, _context: Any, asked: Any) -> None:
    import yarl

    headers = asked.response.headers
    target = headers.get("Location") or headers.get("URI")  # as aiohttp looks for it
    if not target:
        raise RedirectError("it sends on and does not say where")
    target = str(asked.url.join(yarl.URL(target)))
    if not any(is_inside(target, place) for place in (_session.places if _session else ())):
        raise RedirectError(f"it sends on to {target}, which no --urls allows")


def is_url(path: str) -> bool:
    return "://" in path


def refuse_url(path: str | Path, option: str = "") -> None:
    """Path that is read or written on this machine, and the option that gives it -> a UsageError if it is a URL, or
    what a path makes of one (s3:/bucket/x), which would be a folder called `s3:`; on Windows C:/ is none."""
    if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+:)([/\\]+|$)", str(path)):
        address = f"{found[1]}//{str(path)[found.end() :]}" if found[2] else path
        what = "a URL; give a place on this machine, only recordings and shards of predict --manifest may be elsewhere"
        raise UsageError(f"{option} {address}: {what}".lstrip())


def is_inside(url: str, place: str) -> bool:
    """Whether an address lies in a place such as s3://bucket/folder; `..` and fsspec's chains (`::`) lead out of it,
    also where they are quoted, once or more."""
    plain = url
    while (once := unquote(plain)) != plain:
        plain = once
    return url.startswith(place.rstrip("/") + "/") and "::" not in plain and ".." not in re.split(r"[/\\]", plain)


def open_file_system(url: str) -> tuple[Any, str]:
    """URL -> its fsspec file system and the path in it; a protocol that needs a package is a sentence."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f'{url}: needs another package ({error}): pip install "rales[cloud]"') from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}; expected a path, or a URL such as s3://bucket/folder") from error
    return files, path


def ask_store(url: str, request: Callable[[], Answer]) -> Answer:
    """URL and a request about it -> the store's answer. What may pass is asked again, three times.

    Errors: those of the file as fsspec raises them (FileNotFoundError, PermissionError …), else StoreError.
    """
    if _session and _session.fault:
        raise StoreError(url, f"not asked, since {_session.fault}") from _session.fault
    try:
        for wait_s in WAITS_S:
            try:
                return request()
            except Exception as error:
                if is_lasting(url, error):
                    raise
            time.sleep(wait_s * random.uniform(0.5, 1.5))  # not all workers at the same moment
        try:
            return request()
        except Exception as error:
            if is_lasting(url, error):
                raise
            sentence = f"no answer after {len(WAITS_S) + 1} tries ({summarise_error(error)})"
            raise StoreError(url, f"{sentence}; see whether the store can be reached") from error
    except StoreError as error:
        if _session:
            _session.fault = error
        raise


def is_lasting(url: str, error: Exception) -> bool:
    """Whether a request need not be made again, since its error is of the file. Errors: StoreError, if it is of the
    store and lasts too."""
    answer = getattr(error.__cause__, "response", None)  # of S3
    code = answer.get("Error", {}).get("Code", "") if isinstance(answer, dict) else ""
    name = code or type(error).__name__
    if code == "NoSuchBucket":
        raise StoreError(url, "there is no such bucket; correct the address, or AWS_ENDPOINT_URL") from error
    status = getattr(error, "status", 0)  # of web servers
    of_botocore = type(error).__module__.startswith("botocore") and NO_CREDENTIALS.match(name)
    if code in CREDENTIALS or status in (401, 407) or of_botocore:  # 407: a proxy's
        reason = f"the store takes no such credentials ({name}: {error}); renew them"
        raise StoreError(url, reason) from error
    return (
        isinstance(error, FileNotFoundError | FileExistsError | PermissionError | ValueError | NotImplementedError)
        or getattr(error, "errno", None) in FOR_GOOD
        or (isinstance(status, int) and 400 <= status < 500 and status not in LATER)
    )
