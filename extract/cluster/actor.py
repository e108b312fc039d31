"""An encoder process: one whole pipeline, with models that are loaded once and videos that the driver deals out."""

from __future__ import annotations

import os
import socket
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from extract.child_process import usual_memory
from extract.cluster.decode import TaskDecoders
from extract.decode.decoders import Decoders
from extract.decode.events import Job, Stopped
from extract.decode.preparing import num_cores
from extract.faults.doubts import Pause
from extract.faults.ledger import Failure, FailureLedger
from extract.faults.systemic import CacheWriteError, SystemicFailure, any_opens
from extract.flow.engines import Loaded, described
from extract.flow.loading import Choice, caption_counts, load_encoders
from extract.flow.pipeline import run
from extract.jobs.summary import Summary
from extract.watcher import Watcher
from shared.cache import CacheError, FeatureCache, RecipeMismatch

NEWS_S = 0.5  # how long news are collected before they are sent
# What the user is told in its own words; else it is a bug, or a device that gave up, and comes with its traceback.
TOLD = (SystemicFailure, CacheWriteError, CacheError, RecipeMismatch, ValueError, OSError)


@dataclass(frozen=True)
class Post:
    """Where and how encoder processes work.

    Attributes:
        url: of the cache, the same on every node.
        stamp: of its root, as the driver sees it (``root_stamp``).
        folder: current directory of the driver, for relative paths.
        sharers: encoder processes on one node, which share its cores; 0 if they have GPUs.
        threads: the driver's ``OMP_NUM_THREADS``, if that is set.
        decoders: processes for decoding that the encoder processes of a node may have together; 0 if tasks decode, on
            any node. On a machine that is all of the cluster those would only carry pictures between processes.
    """

    choice: Choice
    dataset: str
    url: str
    stamp: tuple[Any, ...] | None
    folder: str
    workers: int
    timeout_s: float
    sharers: int
    threads: str | None
    decoders: int


@dataclass(frozen=True)
class News:
    """Something happened: ``what`` is a method of ``Watcher``, or "record" or "resolve" of the ledger."""

    what: str
    video: str
    value: Any = None
    part: Summary | None = None


@dataclass(frozen=True)
class Report:
    """How a share of the videos ended."""

    seconds: Mapping[str, float]
    news: Sequence[News]
    error: Exception | None = None


@dataclass
class NewsBox:
    """News that wait to be fetched."""

    news: list[News] = field(default_factory=list)
    reached: dict[str, News] = field(default_factory=dict)  # of every video the last one is enough
    changed: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, news: News) -> None:
        with self.changed:
            if news.what == "reached":
                self.reached[news.video] = news
                return
            if (last := self.reached.pop(news.video, None)) is not None:
                self.news.append(last)
            self.news.append(news)
            self.changed.notify_all()

    def fetch(self, wait_s: float = 0.0) -> list[News]:
        with self.changed:
            if not self.news:
                self.changed.wait(wait_s)
            found = [*self.news, *self.reached.values()]
            self.news, self.reached = [], {}
            return found


class _Relay(Watcher):
    """Tells the driver; with every video that ends, what it adds to the summary."""

    def __init__(self, box: NewsBox, summary: Summary, stopped: threading.Event) -> None:
        self._box, self._summary, self._stopped = box, summary, stopped

    def opened(self, job: Job, promised_frames: int) -> None:
        self._tell("opened", job.video, promised_frames)

    def reached(self, job: Job, frame: int) -> None:
        self._tell("reached", job.video, frame)

    def ended(self, job: Job, failure: Failure | None) -> None:
        live, captions = self._summary, self._summary.captions
        part = Summary(done=live.done, others=live.others, failed=live.failed, gaps=live.gaps)
        part.truncated, part.leading = live.truncated, live.leading
        part.num_frames, part.num_windows = live.num_frames, live.num_windows
        part.captions = None if captions is None else captions.take()
        live.done, live.others, live.failed, live.gaps, live.truncated, live.leading = [], [], {}, {}, {}, {}
        live.num_frames = live.num_windows = 0
        self._tell("ended", job.video, failure, part)

    def waits(self, jobs: Sequence[Job], holder: str) -> None:
        self._tell("waits", jobs[0].video, ([job.video for job in jobs], holder))

    def _tell(self, what: str, video: str, value: Any, part: Summary | None = None) -> None:
        self._box.tell(News(what, video, value, part))
        if self._stopped.is_set():
            raise Stopped


class _ReportedLedger(FailureLedger):
    """Reads the ledger; what is to be written is for the driver, since a shared disk may not append in one piece."""

    def __init__(self, url: str, box: NewsBox) -> None:
        super().__init__(url)
        self._box = box

    def record(self, failure: Failure) -> None:
        self._box.tell(News("record", failure.video, failure))

    def resolve(self, video: str) -> None:
        self._box.tell(News("resolve", video))


