from tests.shared.index_model import *
import time
import pytest

def test_two(monkeypatch):
    model = Model(monkeypatch)
    world = model.prepared(folder, World())
    t=time.time()
    n = model.explore(world, {"a": writer("image", "1"), "b": writer("text", "1"), "f": folder})
    print(n, time.time()-t)
