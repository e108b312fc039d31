"""Annotation files, written here in the official formats: masks, off-by-ones, and what must be refused."""

from pathlib import Path

import numpy as np
import pytest

from shared.labels.annotations import AU_NAMES, EXPR_NAMES, LabelError
from shared.labels.formats import (
    FORMATS,
    read_affwild2_au,
    read_affwild2_expr,
    read_affwild2_va,
    read_dvd_csv,
    read_labels,
)
from train.data.labels import align

NAN = np.nan


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str, name: str = "0227.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return to_file


def column(labels: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in labels[:, 0]]


# --- DVD ---


def test_dvd_frame_one_is_index_zero_and_gaps_are_masked(write) -> None:
    labels = read_dvd_csv(write("Frame_Number,Label\n1,1\n2,0\n5,1\n"))
    assert labels.dtype == np.float32
    assert labels.shape == (5, 1)
    assert column(labels) == [1, 0, None, None, 1]


@pytest.mark.parametrize(
    "text",
    [
        "Frame_Number,Label\n3,1\n1,0\n",  # any order
        "FRAME_NUMBER, label\r\n1,0\r\n3,1\r\n\r\n",  # case, space, Windows line ends, blank lines at the end
        "\ufeffframe,violent\n1,0\n2,-1\n3,1\n",  # byte-order mark, other names, -1 = masked
        "Label,Frame_Number\n0,1\n1,3\n",  # columns by name
        "Label,Frame\n0,1\n1,3\n",
        "Frame,Person,Label\n1,1,0\n2,1,-1\n3,0,1\n",  # a column between that could pass for labels
        "Person,frame number,LABELS\n5,1.0,0\n6,3.0,1.0\n",
        "who,Frame_Number,Label\na,1,0\nb,3,1\n",  # a column of text that nobody asked for
        "Frame_Number,Label\n1,0\n1,0\n3,1.0\n",  # said twice, the same
    ],
)
def test_dvd_spellings_of_one_annotation(write, text: str) -> None:
    assert column(read_dvd_csv(write(text))) == [0, None, 1]


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("Frame_Number,Label\n0,1\n", 2, "0"),
        ("Frame_Number,Label\n1,1\n-3,0\n", 3, "-3"),
        ("Frame_Number,Label\n1.5,1\n", 2, "1.5"),
        ("Frame_Number,Label\n1,0\n99999999999,1\n", 3, "1e+11"),
        ("Frame_Number,Label\n1,0\n2,2\n", 3, "2"),
        ("Frame_Number,Label\n1,0\n2,0.5\n", 3, "0.5"),
        ("Frame_Number,Label\n4,0\n1,0\n2,1\n2,0\n4,1\n", 5, "0"),
        ("Frame_Number,Label\n1,0\n1,-1\n", 3, "-1"),
        ("Frame_Number,Label\n1,0\nx,1\n", 3, "x,1"),
        ("Frame_Number,Label\n1,0\n\n2,1\n", 3, "''"),
        ("Frame_Number,Label\n1,0\n2\n", 3, "'2'"),
        ("Frame_Number,Label\n1,0\n2,0,1\n", 3, "2,0,1"),
        ("Frame_Number,Label\n1,nan\n", 2, "nan"),
        ("1,0\n2,0\n", 1, "1,0"),
        ("Frame,Person\n1,0\n", 1, "Frame,Person"),
        ("Person,Label\n1,0\n", 1, "Person,Label"),
        ("Frame,Label,label\n1,0,1\n", 1, "label and label could each be the label (columns 2 and 3)"),
        ("Frame,Label,Label.1\n1,0,1\n", 1, "label and label.1 could each be the label (columns 2 and 3)"),
        ("Frame,Frame,Label\n1,2,1\n", 1, "frame and frame could each be the frame_number (columns 1 and 2)"),
        ("frame_index,Label\n1,0\n", 1, "'frame_index' may count from 0 or from 1; call it Frame_Number"),
        ("Frame_Number\n1\n", 1, "Frame_Number"),
        ("Frame_Number,Label\n", None, "only a header"),
        ("\n", None, "an empty file"),
        ("Frame_Number,Label\n1,\x000\n", 2, "NUL"),
    ],
)
def test_dvd_refuses_with_file_and_line(write, text: str, line: int | None, found: str) -> None:
    path = write(text)
    with pytest.raises(LabelError) as caught:
        read_dvd_csv(path)
    assert caught.value.line == line
    assert found in caught.value.found
    assert str(caught.value).startswith(str(path) if line is None else f"{path}:{line}: expected ")


