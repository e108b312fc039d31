"""Submissions in the official formats: every template row filled, in order; every way to be wrong is found again."""

from pathlib import Path

import numpy as np
import pytest

from shared.labels.annotations import AU_NAMES, EXPR_NAMES
from train.data.labels import Track
from train.judging.evaluate import TrackScores
from train.submission.check import check_dvd, check_flat
from train.submission.dvd import blank_dvd_template, read_dvd_templates, write_dvd
from train.submission.files import (
    SubmissionError,
    nearest_valid,
    read_flat_template,
    row_values,
    write_flat,
    write_text,
)
from train.tasks import TASKS

HEADERS = {
    "va": "image_location,valence,arousal",
    "expr": "image_location," + ",".join(EXPR_NAMES),
    "au": "image_location," + ",".join(AU_NAMES),
}
DUMMY = {"va": "0.5,-0.5", "expr": "0", "au": "1,0,1,0,1,0,1,0,1,0,1,0"}


def template_of(path: Path, task: str, rows: list[str]) -> Path:
    path.write_text("\n".join([HEADERS[task], *(f"{row},{DUMMY[task]}" for row in rows)]) + "\n")
    return path


def results_of(task_name: str, lengths: dict[str, int], seed: int = 0) -> dict[str, TrackScores]:
    task, rng = TASKS[task_name], np.random.default_rng(seed)
    found = {}
    for name, num_frames in lengths.items():
        scores = rng.random((num_frames, len(task.score_names)))
        if task_name == "va":
            scores = 4 * scores - 2  # beyond the range: a submission clamps
        elif task_name in ("violence", "au"):
            scores = (scores > 0.5).astype(np.float64)
        labels = np.full((num_frames, len(task.label_names)), np.nan, np.float32)
        found[name] = TrackScores(Track(name, name, name, None, None, labels, "x"), scores, -1)
    return found


# --- values ---


@pytest.mark.parametrize("seed", range(10))
def test_nearest_valid_frame_against_a_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(int(rng.integers(1, 40)), 2))
    scores[rng.random(len(scores)) < 0.5] = np.nan
    scores[rng.integers(len(scores))] = 0.25
    frames = rng.integers(0, 60, 30)  # some lie past the end
    found, borrowed = nearest_valid(scores, frames)
    known = [i for i in range(len(scores)) if np.isfinite(scores[i, 0])]
    nearest = [min(known, key=lambda k: (abs(k - frame), k)) for frame in frames.tolist()]
    np.testing.assert_array_equal(found, scores[nearest])
    assert borrowed == sum(k != frame for k, frame in zip(nearest, frames.tolist(), strict=True))
    with pytest.raises(ValueError, match="no frame of the track has a score"):
        nearest_valid(np.full((3, 1), np.nan), frames)


def test_values_are_clamped_whole_and_never_minus_zero() -> None:
    values = row_values(TASKS["va"], np.array([[1.5, -3.0], [-1e-9, 0.123456]]))
    assert values == ["1.00000,-1.00000", "0.00000,0.12346"]
    assert row_values(TASKS["expr"], np.eye(8)[[3, 0]]) == ["3", "0"]
    assert row_values(TASKS["au"], np.array([[0.0] * 11 + [1.0]])) == ["0,0,0,0,0,0,0,0,0,0,0,1"]
    assert row_values(TASKS["violence"], np.array([[0.0], [1.0]])) == ["0", "1"]


# --- flat files ---


@pytest.mark.parametrize("task", HEADERS)
def test_every_row_of_the_template_is_filled_in_its_order(tmp_path: Path, task: str) -> None:
    rows = [f"b-30-640x360/{n:05d}.jpg" for n in (1, 2, 3, 9, 10)] + [f"video2_left/{n:05d}.jpg" for n in (7, 1, 49)]
    rows.insert(3, "video2_left/00002.jpg")  # tracks may alternate
    template = read_flat_template(TASKS[task], template_of(tmp_path / "t.txt", task, rows))
    assert template.tracks == ["b-30-640x360", "video2_left"]
    assert template.frames["b-30-640x360"].tolist() == [0, 1, 2, 8, 9]
    results = results_of(task, {"b-30-640x360": 10, "video2_left": 20})
    results["video2_left"].scores[:3] = np.nan
    output = tmp_path / "deep" / "out.txt"
    filled = write_flat(TASKS[task], template, results, "", output)
    assert filled == 3  # frames 1 and 2 have no score, 49 lies past the end
    lines = output.read_text().split("\n")
    assert (lines[0], lines[-1]) == (HEADERS[task], "")
    assert [line.partition(",")[0] for line in lines[1:-1]] == rows
    source = {"b-30-640x360": lambda n: n - 1, "video2_left": lambda n: min(max(n - 1, 3), 19)}
    for line in lines[1:-1]:
        place, _, value = line.partition(",")
        track, name = place.split("/")
        frame = source[track](int(name.removesuffix(".jpg")))
        assert value == row_values(TASKS[task], results[track].scores[frame : frame + 1])[0]
    assert check_flat(TASKS[task], output, tmp_path / "t.txt") == len(rows)
    assert b"\r" not in output.read_bytes()


