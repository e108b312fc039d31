"""Where a variant's files are: the weights folder first, then the Hugging Face hub for what is published there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.encoders.minigpt.checkpoint import CheckpointError
from extract.encoders.minigpt.variants import BLIP2, BLIP2_REPO, EVA, Published, Variant

BLIP2_FOLDER = BLIP2_REPO.partition("/")[2]


@dataclass(frozen=True)
class Part:
    """One of the pieces a variant is made of.

    Attributes:
        role: "vision", "Q-Former", "projection" or "language model".
        published: the original.
        names: what it may be called in the weights folder, the original first.
        repo: hub repository that has it or its equivalent, if any.
    """

    role: str
    published: Published
    names: tuple[str, ...]
    repo: str | None

    def find(self, folder: Path) -> Path | None:
        """The piece in a weights folder."""
        for name in self.names:
            if (folder / name).exists():
                return folder / name
        return None


@dataclass(frozen=True)
class Files:
    """Paths of all pieces; ``blip2`` is None for variants without a Q-Former."""

    eva: Path
    blip2: Path | None
    checkpoint: Path
    llm: Path

    def all(self) -> list[Path]:
        """Every file that is read, folders expanded to weights and tokenizer."""
        found = []
        for path in dict.fromkeys(p for p in (self.eva, self.blip2, self.checkpoint, self.llm) if p is not None):
            if path.is_dir():
                found += sorted(
                    p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".model") or p.name == "config.json"
                )
            else:
                found.append(path)
        return found


def weights_home() -> Path:
    """Where downloads and toys are kept: ``$XDG_CACHE_HOME/crossgru``, by default ``~/.cache/crossgru``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossgru"


def weights_folder(weights: str | None) -> Path:
    """The folder of MiniGPT's files: as given, or ``minigpt`` below ``weights_home``."""
    return Path(weights) if weights else weights_home() / "minigpt"


def parts_of(variant: Variant) -> list[Part]:
    """The pieces of a variant."""
    parts = [Part("vision", EVA, (EVA.file, BLIP2_FOLDER), BLIP2_REPO)]
    if variant.qformer is not None:
        parts.append(Part("Q-Former", BLIP2, (BLIP2.file, BLIP2_FOLDER), BLIP2_REPO))
    checkpoint = variant.checkpoint
    # Some copies correct the published name's spelling.
    names = tuple(dict.fromkeys((checkpoint.file, checkpoint.file.replace("prerained", "pretrained"))))
    parts.append(Part("projection", checkpoint, names, checkpoint.repo))
    parts.append(Part("language model", variant.llm, (variant.llm.file,), variant.llm.repo))
    return parts


def find_files(variant: Variant, weights: str | None) -> Files:
    """All pieces; what the folder lacks is taken from the hub (downloaded once) where it is published there.

    Raises:
        CheckpointError: pieces that are neither in the folder nor to be had from the hub, all named at once.
    """
    folder = weights_folder(weights)
    if weights and not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; --caption-weights takes the folder with MiniGPT's files")
    found: dict[str, Path] = {}
    problems = []
    for part in parts_of(variant):
        path = part.find(folder)
        if path is None:
            try:
                path = _from_hub(part, variant)
            except CheckpointError as error:
                problems.append(f"  {part.role}: {part.published.file}, published at {part.published.url}\n    {error}")
                continue
        found[part.role] = path
    if problems:
        raise CheckpointError(
            f"{variant.name} needs files that are not in {folder} and could not be had from the Hugging Face hub:\n"
            + "\n".join(problems)
            + f"\nSee: python -m extract doctor --captioner {variant.name}"
        )
    return Files(found["vision"], found.get("Q-Former"), found["projection"], found["language model"])


def _from_hub(part: Part, variant: Variant) -> Path:
    """Download one piece.

    Raises:
        CheckpointError: not on the hub, no network, no access.
    """
    if part.repo is None:
        raise CheckpointError("it is not on the Hugging Face hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if part.repo == BLIP2_REPO:
            wanted = ("vision_model.",) if part.role == "vision" else ("vision_model.", "qformer.", "query_tokens")
            return _blip2_shards(wanted)
        if part.role == "language model":
            return _llm_snapshot(part.repo)
        file = variant.checkpoint.repo_file or part.published.file
        return Path(hf_hub_download(part.repo, file, repo_type=variant.checkpoint.repo_type))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{part.repo}: {reason}") from error


def _blip2_shards(prefixes: Sequence[str]) -> Path:
    """Download the shards of BLIP-2 that hold tensors of these prefixes; returns their folder."""
    from huggingface_hub import hf_hub_download

    index = Path(hf_hub_download(BLIP2_REPO, "model.safetensors.index.json"))
    weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    for shard in sorted({f for key, f in weight_map.items() if key.removeprefix("model.").startswith(tuple(prefixes))}):
        hf_hub_download(BLIP2_REPO, shard)
    return index.parent


def _llm_snapshot(repo: str) -> Path:
    """Download a language model: configuration, tokenizer, and one format of weights."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        names = HfApi().list_repo_files(repo)
    except (OfflineModeIsEnabled, OSError):
        return Path(snapshot_download(repo, local_files_only=True))
    weights = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "*.bin"
    return Path(snapshot_download(repo, allow_patterns=["*.json", "tokenizer.model", weights]))
