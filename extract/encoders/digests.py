"""sha256 of weights: of files where there are files, of values where there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn


def file_sha256(path: str | Path) -> str:
    """Hash of one file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Iterable[Path]) -> list[str]:
    """Hashes of several files, in order; large checkpoints are read side by side."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(file_sha256, paths))


def params_sha256(params: Mapping[str, np.ndarray]) -> str:
    """Hash of weights that have no file: key, shape, dtype and bytes, in the order of the keys."""
    digest = hashlib.sha256()
    for key, value in sorted(params.items()):
        digest.update(f"{key} {value.shape} {value.dtype.str}\n".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def state_digest(model: nn.Module) -> str:
    """Hash of a torch model's weights as float32: names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()