def test_a_track_without_scores_stops_it_unless_a_value_is_given(tmp_path: Path) -> None:
    template = read_flat_template(TASKS["va"], template_of(tmp_path / "t.txt", "va", ["a/00001.jpg", "b/00001.jpg"]))
    results = results_of("va", {"a": 3})
    with pytest.raises(ValueError, match="'b' of the template has no scores"):
        write_flat(TASKS["va"], template, results, "", tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()
    assert write_flat(TASKS["va"], template, results, "0.1,0.2", tmp_path / "out.txt") == 0
    assert (tmp_path / "out.txt").read_text().split("\n")[2] == "b/00001.jpg,0.1,0.2"
    with pytest.raises(ValueError, match="would overwrite its template"):
        write_flat(TASKS["va"], template, results, "0.1,0.2", tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("image_location,arousal,valence\na/00001.jpg,0,0\n", 1, "arousal"),
        (f"{HEADERS['expr']}\na/00001.jpg,0\n", 1, "the template of task 'expr'"),
        (f"{HEADERS['va']}\na/00001.jpg,0,0\na/00000.jpg,0,0\n", 3, "00000"),
        (f"{HEADERS['va']}\n00001.jpg,0,0\n", 2, "00001"),
        (f"{HEADERS['va']}\na/one.jpg,0,0\n", 2, "one"),
        (f"{HEADERS['va']}\na/00001.jpg,0,0\n\n\n", 3, "''"),
        (HEADERS["va"], None, "only a header"),
        ("", None, "an empty file"),
    ],
)
def test_templates_that_are_none_are_refused(tmp_path: Path, text: str, line: int | None, found: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(SubmissionError) as caught:
        read_flat_template(TASKS["va"], tmp_path / "t.txt")
    assert caught.value.line == line
    assert found in caught.value.found


def test_a_frame_that_is_wanted_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r":3: expected every frame once, found 'a/00001.jpg' again"):
        read_flat_template(TASKS["va"], template_of(tmp_path / "t.txt", "va", ["a/00001.jpg", "a/00001.jpg"]))


def test_digits_of_other_scripts_are_no_numbers(tmp_path: Path) -> None:
    template = template_of(tmp_path / "t.txt", "va", ["a/00001.jpg"])
    arabic = "\N{ARABIC-INDIC DIGIT ZERO}.\N{ARABIC-INDIC DIGIT ONE}"
    (tmp_path / "s.txt").write_text(f"{HEADERS['va']}\na/00001.jpg,{arabic},0\n", encoding="utf-8")
    with pytest.raises(SubmissionError, match="two numbers from -1 to 1"):
        check_flat(TASKS["va"], tmp_path / "s.txt", template)


