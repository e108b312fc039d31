"""The way into a Ray cluster, and out of it; quiet, and without a word to anybody else."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

KNOCK_S = 10.0
STORE_BYTES = 512 * 2**20  # of a cluster of our own: some blocks of prepared frames for every video being decoded


@contextmanager
def connected(address: str | None, num_cpus: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, which ends with the context.

    Args:
        address: "auto", "HOST:PORT" or "ray://HOST:PORT" of a cluster that runs; None: ``RAY_ADDRESS``, or one of our
            own.
        num_cpus: of one of our own.

    Raises:
        ValueError: nothing answers there.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    # Short: paths of sockets have at most 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-") if address == "local" else None
    own: dict[str, Any] = {
        "num_cpus": num_cpus,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        "_temp_dir": folder,
    }
    try:
        try:
            _knock(address)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if address == "local" else {}),
            )
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            why = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"--address {address}: no Ray cluster answers there ({why}). Start one with: ray start --head; "
                "without --address one is started on this machine for the run."
            ) from None
        if here:  # Ray has put a handler of its own there
            signal.signal(signal.SIGTERM, before)
        yield
    finally:
        ray.shutdown()
        if here:
            signal.signal(signal.SIGTERM, before)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _knock(address: str) -> None:
    """Raises OSError where nothing listens; Ray would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
