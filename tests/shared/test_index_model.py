"""Two writers of one video and a folder, in every order, with kills at every moment: the index is never wrong.

Covered, one file operation of ``shared/cache/folder.py`` and one look at a stream at a time: two processes that each
announce the video, add or remove a stream of their own, look at the video and settle it, while a third one folds the
index; on a disk with its real ``Folder``, and on an object store as ``Folder`` uses it. A list of the folder counts as
one operation, and so does a write. Longer ones (a writer's second change, a second folder) are in
``tests/soak/test_index_model.py``. What is known to go wrong is in neither: on an object store, a part that its writer
goes on with in the moment in which it is removed (``Folder.retire``).
"""

from __future__ import annotations

from typing import Any

import pytest

from shared.cache import index as cache_index
from tests.shared.index_model import Model, Process, World, Wrong, folder, writer

TEXT = World(streams=(("text", "1"),))
ONE: dict[str, Process] = {"a": writer("image", "1"), "b": writer("text", "1"), "f": folder}


@pytest.mark.parametrize(
    ("is_remote", "before", "processes"),
    [
        pytest.param(False, World(), ONE, id="two streams are added"),
        pytest.param(False, TEXT, {"a": writer("text", None), "b": writer("text", "2")}, id="one stream, two writers"),
        pytest.param(False, TEXT, {"a": writer("text", None), "f": folder}, id="the last stream is removed"),
        pytest.param(True, World(), ONE, id="object store"),
    ],
)
def test_no_order_makes_the_index_wrong(
    monkeypatch: pytest.MonkeyPatch, is_remote: bool, before: World, processes: dict[str, Process]
) -> None:
    model = Model(monkeypatch, is_remote=is_remote)
    assert model.explore(model.prepared(folder, before), processes) > 100


def test_a_line_that_is_older_than_the_base_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``seen``, a writer that has looked too early replaces what the base has from another one."""
    real = cache_index._rows

    def unseen(raw: bytes, facts: Any, skip: int = 0, seen: int = 0, announced: Any = None) -> Any:
        return real(raw, facts, skip, 0, announced)

    monkeypatch.setattr(cache_index, "_rows", unseen)
    model = Model(monkeypatch)
    with pytest.raises(Wrong, match=r"the index says {'text': '1'}, the video has {'image': '1', 'text': '1'}"):
        model.explore(model.prepared(folder, World()), ONE)
