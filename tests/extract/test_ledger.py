"""The ledger of failures: nothing is lost, whatever the messages hold and whoever writes."""

import json
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from extract.faults.ledger import MAX_MESSAGE, Failure, FailureLedger


def failure(video: str, message: str = "broken", attempts: int = 1) -> Failure:
    return Failure(video, f"{video}.mp4", "decode", "ValueError", message, attempts)


@pytest.fixture(params=["local", "memory", "memory root"])
def cache_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    fsspec.filesystem("memory").store.clear()
    return {"local": f"{tmp_path}/sub/a.zarr", "memory": "memory://x/a.zarr", "memory root": "memory://a.zarr"}[
        request.param
    ]


def test_latest_failure_counts_and_resolved_ones_go(cache_url: str) -> None:
    ledger = FailureLedger(cache_url)
    assert ledger.failures() == {}
    ledger.record(failure("a"))
    ledger.record(failure("b"))
    ledger.record(failure("a", "again", attempts=2))
    ledger.resolve("b")
    ledger.resolve("never failed")
    assert FailureLedger(cache_url + "/").failures() == {"a": failure("a", "again", attempts=2)}
    ledger.record(failure("b", attempts=3))
    assert list(ledger.failures()) == ["a", "b"]


def test_several_caches_share_a_folder(cache_url: str) -> None:
    other = cache_url.replace("a.zarr", "b.zarr")
    FailureLedger(cache_url).record(failure("v", "of a"))
    FailureLedger(other).record(failure("v", "of b"))
    FailureLedger(other).resolve("v")
    assert FailureLedger(cache_url).location == FailureLedger(other).location
    assert FailureLedger(cache_url).failures()["v"].message == "of a"
    assert FailureLedger(other).failures() == {}


# The characters are line ends to str.splitlines, to CSV readers or to terminals.
@pytest.mark.parametrize(
    "message",
    ["é 日本 😀", "a\nb\r\n", "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", '"quoted", \\ \x01 \x00', "", "\ufeffx"],
)
def test_any_message_comes_back(cache_url: str, message: str) -> None:
    ledger = FailureLedger(cache_url)
    ledger.record(failure("v", message))
    ledger.record(failure("w"))
    assert ledger.failures() == {"v": failure("v", message), "w": failure("w")}


def test_a_message_that_is_no_text_is_kept_as_far_as_possible(cache_url: str) -> None:
    FailureLedger(cache_url).record(failure("v", "bad name \udcff.mp4"))
    assert FailureLedger(cache_url).failures()["v"].message == "bad name ?.mp4"


def test_huge_messages_are_cut(cache_url: str) -> None:
    FailureLedger(cache_url).record(failure("v", "x" * 10**6))
    message = FailureLedger(cache_url).failures()["v"].message
    assert message == "x" * MAX_MESSAGE + f" ... ({10**6 - MAX_MESSAGE} characters more)"


def test_lines_are_plain_json(tmp_path: Path) -> None:
    ledger = FailureLedger(f"{tmp_path}/demo.zarr")
    ledger.record(failure("a"))
    row = json.loads((tmp_path / "failures.jsonl").read_text())
    assert row.pop("time").endswith("+00:00")
    expected = {"cache": "demo.zarr", **failure("a").__dict__}
    del expected["file"]  # not noted
    assert row == expected


def test_a_torn_line_harms_neither_its_neighbours_nor_the_next(tmp_path: Path) -> None:
    ledger, file = FailureLedger(f"{tmp_path}/demo.zarr"), tmp_path / "failures.jsonl"
    ledger.record(failure("a"))
    whole = file.read_bytes()
    for cut in range(1, len(whole)):
        file.write_bytes(whole + whole.replace(b'"a"', b'"b"')[:cut])
        ledger.record(failure("c"))
        found = ledger.failures()
        # Only the line end may be missing of a line that still counts.
        assert set(found) == ({"a", "b", "c"} if cut >= len(whole) - 1 else {"a", "c"}), cut


def test_foreign_lines_are_skipped(tmp_path: Path) -> None:
    ledger = FailureLedger(f"{tmp_path}/demo.zarr")
    rows = ["[1, 2]", "null", "", "\xff", '{"cache": "demo.zarr"}', '{"cache": "demo.zarr", "video": ["a"]}']
    (tmp_path / "failures.jsonl").write_text("\n".join([*rows, '{"cache": "demo.zarr", "video": "v"}']), "latin-1")
    assert ledger.failures() == {"v": Failure("v", "", "", "", "", 1)}


APPEND_MANY = """
import sys
from extract.faults.ledger import Failure, FailureLedger
for i in range(200):
    FailureLedger(sys.argv[1]).record(Failure(f"{sys.argv[2]}{i}", "p", "decode", "ValueError", "long " * 50))
"""


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    url, root = f"{tmp_path}/demo.zarr", Path(__file__).resolve().parents[2]
    runs = [subprocess.Popen([sys.executable, "-c", APPEND_MANY, url, who], cwd=root) for who in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert set(FailureLedger(url).failures()) == {f"{who}{i}" for who in "ab" for i in range(200)}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = FailureLedger(f"{tmp_path}/file/demo.zarr")
    assert ledger.failures() == {}
    with pytest.raises(OSError, match=r"cannot write the ledger of failures .*file/failures\.jsonl"):
        ledger.record(failure("a"))


FILE = {"bytes": 5, "mtime_ns": 7}


@pytest.mark.parametrize(
    ("error", "attempts", "quarantined"),
    [
        ("VideoError", 1, True),  # what is in the file does not change by itself
        ("UnreadableFile", 1, False),
        ("DecoderDied", 1, False),
        ("CacheError", 1, False),
        ("DecoderDied", 2, True),
        ("CacheError", 3, True),
        ("DecoderKilled", 5, False),  # by somebody else
        ("VideoError", 0, True),
        ("UnreadableFile", 0, False),  # a run that stopped for the machine's fault
    ],
)
def test_who_is_quarantined(error: str, attempts: int, quarantined: bool) -> None:
    assert Failure("v", "v.mp4", "decode", error, "why", attempts).quarantined is quarantined


def test_the_file_that_failed_is_known_again(cache_url: str) -> None:
    ledger = FailureLedger(cache_url)
    for name, file in (("noted", FILE), ("gone", {}), ("unknown", None)):
        ledger.record(Failure(name, name, "open", "VideoError", "why", file=file))
    found = FailureLedger(cache_url).failures()
    assert {name: one.file for name, one in found.items()} == {"noted": FILE, "gone": {}, "unknown": None}
    assert [found[n].is_of(FILE) for n in found] == [True, False, True]
    assert [found[n].is_of({}) for n in found] == [False, True, True]
