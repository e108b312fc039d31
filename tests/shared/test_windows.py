"""WindowSpec and WindowPlan against a brute-force oracle written with plain Python integers."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from shared.windows import WindowSpec


def oracle_offset(k: int, n: int, size: int, sampling: str) -> int:
    if sampling == "centers":
        return floor(Fraction((2 * k + 1) * size, 2 * n))
    return floor(Fraction(k * (size - 1), n - 1) + Fraction(1, 2)) if n > 1 else 0


def oracle_starts(num_frames: int, size: int, stride: int) -> list[int]:
    starts, s = [], 0
    while s + size <= num_frames:
        starts.append(s)
        s += stride
    if not starts:
        return [0]
    if starts[-1] + size < num_frames:
        starts.append(num_frames - size)
    return starts


def check(spec: WindowSpec, num_frames: int) -> None:
    plan = spec.plan(num_frames)
    starts = oracle_starts(num_frames, spec.size, spec.stride)
    assert plan.starts.tolist() == starts
    assert plan.padded.tolist() == [num_frames < spec.size] * len(starts)
    assert plan.stops.tolist() == [min(s + spec.size, num_frames) for s in starts]
    for stream, n in spec.samples.items():
        offsets = [oracle_offset(k, n, spec.size, spec.sampling) for k in range(n)]
        expected = [[min(s + o, num_frames - 1) for o in offsets] for s in starts]
        assert plan.frames[stream].tolist() == expected
        assert plan.unique[stream].tolist() == sorted({f for row in expected for f in row})
        assert (plan.unique[stream][plan.gather[stream]] == plan.frames[stream]).all()


@pytest.mark.parametrize("sampling", ["centers", "endpoints"])
def test_every_length_and_stride_of_the_default_window(sampling: str) -> None:
    for stride in range(1, 65):
        spec = WindowSpec(stride=stride, sampling=sampling)
        # All lengths for the strides people use; for the rest, lengths around every border and a sweep by a prime.
        lengths = range(1, 301) if stride in (1, 4, 8, 16, 24, 32, 64) else [*range(60, 70), *range(1, 301, 13), 300]
        for num_frames in lengths:
            check(spec, num_frames)


@pytest.mark.parametrize("sampling", ["centers", "endpoints"])
@pytest.mark.parametrize("size", [1, 2, 5, 16, 17, 63, 128])
def test_other_sizes_and_sample_counts(size: int, sampling: str) -> None:
    counts = sorted({1, min(2, size), min(3, size), max(1, size - 1), size})
    for stride in (1, 3, 16, 200):
        spec = WindowSpec(size, stride, {f"s{n}": n for n in counts}, sampling)
        for num_frames in (1, 2, size - 1, size, size + 1, 2 * size + 3, 300):
            if num_frames >= 1:
                check(spec, num_frames)


def test_documented_offsets() -> None:
    spec = WindowSpec()
    assert spec.offsets("video").tolist() == list(range(2, 64, 4))
    assert spec.offsets("text").tolist() == [8, 24, 40, 56]
    ends = WindowSpec(sampling="endpoints")
    assert ends.offsets("text").tolist() == [0, 21, 42, 63]


@pytest.mark.parametrize("sampling", ["centers", "endpoints"])
@pytest.mark.parametrize("stride", [1, 7, 16, 64])
def test_every_frame_is_covered_by_a_window(stride: int, sampling: str) -> None:
    for num_frames in range(1, 301):
        plan = WindowSpec(stride=stride, sampling=sampling).plan(num_frames)
        covered = np.zeros(num_frames, dtype=bool)
        for start, stop in zip(plan.starts, plan.stops, strict=True):
            covered[start:stop] = True
        assert covered.all()


def test_frames_are_shared_when_the_stride_allows() -> None:
    plan = WindowSpec().plan(64 + 16 * 9)
    assert len(plan) == 10
    assert len(plan.unique["video"]) == 16 + 4 * 9
    assert len(plan.unique["text"]) == 4 + 9


def test_round_trip_and_equality() -> None:
    spec = WindowSpec(32, 8, {"image": 4}, "endpoints")
    assert WindowSpec.from_dict(spec.to_dict()) == spec
    assert hash(WindowSpec.from_dict(spec.to_dict())) == hash(spec)
    assert WindowSpec() != spec


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size"),
        ({"stride": -1}, "stride"),
        ({"stride": 1.5}, "stride"),
        ({"sampling": "random"}, "sampling"),
        ({"samples": {"video": 65}}, "video"),
        ({"samples": {}}, "at least one stream"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowSpec(**settings)


def test_no_frames_no_windows() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        WindowSpec().plan(0)
    with pytest.raises(ValueError, match="unknown window settings: hop"):
        WindowSpec.from_dict({"hop": 3})