# --- Aff-Wild2 ---


def test_va_first_row_is_frame_zero_and_minus_five_is_masked_before_any_mean(write) -> None:
    labels = read_affwild2_va(write("valence,arousal\n0.25,-0.1\n-5,-5\n-5.0,0.3\n1,-1\n", "video86_2.txt"))
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels, np.float32([[0.25, -0.1], [NAN, NAN], [NAN, NAN], [1, -1]]))
    np.testing.assert_allclose(np.nanmean(labels, axis=0), [0.625, -0.55], rtol=1e-6)  # -5 took no part


def test_va_header_is_matched_without_case_and_space(write) -> None:
    assert read_affwild2_va(write(" Valence , AROUSAL \r\n 0.5 , 0\r\n")).tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("valence,arousal\n0,0\n1.01,0\n", 3, "1.01,0"),
        ("valence,arousal\n0,-4\n", 2, "0,-4"),
        ("valence,arousal\n-5,3\n", 2, "-5,3"),
        ("valence,arousal\n0,0\n\n0.5,0\n", 3, "''"),
        ("valence,arousal\n0,0\n0.1\n", 3, "0.1"),
        ("valence,arousal\n0,0\n0.1,0.2,0.3\n", 3, "0.3"),
        ("valence,arousal\n0,0\n0.1;0.2\n", 3, "0.1;0.2"),
        ("valence,arousal\n0,inf\n", 2, "inf"),
        ("valence,arousal", None, "only a header"),
        ("0.1,0.2\n0,0\n", 1, "0.1,0.2"),
        ("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n3\n", 1, "EXPR file (8"),
        ("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise\n3\n", 1, "2020 edition (7"),
        ("AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26\n" + "0," * 11 + "0\n", 1, "AU file (12"),
        ("AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25\n" + "0," * 7 + "0\n", 1, "2020 edition (8"),
        ("Frame_Number,Label\n1,0\n", 1, "a DVD file"),
        ("image_location,valence,arousal\na/00001.jpg,0,0\n", 1, "submission template"),
        ("arousal,valence\n0,0\n", 1, "swapped"),
    ],
)
def test_va_refuses_and_names_what_the_file_seems_to_be(write, text: str, line: int | None, found: str) -> None:
    with pytest.raises(LabelError) as caught:
        read_affwild2_va(write(text))
    assert caught.value.line == line
    assert found in caught.value.found


def test_va_round_trip_of_a_long_file(write) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (20_000, 2)).round(3)
    text = "valence,arousal\n" + "".join(f"{v},{a}\n" for v, a in values)
    np.testing.assert_array_equal(read_affwild2_va(write(text)), values.astype(np.float32))


EXPR, AU = ",".join(EXPR_NAMES), ",".join(AU_NAMES)


def test_expr_has_eight_names_and_one_field_and_minus_one_is_masked(write) -> None:
    labels = read_affwild2_expr(write(f"{EXPR}\n0\n7\n-1\n3\n", "105.txt"))
    assert (labels.dtype, labels.shape) == (np.float32, (4, 1))
    assert column(labels) == [0, 7, None, 3]


