"""Where a variant's files are: the weights folder first, then the Hugging Face hub for what is published there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.encoders.minigpt.checkpoint import CheckpointError, blip2_shards
from extract.encoders.minigpt.variants import BLIP2, BLIP2_REPO, EVA, Published, Variant
from extract.encoders.packaged import weights_home
from extract.encoders.revisions import revision_of

# What besides the weights decides a language model's words; generation_config.json is not used.
SETTINGS = (
    "config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
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

    def by_role(self) -> dict[str, list[Path]]:
        """Every file that is read: role -> files."""
        roles: dict[str, list[Path]] = {}
        for role, path in (("vision", self.eva), ("Q-Former", self.blip2), ("projection", self.checkpoint)):
            if path is not None:
                roles[role] = blip2_shards(path) if path.is_dir() else [path]
        weights = sorted(self.llm.glob("*.safetensors")) or sorted(self.llm.glob("*.bin"))
        settings = [p for name in SETTINGS if (p := self.llm / name).is_file()]
        return roles | {"language model": weights, "its settings and tokenizer": settings}


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


def check_files(variant: Variant, weights: str | None) -> None:
    """Refuse to start where a piece is neither in the folder nor on the hub; nothing is downloaded.

    Raises:
        CheckpointError: no such folder; the missing pieces, with where they are published.
    """
    folder = existing_folder(weights)
    missing = [part for part in parts_of(variant) if part.repo is None and part.find(folder) is None]
    if missing:
        raise CheckpointError(_explain(variant, folder, [(part, "not on the Hugging Face hub") for part in missing]))


def find_files(variant: Variant, weights: str | None) -> Files:
    """All pieces; what the folder lacks is taken from the hub (downloaded once) where it is published there.

    Raises:
        CheckpointError: pieces that are neither in the folder nor to be had from the hub, all named at once.
    """
    check_files(variant, weights)
    folder = existing_folder(weights)
    found: dict[str, Path] = {}
    problems = []
    for part in parts_of(variant):
        path = part.find(folder)
        if path is None:
            try:
                path = _from_hub(part, variant)
            except CheckpointError as error:
                problems.append((part, str(error)))
                continue
        found[part.role] = path
    if problems:
        raise CheckpointError(_explain(variant, folder, problems))
    return Files(found["vision"], found.get("Q-Former"), found["projection"], found["language model"])


def existing_folder(weights: str | None) -> Path:
    """``weights_folder``; one that was given must be there."""
    folder = weights_folder(weights)
    if weights and not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; --caption-weights takes the folder with MiniGPT's files")
    return folder


def _explain(variant: Variant, folder: Path, missing: list[tuple[Part, str]]) -> str:
    """What is missing, why, and what to do."""
    if not variant.trained:
        names = ", ".join(f"{part.role}: {part.published.file}" for part, _ in missing)
        return f"the toy {variant.name} lacks files in {folder}: {names}. Without --caption-weights it is made anew."
    lines = [f"  {p.role}: {p.published.file}, published at {p.published.url} ({why})" for p, why in missing]
    return (
        f"captioner {variant.name} needs files that are not in {folder}:\n"
        + "\n".join(lines)
        + f"\nPut them there, or give their folder with --caption-weights; `python -m extract doctor --captioner "
        f"{variant.name}` shows what is there. Without them: --captioner offline, or another captioner."
    )


def _from_hub(part: Part, variant: Variant, *, local: bool = False) -> Path:
    """One piece from the hub; downloads it, or with ``local`` only looks into the cache of earlier downloads.

    Raises:
        CheckpointError: no network, no access, not there.
    """
    assert part.repo is not None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if part.repo == BLIP2_REPO:
            return _blip2_download(local)
        if part.role == "language model":
            return _llm_snapshot(part.repo, local)
        file = variant.checkpoint.repo_file or part.published.file
        kind, commit = variant.checkpoint.repo_type, revision_of(part.repo)
        return Path(hf_hub_download(part.repo, file, repo_type=kind, revision=commit, local_files_only=local))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{part.repo}: {reason}") from error


def find_cached(part: Part, variant: Variant) -> Path | None:
    """A piece that was downloaded from the hub before; nothing is asked of the network."""
    try:
        return _from_hub(part, variant, local=True) if part.repo is not None else None
    except CheckpointError:
        return None


def _blip2_download(local: bool) -> Path:
    """Shards of BLIP-2 that hold its vision half; returns their folder."""
    from huggingface_hub import hf_hub_download

    index, commit = "model.safetensors.index.json", revision_of(BLIP2_REPO)
    folder = Path(hf_hub_download(BLIP2_REPO, index, revision=commit, local_files_only=local)).parent
    # The shards of the index's own commit, which is the folder's name, even if the owner changes them meanwhile.
    for shard in blip2_shards(folder):
        hf_hub_download(BLIP2_REPO, shard.name, revision=folder.name, local_files_only=local)
    return folder


def _llm_snapshot(repo: str, local: bool) -> Path:
    """A language model: configuration, tokenizer, and one format of weights."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    commit = revision_of(repo)
    try:
        names = [] if local else HfApi().list_repo_files(repo, revision=commit)
    except (OfflineModeIsEnabled, OSError):
        names = []
    if not names:
        return Path(snapshot_download(repo, revision=commit, local_files_only=True))
    weights = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "*.bin"
    return Path(snapshot_download(repo, revision=commit, allow_patterns=["*.json", "tokenizer.model", weights]))
