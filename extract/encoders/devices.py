"""The GPU that JAX and torch share: that neither takes all of it, and how much of it is free."""

from __future__ import annotations

import os


def share_gpu() -> None:
    """Let JAX allocate on demand instead of three quarters of the GPU at once, which would leave torch none.

    JAX reads this when it first uses a device, not when it is imported. What the user has set stays.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def on_gpu(stream: str) -> bool:
    """Whether the encoders of a stream run on a GPU: VideoPrism where JAX sees one, the others where torch does."""
    if stream == "video":
        import jax

        share_gpu()
        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


def free_gpu_bytes() -> int:
    """Bytes that are free on the GPU now; 0 if they are not told.

    torch asks the driver, so what other processes hold is counted. Where only JAX sees the GPU, it is what JAX may take
    at most.
    """
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    import jax

    share_gpu()
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", 0)) - int(stats.get("bytes_in_use", 0))
