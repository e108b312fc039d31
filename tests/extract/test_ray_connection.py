"""The way into a Ray cluster: what a user is told where there is none, and what is left of one of our own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from extract.commands.choose_engine import check_engine
from extract.flow.engines import Loaded

pytest.importorskip("ray")

import ray
from ray.exceptions import AuthenticationError

from extract.cluster.connection import MODE, TRIES, connected
from extract.cluster.engine import RayEngine
from extract.cluster.members import Member

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", MODE)
Init = Callable[[Callable[[], None]], list[dict[str, str]]]


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> Init:
    """Has ``ray.init`` do something else; a list of the environments that it saw."""
    for name in (*TOKENS, TRIES, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def takes_place(does: Callable[[], None]) -> list[dict[str, str]]:
        seen: list[dict[str, str]] = []

        def fake(**options: Any) -> None:
            seen.append(dict(os.environ))
            does()

        monkeypatch.setattr(ray, "init", fake)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return seen

    return takes_place


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def no_token() -> None:
    """As Ray raises it: the cause is words in another error."""
    try:
        try:
            raise AuthenticationError("InvalidAuthToken")
        except AuthenticationError as error:
            raise RuntimeError(f"Last connection error: ray.exceptions.AuthenticationError: {error}") from None
    except RuntimeError as error:
        raise ConnectionError("Failed to connect to Ray cluster") from error


def nobody() -> None:
    raise ConnectionError("ray client connection timeout")


def test_a_cluster_that_asks_for_a_token(init: Init, listening: str) -> None:
    seen = init(no_token)
    with pytest.raises(ValueError, match=r"asks for its token: set RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN_PATH"):
        connected(listening, 1).__enter__()
    assert seen[0][TRIES] == "3"  # it is up, and will not answer otherwise the twentieth time
    assert TRIES not in os.environ
    assert not [name for name in TOKENS if name in seen[0]]  # nobody's token is shown to a stranger


def test_something_else_listens_there(init: Init, listening: str) -> None:
    init(nobody)
    with pytest.raises(ValueError, match=r"something listens there, but no Ray cluster answers \(ray client"):
        connected(f"ray://{listening}", 1).__enter__()


def test_nothing_listens_there(init: Init, listening: str) -> None:
    seen = init(nobody)
    host, _, _ = listening.partition(":")
    with pytest.raises(ValueError, match=r"no Ray cluster answers there \(.*refused\)\. Start one with"):
        connected(f"ray://{host}:1", 1).__enter__()
    assert not seen


def test_an_empty_address_starts_no_cluster() -> None:
    with pytest.raises(ValueError, match=r"--address is empty"):
        check_engine("ray", "", None)
    check_engine("ray", None, None)


def test_a_cluster_of_our_own_leaves_no_token_behind(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    def sets_mode() -> None:  # as Ray does for a cluster that it starts
        os.environ[MODE] = "token"

    seen = init(sets_mode)
    with connected(None, 1) as own:
        assert own
        assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32  # Ray makes a file in the user's home where there is none
    assert not [name for name in TOKENS if name in os.environ]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine" * 8)
    with connected(None, 1):
        pass
    assert [set(TOKENS) & env.keys() for env in seen] == [{"RAY_AUTH_TOKEN"}] * 2
    assert os.environ["RAY_AUTH_TOKEN"] == seen[1]["RAY_AUTH_TOKEN"] == "mine" * 8


class Reference(str):
    """Of Ray's client: equal to another one, and not the same object."""


def test_references_are_equal_and_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda reference: Loaded({}, (), ()))
    engine, member = RayEngine.__new__(RayEngine), Member(None, loading=Reference("loading"))
    engine._loaded = None
    engine._take(member, Reference("loading"), None)
    assert member.idle
    assert engine._loaded is not None
