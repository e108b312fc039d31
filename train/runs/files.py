"""Files of a run: written in one step, read as what they claim to be or refused in words.

A run folder may come from somebody else, and may have been cut anywhere: nothing in it is run, and nothing is trusted
before it is looked at.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from shared.process.whole_file import whole_file


class RunError(ValueError):
    """A run folder, or a file of one, that cannot be used; the message says why."""


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file in one step; one that stood there stays until the new one is whole.

    Raises:
        OSError: it cannot be written, for example because the disk is full; nothing of it is left behind.
    """
    with whole_file(file) as opened:
        opened.write(data)


def write_text(file: Path, text: str) -> None:
    """Write a text file in one step."""
    write_bytes(file, text.encode("utf-8"))


def write_json(file: Path, values: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON in one step."""
    write_text(file, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RunError: not JSON, or not an object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # also bytes that are no text, and numbers of thousands of digits
        raise RunError(f"{file} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"{file} is damaged: expected an object, found {type(values).__name__}")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def is_whole_archive(file: Path) -> bool:
    """Whether a zip archive, as torch writes it, has its end and all of its checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def file_sha256(file: Path) -> str:
    """Hash of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def damage_in_words(folder: Path) -> Iterator[None]:
    """What goes wrong with values of another form than a run has, as one message.

    Raises:
        RunError: instead of whatever a missing key or a value of the wrong type led to.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        raise RunError(
            f"the files of {folder} are damaged or of another version ({type(error).__name__}: {error}); take the run "
            "from where it was made, or train it again"
        ) from error
