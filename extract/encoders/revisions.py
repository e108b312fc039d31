"""Which commit of a Hugging Face repository is downloaded. The one place that says what is pinned.

A commit is pinned where several independent published sources name it with the file that is needed; one source is not
enough, because the hub serves the commits of anybody's pull request by their hash, too. Everything else is taken as its
owner has it today, unless a name says otherwise (``NAME@COMMIT``). Either way the sha256 of what was loaded is in the
stream's recipe, so that another content is a mismatch and never passes for the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Repository -> commit.
PINNED: Mapping[str, str] = MappingProxyType(
    {
        # CLIP ViT-L/14 of OpenAI, which presets base and large take (open_clip_model.safetensors).
        "timm/vit_large_patch14_clip_224.openai": "18d0535469bb561bf468d76c1d73aa35156c922b",
        # Language model of minigpt4-llama2 and minigpt-v2.
        "meta-llama/Llama-2-7b-chat-hf": "f5db02db724555f92da89c216ac04704f23d4590",
    }
)


def revision_of(repository: str, asked: str = "") -> str | None:
    """The commit to download: the one asked for, else the pinned one; None takes what is newest."""
    return asked or PINNED.get(repository)


def split_revision(name: str) -> tuple[str, str]:
    """``NAME@REVISION`` -> (name, revision); "" where none is given."""
    plain, _, revision = name.partition("@")
    return plain, revision
