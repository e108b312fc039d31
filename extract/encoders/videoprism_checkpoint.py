"""VideoPrism checkpoints: architectures, parameter shapes, reading, writing, seeded random weights.

The official files (google-deepmind/videoprism, arXiv:2402.13217) are plain ``np.savez`` archives of 40 float32 arrays.
Keys are the parameter tree joined by "/"; arrays below ``x_layers`` carry the layer on axis 0. This file is numpy only,
so that a checkpoint can be inspected without a device.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract.config import PACKAGED
from extract.encoders.packaged import packaged_folder
from extract.encoders.revisions import revision_of, split_revision

_ROOT = "params/"
_NESTED = "params/vision_encoder/"  # where the video-text ("lvt") checkpoints keep the same encoder
# The encoder's own top-level modules: an unknown array inside one of them would change the numbers if it were ignored.
_MODULES = (
    "patch_projection",
    "spatial_pos_emb",
    "spatial_encoder",
    "spatial_ln",
    "temporal_pos_emb",
    "temporal_encoder",
    "temporal_ln",
)
LAYERS = {
    "spatial": "params/spatial_encoder/transformers_stack/x_layers/",
    "temporal": "params/temporal_encoder/transformers_stack/x_layers/",
}

HUB = "hf-hub:"
# What numpy and zipfile raise on damaged archives.
_UNREADABLE = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class CheckpointError(ValueError):
    """The checkpoint cannot be had, cannot be read, or does not fit the architecture."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of one VideoPrism encoder.

    Attributes:
        width: D, model width.
        heads: attention heads; the head size is ``width // heads``.
        mlp: hidden size of the feed-forward blocks.
        spatial_layers: transformer layers over the patches of one frame.
        temporal_layers: transformer layers over the frames of one patch position.
        num_frames: T0, rows of the temporal position table.
        grid: patches per side, so the spatial position table has ``grid ** 2`` rows.
        patch: side of a patch in pixels.
        repository: Hugging Face repository of the published weights, ``PACKAGED``, or "" if there are none.
        filename: file within the repository.
    """

    width: int
    heads: int
    mlp: int
    spatial_layers: int
    temporal_layers: int
    num_frames: int
    grid: int = 16
    patch: int = 18
    repository: str = ""
    filename: str = ""

    @property
    def image_size(self) -> int:
        """Native side of the square input in pixels."""
        return self.patch * self.grid

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened RGB patch."""
        return self.patch * self.patch * 3


ARCHITECTURES = {
    "tiny": Architecture(
        width=64, heads=4, mlp=128, spatial_layers=2, temporal_layers=2, num_frames=16, grid=4
    ),  # 72 px, for tests; never published
    "mini": Architecture(
        width=128,
        heads=4,
        mlp=256,
        spatial_layers=3,
        temporal_layers=2,
        num_frames=16,
        grid=4,
        repository=PACKAGED,
        filename="videoprism_mini.npz",
    ),  # 72 px, trained here (extract/miniature)
    "base": Architecture(
        width=768,
        heads=12,
        mlp=3072,
        spatial_layers=12,
        temporal_layers=4,
        num_frames=16,
        repository="google/videoprism-base-f16r288",
        filename="flax_base_f16r288_repeated.npz",
    ),
    "large": Architecture(
        width=1024,
        heads=16,
        mlp=4096,
        spatial_layers=24,
        temporal_layers=4,
        num_frames=8,
        repository="google/videoprism-large-f8r288",
        filename="flax_large_f8r288_repeated.npz",
    ),
}


