"""The driver of a run on a Ray cluster: deals out the videos, hears what happens, and writes the ledger."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from extract.cluster.actor import Post, Report, root_stamp
from extract.cluster.connection import connected
from extract.cluster.deal import Deal
from extract.cluster.decode import GetReady
from extract.cluster.members import Member, start_member
from extract.decode.events import Job
from extract.faults.ledger import FailureLedger
from extract.faults.systemic import SystemicFailure
from extract.flow.engines import Loaded
from extract.flow.loading import Choice
from extract.jobs.summary import Summary
from extract.sharing.locks import open_claims
from extract.watcher import Watcher
from shared.cache import FeatureCache
from shared.recipe import RecipeMismatch, diff_recipes

LOOK_S = 1.0
# Processes in a row that die before they have ended a video; those that had not even begun one count three times.
MAX_USELESS = 9
NODE_DIED = "its node has died"  # as Ray says it
STOP_S = 5.0  # for processes to leave the cache in order
PATIENCE_S = 20.0  # without any process, before the user is told


class RayEngine:
    """Encoders in actors of a Ray cluster; see ``extract.flow.engines.Engine``.

    Args:
        cache: open for writing, seen by every node under the same URL.
        address, actors: as on the command line; None for the default.
        workers: videos decoded at once for each encoder process.
        note: tells the user something.
    """

    def __init__(
        self,
        choice: Choice,
        cache: FeatureCache,
        *,
        address: str | None,
        actors: int | None,
        workers: int,
        timeout_s: float,
        note: Callable[[str], None],
    ) -> None:
        if cache.url.startswith("memory://"):
            raise ValueError("a cache in memory:// is seen by one process only; --engine ray needs a shared place")
        self._choice, self._cache, self._address, self._note = choice, cache, address, note
        self._wanted, self._workers, self._timeout_s = actors, workers, timeout_s
        self._members: list[Member] = []
        self._stack = ExitStack()
        self._useless, self._told = 0, 0.0
        self._holds = self._freed = 0  # how often processes were told to wait, and to go on

    def __enter__(self) -> RayEngine:
        self._own = self._stack.enter_context(connected(self._address, self._wanted or 1))
        self._stack.callback(self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def load(self) -> Loaded:
        """Start all encoder processes, and wait for the first one that is up."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(n.get("GPU", 0) for n in nodes)) if self._choice.device != "cpu" else 0
        cpus = [n for n in nodes if n.get("CPU", 0) >= 1]
        if not cpus:
            raise ValueError("the Ray cluster has no CPU for decode tasks: add a node with --num-cpus 1 or more")
        if not gpus and self._choice.device == "gpu":
            raise ValueError("--device gpu, but the Ray cluster has no GPU; see: ray status")
        count, self._gpu = self._wanted or gpus or 1, gpus > 0
        if self._gpu and count > gpus:
            self._note(f"{count} encoder processes take a GPU each; the cluster has {gpus} now, the rest wait for more")
        # An actor that gets no GPU shall not complain of those that it cannot see.
        choice = self._choice if self._gpu else replace(self._choice, device="cpu")
        url = self._cache.url if "://" in self._cache.url else os.path.abspath(self._cache.url)
        sharers = 0 if self._gpu else -(-count // len(cpus))
        self._post = Post(
            choice,
            self._cache.dataset,
            url,
            root_stamp(url),
            os.getcwd(),
            self._workers,
            self._timeout_s,
            sharers,
            os.environ.get("OMP_NUM_THREADS"),
            count * self._workers if self._own else 0,
        )
        self._members = [start_member(self._post, self._gpu) for _ in range(count)]
        warming = [GetReady.remote(self._timeout_s) for _ in range(0 if self._own else count * self._workers)]
        self._loaded: Loaded | None = None
        while self._loaded is None:
            self._wait()
        del warming  # until here somebody had to want them
        return self._loaded

    def run(
        self, jobs: Sequence[Job], cache: FeatureCache, ledger: FailureLedger, summary: Summary, watcher: Watcher
    ) -> Summary:
        """Deal out all jobs until each has ended."""
        started = time.perf_counter()
        deal = Deal(jobs, ledger, summary, watcher, len(self._members))
        try:
            while (
                (doubt := self._doubt(deal)) or deal.shares or any(member.share is not None for member in self._members)
            ):
                if not (doubt and deal.doubts.of_all):
                    self._give(deal)
                self._wait(deal)
        except BaseException:
            self._leave()
            raise
        summary.wall_s = time.perf_counter() - started
        return summary

    # ------------------------------------------------------------------ members

    def _give(self, deal: Deal) -> None:
        idle = [m for m in self._members if m.idle]
        for member in idle:
            jobs = deal.shares.take(alone=not any(m.hands for m in self._members))
            if not jobs:
                return
            member.hands = {job.video: job for job in jobs}
            suspects = {v: n for v, n in deal.shares.suspects.items() if v in member.hands}
            member.share = member.actor.extract.remote(jobs, deal.summary.overwrite, suspects)
            member.news = member.news or member.actor.news.remote()

    def _doubt(self, deal: Deal) -> bool:
        """Whether failures look alike; then those that they concern wait until one has looked at other videos."""
        if any(m.probe is not None for m in self._members):
            return True
        if (member := deal.doubts.doubted(self._members)) is None:
            self._free()
            return False
        self._holds += 1
        for held in self._members if deal.doubts.of_all else [member]:
            held.actor.hold.remote(self._holds)
        later = [*(job for m in self._members for job in m.hands.values()), *deal.shares]
        member.probe = member.actor.opens.remote(deal.doubts.sample(member, later))
        return True

    def _free(self) -> None:
        if self._holds > self._freed:
            self._freed = self._holds
            for member in self._members:
                member.actor.free.remote(self._freed)

    def _wait(self, deal: Deal | None = None) -> None:
        """Take what comes within a moment."""
        pending = {ref: member for member in self._members for ref in member.pending}
        ready, _ = ray.wait(list(pending), timeout=LOOK_S)
        self._tell_if_nobody_works(bool(ready))
        for ref in ready:
            member = pending[ref]
            if ref not in member.pending:  # settled with another answer
                continue
            try:
                self._take(member, ref, deal)
            except RayTaskError as error:  # before our own code: a node on which something is not installed
                raise SystemicFailure(f"an encoder process failed, and no video is to blame:\n{error}") from None
            except RayError as error:
                self._replace(member, error, deal)

    def _take(self, member: Member, ref: Any, deal: Deal | None) -> None:
        if ref == member.loading:  # of Ray's client, what comes back is not the same object
            found = ray.get(ref)
            member.loading = None
            if isinstance(found, Exception):
                raise found
            self._compare(found)
        elif ref == member.news:
            news = ray.get(ref)
            member.news = member.actor.news.remote() if member.share is not None else None
            assert deal is not None
            deal.take(member, news)
        elif ref == member.probe:
            readable, node = ray.get(ref)
            member.probe = None
            assert deal is not None
            deal.doubts.settle(readable, node)
        else:
            report: Report = ray.get(ref)
            assert deal is not None
            if member.news is not None:  # what it fetched comes before what is in the report
                news, member.news = member.news, None
                deal.take(member, ray.get(news))
            member.share = None
            deal.take(member, report.news)
            deal.add_seconds(report.seconds)
            if report.error is not None:
                raise report.error
            deal.shares.put_back(member.hands.values())  # it was stopped
            member.hands, member.opened = {}, set()
        if member.useful:
            self._useless = 0

    def _compare(self, found: Loaded) -> None:
        """Encoders of all nodes have to make the same numbers."""
        if self._loaded is None:
            self._loaded = found
        for stream, recipe in self._loaded.recipes.items():
            if lines := diff_recipes(recipe, found.recipes[stream]):
                words = "\n  ".join(
                    line.replace("cache has", "one has").replace("asked for", "another") for line in lines
                )
                raise RecipeMismatch(
                    f"the nodes of the cluster would make different numbers, stream {stream}:\n  {words}"
                )

    def _replace(self, member: Member, error: RayError, deal: Deal | None) -> None:
        """A process or its node has died: another takes its place, and its videos are dealt out again."""
        self._members.remove(member)
        with suppress(RayError, ValueError):
            ray.kill(member.actor)  # if it only cannot be reached
        why = " ".join(str(error).split())
        if not member.useful:
            self._useless += 1 if member.opened or NODE_DIED in why else 3  # a machine that goes is no fault of ours
            if self._useless >= MAX_USELESS:
                raise SystemicFailure(
                    f"encoder processes die before they have done anything, the last one: {why[-300:]}"
                )
        if deal is not None:
            deal.lost(member, why[-300:])
        self._note("an encoder process was lost; another one takes its place")
        self._members.append(start_member(self._post, self._gpu))

    def _tell_if_nobody_works(self, something: bool) -> None:
        now = time.monotonic()
        if something or any(m.loading is None for m in self._members) or not self._told:
            self._told = now + PATIENCE_S
        elif now > self._told:
            self._told = now + 3 * PATIENCE_S
            self._note(f"waiting for the cluster: no {'GPU' if self._gpu else 'CPU'} for an encoder process yet")

    # ------------------------------------------------------------------ the end

    def _leave(self) -> None:
        """Let those at work leave the cache in order, if they can soon."""
        with suppress(RayError):
            shares = [m.share for m in self._members if m.share is not None]
            for member in self._members:
                member.actor.stop.remote()
            if shares:
                ray.wait(shares, num_returns=len(shares), timeout=STOP_S)

    def _end(self) -> None:
        for member in self._members:
            with suppress(RayError, ValueError):
                ray.kill(member.actor)
        with suppress(OSError):
            open_claims(self._cache.url).close()  # files of processes that were killed
