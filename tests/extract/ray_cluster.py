"""A Ray cluster of several processes on this machine, whose processes can be found and killed."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from extract.cluster.connection import short_place
from tests.extract.kills import children

STORE_BYTES = 100 * 2**20


class SmallCluster:
    """A head without CPUs, and nodes of one CPU each; a context manager.

    Attributes:
        options: of ``extract run``, to work on it.
    """

    def __init__(self, nodes: int = 2) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir=short_place())
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False, "temp_dir": self._folder}
        with self._own_address_file():
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._add() for _ in range(nodes)]
        self.options = ("--engine", "ray", "--address", str(self._cluster.address))

    def __enter__(self) -> SmallCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._own_address_file():
            self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _own_address_file(self) -> Iterator[None]:
        """Where Ray's ``Cluster`` notes its address for everybody: in our folder, whatever ``temp_dir`` says. Else it
        would fail where no Ray has run before, and others of this machine would connect to a cluster of tests."""
        (Path(self._folder) / "ray").mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", self._folder)
            yield

    def processes(self, title: str) -> list[int]:
        """Processes whose title has this word, on any node."""
        return [pid for node in self._nodes for pid in self._on(node, title)]

    def kill_a_node(self, title: str) -> bool:
        """Kill the raylet of a node that has such a process, if there is one; a new node takes its place."""
        node = next((node for node in self._nodes if self._on(node, title)), None)
        if node is None:
            return False
        os.kill(_raylet(node), signal.SIGKILL)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._add())
        return True

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def _on(self, node: Any, title: str) -> list[int]:
        return [pid for pid in children(_raylet(node)) if title in _title(pid)]


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:  # it has just ended
        return ""
