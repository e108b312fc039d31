"""The demo data set: official file formats, the same on every rendering, and no label to be read off a file."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import av
import numpy as np
import pytest

from extract.demo.render import DemoVideo, format_va, format_violence, plan_demo, render_demo, render_video
from extract.demo.story import DANCE, FIGHT, HUG, IDLE, PLAY
from extract.miniature.scenes import render_frames

SMALL = {"num_scenes": 2, "videos_per_scene": 2, "frames": (24, 40)}


def decode(path: Path) -> np.ndarray:
    """uint8 (F, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    render_demo(root, workers=1, **SMALL)
    return root


@pytest.fixture(scope="module")
def full() -> list[DemoVideo]:
    return plan_demo()


# ------------------------------------------------------------------------------------------------ files and formats


def test_layout(rendered: Path) -> None:
    videos = plan_demo(**SMALL)
    expected = {path for video in videos for path in (video.video_path, video.violence_path, video.va_path)}
    found = {str(path.relative_to(rendered)) for path in rendered.rglob("*") if path.is_file()}
    assert found == expected | {"videos.csv", "demo.json"}
    with (rendered / "videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"path": v.video_path, "id": v.video_id, "group": v.group} for v in videos]
    assert {v.group for v in videos if v.validation} == {"scene01"}


def test_violence_files_are_in_dvd_format(rendered: Path) -> None:
    for video in plan_demo(**SMALL):
        lines = (rendered / video.violence_path).read_text().split("\n")
        assert lines[0] == "Frame_Number,Label"
        assert lines[-1] == ""
        numbers = [int(line.split(",")[0]) for line in lines[1:-1]]
        assert numbers == [t + 1 for t in range(video.story.num_frames) if video.story.violence_valid[t]]
        assert [int(line.split(",")[1]) for line in lines[1:-1]] == [int(video.story.violence[n - 1]) for n in numbers]
        assert b"\r" not in (rendered / video.violence_path).read_bytes()


def test_va_files_are_in_affwild2_format(rendered: Path) -> None:
    for video in plan_demo(**SMALL):
        lines = (rendered / video.va_path).read_text().split("\n")
        assert lines[0] == "valence,arousal"
        assert lines[-1] == ""
        assert len(lines) - 2 == video.story.num_frames
        for t, line in enumerate(lines[1:-1]):
            if not video.story.va_valid[t]:
                assert line == "-5,-5"
                continue
            valence, arousal = (float(field) for field in line.split(","))
            assert all(len(field.split(".")[1]) == 3 for field in line.split(","))
            assert valence == pytest.approx(video.story.valence[t], abs=6e-4)
            assert arousal == pytest.approx(video.story.arousal[t], abs=6e-4)


def test_videos_decode_to_as_many_frames_as_there_are_labels(rendered: Path) -> None:
    for video in plan_demo(**SMALL):
        with av.open(str(rendered / video.video_path)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == video.story.fps
            assert (stream.codec_context.pix_fmt, stream.codec_context.name) == ("yuv420p", "h264")
        assert decode(rendered / video.video_path).shape == (
            video.story.num_frames,
            video.story.height,
            video.story.width,
            3,
        )


# ------------------------------------------------------------------------------------- determinism and resumption


def test_rendering_twice_gives_the_same(rendered: Path, tmp_path: Path) -> None:
    render_demo(tmp_path, workers=2, **SMALL)
    for path in sorted(path for path in rendered.rglob("*") if path.is_file()):
        other = tmp_path / path.relative_to(rendered)
        if path.suffix == ".mp4":
            np.testing.assert_array_equal(decode(path), decode(other))
        else:
            assert path.read_bytes() == other.read_bytes()


def test_a_video_does_not_depend_on_the_others() -> None:
    few = {v.group + str(v.story.index): v.story for v in plan_demo(**SMALL)}
    many = {v.group + str(v.story.index): v.story for v in plan_demo(num_scenes=3, videos_per_scene=4, frames=(24, 40))}
    for name, story in few.items():
        np.testing.assert_array_equal(story.valence, many[name].valence)
        np.testing.assert_array_equal(next(render_frames(story.script)), next(render_frames(many[name].script)))


def test_another_seed_is_another_data_set() -> None:
    ids = [{video.video_id for video in plan_demo(seed=seed)} for seed in (0, 1)]
    assert ids[0] != ids[1]


def test_a_second_call_changes_nothing_and_a_missing_file_is_mended(tmp_path: Path) -> None:
    render_demo(tmp_path, workers=1, **SMALL)
    videos = plan_demo(**SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    lost = tmp_path / videos[1].va_path
    text = lost.read_text()
    calls: list[tuple[int, int]] = []
    render_demo(tmp_path, workers=1, progress=lambda done, total: calls.append((done, total)), **SMALL)
    assert calls == [(4, 4)]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    lost.unlink()
    calls.clear()
    render_demo(tmp_path, workers=1, progress=lambda done, total: calls.append((done, total)), **SMALL)
    assert calls == [(3, 4), (4, 4)]
    assert lost.read_text() == text
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed == [f"{videos[1].video_id}.mp4"]


def test_an_interrupted_rendering_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(story: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("extract.demo.render.render_frames", fail)
    with pytest.raises(KeyboardInterrupt):
        render_demo(tmp_path, workers=1, **SMALL)
    assert not list(tmp_path.rglob("*.mp4"))
    monkeypatch.undo()
    render_demo(tmp_path, workers=1, **SMALL)
    assert len(list(tmp_path.rglob("*.mp4"))) == 4
    assert not list(tmp_path.rglob("*.part"))


def test_another_data_set_replaces_the_old_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    render_demo(tmp_path, workers=1, num_scenes=2, videos_per_scene=1, frames=(8, 8), seed=1)
    (tmp_path / "videos" / "mine.txt").write_text("keep")
    with caplog.at_level(logging.WARNING):
        render_demo(tmp_path, workers=1, num_scenes=2, videos_per_scene=1, frames=(8, 8), seed=2)
    assert "rendering it anew" in caplog.text
    expected = {f"{video.video_id}.mp4" for video in plan_demo(num_scenes=2, videos_per_scene=1, seed=2)}
    assert {path.name for path in (tmp_path / "videos").iterdir()} == expected | {"mine.txt"}
    assert len(list(tmp_path.rglob("affwild2/*/*/*.txt"))) == 2


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(FileExistsError, match="empty folder"):
        render_demo(tmp_path, workers=1, **SMALL)
    assert not list((tmp_path / "videos").iterdir())


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 scenes"):
        plan_demo(num_scenes=1)
    with pytest.raises(ValueError, match="least, largest"):
        plan_demo(frames=(40, 24))


# ------------------------------------------------------------------------------------------------- honest labels


def test_size_of_the_full_set(full: list[DemoVideo]) -> None:
    lengths = np.array([video.story.num_frames for video in full])
    assert len(full) == 48
    assert len({video.group for video in full}) == 12
    assert lengths.min() >= 320
    assert lengths.max() <= 720
    assert 18_000 < lengths.sum() < 22_000
    assert len({video.story.fps for video in full}) == 4
    assert len({video.video_id for video in full}) == 48
    assert sum(not video.story.violence_valid.all() for video in full) in range(1, 16)
    assert sum(not video.story.va_valid.all() for video in full) in range(1, 16)


def test_labels_change_inside_every_video(full: list[DemoVideo]) -> None:
    for story in (video.story for video in full):
        assert 0.35 <= story.violence.mean() <= 0.55
        for path in (story.valence, story.arousal):
            assert np.abs(path).max() <= 1
            assert np.ptp(path) > 0.2  # colour may work against warmth, and camera against speed
            assert np.abs(np.diff(path)).max() < 0.1  # smooth
        for steps, shortest, longest in ((story.activity, 70, 420), (story.script.shot, 35, 130)):
            edges = np.flatnonzero(np.diff(steps)) + 1
            lengths = np.diff([0, *edges, story.num_frames])
            assert lengths.min() >= shortest
            assert lengths.max() < longest


def test_violence_is_none_of_its_parts_alone(full: list[DemoVideo]) -> None:
    activity = np.concatenate([video.story.activity for video in full])
    share = np.bincount(activity, minlength=5) / len(activity)
    assert 0.42 < share[FIGHT] < 0.50
    for calm in (IDLE, HUG, DANCE, PLAY):  # each lacks a part, and each part is there in one
        assert share[calm] > 0.05
    np.testing.assert_array_equal(activity == FIGHT, np.concatenate([video.story.violence for video in full]))


def test_every_scene_has_the_same_share_of_violence(full: list[DemoVideo]) -> None:
    for group in {video.group for video in full}:
        violence = np.concatenate([video.story.violence for video in full if video.group == group])
        assert 0.38 < violence.mean() < 0.53


def test_nothing_outside_the_pixels_tells_the_labels() -> None:
    videos = [(rank, video) for seed in range(12) for rank, video in enumerate(plan_demo(seed=seed))]
    known = {
        "length": [v.story.num_frames for _, v in videos],
        "width": [v.story.width for _, v in videos],
        "height": [v.story.height for _, v in videos],
        "fps": [float(v.story.fps) for _, v in videos],
        "bit rate": [v.story.bit_rate for _, v in videos],
        "scene": [v.story.scene for _, v in videos],
        "index": [v.story.index for _, v in videos],
        "order": [rank for rank, _ in videos],
    }
    for label in ("violence", "valence", "arousal"):
        means = [float(getattr(v.story, label).mean()) for _, v in videos]
        for name, values in known.items():
            correlation = float(np.corrcoef(means, values)[0, 1])
            assert abs(correlation) < 0.15, f"{name} tells {label}: r = {correlation:.2f} over {len(videos)} videos"


def test_labels_are_independent_of_the_time_in_the_video_and_valence_of_the_others() -> None:
    stories = [video.story for seed in range(12) for video in plan_demo(seed=seed)]
    time = np.concatenate([np.linspace(0, 1, story.num_frames) for story in stories])
    columns = [np.concatenate([getattr(s, label) for s in stories]) for label in ("violence", "valence", "arousal")]
    correlation = np.corrcoef([time, *columns]) - np.eye(4)
    correlation[1, 3] = correlation[3, 1] = 0  # fights are fast, and so arouse
    assert np.abs(correlation).max() < 0.1


def test_texts_hold_the_official_marks(full: list[DemoVideo]) -> None:
    gap = next(video.story for video in full if not video.story.violence_valid.all())
    assert len(format_violence(gap).splitlines()) == 1 + int(gap.violence_valid.sum())
    hole = next(video.story for video in full if not video.story.va_valid.all())
    assert format_va(hole).splitlines()[1:].count("-5,-5") == int((~hole.va_valid).sum())


def test_bits_follow_the_drawn_rate_not_the_motion(tmp_path: Path) -> None:
    video = plan_demo(num_scenes=2, videos_per_scene=1, frames=(120, 120))[0]
    render_video(tmp_path, video)
    rate = (tmp_path / video.video_path).stat().st_size * 8 / video.story.num_frames * float(video.story.fps)
    assert 0.6 < rate / video.story.bit_rate < 1.6
