"""Batches out of resident features: on the device, or in the computer's memory, or in a file, as sizes allow.

A batch is one gather per stream in all three. Which of them it is follows from measured sizes, is chosen once for a set
of features, and is told in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.data.features import Features, Windows
from train.data.memory import MEASURED, Limits, device_room, size


@dataclass(frozen=True)
class Placement:
    """Where features are.

    Attributes:
        tier: "device", "host" or "file".
        words: the same for a log, with sizes.
    """

    tier: str
    words: str


def place(features: Features, device: str, limits: Limits = MEASURED) -> Placement:
    """Where the features are for a device; the first answer stays, so that all folds train alike."""
    if device not in features.placements:
        features.placements[device] = _choose(features, device, limits)
    return features.placements[device]


class Gather:
    """Window numbers int64 (..., B) -> stream -> float16 (..., B, T_s, D_s) on the device.

    Attributes:
        tier: see ``Placement``. Only in tier "device" does a gather stay on the device (and may be captured as a CUDA
            graph); in the others the numbers are needed on the host, so a GPU is waited for.
    """

    def __init__(self, banks: dict[str, Tensor], rows: dict[str, Tensor], device: str, tier: str) -> None:
        """Banks (rows, D_s) and rows int64 (W, T_s) lie on the device in tier "device", else on the host."""
        self.tier = tier
        self._banks, self._rows, self._device = banks, rows, device
        self._pinned = torch.device(device).type == "cuda" and tier != "device"

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        if self.tier != "device":
            index = index.cpu()
        return {stream: self._one(stream, index) for stream in self._banks}

    def _one(self, stream: str, index: Tensor) -> Tensor:
        bank, rows = self._banks[stream], self._rows[stream]
        wanted = rows.index_select(0, index.reshape(-1)).reshape(-1)  # (..., B) -> (B' * T,)
        shape = (*index.shape, rows.shape[1], bank.shape[1])
        if not self._pinned:
            return bank.index_select(0, wanted).view(shape)
        # Pinned memory comes from torch's own pool, which does not give a buffer out again before its copy has ended.
        part = torch.empty(len(wanted), bank.shape[1], dtype=bank.dtype, pin_memory=True)
        torch.index_select(bank, 0, wanted, out=part)
        return part.to(self._device, non_blocking=True).view(shape)


def gather_for(
    streams: Sequence[str], features: Features, windows: Windows, device: str, limits: Limits = MEASURED
) -> Gather:
    """The gather of a head's streams; what goes to a GPU goes there once for all folds."""
    tier = place(features, device, limits).tier
    if tier != "device":
        return Gather({s: features.banks[s] for s in streams}, {s: windows.rows[s] for s in streams}, device, tier)
    banks = {}
    for stream in streams:
        if (device, stream) not in features.on_devices:
            features.on_devices[device, stream] = features.banks[stream].to(device)
        banks[stream] = features.on_devices[device, stream]
    return Gather(banks, {s: windows.rows[s].to(device) for s in streams}, device, tier)


def _choose(features: Features, device: str, limits: Limits) -> Placement:
    need = sum(bank.numel() * bank.element_size() for bank in features.banks.values())
    if features.in_file:
        tier, kept = "file", "in a memory-mapped file, because memory has no room for them"
    else:
        tier, kept = "host", "resident on cpu"
    if torch.device(device).type == "cpu":
        return Placement(tier, f"{size(need)} of features {kept}")
    room = device_room(limits, device)
    if need <= room:
        return Placement("device", f"{size(need)} of features resident on {device} (room for {size(room)})")
    return Placement(tier, f"{size(need)} of features {kept}; {device} has room for {size(room)}")
