"""Which files of a variant are there, which can be used, and where the others are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.encoders.minigpt.checkpoint import bridge_tensors, read_file
from extract.encoders.minigpt.files import Part, existing_folder, find_cached, parts_of
from extract.encoders.minigpt.llm import check_folder, check_weights
from extract.encoders.minigpt.prompt import load_tokenizer
from extract.encoders.minigpt.tiny import own_folder
from extract.encoders.minigpt.variants import Variant
from extract.encoders.minigpt.vision import check_qformer, check_vision


@dataclass(frozen=True)
class Finding:
    """One piece of a variant.

    Attributes:
        path: where it is, in the folder or in the hub's cache; None if it is missing or not whole.
        problem: why what is there cannot be used.
        on_hub: the hub has it; a run downloads it by itself.
        cached: it lies in the cache of the hub's downloads.
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
        return self.problem is None and self.path is not None


def inspect(variant: Variant, weights: str | None) -> list[Finding]:
    """Look for every piece, and at names and shapes of what is in it.

    Raises:
        CheckpointError: the given folder is not there.
    """
    folder = existing_folder(weights or own_folder(variant))
    findings = []
    for part in parts_of(variant):
        path, on_hub = part.find(folder), part.repo is not None
        if path is not None:
            findings.append(Finding(part, path, _problem(part, path, variant), on_hub))
            continue
        cached = find_cached(part, variant)
        # What is wrong with a download is that it is not complete; a run goes on with it.
        whole = cached is not None and _problem(part, cached, variant) is None
        findings.append(Finding(part, cached if whole else None, None, on_hub, cached=whole))
    return findings


def _problem(part: Part, path: Path, variant: Variant) -> str | None:
    """Why a piece cannot be used; None if it can, as far as can be seen without reading its values."""
    try:
        if part.role == "vision":
            check_vision(path, variant)
        elif part.role == "Q-Former":
            check_qformer(path, variant)
        elif part.role == "projection":
            bridge_tensors(read_file(path), variant, path)
        else:
            check_folder(path, variant)
            check_weights(path)
            load_tokenizer(path)
    except (ValueError, OSError) as error:
        return str(error)
    return None
