"""What a variant needs: which files are there, where the others are published, how much memory it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extract.encoders.minigpt.checkpoint import bridge_tensors, read_file
from extract.encoders.minigpt.files import Part, parts_of, weights_folder
from extract.encoders.minigpt.llm import check_folder
from extract.encoders.minigpt.tiny import tiny_folder
from extract.encoders.minigpt.variants import QFormerSize, Variant, VisionSize

TEXT_TOKENS = 90  # of the conversation around an image, about
WORKSPACE = 1.0e9  # bytes for activations, about


@dataclass(frozen=True)
class Finding:
    """One piece of a variant.

    Attributes:
        path: where it is, None if it is missing.
        problem: why what is there cannot be used.
        on_hub: the hub has it; a run downloads it by itself.
        cached: it has been downloaded before.
    """

    part: Part
    path: Path | None
    problem: str | None = None
    on_hub: bool = False
    cached: bool = False

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        if self.path is None:
            return 0
        files = [f for f in self.path.rglob("*") if f.is_file()] if self.path.is_dir() else [self.path]
        return sum(f.stat().st_size for f in files)

    @property
    def ready(self) -> bool:
        """Whether a run could use it without a download."""
        return self.problem is None and (self.path is not None or self.cached)


@dataclass(frozen=True)
class Memory:
    """Bytes on the GPU: weights of both halves, key-value cache, workspace."""

    vision: float
    llm: float
    cache: float
    workspace: float = WORKSPACE

    @property
    def total(self) -> float:
        """All of it."""
        return self.vision + self.llm + self.cache + self.workspace


def inspect(variant: Variant, weights: str | None) -> list[Finding]:
    """Look for every piece, and into those that are quick to read."""
    folder = weights_folder(weights) if variant.trained or weights else tiny_folder(variant)
    checks: dict[str, Callable[[Path], object]] = {
        "projection": lambda path: bridge_tensors(read_file(path), variant, path),
        "language model": lambda path: check_folder(path, variant),
    }
    findings = []
    for part in parts_of(variant):
        path, problem = part.find(folder), None
        if path is not None and part.role in checks:
            try:
                checks[part.role](path)
            except (ValueError, OSError) as error:
                problem = str(error)
        on_hub = part.repo is not None
        cached = path is None and on_hub and _is_cached(part)
        findings.append(Finding(part, path, problem, on_hub, cached))
    return findings


def memory(variant: Variant, *, num_slots: int, max_new_tokens: int, quantize: str | None) -> Memory:
    """Estimate for a GPU in float16, by arithmetic over the sizes."""
    llm = variant.llm_size
    outside = 2 * llm.vocabulary * llm.width  # embeddings and output, never quantised
    per_weight = {None: 2.0, "int8": 1.0, "int4": 0.55}[quantize]  # int4: half a byte and the scales
    positions = TEXT_TOKENS + variant.num_image_tokens + max_new_tokens
    bridge = variant.bridge_width * llm.width
    return Memory(
        vision=2.0 * (num_vision_parameters(variant.vision) + _num_qformer_parameters(variant) + bridge),
        llm=2.0 * outside + per_weight * (llm.num_parameters - outside),
        cache=2.0 * 2 * llm.num_layers * llm.width * positions * (num_slots + 1),
    )


def num_vision_parameters(size: VisionSize) -> int:
    """Of the ViT with the norm behind it and the position table of the file."""
    width = size.width
    block = 4 * width**2 + 2 * width * size.mlp + 4 * width + 4 * width + size.mlp + width
    embeddings = 3 * size.patch**2 * width + width + (2 + size.table**2) * width
    return size.num_blocks * block + embeddings + 2 * width


def _num_qformer_parameters(variant: Variant) -> int:
    size: QFormerSize | None = variant.qformer
    if size is None:
        return 0
    width, source = size.width, variant.vision.width
    own = 4 * (width**2 + width) + 2 * width  # self-attention and its norm
    cross = 2 * (width**2 + width) + 2 * (source * width + width) + 2 * width
    mlp = 2 * width * size.mlp + size.mlp + width + 2 * width
    layers = size.num_layers * (own + mlp) + -(-size.num_layers // 2) * cross
    return layers + 2 * width + size.num_queries * width


def _is_cached(part: Part) -> bool:
    """Whether the hub's local cache holds the piece, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    assert part.repo is not None
    if part.role == "projection":
        file, repo_type = part.published.repo_file or part.published.file, part.published.repo_type
    else:
        file, repo_type = "config.json" if part.role == "language model" else "model.safetensors.index.json", "model"
    return isinstance(try_to_load_from_cache(part.repo, file, repo_type=repo_type), str)
