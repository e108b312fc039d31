"""``extract verify`` finds all damage of a cache at once, and the command that it prints mends it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.extract.support import cache_contents, write_video

Cli = Callable[..., Result]
CACHE = Path("caches/clips.zarr")


@pytest.fixture
def clips(cli: Cli) -> Path:
    folder = Path("clips")
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", 20, seed=number)
    result = cli("run", "clips", "--preset", "tiny", "--streams", "image,text")
    assert result.exit_code == 0, result.output
    return folder


def flip(node: str, at: int = 3) -> None:
    (chunk,) = (p for p in (CACHE / "videos" / node / "c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[at] ^= 1
    chunk.write_bytes(data)


def file_contents() -> dict[str, bytes]:
    return {str(p.relative_to(CACHE)): p.read_bytes() for p in CACHE.rglob("*") if p.is_file()}


def advice(result: Result) -> list[str]:
    """The command that verify prints, as words for the command line."""
    (line,) = (line for line in result.output.splitlines() if "python -m extract run" in line and "Extract " in line)
    return shlex.split(line.partition("python -m extract ")[2])


def test_all_of_several_damages_are_told_and_one_command_mends_them(cli: Cli, clips: Path) -> None:
    before = cache_contents(CACHE)
    assert cli("verify", "clips").exit_code == 0
    flip("0.mp4/image/features")
    (CACHE / "videos/1.mp4/image/zarr.json").write_text("{")
    one, other = (CACHE / f"videos/{video}/text" for video in ("0.mp4", "2.mp4"))
    one.rename("spare")
    other.rename(one)
    Path("spare").rename(other)
    result = cli("verify", "clips")
    assert result.exit_code == 1
    for start in (
        "0.mp4/image/features: ",
        "1.mp4/image: damaged metadata",
        "0.mp4/text: not what",
        "2.mp4/text: not what",
    ):
        assert any(line.startswith(start) for line in result.output.splitlines()), result.output
    assert "3 videos" in result.output
    words = advice(result)
    assert words[-4:] == ["--streams", "image,text", "--overwrite", "damaged"]
    mended = cli(*words)
    assert mended.exit_code == 0, mended.output
    assert cli("verify", "clips").exit_code == 0
    assert cache_contents(CACHE) == before


@pytest.mark.parametrize("damage", ["flip", "lost", "facts"])
def test_what_was_decoded_is_mended_with_all_streams(cli: Cli, clips: Path, damage: str) -> None:
    before = cache_contents(CACHE)
    if damage == "flip":
        flip("1.mp4/pts")
    elif damage == "lost":
        (CACHE / "videos/1.mp4/pts/c/0").unlink()
    else:
        file = CACHE / "videos/1.mp4/zarr.json"
        file.write_text(file.read_text().replace('"width": 64', '"width": 65'))
    result = cli("verify", "clips")
    assert result.exit_code == 1
    words = advice(result)
    assert words[-4:] == ["--streams", "image,text", "--overwrite", "damaged"]
    mended = cli(*words)
    assert mended.exit_code == 0, mended.output
    assert "1 to do" in mended.output
    assert cli("verify", "clips").exit_code == 0
    assert cache_contents(CACHE) == before


def test_an_unfinished_stream_needs_no_overwriting(cli: Cli, clips: Path) -> None:
    file = CACHE / "videos/2.mp4/text/zarr.json"
    file.write_text(file.read_text().replace('"complete": true', '"complete": false'))
    result = cli("verify", str(CACHE))
    assert result.exit_code == 1
    assert "unfinished stream" in result.output
    assert advice(result) == ["run", "DATASET", "--cache", str(CACHE), "--like", str(CACHE), "--streams", "text"]


def test_the_printed_command_leaves_edited_captions_alone(cli: Cli, clips: Path) -> None:
    cli("captions", "clips", "--out", "all.csv")
    Path("all.csv").write_text(Path("all.csv").read_text().replace("a ", "an edited ", 1))
    assert cli("recaption", "clips", "--from", "all.csv").exit_code == 0
    before = cache_contents(CACHE)
    flip("0.mp4/image/features")
    flip("1.mp4/text/features", at=-1)
    damaged = file_contents()
    result = cli("verify", "clips")
    assert "recaption clips --from FILE" in result.output
    assert "(1.mp4)" in result.output
    words = advice(result)
    assert words[-4:] == ["--streams", "image", "--overwrite", "damaged"]
    mended = cli(*words)
    assert mended.exit_code == 1, mended.output  # text is damaged still
    assert "1 to do" in mended.output
    assert "1.mp4: text is damaged, and not among the streams of this run" in mended.output
    wider = cli(*words[:-4], "--streams", "image,text", *words[-2:])  # as somebody may type it
    assert wider.exit_code == 1
    assert "1.mp4: text is damaged, and was made by another recipe than this run's" in wider.output
    assert {name.split("/")[1] for name, data in file_contents().items() if damaged[name] != data} == {"0.mp4"}
    assert cli("recaption", "clips", "--from", "all.csv").exit_code == 0
    assert cli("verify", "clips").exit_code == 0
    after = cache_contents(CACHE)
    for name in ("features", "frames", "captions"):  # its pictures are gone, which recaption says
        assert after[f"/videos/1.mp4/text/{name}"] == before[f"/videos/1.mp4/text/{name}"]
    assert {name.split("/")[2] for name in before if after.get(name) != before[name]} == {"1.mp4"}
    replaced = cli(*["run", "clips", "--preset", "tiny", "--streams", "image,text", "--overwrite", "text"])
    assert "the text of 3 videos came from a captions file (recaption), and is about to be replaced" in replaced.stderr
    assert "text that came from a captions file was replaced in 3 videos" in replaced.stdout


def test_facts_of_a_video_with_edited_captions_are_left(cli: Cli, clips: Path) -> None:
    cli("captions", "clips", "--out", "all.csv")
    assert cli("recaption", "clips", "--from", "all.csv").exit_code == 0
    flip("1.mp4/pts")
    (CACHE / "videos/2.mp4/zarr.json").write_text("{")
    before = file_contents()
    told = cli("verify", "clips").output
    assert "The facts of 2 videos are damaged whose captions came from a file (1.mp4, 2.mp4)" in told
    assert "Extract again" not in told
    run = cli("run", "clips", "--preset", "tiny", "--streams", "image,text", "--overwrite", "damaged")
    assert run.exit_code == 1
    assert "2 videos are damaged still" in run.output
    assert file_contents() == before


def test_text_of_another_recipe_is_no_damage(cli: Cli, clips: Path) -> None:
    again = cli(
        *("run", "clips", "--preset", "tiny", "--long-captions", "chunk-mean"),
        *("--streams", "image,text", "--overwrite", "text"),
    )
    assert again.exit_code == 0
    before = cache_contents(CACHE)
    flip("0.mp4/image/features")
    file = CACHE / "videos/1.mp4/text/zarr.json"
    whole = file.read_bytes()
    file.write_text("{")
    run = cli(*advice(cli("verify", "clips")))
    assert run.exit_code == 1
    assert "1.mp4: text is damaged, and other videos have it by another recipe than this run's" in run.output
    file.write_bytes(whole)
    assert cache_contents(CACHE) == before


def test_what_was_lost_whole_is_told(cli: Cli, clips: Path) -> None:
    shutil.rmtree(CACHE / "videos/0.mp4")
    result = cli("verify", "clips")
    assert result.exit_code == 0
    assert "not extracted yet, or lost whole: 1 of 3 videos of the data set\n  0.mp4\n" in result.output
    assert cli(*["run", "clips", "--preset", "tiny", "--streams", "image,text"]).exit_code == 0
    shutil.rmtree(CACHE / "videos/1.mp4/text")
    result = cli("verify", "clips")
    assert result.exit_code == 1
    assert "1 video has no stream text, which most others have: 1.mp4" in result.output
    assert cli(*advice(result)).exit_code == 0
    assert cli("verify", "clips").exit_code == 0
    clips.rename("gone")
    assert cli("verify", str(CACHE)).exit_code == 0


def test_text_of_two_kinds_is_told(cli: Cli, clips: Path) -> None:
    (clips / "0.mp4").rename("0.mp4")
    again = cli(
        *("run", "clips", "--preset", "tiny", "--long-captions", "chunk-mean"),
        *("--streams", "image,text", "--overwrite", "text"),
    )
    assert again.exit_code == 0, again.output
    result = cli("verify", "clips")
    assert result.exit_code == 0
    assert "stream text was made in 2 ways" in result.output