def _layer_leaves(arch: Architecture, layers: int) -> dict[str, tuple[tuple[int, ...], float]]:
    """One transformer stack: key below ``x_layers`` -> (shape, standard deviation of the random weights)."""
    width, mlp = arch.width, arch.mlp
    by_head = (arch.heads, arch.head_size)
    leaves: dict[str, tuple[tuple[int, ...], float]] = {}
    for norm in ("layer_norm", "ff_layer/layer_norm"):
        leaves[f"{norm}/scale"] = leaves[f"{norm}/bias"] = ((layers, width), 0.0)
    for projection in ("query", "key", "value"):
        leaves[f"self_attention/{projection}/w"] = ((layers, width, *by_head), width**-0.5)
        leaves[f"self_attention/{projection}/b"] = ((layers, *by_head), 0.0)
    # The output projection is stored (D, heads, head size) too, although it maps heads to D.
    leaves["self_attention/post/w"] = ((layers, width, *by_head), width**-0.5)
    leaves["self_attention/post/b"] = ((layers, width), 0.0)
    for name, rows, columns in (("ffn_layer1", width, mlp), ("ffn_layer2", mlp, width)):
        leaves[f"ff_layer/{name}/linear/kernel"] = ((layers, rows, columns), rows**-0.5)
        leaves[f"ff_layer/{name}/linear/bias"] = ((layers, columns), 0.0)
    return leaves


def _leaves(arch: Architecture) -> dict[str, tuple[tuple[int, ...], float]]:
    """Official key -> (shape, standard deviation of the random weights).

    Every matrix is scaled by 1/sqrt(fan-in): a branch that reads a layer norm then adds a fraction of the residual's
    variance, so that no layer vanishes or takes over. Pixels are in [0, 1] and the contrast within a patch is smaller
    still, hence the factor 2 on the patch projection. Position tables of 0.2 stay below the content (about 1) so that
    features of different videos differ more than features of different positions.
    """
    width = arch.width
    leaves: dict[str, tuple[tuple[int, ...], float]] = {
        f"{_ROOT}patch_projection/linear/kernel": ((arch.patch_values, width), 2.0 * arch.patch_values**-0.5),
        f"{_ROOT}patch_projection/linear/bias": ((width,), 0.0),
        f"{_ROOT}spatial_pos_emb/emb_var": ((arch.grid**2, width), 0.2),
        f"{_ROOT}temporal_pos_emb/emb_var": ((arch.num_frames, width), 0.2),
    }
    for stage, layers in (("spatial", arch.spatial_layers), ("temporal", arch.temporal_layers)):
        leaves |= {LAYERS[stage] + key: leaf for key, leaf in _layer_leaves(arch, layers).items()}
        leaves |= {f"{_ROOT}{stage}_ln/{part}": ((width,), 0.0) for part in ("scale", "bias")}
    return leaves


def expected_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Official flat key -> shape, for all 40 arrays of the encoder."""
    return {key: shape for key, (shape, _) in _leaves(arch).items()}


def init_params(arch: Architecture, seed: int) -> dict[str, np.ndarray]:
    """Seeded random float32 weights in official keys; norm scales and all biases are 0, as at the start of training."""
    rng = np.random.default_rng(seed)
    params = {}
    for key, (shape, std) in sorted(_leaves(arch).items()):
        params[key] = rng.standard_normal(shape, np.float32) * np.float32(std) if std else np.zeros(shape, np.float32)
    return params


def save_checkpoint(path: str | Path, params: Mapping[str, np.ndarray]) -> None:
    """Write ``params`` (official flat keys) in the official ``np.savez`` format."""
    with open(path, "wb") as file:  # a handle, because savez would append ".npz" to a bare path
        np.savez(file, allow_pickle=False, **dict(params))


def load_checkpoint(path: str | Path, arch: Architecture) -> dict[str, np.ndarray]:
    """Read and check the video encoder of an official checkpoint.

    Video-text files nest the encoder under ``params/vision_encoder/``; that prefix is stripped. Arrays outside the
    encoder (text branch, pooling heads, optimizer state) are not read.

    Args:
        path: local ``.npz`` file.
        arch: what the file must hold.

    Returns:
        Official flat key -> float32 array of the expected shape, all finite.

    Raises:
        CheckpointError: missing, unreadable, truncated or corrupt file; missing or unknown key; wrong shape; values
            that are not finite floats. The message names the key.
    """
    try:
        params = _read_archive(Path(path))
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is truncated, corrupt or not an npz checkpoint: {error}") from error
    expected = expected_shapes(arch)
    if missing := sorted(expected.keys() - params.keys()):
        raise CheckpointError(f"{path} lacks {missing[0]!r} ({len(missing)} of {len(expected)} keys are missing)")
    if extra := sorted(params.keys() - expected.keys()):
        raise CheckpointError(f"{path} holds {extra[0]!r}, which this encoder does not know ({len(extra)} such keys)")
    for key, shape in expected.items():
        if params[key].shape != shape:
            raise CheckpointError(
                f"{path}: {key!r} should be {shape} but is {params[key].shape}" + _name_architecture(params)
            )
    return {key: _as_finite_float32(path, key, params[key]) for key in expected}


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """Arrays of the encoder's own modules, nested prefix stripped."""
    params = {}
    with path.open("rb") as file:  # our own handle: np.load leaves its own open when the archive is damaged
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise CheckpointError(f"{path} is a single array, not an npz checkpoint")
        prefix = _NESTED if any(key.startswith(_NESTED) for key in archive.files) else _ROOT
        for key in archive.files:
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name.split("/")[0] in _MODULES:
                params[_ROOT + name] = _read_array(path, archive, key)
    return params