class EncoderProcess:
    """Loads encoders, extracts shares of the videos, and tells what happens meanwhile."""

    def __init__(self, post: Post) -> None:
        self._post, self._box, self._stopped = post, NewsBox(), threading.Event()
        self._pause = Pause(self._stopped)

    def load(self) -> Loaded | Exception:
        """Load the encoders; an error is returned."""
        post = self._post
        with suppress(OSError):  # then all paths have to be absolute
            os.chdir(post.folder)
        # Ray has set it to 1; it is read when torch is imported.
        os.environ["OMP_NUM_THREADS"] = post.threads or str(max(1, num_cores() // max(1, post.sharers)))
        try:
            check_root(post.url, post.stamp)
            from extract.encoders.devices import choose_device

            choose_device(post.choice.device, post.choice.streams, post.choice.config().trained)
            self._decoders = start_decoders(post)
            self._encoders = load_encoders(post.choice, lambda text: None)
            self._cache = FeatureCache.create(post.url, dataset=post.dataset, window=post.choice.config().window)
            return described(self._encoders)
        except Exception as error:
            return plain(error)

    def extract(self, jobs: Sequence[Job], overwrite: Sequence[str], suspects: Mapping[str, int]) -> Report:
        """Extract a share of the videos.

        Args:
            overwrite, suspects: as in ``Summary``.
        """
        summary = Summary(overwrite=tuple(overwrite), suspects=dict(suspects))
        summary.captions = caption_counts(self._encoders)
        ledger, relay = _ReportedLedger(self._post.url, self._box), _Relay(self._box, summary, self._stopped)
        error: Exception | None = None
        try:
            run(
                jobs,
                self._cache,
                self._encoders,
                ledger,
                summary,
                workers=self._post.workers,
                decoders=self._decoders,
                watcher=relay,
                first=self._pause,
            )
        except Stopped:
            pass
        except Exception as caught:
            error = plain(caught)
        return Report(summary.seconds, self._box.fetch(), error)

    @ray.method(concurrency_group="news")
    def news(self) -> list[News]:
        """What happened since the last call; waits a moment."""
        return self._box.fetch(NEWS_S)

    @ray.method(concurrency_group="news")
    def hold(self, number: int) -> None:
        """Wait after the next video that ends; see ``Pause``."""
        self._pause.hold(number)

    @ray.method(concurrency_group="news")
    def free(self, number: int) -> None:
        """Go on."""
        self._pause.free(number)

    @ray.method(concurrency_group="probe")
    def opens(self, jobs: Sequence[Job]) -> tuple[bool, str]:
        """Whether any of these videos can be read here, and where that is."""
        return any_opens(jobs, self._post.workers), socket.gethostname()

    @ray.method(concurrency_group="news")
    def stop(self) -> None:
        """End the share that is being extracted, as soon as something happens in it."""
        self._stopped.set()


def start_decoders(post: Post) -> Decoders | TaskDecoders:
    """Who decodes for an encoder process; its own processes come up while it loads encoders."""
    if not post.decoders:
        return TaskDecoders(post.timeout_s)
    decoders = Decoders(post.workers, post.timeout_s, usual_memory(post.decoders))
    decoders.start()
    return decoders


OPTIONS: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"news": 2, "probe": 1}}
EncoderActor: Any = ray.remote(**OPTIONS)(EncoderProcess)


def plain(error: Exception) -> Exception:
    """The error as it can be sent: it may keep what belongs to this process, or be of a class that the driver lacks."""
    node = f"node {socket.gethostname()}"
    for kind in TOLD:
        if isinstance(error, kind):
            return kind(f"{error} ({node})")
    words = "".join(traceback.format_exception(error)).rstrip()
    return SystemicFailure(f"an encoder process failed ({node}), and no video is to blame:\n{words}")


def root_stamp(url: str) -> tuple[Any, ...] | None:
    """What tells the root of one cache on a disk from another's; None of a URL, which means the same everywhere."""
    if "://" in url:
        return None
    with open(os.path.join(url, "zarr.json"), "rb") as file:
        return file.read(), int(os.fstat(file.fileno()).st_mtime)


def check_root(url: str, stamp: tuple[Any, ...] | None) -> None:
    """Whether the cache is where the driver sees it.

    Raises:
        CacheError: it is not, or another one is.
    """
    try:
        if root_stamp(url) == stamp:
            return
        found = "another cache lies there"
    except OSError as error:
        found = error.strerror or str(error)
    raise CacheError(
        f"a node of the cluster does not see the cache at {url}: {found}. All nodes write into one cache: put it into "
        "a folder that they share under the same path, or into an object store (--cache s3://...)"
    )
