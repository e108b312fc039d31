"""Which files of a variant are there, which can be used, and where the others are published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extract.encoders.minigpt.checkpoint import bridge_tensors, read_file
from extract.encoders.minigpt.files import Part, parts_of, weights_folder
from extract.encoders.minigpt.llm import check_folder
from extract.encoders.minigpt.tiny import tiny_folder
from extract.encoders.minigpt.variants import Variant


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


def _is_cached(part: Part) -> bool:
    """Whether the hub's local cache holds the piece, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    assert part.repo is not None
    if part.role == "projection":
        file, repo_type = part.published.repo_file or part.published.file, part.published.repo_type
    else:
        file, repo_type = "config.json" if part.role == "language model" else "model.safetensors.index.json", "model"
    return isinstance(try_to_load_from_cache(part.repo, file, repo_type=repo_type), str)
