"""Videos of an object store, read: copied to a disk, read here and there, digested. Listing: shared/videos/remote.py.

The decoder never reads from there: it gets a copy on a disk (extract/decode/fetching.py), so that seeking, digests and
numbers are those of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.videos.remote import RemoteFile, join

BLOCK_BYTES = 2**20


def fetch(file: RemoteFile, to: Path, check: Callable[[], None]) -> None:
    """Copy an object to a file.

    Args:
        check: called for every part; may raise to give up.

    Raises:
        FileNotFoundError: there is no such object.
        OSError: the file cannot be written.
        RemoteError: the store does not give it.
    """
    from fsspec.callbacks import Callback

    class Parts(Callback):
        def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
            check()

    with file.root.store() as (store, base):
        store.get_file(join(base, file.path), str(to), callback=Parts())


@contextmanager
def opened(file: RemoteFile) -> Iterator[Any]:
    """An object as a file to be read here and there.

    Raises:
        FileNotFoundError: there is no such object.
        RemoteError: the store does not give it.
    """
    with file.root.store() as (store, base), store.open(join(base, file.path), "rb") as handle:
        yield handle


def sha256_of(file: RemoteFile) -> str:
    """Digest of an object, which is read for it; nothing is kept.

    Raises:
        FileNotFoundError: there is no such object.
        RemoteError: the store does not give it.
    """
    digest = hashlib.sha256()
    with (
        file.root.store() as (store, base),
        store.open(join(base, file.path), "rb", block_size=8 * BLOCK_BYTES, cache_type="readahead") as handle,
    ):
        while block := handle.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