def _read_array(path: Path, archive: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        value = archive[key]
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: {key!r} is truncated or corrupt: {error}") from error
    if not isinstance(value, np.ndarray):  # numpy hands out any other member of the zip as bytes
        raise CheckpointError(f"{path}: {key!r} is not a numpy array")
    return value


def _name_architecture(params: Mapping[str, np.ndarray]) -> str:
    """ "; this is the <name> checkpoint" if the shapes fit a known architecture, else ""."""
    shapes = {key: value.shape for key, value in params.items()}
    for name, arch in ARCHITECTURES.items():
        if expected_shapes(arch) == shapes:
            return f"; this is the {name} checkpoint"
    return ""


def _as_finite_float32(path: str | Path, key: str, value: np.ndarray) -> np.ndarray:
    if not np.issubdtype(value.dtype, np.floating):
        raise CheckpointError(f"{path}: {key!r} should be float32 but is {value.dtype}")
    bad = value.size - np.count_nonzero(np.isfinite(value))
    if bad:
        raise CheckpointError(f"{path}: {key!r} holds {bad} values that are not finite")
    return value.astype(np.float32, copy=False)


def resolve_checkpoint(weights: str | None, arch: Architecture) -> Path:
    """A local checkpoint file: ``weights`` itself, or the published one through the Hugging Face cache.

    ``weights`` may also be ``hf-hub:OWNER/NAME@COMMIT``: the published file, of that repository and commit.

    Raises:
        CheckpointError: the path is not a file, nothing is published for ``arch``, or the download failed.
    """
    if weights is not None and not weights.startswith(HUB):
        path = Path(weights).expanduser()
        if not path.is_file():
            raise CheckpointError(f"no checkpoint file at {weights}")
        return path
    if not arch.repository:
        raise CheckpointError(
            "no weights are published for this architecture: give a seed, or the path of a checkpoint"
        )
    if arch.repository == PACKAGED:
        return packaged_folder() / arch.filename
    repository, asked = split_revision(weights.removeprefix(HUB)) if weights else (arch.repository, "")
    try:
        import huggingface_hub  # only a download needs it

        return Path(huggingface_hub.hf_hub_download(repository, arch.filename, revision=revision_of(repository, asked)))
    except Exception as error:  # offline, proxy, quota, not installed: the way out is the same
        raise CheckpointError(
            f"could not download {arch.filename} from https://huggingface.co/{repository} "
            f"({type(error).__name__}: {error}).\nFetch the file elsewhere and give its path: "
            "--videoprism-weights PATH (for CLIP: --clip-weights PATH), or use the preset tiny, which needs no weights"
        ) from error
