"""Trains the miniature's VideoPrism: factors by regression, and videos against sentences, from nothing.

Every frame's feature (mean over its patches, what the cache holds) has to tell what happens, how fast, where the
figures are in their motion and how they and the camera move, by linear readouts; and the end of a window has to agree
with the sentence that tells action and pace. Readouts and sentence table are thrown away. Colours, light, shapes and
grounds are left to the image stream.

Axes: B clips, T frames of a clip, S side in pixels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from extract.encoders.videoprism_checkpoint import ARCHITECTURES, Architecture
from extract.miniature.dataset import Pictures
from extract.miniature.keeping import Keeper
from extract.miniature.optimize import Learner
from extract.miniature.sentences import PACES, pace_of
from extract.miniature.videoprism_torch import TorchVideoPrism
from extract.miniature.world import ACTIONS, COUNTS, SIZES

BATCH, PEAK_RATE = 32, 3e-3
# What is read out: factors by name, and numbers. Size and count are easy, and start the learning of the rest.
NAMED: dict[str, tuple[Any, ...]] = {"action": ACTIONS, "size": SIZES, "count": COUNTS}
REGRESSED = {"speed": 1, "camera": 1, "geometry": 3, "motion": 5}
WEIGHTS = {"action": 1.0, "size": 0.2, "count": 0.2, "contrast": 0.25}
WEIGHTS |= {"speed": 2.0, "camera": 0.8, "geometry": 1.0, "motion": 2.0}
SIGNS = np.array([1, 1, 1, -1, 1], np.float32)  # of "motion" in a mirror: the camera's shift to the side turns
WORDS = 32  # size of the space in which videos and sentences meet


class Trainee(nn.Module):
    """The encoder and what reads it."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.encoder = TorchVideoPrism(arch)
        for name, parameter in self.encoder.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.1 if "embed" in name else parameter.shape[1] ** -0.5)
            elif not name.endswith(("norm.weight", "ln.weight")):
                nn.init.zeros_(parameter)
        # Waves, and as loud as the tokens: to see motion, the temporal stage must find a patch's neighbours in time.
        rates = np.pi * 16 ** -np.linspace(0, 1, arch.width // 2)  # from one sample in two to once in two windows
        angles = torch.from_numpy(np.outer(np.arange(arch.num_frames), rates)).float()
        self.encoder.temporal_embed.data = torch.cat([angles.sin(), angles.cos()], dim=1)
        outputs = {"video": WORDS} | {name: len(words) for name, words in NAMED.items()} | REGRESSED
        self.readouts = nn.ModuleDict({name: nn.Linear(arch.width, size) for name, size in outputs.items()})
        self.words_embed = nn.ParameterDict(
            {k: nn.Parameter(0.2 * torch.randn(n, WORDS)) for k, n in (("action", len(ACTIONS)), ("pace", len(PACES)))}
        )

    def forward(self, clips: torch.Tensor, factors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All losses over a batch of clips (B, T, S, S, 3) in [0, 1]; what ``targets_of`` gives."""
        features = self.encoder(clips)  # (B, T, D)
        read = {name: readout(features).float() for name, readout in self.readouts.items()}
        named = {k: F.cross_entropy(read[k].flatten(0, 1), factors[k].flatten()) for k in NAMED}
        paths = {k: F.mse_loss(read[k], factors[k]) for k in REGRESSED}
        # The end of a window against the sentence of its last frame, among all sentences.
        words = (self.words_embed["action"][:, None] + self.words_embed["pace"]).flatten(
            0, 1
        )  # (actions * paces, WORDS)
        video = F.normalize(read["video"][:, -4:].mean(dim=1), dim=-1)
        contrast = F.cross_entropy(10 * video @ F.normalize(words.float(), dim=-1).T, factors["sentence"])
        return named | paths | {"contrast": contrast}


def augment(
    clips: np.ndarray, factors: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Half of the time backwards, half of the time in a mirror; shifted by up to 3 pixels, in other colours and light.

    Backwards, approach is part; colours and light are for the image stream to tell.

    Args:
        clips: uint8 (B, T, S, S, 3).
        factors: as ``factors_of`` gives them, of the same clips.

    Returns:
        Clips bfloat16 in about [0, 1], and what is read out of them.
    """
    if rng.random() < 0.5:
        clips, factors = clips[:, ::-1], backwards(factors)
    targets = targets_of(factors)
    if rng.random() < 0.5:
        clips = clips[:, :, :, ::-1]
        targets["motion"] = targets["motion"] * SIGNS
    clips = np.roll(clips[..., rng.permutation(3)], rng.integers(-3, 4, 2), (2, 3))
    light = torch.from_numpy(rng.uniform(0.8, 1.2, (len(clips), 1, 1, 1, 3)).astype(np.float32)) / 255
    return torch.from_numpy(clips).bfloat16() * light.bfloat16(), {k: torch.from_numpy(v) for k, v in targets.items()}


def backwards(factors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Factors (B, T, ...) of clips that are played backwards: what approached parts."""
    turned = np.arange(len(ACTIONS))
    approach, part = ACTIONS.index("approach"), ACTIONS.index("part")
    turned[[approach, part]] = part, approach
    return {k: (turned[v] if k == "action" else v)[:, ::-1] for k, v in factors.items()}


def train_videoprism(
    pictures: Pictures, steps: int, seed: int, keeper: Keeper, architecture: str = "mini"
) -> dict[str, np.ndarray]:
    """The trained encoder under the official keys, float32.

    Raises:
        Paused: as ``keeper`` says.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Trainee(ARCHITECTURES[architecture])
    learner = Learner(model, steps, PEAK_RATE)

    def step(number: int) -> float:
        rows = np.sort(rng.choice(len(pictures.pixels), BATCH, replace=False))
        clips, targets = augment(pictures.pixels[rows], {k: v[rows] for k, v in pictures.factors.items()}, rng)
        losses = model(clips, targets)
        return learner.learn(torch.stack([weight * losses[name] for name, weight in WEIGHTS.items()]).sum())

    keeper.steps(steps, rng, learner.state, learner.load, step)
    learner.finish()
    return model.encoder.official()


def targets_of(factors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is read out of clips, scaled to about 1: (B, T) or (B, T, n), and the number of the end's sentence (B,).

    "motion" is what changed in "geometry" since the sample before; a cut is no motion, and the first sample has none.
    """
    targets = {name: np.ascontiguousarray(factors[name]) for name in NAMED}
    targets |= {name: 4 * (factors[name][..., None] - 0.5) for name in ("speed", "camera")}
    geometry, shot = factors["geometry"], factors["shot"]
    same = (shot[:, 1:] == shot[:, :-1])[..., None]
    motion = np.concatenate([np.zeros_like(geometry[:, :1]), same * np.diff(geometry, axis=1)], axis=1)
    pace = pace_of(factors["speed"][:, -4:].mean(axis=1))
    return targets | {
        "geometry": np.ascontiguousarray(geometry[..., :3]),
        "motion": motion,
        "sentence": factors["action"][:, -1] * len(PACES) + pace,
    }
