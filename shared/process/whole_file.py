"""A file that is there whole or not at all: it grows beside its place and is moved there at the end."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = ".part"  # the ending of a file that is being written
# O_EXCL: never a file, and never a link to one, that somebody put there; two processes never share one either.
_AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _AS_IT_IS


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """What is written here becomes ``path`` if all went well; what stood there stays until then.

    A process that is killed leaves ``NAME.<random>.part``.

    Raises:
        OSError: it cannot be written, for example because the disk is full; nothing of it is left behind, and the error
            names ``path``.
    """
    with whole_path(path) as part, os.fdopen(os.open(part, os.O_WRONLY | _AS_IT_IS), "wb") as file:
        yield file


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """As ``whole_file``, for writers that want a name: an empty file that becomes ``path``."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}{PART}")
    try:
        try:
            os.close(os.open(part, _NEW, 0o666))
            yield part
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the user knows nothing of part files
