"""The promises of ``captioners/contract.py``, kept by every captioner."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from extract.config import CaptionerConfig
from extract.encoders.captioners import build_captioner
from extract.encoders.captioners.contract import Captioner
from tests.extract.captioners.test_server import VisionServer
from tests.extract.captioners.tiny_hub import FAMILIES

BATCH_SIZE = 4
FRAMES = {"landscape": (90, 160), "portrait": (320, 180), "square": (64, 64), "tiny": (3, 2), "huge": (2160, 3840)}
Make = Callable[..., Captioner]


class Case(NamedTuple):
    """One captioner: ``make(**options)`` builds it, each of ``changes`` are options that must change its recipe."""

    make: Make
    changes: list[dict[str, Any]]


@contextmanager
def offline(folder: Path) -> Iterator[Case]:
    yield Case(lambda **options: build_captioner(CaptionerConfig("offline", batch_size=BATCH_SIZE, **options)), [])


def minigpt(name: str) -> Callable[[Path], AbstractContextManager[Case]]:
    """A toy of the MiniGPT family."""

    @contextmanager
    def open_case(folder: Path) -> Iterator[Case]:
        usual = {"max_new_tokens": 8, "batch_size": 1}  # a quarter of the items per call
        changes: list[dict[str, Any]] = [
            {"prompt": "what do you see?"},
            {"max_new_tokens": 5},
            {"decoding": "sample"},
            {"decoding": "sample", "seed": 1},
        ]
        yield Case(lambda **options: build_captioner(CaptionerConfig(name, **usual | options)), changes)

    return open_case


def hub(write: Callable[[Path, int], None]) -> Callable[[Path], AbstractContextManager[Case]]:
    """The hub captioner with a model that ``write`` writes."""

    @contextmanager
    def open_case(folder: Path) -> Iterator[Case]:
        for seed in (0, 1):
            write(folder / str(seed), seed)
        usual = {"weights": str(folder / "0"), "max_new_tokens": 8, "batch_size": BATCH_SIZE}
        changes: list[dict[str, Any]] = [
            {"prompt": "what do you see?"},
            {"max_new_tokens": 5},
            {"weights": str(folder / "1")},
        ]
        yield Case(lambda **options: build_captioner(CaptionerConfig("hf-hub:tiny/model", **usual | options)), changes)

    return open_case


@contextmanager
def server(folder: Path) -> Iterator[Case]:
    """The server captioner against a server that tells the pictures apart."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        vision = VisionServer()
        vision.models = {"object": "list", "data": [{"id": "vlm", "object": "model"}, {"id": "b", "object": "model"}]}
        usual = {"server": vision.url, "server_model": "vlm", "batch_size": BATCH_SIZE}
        changes: list[dict[str, Any]] = [
            {"prompt": "what do you see?"},
            {"max_new_tokens": 5},
            {"server_model": "b"},
            {"decoding": "sample"},
            {"decoding": "sample", "seed": 1},
        ]
        try:
            yield Case(lambda **options: build_captioner(CaptionerConfig("server", **usual | options)), changes)
        finally:
            vision.die()