def test_au_masks_the_frame_if_any_unit_is_minus_one(write) -> None:
    rows = ["1," * 11 + "0", "0," * 11 + "-1", "0," * 11 + "1"]
    labels = read_affwild2_au(write("\n".join([AU, *rows]) + "\n", "105.txt"))
    assert (labels.dtype, labels.shape) == (np.float32, (3, 12))
    assert np.isnan(labels[1]).all()
    assert labels[[0, 2]].tolist() == [[1] * 11 + [0], [0] * 11 + [1]]


@pytest.mark.parametrize(
    ("read", "text", "line", "found"),
    [
        (read_affwild2_expr, f"{EXPR}\n8\n", 2, "8"),
        (read_affwild2_expr, f"{EXPR}\n0\n1.5\n", 3, "1.5"),
        (read_affwild2_expr, f"{EXPR}\n0\n-5\n", 3, "-5"),
        (read_affwild2_expr, f"{EXPR}\n0\n\n1\n", 3, "''"),
        (read_affwild2_expr, f"{EXPR}\n0,1\n", 2, "0,1"),
        (read_affwild2_expr, f"{EXPR}\n0\n1,2\n", 3, "1,2"),
        (read_affwild2_expr, EXPR, None, "only a header"),
        (read_affwild2_expr, EXPR.removesuffix(",Other") + "\n3\n", 1, "2020 edition (7 expressions)"),
        (read_affwild2_expr, "valence,arousal\n0,0\n", 1, "a VA file"),
        (read_affwild2_expr, f"image_location,{EXPR}\na/00001.jpg,0\n", 1, "EXPR submission template"),
        (read_affwild2_au, f"{AU}\n" + "0," * 10 + "0\n", 2, "0,0,0,0"),
        (read_affwild2_au, f"{AU}\n" + "0," * 12 + "0\n", 2, "0,0,0,0"),
        (read_affwild2_au, f"{AU}\n" + "0," * 11 + "2\n", 2, "0,2"),
        (read_affwild2_au, "AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25\n" + "0," * 7 + "0\n", 1, "2020 edition (8"),
        (read_affwild2_au, f"{EXPR}\n3\n", 1, "EXPR file (8"),
        (read_affwild2_au, f"image_location,{AU}\na/00001.jpg,0\n", 1, "AU submission template"),
    ],
)
def test_expr_and_au_refuse_and_name_what_the_file_seems_to_be(write, read, text: str, line, found: str) -> None:
    with pytest.raises(LabelError) as caught:
        read(write(text, "105.txt"))
    assert caught.value.line == line
    assert found in caught.value.found


def test_expr_and_au_round_trips_of_long_files(write) -> None:
    rng = np.random.default_rng(0)
    classes, units = rng.integers(0, 8, 20_000), rng.integers(0, 2, (20_000, 12))
    text = f"{EXPR}\n" + "".join(f"{k}\n" for k in classes)
    np.testing.assert_array_equal(read_affwild2_expr(write(text))[:, 0], classes)
    text = f"{AU}\n" + "".join(",".join(map(str, row)) + "\n" for row in units)
    np.testing.assert_array_equal(read_affwild2_au(write(text)), units)


def test_formats_are_named_and_frozen(write) -> None:
    assert set(FORMATS) == {"dvd", "affwild2-va", "affwild2-expr", "affwild2-au"}
    assert read_labels(write("valence,arousal\n0,1\n"), "affwild2-va").tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="did you mean 'affwild2-va'"):
        read_labels("x.txt", "afwild2_va")
    with pytest.raises(TypeError):
        FORMATS["own"] = read_dvd_csv  # type: ignore[index]


def test_last_dvd_frame_lands_on_the_last_decoded_frame(write) -> None:
    rows = "".join(f"{f},{int(f == 300)}\n" for f in range(1, 301))
    aligned, report = align(read_dvd_csv(write("Frame_Number,Label\n" + rows)), 300)
    assert (report.missing, report.extra) == (0, 0)
    assert np.flatnonzero(aligned[:, 0] == 1).tolist() == [299]
