"""What ``tests/shared/test_index_model.py`` does, with longer lives of the processes; 10 to 30 seconds each."""

from __future__ import annotations

import pytest

from shared.cache.index import CacheIndex
from tests.shared.index_model import Model, Process, World, folder, writer
from tests.soak.conftest import Soak

pytestmark = pytest.mark.soak

IMAGE, TEXT = writer("image", "1"), writer("text", "1")
HAS_TEXT = World(streams=(("text", "1"),))


def twice(model: Model, index: CacheIndex) -> None:
    folder(model, index)
    folder(model, index)


@pytest.mark.parametrize(
    ("before", "processes"),
    [
        pytest.param(World(), {"a": writer("image", "1", "2"), "b": TEXT, "f": folder}, id="a second change"),
        pytest.param(HAS_TEXT, {"a": IMAGE, "b": writer("text", None, "2"), "f": folder}, id="removed, then added"),
        pytest.param(World(), {"a": IMAGE, "b": TEXT, "f": twice}, id="two folds"),
        pytest.param(World(), {"a": IMAGE, "f": folder, "e": folder}, id="two folders"),
    ],
)
def test_no_order_makes_the_index_wrong(
    monkeypatch: pytest.MonkeyPatch, soak: Soak, before: World, processes: dict[str, Process]
) -> None:
    """Two folders are also one that is killed at any moment, and another one after it."""
    model = Model(monkeypatch)
    soak.note(f"index: {model.explore(model.prepared(folder, before), processes)} states")
