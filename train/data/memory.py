"""Where resident features go: how much memory is free, and a bank in it, or in a file where it is not enough."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

HOST_SHARE = 0.8  # of what is free: labels, models and other processes want some, too
DEVICE_SHARE = 0.7  # activations and optimizer of many folds lie there as well
MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


class MemoryShortage(ValueError):
    """Features fit nowhere; the message says how much is needed and what to do."""


@dataclass(frozen=True)
class Limits:
    """Bytes that features may take, or None: measure it.

    Attributes:
        device: on the GPU.
        host: in the computer's memory.
        folder: where a file may be made; None: the first of the temporary folders that is on a disk and has room.
    """

    device: int | None = None
    host: int | None = None
    folder: Path | None = None


MEASURED = Limits()


def host_room(limits: Limits) -> int:
    """Bytes that features may take in the computer's memory."""
    return limits.host if limits.host is not None else int(HOST_SHARE * free_host_bytes())


def device_room(limits: Limits, device: str) -> int:
    """Bytes that features may take on a GPU."""
    if limits.device is not None:
        return limits.device
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, to be used again
    return int(DEVICE_SHARE * (free + unused))


def free_host_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can still be had: what the system calls available, and no more than a container may have.

    A container sees the memory of the whole machine in /proc/meminfo and is killed when it takes more than its own
    limit, so the limits of the process's control groups (version 2 and 1) and of all above them count, too.
    """
    free = [_available(proc / "meminfo")]
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, files = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        place = root / path.strip("/")
        for folder in (place, *place.parents):
            free += _group_free(folder, *files)
            if folder == root:
                break
    return max(0, min(free))


def allocate(shapes: Mapping[str, tuple[int, int]], limits: Limits) -> dict[str, np.ndarray]:
    """Banks to be filled: name -> float16 (rows, D), in memory if all of them fit, else in a file each.

    The files have no name from the start, so that nothing is left of them however the process ends.

    Raises:
        MemoryShortage: there is no disk with room either.
    """
    need = sum(2 * rows * dim for rows, dim in shapes.values())
    room = host_room(limits)
    if need <= room:
        return {name: np.empty(shape, np.float16) for name, shape in shapes.items()}
    folder = _disk_with(need, room, limits)
    return {name: _in_file(shape, folder) for name, shape in shapes.items()}


def size(num_bytes: float) -> str:
    """As people say it: "1.3 GB"."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def _in_file(shape: tuple[int, int], folder: Path) -> np.ndarray:
    num_bytes = max(1, 2 * shape[0] * shape[1])
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a disk that is full is an error here, not a crash while training
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)
        return np.memmap(file, np.float16, "r+", shape=shape)  # type: ignore[call-overload, no-any-return]


def _disk_with(need: int, room: int, limits: Limits) -> Path:
    """A folder on a disk with that much free."""
    # Only folders: the file in one is made by tempfile, with a name of its own and for this user alone.
    usual = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]  # nosec B108
    folders = [limits.folder] if limits.folder else usual
    seen = []
    for folder in folders:
        if not folder.is_dir() or _filesystem(folder) in MEMORY_FILESYSTEMS:
            continue
        free = shutil.disk_usage(folder).free
        if free >= need and os.access(folder, os.W_OK):
            return folder
        seen.append(f"{folder} has {size(free)}")
    raise MemoryShortage(
        f"the features take {size(need)}; memory has room for {size(room)} and no disk for the rest "
        f"({', '.join(seen) or 'no temporary folder is on a disk'}); set TMPDIR to a folder on a disk with "
        f"{size(need)} free, or train on fewer streams"
    )


def _filesystem(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Type of the file system a folder is on, "" if unknown."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    whole = folder.resolve()
    found = [(len(parts[1]), parts[2]) for parts in lines if len(parts) > 2 and whole.is_relative_to(parts[1])]
    return max(found, default=(0, ""))[1]


def _available(meminfo: Path) -> int:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return _pages("SC_PHYS_PAGES") // 2


def _pages(name: str) -> int:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30  # nothing says how much there is; a small computer's worth


def _group_free(folder: Path, limit: str, usage: str, cached: str) -> list[int]:
    """[bytes that a control group may still take], or [] where it has no limit."""
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return [most - used + int(stat.get(cached, 0))]  # files in the page cache give way
    except (OSError, ValueError):  # "max", or no such file
        return []
