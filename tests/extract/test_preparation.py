"""The encoders' preparing halves without torch: CLIP's steps give torchvision's pixels, and all can be sent."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import open_clip
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from extract.encoders.captioners.hub import HubCaptioner
from extract.encoders.captioners.offline import OfflineCaptioner
from extract.encoders.captioners.server import ServerCaptioner
from extract.encoders.clip import light_step
from extract.preparation import ClipFrames, Letterbox, Squash, VideoPrismFrames
from tests.extract.support import REPO

SIZES = [
    (48, 64),
    (64, 48),
    (7, 9),
    (1, 1),
    (224, 224),
    (225, 224),
    (224, 301),
    (37, 500),
    (500, 37),
    (719, 1281),
    (90, 90),
]
STEPS: dict[str, Any] = {
    "shorter": transforms.Resize(224, InterpolationMode.BICUBIC),
    "shorter, of one": transforms.Resize([56], InterpolationMode.LANCZOS),
    "squash": transforms.Resize((40, 90), InterpolationMode.BILINEAR),
    "nearest": transforms.Resize((33, 21), InterpolationMode.NEAREST),
    "crop": transforms.CenterCrop(64),
    "odd crop": transforms.CenterCrop((33, 90)),
    "longer": open_clip.transform.ResizeKeepRatio((48, 80), longest=1),
    "keep ratio": open_clip.transform.ResizeKeepRatio((48, 80), interpolation=InterpolationMode.BOX),
    "crop or pad": open_clip.transform.CenterCropOrPad((48, 81), fill=7),
    "rgb": open_clip.transform.MaybeConvertMode(),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_light_step_gives_the_pixels_of_its_original(name: str) -> None:
    step, generator = STEPS[name], np.random.default_rng(0)
    light = pickle.loads(pickle.dumps(light_step(step)))
    assert type(light).__module__ == "extract.preparation"
    for height, width in SIZES:
        picture = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        np.testing.assert_array_equal(
            np.asarray(light(picture)), np.asarray(step(picture)), err_msg=f"{height}x{width}"
        )


@pytest.mark.parametrize(
    "step",
    [
        transforms.Resize(224, max_size=300),
        transforms.Grayscale(),
        open_clip.transform.ResizeKeepRatio(224, random_scale_prob=0.5),
        open_clip.transform.CenterCropOrPad(224, fill=(1, 2, 3)),  # type: ignore[arg-type]
        open_clip.transform.MaybeConvertMode("L"),
    ],
    ids=lambda step: type(step).__name__,
)
def test_other_steps_stay_what_they_are(step: Any) -> None:
    assert light_step(step) is step


@pytest.mark.parametrize("size", [64, (48, 80)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_no_transform_of_open_clip_needs_torch(mode: str, size: Any) -> None:
    steps = image_transform_v2(PreprocessCfg(size=size, resize_mode=mode), is_train=False).transforms[:-2]
    assert {type(light_step(step)).__module__ for step in steps} == {"extract.preparation"}


def test_clip_frames_are_those_of_the_whole_transform() -> None:
    steps = image_transform_v2(PreprocessCfg(size=(48, 80)), is_train=False).transforms[:-2]
    ours = ClipFrames(tuple(light_step(step) for step in steps))
    frame = np.random.default_rng(1).integers(0, 256, (123, 77, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ours(frame), np.asarray(transforms.Compose(steps)(Image.fromarray(frame))))


def test_captioners_name_their_halves() -> None:
    hub = HubCaptioner.__new__(HubCaptioner)
    hub._size, hub._filter, hub._squashes = (40, 60), Image.Resampling.BILINEAR, True
    assert hub.preparation == Squash(40, 60, Image.Resampling.BILINEAR)
    hub._squashes = False
    assert hub.preparation == Letterbox(40, 60, Image.Resampling.BILINEAR)
    assert OfflineCaptioner.preparation == Squash(64, 64, Image.Resampling.BOX)
    assert ServerCaptioner.preparation == Letterbox(448, 448, Image.Resampling.BICUBIC)


def test_a_process_that_prepares_imports_no_torch() -> None:
    halves = (VideoPrismFrames(72), ClipFrames((light_step(STEPS["shorter"]), light_step(STEPS["crop"]))))
    script = (
        "import pickle, sys\nimport numpy as np\n"
        f"print([half(np.zeros((30, 40, 3), np.uint8)).shape for half in pickle.loads({pickle.dumps(halves)!r})])\n"
        "print(sorted({'torch', 'jax', 'torchvision', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[(72, 72, 3), (64, 64, 3)]", "[]"], done.stderr
