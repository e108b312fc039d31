"""Which device the encoders run on, and the GPU that JAX and torch share.

Stream "video" runs on JAX, the others on torch. Each of the two falls back to the CPU without a word, where an encoder
takes seconds per window instead of milliseconds: so it is checked, before any weights are read, that a GPU which is
there or was asked for is seen by all that need it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from importlib.util import find_spec

from shared.names import unknown_name
from shared.process.devices import DEVICES, has_gpu, is_hidden, why_unseen

JAX_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


class DeviceError(ValueError):
    """A library that has to run an encoder does not see the GPU."""


def share_gpu() -> None:
    """Let JAX allocate on demand instead of three quarters of the GPU at once, which would leave torch none.

    JAX reads this when it first uses a device, not when it is imported. What the user has set stays.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def choose_device(device: str, streams: Sequence[str], trained: Collection[str]) -> None:
    """See to it that the encoders run where they should. Call it before any of them is built.

    Args:
        device: "gpu": every stream must run on one; "cpu": none may; "auto": on the GPU if there is one.
        streams: to be extracted.
        trained: streams whose encoders have real weights. Toys may run on the CPU beside a GPU that nobody asked for.

    Raises:
        ValueError: an unknown device.
        DeviceError: a library does not see the GPU; says which, why, and what to do.
    """
    if device not in DEVICES:
        raise ValueError(f"--device: {unknown_name('device', device, DEVICES)}")
    if device == "cpu":
        _use_cpu()
        return
    sees = {library: _sees_gpu(library) for library in sorted({_library(s) for s in streams})}
    blind = [library for library, seen in sees.items() if not seen]
    if device == "auto":
        if is_hidden() or not (has_gpu() or any(sees.values())):
            return
        used = {_library(s) for s in streams if s in trained}
        # Whoever sets JAX_PLATFORMS=cpu has asked for that, and for nothing else.
        blind = [b for b in blind if b in used and not (b == "JAX" and _jax_platforms() == "cpu")]
    if blind:
        asked = "--device gpu" if device == "gpu" else "this machine has a GPU"
        lines = [f"  {b} (stream {', '.join(s for s in streams if _library(s) == b)}): {_why(b)}" for b in blind]
        raise DeviceError(
            f"{asked}, but {' and '.join(blind)} {'sees' if len(blind) == 1 else 'see'} none:\n"
            + "\n".join(lines)
            + "\nOr run on the CPU, which takes seconds per window: --device cpu"
        )


def on_gpu(stream: str) -> bool:
    """Whether the encoders of a stream run on a GPU: VideoPrism where JAX sees one, the others where torch does."""
    return _sees_gpu(_library(stream))


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


def _library(stream: str) -> str:
    return "JAX" if stream == "video" else "torch"


def _sees_gpu(library: str) -> bool:
    if library == "JAX":
        import jax

        share_gpu()
        try:
            return jax.default_backend() != "cpu"
        except RuntimeError:  # JAX_PLATFORMS names a platform that it cannot start
            return False
    import torch

    return torch.cuda.is_available()


def _why(library: str) -> str:
    if library == "JAX" and _jax_platforms() == "cpu":
        return "JAX_PLATFORMS=cpu is set: unset it"
    if library == "JAX" and not any(map(find_spec, JAX_PLUGINS)):
        return "it is installed without CUDA: pip install -e '.[gpu]'"
    if library == "torch":
        import torch

        if torch.version.cuda is None:
            return (
                "it is a build without CUDA: pip install --force-reinstall torch torchvision, from an index with CUDA"
            )
    if why := why_unseen():
        return why
    command = "import jax; jax.devices('gpu')" if library == "JAX" else "import torch; torch.cuda.init()"
    return f'it has CUDA, but cannot use the GPU; this says why: python -c "{command}"'


def _jax_platforms() -> str:
    return os.environ.get("JAX_PLATFORMS", "")


def _use_cpu() -> None:
    """Hide the GPUs of this process; it must not have used one."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # it has read the environment
        import jax

        jax.config.update("jax_platforms", "cpu")
