"""Whether the machine has a GPU, without asking a library that would use it, and why a library may not see it."""

from __future__ import annotations

import os
from glob import glob

DEVICES = ("auto", "gpu", "cpu")
_DEVICE_FILES = ("/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*")


def is_hidden() -> bool:
    """Whether the environment hides every GPU, which is a way to ask for the CPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a GPU here."""
    return any(glob(pattern) for pattern in _DEVICE_FILES)


def why_unseen() -> str | None:
    """What keeps any library from a GPU, or None if that must be the library itself."""
    if is_hidden():
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU: unset it"
    if not has_gpu():
        return "this machine shows no NVIDIA GPU (there is no /dev/nvidia0; nvidia-smi would list one)"
    return None