# Every captioner has a line here: a folder of its own -> its case, open for as long as the tests run.
CASES: Mapping[str, Callable[[Path], AbstractContextManager[Case]]] = {
    "offline": offline,
    "server": server,
    **{name: minigpt(name) for name in ("minigpt4-tiny", "minigpt-v2-tiny")},
    **{name: hub(write) for name, write in FAMILIES.items()},
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with CASES[request.param](tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@pytest.fixture(scope="module")
def captioner(case: Case) -> Captioner:
    return case.make()


@pytest.fixture(scope="module")
def items(captioner: Captioner) -> np.ndarray:
    """Items of different pictures, three more than a batch: uint8 (B + 3, C, h, w, 3)."""
    rng = np.random.default_rng(0)
    count, context = captioner.batch_size + 3, len(captioner.context)
    coarse = rng.integers(0, 256, (count + context, 4, 4, 3), np.uint8)
    frames = [captioner.prepare(picture.repeat(20, 0).repeat(24, 1)) for picture in coarse]
    return np.stack([np.stack(frames[i : i + context]) for i in range(count)])


@pytest.fixture(scope="module")
def captions(captioner: Captioner, items: np.ndarray) -> list[str]:
    return captioner.caption(items)


def test_attributes(captioner: Captioner) -> None:
    assert all(type(offset) is int and offset <= 0 for offset in captioner.context)
    assert captioner.context[-1] == 0
    assert sorted(set(captioner.context)) == list(captioner.context)
    assert type(captioner.batch_size) is int
    assert captioner.batch_size >= 1
    assert type(captioner.trained) is bool


def test_prepared_frames_are_pictures_of_one_size(captioner: Captioner) -> None:
    rng = np.random.default_rng(1)
    shapes = set()
    for height, width in FRAMES.values():
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        frame.flags.writeable = False  # a change of it would raise
        prepared = captioner.prepare(frame)
        assert prepared.dtype == np.uint8
        np.testing.assert_array_equal(prepared, captioner.prepare(frame.copy()))
        shapes.add(prepared.shape)
    assert len(shapes) == 1
    assert shapes.pop()[2:] == (3,)


def test_preparing_keeps_the_picture(captioner: Captioner) -> None:
    """Red stays red, and what is left stays left."""
    frame = np.zeros((120, 120, 3), np.uint8)
    frame[:, :40, 0] = 250
    prepared = captioner.prepare(frame).astype(int)
    width = prepared.shape[1]
    assert prepared[:, : width // 4, 0].mean() > 240
    assert prepared[:, width // 2 :].max() < 10
    assert prepared[..., 1:].max() < 10


def test_any_number_of_items(captioner: Captioner, items: np.ndarray, captions: list[str]) -> None:
    for count in (1, 2, captioner.batch_size, captioner.batch_size + 3):
        found = captioner.caption(items[:count])
        assert type(found) is list
        assert all(type(caption) is str for caption in found)
        assert found == captions[:count]


def test_pictures_matter(captions: list[str]) -> None:
    assert len(set(captions)) > 1


def test_captions_come_in_the_order_of_the_items(captioner: Captioner, items: np.ndarray, captions: list[str]) -> None:
    order = np.random.default_rng(2).permutation(len(items))
    assert captioner.caption(items[order]) == [captions[i] for i in order]


def test_a_caption_depends_on_its_own_item_only(captioner: Captioner, items: np.ndarray, captions: list[str]) -> None:
    assert [captioner.caption(item[None])[0] for item in items] == captions
    twice = items[[0, 1, 0, 2, 1, 0]]
    assert captioner.caption(twice) == [captions[i] for i in (0, 1, 0, 2, 1, 0)]
    assert captioner.caption(items) == captions


def test_captioning_changes_no_item(captioner: Captioner, items: np.ndarray) -> None:
    before = items.copy()
    captioner.caption(items)
    np.testing.assert_array_equal(items, before)


def test_a_second_instance_says_the_same(case: Case, items: np.ndarray, captions: list[str]) -> None:
    second = case.make()
    assert second.recipe() == case.make().recipe()
    assert second.caption(items[::-1].copy())[::-1] == captions


def test_wrong_items_are_refused(captioner: Captioner, items: np.ndarray) -> None:
    wrong = [
        items.astype(np.float32),
        items[0],
        items[..., :2],
        items[:, :, :-1],
        np.concatenate([items, items], axis=1),
    ]
    for batch in wrong:
        with pytest.raises(ValueError, match=r"expected uint8 \(B, "):
            captioner.caption(batch)


def test_the_recipe_is_plain_json(captioner: Captioner) -> None:
    recipe = captioner.recipe()
    assert json.loads(json.dumps(recipe, allow_nan=False)) == recipe
    assert type(recipe["captioner"]) is str


def test_the_recipe_tells_what_changes_the_words(case: Case, captioner: Captioner) -> None:
    recipes = [captioner.recipe(), *(case.make(**change).recipe() for change in case.changes)]
    assert len({json.dumps(recipe, sort_keys=True) for recipe in recipes}) == 1 + len(case.changes)


def test_nobody_can_change_a_recipe_from_outside(captioner: Captioner) -> None:
    recipe = captioner.recipe()
    recipe["captioner"] = "another"
    assert captioner.recipe()["captioner"] != "another"
