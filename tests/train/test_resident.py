"""Device, host and file give the same batches; which it is follows from sizes; nothing is left behind."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train.data.resident
from train.data.features import load_features
from train.data.memory import Limits, MemoryShortage, allocate, free_host_bytes
from train.data.resident import Gather, gather_for, place

STREAMS = ("video", "image", "text")


@pytest.mark.parametrize("shape", [(5,), (3, 4), (0,)])
def test_every_tier_gives_the_same_batches(problem, cache, tmp_path: Path, monkeypatch, shape: tuple[int, ...]) -> None:
    p = problem("violence")
    ids = list(p.features.plans)
    filed = load_features(cache, ids, STREAMS, Limits(host=0, folder=tmp_path))
    fresh = replace(p.features)
    index = torch.from_numpy(np.random.default_rng(0).integers(0, len(p.windows), shape))
    plain = {s: p.features.banks[s][p.windows.rows[s][index]] for s in STREAMS}
    pinned = Gather(fresh.banks, p.windows.rows, "cpu", "host")
    # What a GPU would be served by, without one: pinning is the only call that needs it.
    monkeypatch.setattr(pinned, "_pinned", True)
    empty = torch.empty
    monkeypatch.setattr(train.data.resident.torch, "empty", lambda *a, pin_memory, **k: empty(*a, **k))
    ways = {
        "host": gather_for(STREAMS, fresh, p.windows, "cpu"),
        "file": gather_for(STREAMS, filed, p.windows, "cpu"),
        "host for a GPU": pinned,
        "device": Gather(fresh.banks, p.windows.rows, "cpu", "device"),
    }
    for name, gather in ways.items():
        assert gather.tier == name.split()[0]
        found = gather(index)
        assert list(found) == list(STREAMS)
        for stream in STREAMS:
            assert found[stream].shape == (*shape, *plain[stream].shape[-2:])
            assert torch.equal(found[stream], plain[stream]), (name, stream)


def test_a_file_holds_what_memory_would_and_has_no_name(cache, problem, tmp_path: Path) -> None:
    p = problem("violence")
    filed = load_features(cache, list(p.features.plans), STREAMS, Limits(host=0, folder=tmp_path))
    assert os.listdir(tmp_path) == []
    assert filed.in_file
    assert not p.features.in_file
    assert filed.digests() == p.features.digests()


def test_the_choice_follows_sizes_and_is_told(problem, cache, tmp_path: Path) -> None:
    features = problem("violence").features
    need = sum(2 * b.numel() for b in features.banks.values())
    for room, tier in ((need, "device"), (need - 1, "host")):
        found = place(replace(features), "cuda", Limits(device=room))
        assert found.tier == tier
        assert f"{need / 1e6:.1f} MB of features" in found.words
        assert "cuda" in found.words
    assert place(replace(features), "cpu").words.endswith("of features resident on cpu")
    filed = load_features(cache, list(features.plans), STREAMS, Limits(host=need - 1, folder=tmp_path))
    assert place(filed, "cpu").tier == place(filed, "cuda", Limits(device=0)).tier == "file"
    assert "memory has no room" in place(filed, "cpu").words
    assert not load_features(cache, list(features.plans), STREAMS, Limits(host=need)).in_file


def test_the_first_choice_stays(problem) -> None:
    features = replace(problem("violence").features)
    assert place(features, "cuda", Limits(device=0)).tier == "host"
    assert place(features, "cuda", Limits(device=2**40)).tier == "host"


def test_no_room_anywhere_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MemoryShortage, match=r"the features take .* memory has room for 0.0 MB .*TMPDIR"):
        allocate({"video": (2**45, 768)}, Limits(host=0, folder=tmp_path))


def system(folder: Path, cgroup: str, files: dict[str, str]) -> int:
    proc, groups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:   2000 kB\n")
    (proc / "self/cgroup").write_text(cgroup)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    return free_host_bytes(proc, groups)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("", {}, 2000 * 1024),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/b/memory.current": "5"}, 2000 * 1024),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "900000\n",
                "a/b/memory.current": "500000\n",
                "a/b/memory.stat": "anon 1\ninactive_file 100000\n",
                "a/memory.max": "600000\n",
                "a/memory.current": "550000\n",
                "a/memory.stat": "inactive_file 0\n",
            },
            50_000,
        ),
        (
            "3:cpu,memory:/x\n0::/\n",
            {
                "memory/x/memory.limit_in_bytes": "1000",
                "memory/x/memory.usage_in_bytes": "400",
                "memory/x/memory.stat": "total_inactive_file 50\n",
            },
            650,
        ),
        (
            "0::/\n",
            {"memory.max": "10", "memory.current": "50", "memory.stat": "inactive_file 0"},
            0,
        ),
    ],
)
def test_a_container_has_less_memory_than_its_machine(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    assert system(tmp_path, cgroup, files) == expected
