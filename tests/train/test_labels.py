"""Rows meet frames in one place; tracks find their video; segments become frames."""

import numpy as np
import pandas as pd
import pytest

from shared.labels.annotations import LabelError, track_to_video
from train.data.labels import Track, align, segments_to_frames

NAN = np.nan


def column(labels: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in labels[:, 0]]


# --- alignment ---


@pytest.mark.parametrize("num_frames", [0, 1, 4, 5, 6, 60])
def test_align_cuts_or_pads_at_the_end_and_never_shifts(num_frames: int) -> None:
    labels = np.float32([[0], [1], [NAN], [3], [4]])
    aligned, report = align(labels, num_frames)
    assert aligned.shape == (num_frames, 1)
    assert aligned.dtype == np.float32
    for i, value in enumerate(aligned[:, 0]):
        if i < 5:
            np.testing.assert_equal(value, labels[i, 0])
        else:
            assert np.isnan(value)
    assert (report.rows, report.frames) == (5, num_frames)
    assert report.extra == max(0, 5 - num_frames)
    assert report.missing == max(0, num_frames - 5)
    assert report.invalid == (1 if num_frames > 2 else 0)
    assert report.labelled == np.isfinite(aligned).sum()


def test_align_refuses_one_dimension() -> None:
    with pytest.raises(ValueError, match=r"\(L, K\)"):
        align(np.zeros(3, np.float32), 3)


def test_tracks_find_their_video() -> None:
    videos = {"10-60-1280x720", "video2", "a_left"}
    assert track_to_video("10-60-1280x720", videos) == "10-60-1280x720"
    assert track_to_video("10-60-1280x720_right", videos) == "10-60-1280x720"
    assert track_to_video("video2_left", videos) == "video2"
    assert track_to_video("a_left", videos) == "a_left"  # the exact name wins
    assert track_to_video("video3_left", videos) is None
    assert track_to_video("video2_left_right", videos) is None


def test_track_holds_float32_of_two_dimensions() -> None:
    track = Track("a_left", "a", "a", "train", None, np.zeros((3, 2), np.float32), "a_left.txt")
    assert track.labels.shape == (3, 2)
    for labels in (np.zeros(3, np.float32), np.zeros((3, 2))):
        with pytest.raises(ValueError, match="float32"):
            Track("a", "a", "a", None, None, labels, "a.txt")


# --- segments ---


def test_segments_are_half_open_and_the_rest_is_masked() -> None:
    table = pd.DataFrame({"start": [0, 4], "end": [2, 6], "label": [1, 0]})
    assert column(segments_to_frames(table, ["label"], 7)) == [1, 1, None, None, 0, 0, None]


def test_a_row_without_bounds_labels_the_whole_video() -> None:
    assert column(segments_to_frames(pd.DataFrame({"label": [1]}), ["label"], 3)) == [1, 1, 1]
    table = pd.DataFrame({"start": [NAN, 2], "end": [2, NAN], "v": [0.5, -0.5], "a": [0, NAN]})
    labels = segments_to_frames(table, ["v", "a"], 4)
    np.testing.assert_array_equal(labels, np.float32([[0.5, 0], [0.5, 0], [-0.5, NAN], [-0.5, NAN]]))


def test_a_segment_past_the_video_is_kept_for_align_to_cut_and_count() -> None:
    labels = segments_to_frames(pd.DataFrame({"start": [1], "end": [9], "label": [1]}), ["label"], 5)
    aligned, report = align(labels, 5)
    assert column(aligned) == [None, 1, 1, 1, 1]
    assert report.extra == 4


def test_an_open_segment_past_the_video_labels_nothing() -> None:
    table = pd.DataFrame({"start": [0, 500], "end": [2, NAN], "label": [1, 0]})
    assert column(segments_to_frames(table, ["label"], 4)) == [1, 1, None, None]
    assert column(segments_to_frames(pd.DataFrame({"start": [4], "label": [1]}), ["label"], 4)) == [None] * 4
    with pytest.raises(LabelError, match=r"start before end, found \[4, 4\)"):
        segments_to_frames(pd.DataFrame({"start": [4], "end": [4], "label": [1]}), ["label"], 4)


def test_overlap_is_fine_when_it_agrees_and_names_both_lines_when_not() -> None:
    table = pd.DataFrame({"start": [0, 2], "end": [4, 6], "label": [1, 1]})
    assert column(segments_to_frames(table, ["label"], 6)) == [1] * 6
    table["label"] = [1, 0]
    with pytest.raises(LabelError, match=r"clips.csv:3: .*lines 2 and 3 differ on frame 2"):
        segments_to_frames(table, ["label"], 6, "clips.csv")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"start": 3, "end": 3}, "start before end"),
        ({"start": -1, "end": 3}, "whole 'start'"),
        ({"start": 0, "end": 2.5}, "whole 'end'"),
        ({"start": "soon", "end": 3}, "whole 'start'"),
        ({"label": "yes"}, "a number in 'label'"),
    ],
)
def test_bad_segments_are_named(row: dict, expected: str) -> None:
    table = pd.DataFrame([{"start": 0, "end": 4, "label": 1} | row], index=[40])
    with pytest.raises(LabelError, match=expected) as caught:
        segments_to_frames(table, ["label"], 10, "clips.csv")
    assert caught.value.line == 42
    with pytest.raises(LabelError, match="no column valence"):
        segments_to_frames(table, ["valence"], 10)