def test_a_template_may_hold_locations_alone_and_a_mark(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(f"\ufeff{HEADERS['expr']}\nbatch1/a/00002.jpg\n")
    template = read_flat_template(TASKS["expr"], tmp_path / "t.txt")
    assert (template.tracks, template.frames["a"].tolist()) == (["a"], [1])
    write_flat(TASKS["expr"], template, results_of("expr", {"a": 3}), "", tmp_path / "o.txt")
    assert (tmp_path / "o.txt").read_text().startswith("image_location,Neutral")
    assert check_flat(TASKS["expr"], tmp_path / "o.txt", tmp_path / "t.txt") == 1


GOOD = {
    "va": ["a/00001.jpg,0.5,-1", "a/00002.jpg,0,1e-3", "b/00001.jpg,-.25,1."],
    "expr": ["a/00001.jpg,0", "a/00002.jpg,7", "b/00001.jpg,3"],
    "au": [f"{p},{'0,' * 11}1" for p in ("a/00001.jpg", "a/00002.jpg", "b/00001.jpg")],
}


@pytest.mark.parametrize(
    ("task", "row", "text", "line"),
    [
        ("va", 1, "a/00002.jpg,nan,0", 3),
        ("va", 1, "a/00002.jpg,0,inf", 3),
        ("va", 0, "a/00001.jpg,1.00001,0", 2),
        ("va", 0, "a/00001.jpg,-5,-5", 2),
        ("va", 0, "a/00001.jpg,0_1,0", 2),
        ("va", 0, "a/00001.jpg,,0", 2),
        ("va", 0, "a/00001.jpg,0", 2),
        ("va", 0, "a/00001.jpg,0,0,0", 2),
        ("va", 2, "", 4),
        ("va", 2, "b/00002.jpg,0,0", 4),
        ("va", 2, None, 4),
        ("va", 2, "b/00001.jpg,0,0\nb/00002.jpg,0,0", 5),
        ("va", 2, "b/00001.jpg,0,0\n", 5),
        ("expr", 1, "a/00002.jpg,8", 3),
        ("expr", 1, "a/00002.jpg,1.0", 3),
        ("expr", 1, "a/00002.jpg,-1", 3),
        ("au", 1, "a/00002.jpg,0,1", 3),
        ("au", 1, f"a/00002.jpg,{'0,' * 11}2", 3),
        ("au", 1, f"a/00002.jpg,{'0,' * 11}0.5", 3),
    ],
)
def test_the_first_violation_is_named_with_its_line(tmp_path: Path, task: str, row: int, text, line: int) -> None:
    template = template_of(tmp_path / "t.txt", task, [r.partition(",")[0] for r in GOOD[task]])
    file = tmp_path / "s.txt"
    file.write_text("\n".join([HEADERS[task], *GOOD[task]]) + "\n")
    assert check_flat(TASKS[task], file, template) == 3
    rows = list(GOOD[task])
    rows[row : row + 1] = [] if text is None else [text]
    file.write_text("\n".join([HEADERS[task], *rows]) + "\n")
    with pytest.raises(SubmissionError) as caught:
        check_flat(TASKS[task], file, template)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{file}:{line}: expected ")


def test_rows_in_another_order_and_other_headers_are_violations(tmp_path: Path) -> None:
    template = template_of(tmp_path / "t.txt", "va", ["a/00001.jpg", "a/00002.jpg"])
    file = tmp_path / "s.txt"
    for header, rows, line in (
        (HEADERS["va"], ["a/00002.jpg,0,0", "a/00001.jpg,0,0"], 2),
        ("location,valence,arousal", ["a/00001.jpg,0,0", "a/00002.jpg,0,0"], 1),
        ("\ufeff" + HEADERS["va"], ["a/00001.jpg,0,0", "a/00002.jpg,0,0"], 1),
    ):
        file.write_text("\n".join([header, *rows]) + "\n")
        with pytest.raises(SubmissionError) as caught:
            check_flat(TASKS["va"], file, template)
        assert caught.value.line == line


# --- DVD ---


def dvd_template(folder: Path, name: str, header: str, rows: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize("column", ["Label", "Predicted_Label"])
def test_dvd_templates_are_copied_with_the_label_filled_in(tmp_path: Path, column: str) -> None:
    folder, output = tmp_path / "Expected_Output_Files", tmp_path / "out"
    dvd_template(folder, "0008", f"Frame_Number,{column}", ["1,0", "2,0", "3,0", "4,0"])
    dvd_template(folder, "0012", f"Video,Frame_Number,{column}", ["12,2,", "12,1,"])
    (folder / "._0008.csv").write_bytes(b"\x00")
    results = results_of("violence", {"0008": 3, "0012": 5})
    templates = read_dvd_templates(folder, None)
    assert write_dvd(TASKS["violence"], templates, results, "", output) == 1  # frame 4 of 3
    own = [str(int(v)) for v in results["0008"].scores[:, 0]]
    expected = [f"{n + 1},{own[min(n, 2)]}" for n in range(4)]
    assert (output / "0008.csv").read_text().splitlines() == [f"Frame_Number,{column}", *expected]
    own = [str(int(v)) for v in results["0012"].scores[:, 0]]
    assert (output / "0012.csv").read_text().splitlines()[1:] == [f"12,2,{own[1]}", f"12,1,{own[0]}"]
    assert check_dvd(output, folder, None) == 6
    with pytest.raises(ValueError, match="not an empty folder"):
        write_dvd(TASKS["violence"], templates, results, "", output)


def test_columns_of_dvd_templates_are_taken_by_name(tmp_path: Path) -> None:
    results = results_of("violence", {"0008": 3})
    label = [str(int(v)) for v in results["0008"].scores[:, 0]]
    for n, (header, asked) in enumerate(
        [("Person,Frame,Label", None), ("7,Frame_Number,verdict", "verdict"), ("Person,FRAME,Predicted_Label", None)]
    ):
        dvd_template(tmp_path / f"t{n}", "0008", header, ["9,3,", "9,1,"])
        write_dvd(TASKS["violence"], read_dvd_templates(tmp_path / f"t{n}", asked), results, "", tmp_path / f"out{n}")
        assert (tmp_path / f"out{n}" / "0008.csv").read_text().splitlines()[1:] == [
            f"9,3,{label[2]}",
            f"9,1,{label[0]}",
        ]
    for header in ("Person,Number,Label", "Frame,Person,Verdict", "Frame,Label,label", "Number,Label"):
        dvd_template(tmp_path / "bad", "0008", header, [])
        with pytest.raises(SubmissionError, match=f"found '{header}'"):
            read_dvd_templates(tmp_path / "bad", None)


def test_without_a_template_all_frames_are_written_under_the_column_that_was_asked_for(tmp_path: Path) -> None:
    results = results_of("violence", {"0008": 3})
    templates = [blank_dvd_template("0008", "Predicted_Label")]
    assert write_dvd(TASKS["violence"], templates, results, "", tmp_path / "out") == 0
    lines = (tmp_path / "out" / "0008.csv").read_text().splitlines()
    assert lines[0] == "Frame_Number,Predicted_Label"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]
    assert check_dvd(tmp_path / "out", None, "Predicted_Label", {"0008": 3}) == 3
    with pytest.raises(SubmissionError, match="'Label'"):
        check_dvd(tmp_path / "out", None, "Label")
    for videos, told in (({"0008": 4}, "expected 4 rows, found 3"), ({"0008": 3, "0009": 1}, "0009.csv")):
        with pytest.raises(SubmissionError, match=told):
            check_dvd(tmp_path / "out", None, None, videos)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Frame_Number,Label\n1,0\n2,0.5\n", 3),
        ("Frame_Number,Label\n1,0\n2,\n", 3),
        ("Frame_Number,Label\n1,0\n3,0\n", 3),
        ("Frame_Number,Label\n0,0\n1,0\n", 2),
        ("Frame_Number,Label\n1,0\n", None),
        ("Frame_Number,Label\n1,0\n2,1\n3,1\n", None),
        ("Frame_Number,Predicted_Label\n1,0\n2,1\n", 1),
        ("Frame_Number\n1\n2\n", 1),
    ],
)
def test_dvd_violations_are_named(tmp_path: Path, text: str, line: int | None) -> None:
    folder, output = tmp_path / "t", tmp_path / "s"
    dvd_template(folder, "0008", "Frame_Number,Label", ["1,0", "2,0"])
    output.mkdir()
    file = output / "0008.csv"
    file.write_text("Frame_Number,Label\n1,0\n2,1\n")
    assert check_dvd(output, folder, None) == 2
    file.write_text(text)
    with pytest.raises(SubmissionError) as caught:
        check_dvd(output, folder, None)
    assert caught.value.line == line
    assert caught.value.file == str(file)
    file.unlink()
    with pytest.raises(SubmissionError, match=r"0008.csv: expected a file that the template has, found none"):
        check_dvd(output, folder, None)


def test_a_link_in_the_place_of_a_part_file_is_not_followed(tmp_path: Path) -> None:
    (precious := tmp_path / "bashrc").write_text("mine")
    (tmp_path / "va.txt.part").symlink_to(precious)
    write_text(tmp_path / "va.txt", "one\ntwo\n")
    assert (tmp_path / "va.txt").read_bytes() == b"one\ntwo\n"
    assert precious.read_text() == "mine"
