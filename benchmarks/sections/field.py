"""What the field does: one window at a time out of a file, torch's own layers, a DataLoader, one fold after another."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import torch
import zarr
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from train.data.features import Features, Windows

STREAMS = ("video", "image", "text")
BATCH = 8


def write_items(folder: Path, features: Features, windows: Windows, count: int) -> None:
    """The first windows as rows of HDF5 datasets, over all videos and video by video, and as a Zarr chunk each."""
    group = zarr.create_group(str(folder / "items.zarr"))
    with h5py.File(folder / "items.h5", "w") as file, h5py.File(folder / "named.h5", "w") as named:
        for stream in STREAMS:
            values = features.banks[stream][windows.rows[stream][:count]].numpy()  # (count, T, D)
            file[stream] = values
            for video in np.unique(windows.track[:count]):
                named[f"{video}/{stream}"] = values[windows.track[:count] == video]
            array = group.create_array(
                stream, shape=values.shape, chunks=(1, *values.shape[1:]), dtype="float16", compressors=None
            )
            array[...] = values
        file["label"] = windows.labels[:count, 0]
    with h5py.File(folder / "bulk.h5", "w") as whole, h5py.File(folder / "videos.h5", "w") as by_video:
        for stream, bank in features.banks.items():
            whole[stream] = bank.numpy()
            for video, rows in features.rows[stream].items():
                by_video[f"{video}/{stream}"] = bank[rows.min() : rows.max() + 1].numpy()


class Items(Dataset):
    """What the field does: one window at a time from a file that is opened once in every worker."""

    def __init__(self, path: Path, windows: Windows, count: int) -> None:
        self.path, self.labels, self._arrays = path, windows.labels[:count, 0], None
        self._video = windows.track[:count]
        self._row = np.arange(count) - np.searchsorted(self._video, self._video)  # within the video

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[dict[str, Tensor], int]:
        if self._arrays is None:
            opened = h5py.File(self.path) if self.path.suffix == ".h5" else zarr.open_group(str(self.path), mode="r")
            self._arrays = opened if self.path.stem == "named" else {s: opened[s] for s in STREAMS}
        if self.path.stem == "named":
            found = {s: self._arrays[f"{self._video[item]}/{s}"][self._row[item]] for s in STREAMS}
        else:
            found = {s: np.asarray(a[item]) for s, a in self._arrays.items()}
        return {s: torch.from_numpy(x) for s, x in found.items()}, self.labels[item]


# ------------------------------------------------------------------ what the field does


class PlainHead(nn.Module):
    """The default head out of torch's own parts."""

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.grus = nn.ModuleDict({s: nn.GRU(dim, hidden, batch_first=True) for s in STREAMS})
        kinds = ("video", "text")
        self.attend = nn.ModuleDict({s: nn.MultiheadAttention(hidden, 4, dropout=0.3, batch_first=True) for s in kinds})
        self.norm = nn.ModuleDict({s: nn.LayerNorm(hidden) for s in kinds})
        self.mlp = nn.Sequential(nn.Linear(2 * hidden, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 2))

    def forward(self, streams: dict[str, Tensor]) -> Tensor:
        h = {s: self.grus[s](streams[s])[0] for s in STREAMS}
        seen = {s: self.attend[s](h["image"], h[s], h[s], need_weights=False)[0] for s in self.attend}
        return self.mlp(torch.cat([self.norm[s](h["image"] + seen[s]).mean(1) for s in self.attend], dim=1))


def train_plainly(items: Items, orders: list[np.ndarray], dim: int, workers: int, device: str) -> float:
    """Seconds of all folds' steps, one fold after another; loaders start before the clock does."""
    total = 0.0
    for order in orders:
        model = PlainHead(dim).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
        batches = iter(DataLoader(items, BATCH, sampler=order.tolist(), num_workers=workers))
        started = time.perf_counter()
        for streams, labels in batches:
            inputs = {s: x.to(device).float() for s, x in streams.items()}
            loss = nn.functional.cross_entropy(model(inputs), labels.to(device).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait(device)
        total += time.perf_counter() - started
    return total


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
