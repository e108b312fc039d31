"""Faults that are not the videos', on a cluster: the failures of all encoder processes are looked at together."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from extract.decode.events import Job, Stopped
from extract.faults.ledger import Failure, FailureLedger
from extract.faults.systemic import PROBES, SYSTEMIC_FAILURES, SystemicFailure
from extract.jobs.summary import Summary
from extract.watcher import Watcher

pytest.importorskip("ray")

from extract.cluster.actor import News
from extract.cluster.deal import Deal
from extract.cluster.members import Member
from extract.faults.doubts import Doubts, Pause


def failure(number: int, message: str = "broken", stage: str = "open") -> Failure:
    return Failure(f"v{number}", f"v{number}.mp4", stage, "VideoError", message)


def jobs(count: int) -> list[Job]:
    return [Job(f"v{n}", f"v{n}.mp4", Path(f"v{n}.mp4"), None, ("image",)) for n in range(count)]


@pytest.fixture
def ledger(tmp_path: Path) -> FailureLedger:
    return FailureLedger(str(tmp_path / "c.zarr"))


@pytest.fixture
def doubts(ledger: FailureLedger) -> Doubts[str]:
    return Doubts[str](ledger, False)


def fail(doubts: Doubts[str], processes: str, stage: str = "open", first: int = 0) -> None:
    """A video fails in each of these processes, which have names of one letter."""
    for number, process in enumerate(processes, start=first):
        doubts.failed(process, failure(number, stage=stage))


# ------------------------------------------------------------------ the driver


def test_failures_of_all_processes_are_counted_together(doubts: Doubts[str], ledger: FailureLedger) -> None:
    fail(doubts, "abababa")
    assert doubts.doubted(["a", "b"]) is None
    fail(doubts, "b", first=7)
    assert doubts.doubted(["a", "b"]) == "b"  # the last that saw it
    assert doubts.doubted(["a"]) == "a"  # b has died
    assert doubts.sample("b", jobs(40)) == [jobs(40)[n] for n in (0, 6, 11, 17, 22, 28, 33, 39)]
    fail(doubts, "a", first=8)  # it was on its way
    with pytest.raises(SystemicFailure, match=r"^the first 8 videos all failed for one cause"):
        doubts.settle(False, "n1")
    assert {f.attempts for f in ledger.failures().values()} == {0}
    assert len(ledger.failures()) == SYSTEMIC_FAILURES + 1


def test_a_video_further_on_that_opens_lets_all_go_on(doubts: Doubts[str], ledger: FailureLedger) -> None:
    fail(doubts, "abababab")
    assert len(doubts.sample("b", jobs(300))) == PROBES
    doubts.settle(True, "n1")
    assert doubts.doubted(["a", "b"]) is None
    assert not ledger.failures()
    fail(doubts, "a" * SYSTEMIC_FAILURES)
    assert doubts.doubted(["a", "b"]) == "a"  # the next so many are asked about anew


def test_something_that_works_meanwhile_makes_the_answer_void(doubts: Doubts[str]) -> None:
    fail(doubts, "a" * SYSTEMIC_FAILURES)
    doubts.sample("a", jobs(3))
    doubts.works("b", jobs(1)[0])
    doubts.settle(False, "n1")


def test_where_others_work_a_process_is_asked_about_what_they_have_completed(doubts: Doubts[str]) -> None:
    doubts.works("a", jobs(1)[0])
    assert not doubts.of_all
    fail(doubts, "b" * (SYSTEMIC_FAILURES - 1) + "a" * SYSTEMIC_FAILURES)
    assert doubts.doubted(["a", "b"]) is None  # a has worked
    fail(doubts, "b", first=7)
    assert doubts.doubted(["a", "b"]) == "b"
    assert doubts.sample("b", []) == jobs(1)
    with pytest.raises(SystemicFailure, match=r"first 8 videos of an encoder process \(node n2\) all failed"):
        doubts.settle(False, "n2")


def test_an_encoder_that_spoils_all_is_no_question_of_reading(doubts: Doubts[str]) -> None:
    fail(doubts, "ab" * 4, stage="write")
    assert doubts.sample("b", jobs(40)) == []


def test_the_last_videos_of_a_data_set_may_all_be_broken(ledger: FailureLedger) -> None:
    doubts = Doubts[str](ledger, True)
    fail(doubts, "ab" * 4)
    assert doubts.sample("b", []) == []
    doubts.settle(False, "n1")
    assert doubts.doubted(["a", "b"]) is None


def test_the_news_of_processes_reach_it(ledger: FailureLedger) -> None:
    todo = jobs(12)
    deal, a, b = Deal(todo, ledger, Summary(), Watcher(), 2), Member(None), Member(None)
    for number, job in enumerate(todo):
        member = (a, b)[number % 2]
        member.hands[job.video] = job
        deal.take(member, [News("ended", job.video, failure(number), Summary(failed={job.video: failure(number)}))])
    assert deal.doubts.doubted([a, b]) is b
    b.hands["v0"] = todo[0]
    deal.take(b, [News("ended", "v0", None, Summary(done=["v0"]))])
    assert deal.doubts.doubted([a, b]) is None


# ------------------------------------------------------------------ an encoder process


def test_a_process_waits_until_it_may_go_on(tmp_path: Path) -> None:
    stopped = threading.Event()
    pause = Pause(stopped)
    for number in range(2 * SYSTEMIC_FAILURES):
        pause.add(failure(number))
    assert not pause.alike  # it is not for it to say
    pause.hold(1)
    assert pause.alike
    waits = threading.Thread(target=pause.check, args=([],))
    waits.start()
    waits.join(0.05)
    assert waits.is_alive()
    pause.free(1)
    waits.join(5)
    assert not waits.is_alive()
    pause.free(2)
    pause.hold(2)  # which was sent first
    assert not pause.alike
    pause.hold(3)
    stopped.set()
    with pytest.raises(Stopped):
        pause.check([])
