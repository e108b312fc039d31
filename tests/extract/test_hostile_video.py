"""What files can be made to say, and what must not come of it: one test per way that was found."""

from __future__ import annotations

import pickle
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from extract.decode.events import Job
from extract.decode.one_video import video_events
from extract.video import VideoError, open_video
from shared.windows import WindowSpec
from tests.extract.fuzz_damage import replace_at
from tests.extract.fuzz_reading import read_all
from tests.extract.fuzz_seeds import CODECS, FRAMES, STATE_NOTHING, odd_ones, render, write_packets
from tests.extract.support import write_video


def read(path: Path) -> list[tuple[float, np.ndarray]]:
    with open_video(path) as video:
        return [(frame.pts_s, frame.rgb()) for frame in video.frames]


def check_whole_or_refused(path: Path, *sizes: tuple[int, int]) -> None:
    """All frames, in one of these sizes (64x48), or an error; nothing between."""
    try:
        frames = read(path)
    except VideoError:
        return
    assert len(frames) == FRAMES
    (shape,) = {pixels.shape for _, pixels in frames}
    assert shape in [(height, width, 3) for width, height in sizes or [(64, 48)]]


def refused(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        read(path)
    return str(caught.value)


def test_odd_files_and_folders_give_what_they_have_or_say_why_not(tmp_path: Path) -> None:
    odd = odd_ones(tmp_path)
    for case, outcome in zip(odd, read_all(case.path for case in odd), strict=True):
        assert outcome.died is None, case
        assert outcome.same, case
        if case.error is None:
            assert outcome.frames in case.frames, (case, outcome)
            assert outcome.frames == outcome.plain, case
        else:
            assert case.error in str(outcome.error), (case, outcome)


# ------------------------------------------------------------------------------------------------ files that lead on


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address of this machine, and who has called there."""
    calls: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    return
                calls.append(str(peer))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", calls
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("ending", ["mp4", "m3u8", "ts", "mpd"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{target}'\n",
        '<?xml version="1.0"?>\n<MPD type="static"><Period><AdaptationSet><Representation id="1" bandwidth="1">'
        "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>\n",
        "[playlist]\nFile1={target}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["hls", "concat", "dash", "pls", "sdp"],
)
def test_playlists_are_not_followed(text: str, ending: str, server: tuple[str, list[str]], tmp_path: Path) -> None:
    address, calls = server
    inner = write_video(tmp_path / "inner.mp4", 3)
    path = tmp_path / f"list.{ending}"
    for target in (inner.name, str(inner), f"file:{inner}", f"{address}/a.ts"):
        path.write_text(text.format(target=target))
        assert "not a video" in refused(path)
    assert calls == []


def test_a_picture_or_a_pattern_of_pictures_is_no_video(tmp_path: Path) -> None:
    for name in ("00001.png", "%05d.png", "video.mp4"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="PNG")
        assert "pictures" in refused(tmp_path / name)


def test_a_file_is_hashed_only_after_it_proved_to_be_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.decode.one_video.read_source", lambda *args: pytest.fail("hashed"))
    with (tmp_path / "zeros.mp4").open("wb") as file:
        file.truncate(2**40)
    job = Job("a", "zeros.mp4", tmp_path / "zeros.mp4", None, ())
    with pytest.raises(VideoError, match="not a video"):
        list(video_events(job, WindowSpec(), {}, lambda frames: None))


def test_an_error_crosses_processes_whole() -> None:
    again = pickle.loads(pickle.dumps(VideoError("open", "not a video")))
    assert (again.stage, str(again)) == ("open", "not a video")


# ------------------------------------------------------------------------------------------------ headers that lie


@pytest.mark.parametrize("side", [60000, 16000])
def test_a_size_beyond_every_video_is_refused_before_a_frame_is_made(side: int, tmp_path: Path) -> None:
    path = render(tmp_path / "raw.avi")
    path.write_bytes(replace_at(path.read_bytes(), b"strf", 12, struct.pack("<II", side, side)))
    assert "its header states no size, or more than 134217728 pixels" in refused(path)


@pytest.mark.parametrize(("name", "tag"), [("mpeg4.mp4", b"mp4v"), ("png.mov", b"png "), ("h264.mp4", b"avc1")])
@pytest.mark.parametrize("side", [60000, 16000, 0])
def test_where_the_pictures_say_their_size_the_header_may_lie(name: str, tag: bytes, side: int, tmp_path: Path) -> None:
    path = render(tmp_path / name)
    path.write_bytes(replace_at(path.read_bytes(), tag, 28, struct.pack(">HH", side, side)))
    # MP4 has the size of the picture shown and that of the picture stored; the shape of a pixel is what lies between.
    check_whole_or_refused(path, (64, 48), (85, 48))


@pytest.mark.parametrize(
    ("name", "tag", "offset", "layout"),
    [("mpeg4.mp4", b"stsz", 12, ">I"), ("mpeg4.avi", b"strh", 40, "<I"), ("mjpeg.avi", b"avih", 24, "<I")],
)
@pytest.mark.parametrize("count", [10**9, FRAMES + 1, FRAMES - 1, 0])
def test_a_lie_about_the_number_of_frames_changes_nothing(
    name: str, tag: bytes, offset: int, layout: str, count: int, tmp_path: Path
) -> None:
    path = render(tmp_path / name)
    path.write_bytes(replace_at(path.read_bytes(), tag, offset, struct.pack(layout, count)))
    if count == FRAMES - 1 and name == "mpeg4.mp4":
        assert len(read(path)) == count  # nothing else says how many there are: its table of samples does
    else:
        check_whole_or_refused(path)


def test_times_are_kept_as_they_are(tmp_path: Path) -> None:
    def repeat(number: int, packet: av.Packet) -> None:
        packet.pts = packet.dts = number // 3 * 3

    times = [time for time, _ in read(write_packets(tmp_path / "a.mkv", repeat))]
    assert times == sorted(times)
    assert len(set(times)) == 4
    assert len(times) == 12


# ------------------------------------------------------------------------------------------------ frames that are lost


@pytest.mark.parametrize("name", [name for name in CODECS if not name.endswith(STATE_NOTHING)])
def test_frames_lost_in_the_middle_are_noticed(name: str, tmp_path: Path) -> None:
    """Demuxers pass over such a hole without a word, and the frames behind it would have wrong numbers."""
    whole = render(tmp_path / name).read_bytes()
    for share in np.arange(0.3, 0.9, 0.05):
        place = int(share * len(whole))
        (tmp_path / name).write_bytes(whole[:place] + bytes(500) + whole[place + 500 :])
        check_whole_or_refused(tmp_path / name, (176, 144) if name == "h263.3gp" else (64, 48))


@pytest.mark.parametrize("other", [b"\xa2", b"\xa1"], ids=["virtual", "grouped"])
def test_a_block_that_became_another_element_is_missed(other: bytes, tmp_path: Path) -> None:
    """One bit of its id: demuxers skip an element that has no meaning where it stands."""
    file = tmp_path / "vp9.webm"
    whole = render(file).read_bytes()
    places = [n for n in range(whole.index(b"\x1f\x43\xb6\x75"), len(whole)) if whole[n : n + 1] == b"\xa3"]
    assert len(places) >= 10
    for place in places:
        file.write_bytes(whole[:place] + other + whole[place + 1 :])
        check_whole_or_refused(file, (64, 48))


@pytest.mark.parametrize("cut", [1, 10, 200])
@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "mpeg4.avi", "mjpeg.avi", "faststart.mp4", "vp8.ogv"])
def test_a_few_bytes_cut_off_are_noticed_or_cost_nothing(name: str, cut: int, tmp_path: Path) -> None:
    path = render(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-cut])
    check_whole_or_refused(path)


@pytest.mark.parametrize("name", CODECS)
def test_padding_behind_a_whole_file_is_no_loss(name: str, tmp_path: Path) -> None:
    """Recorders fill blocks; and where the end itself is gone under it, that is a loss as every other."""
    whole = render(tmp_path / name).read_bytes()
    for padding in (bytes(5000), b"\xff" * 5000, bytes(300_000)):
        (tmp_path / name).write_bytes(whole + padding)
        assert len(read(tmp_path / name)) == FRAMES
    if name == "mpeg1.mpg":
        return  # it states nothing, and its last pack is filled up
    for share in (0.1, 0.3, 0.5):
        lost = int(share * len(whole))
        (tmp_path / name).write_bytes(whole[:-lost] + bytes(lost))
        refused(tmp_path / name)


def test_a_frame_that_repeats_the_last_one_is_no_loss(tmp_path: Path) -> None:
    """AVI stores such a frame as a chunk without data; as a packet it would end the decoding."""

    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=64, height=48, pix_fmt="yuvj420p")
        for index in range(10):
            picture = np.full((48, 64, 3), 20 * index, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture)):
                packet.pts = packet.dts = 2 * packet.pts  # FFmpeg fills the gaps with chunks of no bytes
                container.mux(packet)
        container.mux(stream.encode(None))
    assert len(read(tmp_path / "a.avi")) == 10


def test_a_file_of_nothing_but_empty_parts_does_not_keep_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.video.containers.MAX_PARTS", 1000)
    path = write_video(tmp_path / "a.mp4", 3)
    path.write_bytes(path.read_bytes() + 2000 * b"\x00\x00\x00\x08free")
    assert "more than 1000 parts" in refused(path)


# ------------------------------------------------------------------------------------------------ frame folders


def picture(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    for name in ("00001.jpg", "00001.png"):
        whole = picture(tmp_path / name[-3:] / name, (200, 100)).read_bytes()
        (tmp_path / name[-3:] / name).write_bytes(whole[: len(whole) // 2])
        assert f"picture {name} cannot be read" in refused(tmp_path / name[-3:])


def test_a_picture_of_a_thousand_million_pixels_is_refused(tmp_path: Path) -> None:
    data = picture(tmp_path / "f" / "00001.png").read_bytes()
    header = struct.pack(">II", 40000, 30000)
    data = data[:16] + header + data[24:]
    data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    (tmp_path / "f" / "00001.png").write_bytes(data)
    assert "says 40000x30000" in refused(tmp_path / "f")


def test_other_kinds_of_pictures_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(picture(tmp_path / "f" / "00001.png"), format="GIF")
    assert "none of JPEG, PNG, TIFF, WEBP, BMP" in refused(tmp_path / "f")


def test_pictures_may_differ_in_size(tmp_path: Path) -> None:
    picture(tmp_path / "f" / "00001.png", (8, 6))
    picture(tmp_path / "f" / "00002.jpg", (20, 10))
    assert [pixels.shape for _, pixels in read(tmp_path / "f")] == [(6, 8, 3), (10, 20, 3)]


def test_serial_numbers_are_no_frame_numbers(tmp_path: Path) -> None:
    picture(tmp_path / "f" / "00001.png")
    picture(tmp_path / "f" / "9000000.png")  # else nine million frames out of two pictures
    assert "numbered by frame, found 2 of them up to 9000000.png" in refused(tmp_path / "f")
