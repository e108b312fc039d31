"""The way into a Ray cluster, and out of it; quiet, and without a word to anybody else."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray.exceptions import RayError

KNOCK_S = 10.0
STORE_BYTES = 128 * 2**20  # of a cluster of our own, where no pictures pass through it
OWN = "local"
MODE = "RAY_AUTH_MODE"  # which Ray sets for the whole process when it starts a cluster
TRIES = "RAY_gcs_server_port_wait_time_s"  # of a second and more each; 20 if nobody says otherwise
TOKEN_WORDS = (
    f"set {MODE}=token, with the token of its head node in ~/.ray/auth_token or in the file that RAY_AUTH_TOKEN_PATH "
    "names."
)
# The folder of a cluster of our own. Paths of sockets have at most 107 bytes, and Ray adds 66 to it.
PREFIX, LOCK, MAX_PLACE = "ray-", "crossgru.lock", 28


@contextmanager
def connected(address: str | None, processes: int) -> Iterator[bool]:
    """Connect to a cluster, or start one on this machine, which ends with the context.

    Args:
        address: "auto", "HOST:PORT" or "ray://HOST:PORT" of a cluster that runs; None: ``RAY_ADDRESS``, or one of our
            own.
        processes: that Ray should start at once in one of our own, for as many actors.

    Yields:
        Whether it is one of our own.

    Raises:
        ValueError: nothing answers there, or Ray does not start.
    """
    address = address or os.environ.get("RAY_ADDRESS") or OWN
    if address != OWN:
        with _connection(address, {}):
            yield False
        return
    with _session_folder() as folder:
        own = {
            "num_cpus": processes,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": str(folder),
            # As a local run's: encoders are what the machine is there for. Ray would give them what others leave over.
            "_system_config": {"worker_niceness": 0},
        }
        # Else Ray would leave a token in the user's home, and other clusters would begin to ask for it.
        given = any(name in os.environ for name in (MODE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        with _environment({} if given else {"RAY_AUTH_TOKEN": _token()}), _connection(address, own):
            yield True


@contextmanager
def _connection(address: str, options: dict[str, Any]) -> Iterator[None]:
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        listens = False
        try:
            listens = _knock(address)
            with warnings.catch_warnings(), _environment({TRIES: "3"} if listens else {}):
                warnings.simplefilter("ignore", UserWarning)  # of a client that reaches nobody: told below
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, OSError, ValueError, RuntimeError, RayError) as error:
            raise ValueError(_words(address, listens, error)) from None
        except SystemExit:  # Ray has put a handler of its own there
            raise KeyboardInterrupt from None
        if here:
            signal.signal(signal.SIGTERM, before)
        yield
    finally:
        _end_autoscaler()
        ray.shutdown()
        if here:
            signal.signal(signal.SIGTERM, before)


def _words(address: str, listens: bool, error: Exception) -> str:
    """Why there is no cluster, and what to do."""
    why = str(error).strip().partition("\n")[0]
    if address == OWN:
        return f"--engine ray: no Ray cluster can be started on this machine ({why})"
    if "AuthenticationError" in "".join(traceback.format_exception(error)):
        return f"--address {address}: the Ray cluster there asks for its token: {TOKEN_WORDS}"
    if listens:
        return (
            f"--address {address}: something listens there, but no Ray cluster answers ({why}). "
            f"If it is one that asks for a token: {TOKEN_WORDS}"
        )
    return (
        f"--address {address}: no Ray cluster answers there ({why}). Start one with: ray start --head; "
        "without --address one is started on this machine for the run."
    )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """With these variables where the user has not set them, and afterwards as it was before Ray set some, too."""
    names = (*values, MODE)
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update({**values, **before})
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@cache
def _token() -> str:
    """Of all clusters that this process starts; Ray keeps the first that it has read."""
    return secrets.token_hex(16)


@contextmanager
def _session_folder() -> Iterator[Path]:
    """Where a cluster of our own keeps its sockets and logs; gone with it, or with the next one if this was killed."""
    place = short_place()
    sweep(Path(place))
    early = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}", dir=place))
    held = FileLock(early / LOCK, thread_local=False)
    held.acquire(timeout=0)  # before anybody can take it for that of a dead run
    folder = early.rename(early.with_name(early.name.removeprefix("new-")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        held.release()


def short_place() -> str:
    """The folder for temporary files, or another one where its path is too long for sockets."""
    place = tempfile.gettempdir()
    return place if len(os.fsencode(place)) <= MAX_PLACE else "/tmp"


def sweep(place: Path) -> None:
    """Remove the folders of runs that were killed: those whose lock nobody holds."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            mine = folder.stat().st_uid == os.getuid()
            if folder.is_symlink() or not mine or not (folder / LOCK).exists():
                continue
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def _end_autoscaler() -> None:
    """End the one of a cluster of our own, which has nothing to scale and does not listen: ``ray.shutdown`` would wait
    a second for it, and does if Ray has moved what is used here."""
    with suppress(Exception):
        node: Any = ray._private.worker._global_node
        for one in node.all_processes["monitor"]:
            one.process.kill()


def _knock(address: str) -> bool:
    """Whether something listens at a host and port; raises OSError where nothing does: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return False
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    return True
