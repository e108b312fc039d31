"""Files of image-text models: from the hub or a folder to a model of transformers that is ready to generate.

Only settings, vocabularies and safetensors are downloaded; neither code nor pickles of a repository are run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    ProcessorMixin,
)

from extract.config import CaptionerConfig
from extract.encoders.parts import first_line
from extract.encoders.revisions import revision_of, split_revision

FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")


def find_folder(config: CaptionerConfig) -> tuple[Path, str | None]:
    """Where the files are, and the commit of a hub model; downloads what is not there yet."""
    if config.weights is not None:
        return Path(config.weights), None
    repository, revision = split_revision(config.name.partition(":")[2])
    commit = revision_of(repository, revision)
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=commit, allow_patterns=list(FILES), ignore_patterns=["*/*"]
        )
    except GatedRepoError:
        raise ValueError(
            f"{repository} is gated: accept its terms on https://huggingface.co/{repository}, then log in with "
            "`hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"no model {repository!r} on the hub: check the spelling, or log in with `hf auth login` if it is private"
        ) from None
    except RevisionNotFoundError:
        raise ValueError(f"{repository} has no revision {revision!r}: give a branch, a tag or a commit of it") from None
    except Exception as error:  # of several libraries: no network, a proxy, a full disk
        raise ValueError(
            f"{repository} could not be downloaded ({first_line(error)}). Try again with a network, or give a folder "
            "with its files (--caption-weights)"
        ) from error
    return Path(folder), Path(folder).name


def find_cached(config: CaptionerConfig) -> Path | None:
    """The folder of a model that is given or was downloaded before; nothing is asked of the network."""
    if config.weights is not None:
        return Path(config.weights) if Path(config.weights).is_dir() else None
    repository, revision = split_revision(config.name.partition(":")[2])
    commit = revision_of(repository, revision)
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=commit, local_files_only=True))
    except OSError:  # huggingface_hub's LocalEntryNotFoundError and its kin
        return None


def load_model(folder: Path, dtype: str) -> tuple[Any, Any, torch.dtype]:
    """Model, on the device and ready to generate, processor, and the model's dtype.

    ``model.dtype`` does not tell the dtype: some models keep a few weights in float32.
    """
    config = _read_config(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = choose_dtype(dtype, device, config)
    local = {"trust_remote_code": False, "local_files_only": True}
    try:
        processor = AutoProcessor.from_pretrained(folder, **local)  # nosec B615: a local folder
    except Exception as error:
        raise ValueError(f"{folder}: the processor could not be loaded ({first_line(error)})") from error
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"{folder} has no processor, found a {type(processor).__name__}: put the processor's and the tokenizer's "
            "files of the published model beside the weights"
        )
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(  # nosec B615: a local folder
            folder, dtype=wanted, use_safetensors=True, output_loading_info=True, **local
        )
    except Exception as error:
        raise ValueError(f"{folder}: the weights could not be loaded ({first_line(error)})") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        # Only a warning to transformers, which fills them with random numbers.
        raise ValueError(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are missing, {missing[0]} first: "
            "the files belong to another model or are incomplete"
        )
    return model.eval().to(device), processor, wanted


def _read_config(folder: Path) -> Any:
    """The configuration of a folder that holds an image-text model in safetensors."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: expected one with config.json and *.safetensors")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)  # nosec B615: local
    except Exception as error:
        raise ValueError(
            f"{folder} has no config.json of a model that this version of transformers knows without running the "
            f"repository's own code ({first_line(error)}): expected a model saved with save_pretrained"
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(
            f"{folder} holds a {config.model_type} model, which does not write texts about pictures: take an "
            "image-text model, e.g. BLIP-2, InstructBLIP or Qwen-VL"
        )
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} has no *.safetensors, and pickled weights (*.bin) are not loaded because they can run code: "
            "take a revision with safetensors (hf-hub:OWNER/NAME@REVISION) or convert the model with save_pretrained"
        )
    return config


def choose_dtype(name: str, device: str, config: Any) -> torch.dtype:
    """Of the weights. "auto": float32 on the CPU; on a GPU float16, but not for models whose numbers overflow it."""
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name in known:
        return known[name]
    if name != "auto":
        raise ValueError(f"captioner dtype must be auto, {', '.join(known)}, found {name!r}")
    if device == "cpu":
        return torch.float32
    text = config.get_text_config()
    if config.dtype == torch.bfloat16 or text.dtype == torch.bfloat16 or text.model_type in ("t5", "mt5"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.float16
