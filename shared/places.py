"""Where videos and features lie: a path or a URL; what no URL may say; a store's errors in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LOCAL = ("file", "local")
BUCKETS = ("s3", "s3a", "gs", "gcs")  # the part before the first "/" is the name of a bucket, and nothing else
EXTRAS = {"s3": "crossgru[s3]", "s3a": "crossgru[s3]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
# Libraries behind fsspec; their own errors are not OSErrors.
_STORES = frozenset("botocore aiobotocore aiohttp s3fs gcsfs google adlfs azure requests urllib3".split())  # noqa: SIM905
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)


class RemoteError(OSError):
    """The store does not answer, or not as it should; the message says which and why."""


def is_url(place: str) -> bool:
    """Whether it is a URL and no path."""
    return "://" in place


def local_path(url: str) -> str | None:
    """The path behind file:// and local://, None for other URLs."""
    scheme, _, rest = url.partition("://")
    return rest if scheme in LOCAL else None


def plain_place(place: str) -> str:
    """The path behind file:// and local://, which have all that paths have (locks, appending); else as it is."""
    return place if (path := local_path(place)) is None else path or "/"


def check_secrets(place: str, what: str) -> None:
    """Refuse a URL with credentials in it: it would end in messages, logs, ledgers and the configuration of runs.

    Args:
        what: the URL's purpose, for the message.

    Raises:
        ValueError: does not repeat any of it but the scheme.
    """
    for part in place.split("::") if is_url(place) else ():
        scheme, separator, rest = part.partition("://")
        if not separator or scheme in LOCAL:
            continue
        first = rest.partition("/")[0]  # a secret may have a "/" itself: the "@" behind it can be anywhere
        is_bucket = scheme.lower() in BUCKETS
        found = (":" in first and "@" in rest) or (
            is_bucket and ("@" in first or (":" in first and not first.startswith("arn:")))
        )
        signed = "=" in rest.partition("?")[2]
        if found or signed:
            has = "credentials" if found else "a query, as signed links have,"
            raise ValueError(
                f"the URL of {what} ({scheme}://...) has {has} in it, which would end up in logs; give it without, and "
                "the credentials where the store's own tools look for them (for S3: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or ~/.aws)"
            )


def error_of_store(url: str, error: Exception) -> RemoteError | None:
    """What a library that is lacking, or the one behind a URL, has raised, in words; None for other errors."""
    if isinstance(error, ImportError):
        extra = EXTRAS.get(url.partition("://")[0], "crossgru[remote]")
        return RemoteError(f"{url}: {error}; pip install '{extra}'")
    if (module := type(error).__module__.partition(".")[0]) in _STORES:
        return RemoteError(f"{url}: {error} ({type(error).__name__} of {module})")
    return None


@contextmanager
def store_errors(url: str, *, absent: bool = True) -> Iterator[None]:
    """Around an access to the store behind a URL: whatever goes wrong there names it.

    Args:
        absent: whether something may not be there, or be there already: such errors stay what they are.

    Raises:
        RemoteError: the store cannot be reached, or refuses.
    """
    try:
        yield
    except RemoteError:
        raise
    except Exception as error:
        if (told := error_of_store(url, error)) is not None:
            raise told from error
        if not isinstance(error, OSError) or (absent and isinstance(error, _ABSENT)):
            raise
        words = error.strerror or str(error) or "no answer"
        raise RemoteError(f"{url}: {words} ({type(error).__name__})") from error
