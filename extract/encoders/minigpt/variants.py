"""The published variants: sizes, prompts, and which file holds what.

Sizes and keys are those of the MiniGPT-4 repository's configurations ``minigpt4_vicuna0.yaml``,
``minigpt4_llama2.yaml`` and ``minigpt_v2.yaml``. The toys differ in size only; they prove the same code without a
download.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from shared.names import unknown_name

IMAGE = "<ImageHere>"
_SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
VICUNA_TEMPLATE = _SYSTEM + "###Human: <Img><ImageHere></Img> {question}###Assistant: "
LLAMA2_TEMPLATE = _SYSTEM + "<s>[INST] <Img><ImageHere></Img> {question} [/INST] "
V2_TEMPLATE = "<s>[INST] <Img><ImageHere></Img> {question} [/INST]"
DESCRIBE = "Describe this image in detail."
LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
BLIP2_REPO = "Salesforce/blip2-flan-t5-xxl"


@dataclass(frozen=True)
class VisionSize:
    """EVA ViT: width D, blocks run (the file may hold one more, which the features do not use), heads, MLP width,
    patch size in pixels, and side of the position table in the file."""

    width: int = 1408
    num_blocks: int = 39
    num_heads: int = 16
    mlp: int = 6144
    patch: int = 14
    table: int = 16


@dataclass(frozen=True)
class QFormerSize:
    """Q-Former: width, layers, heads, MLP width, queries; every second layer from 0 has cross-attention."""

    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp: int = 3072
    num_queries: int = 32


@dataclass(frozen=True)
class LlmSize:
    """Llama: width, layers, MLP width, heads, vocabulary (for the memory estimate and the check of the folder)."""

    width: int = 4096
    num_layers: int = 32
    mlp: int = 11008
    num_heads: int = 32
    vocabulary: int = 32000

    @property
    def num_parameters(self) -> int:
        """Of embeddings, layers, norms and output."""
        layer = 4 * self.width**2 + 3 * self.width * self.mlp + 2 * self.width
        return 2 * self.vocabulary * self.width + self.num_layers * layer + self.width


@dataclass(frozen=True)
class Published:
    """Where a file is published.

    Attributes:
        file: name in the weights folder.
        url: page or address to get it from, for people.
        repo, repo_type, repo_file: the same on the Hugging Face hub, where it is there.
        size_gb: about, for people.
    """

    file: str
    url: str
    size_gb: float
    repo: str | None = None
    repo_type: str = "model"
    repo_file: str | None = None


EVA = Published("eva_vit_g.pth", f"{LAVIS}eva_vit_g.pth", 2.0)
BLIP2 = Published("blip2_pretrained_flant5xxl.pth", f"{LAVIS}blip2_pretrained_flant5xxl.pth", 0.4)


@dataclass(frozen=True)
class Variant:
    """One captioner of the family.

    Attributes:
        image_size: pixels per side of the input.
        qformer: None where ``concat`` neighbouring patch tokens are joined instead.
        lora_scale: alpha / r of the LoRA that the checkpoint brings for the q and v projections; None without.
        template, question: the conversation at inference, and what is asked by default.
        stops: token sequences that end an answer besides the end-of-text token.
        checkpoint: file with llama_proj (and LoRA); ``llm``: folder with the language model.
        trained: False for the toys, whose weights are random.
        packaged: its files are part of this package.
    """

    name: str
    checkpoint: Published
    llm: Published
    image_size: int = 224
    vision: VisionSize = field(default_factory=VisionSize)
    qformer: QFormerSize | None = field(default_factory=QFormerSize)
    concat: int = 4
    llm_size: LlmSize = field(default_factory=LlmSize)
    lora_scale: float | None = None
    template: str = VICUNA_TEMPLATE
    question: str = DESCRIBE
    stops: tuple[tuple[str, ...], ...] = (("▁###",), ("##", "#"))
    trained: bool = True
    packaged: bool = False

    @property
    def num_patches(self) -> int:
        """Patch tokens of one image, without CLS."""
        return (self.image_size // self.vision.patch) ** 2

    @property
    def num_image_tokens(self) -> int:
        """Vectors that the language model sees of one image."""
        return self.qformer.num_queries if self.qformer else self.num_patches // self.concat

    @property
    def bridge_width(self) -> int:
        """Inputs of llama_proj."""
        return self.qformer.width if self.qformer else self.concat * self.vision.width


_VICUNA_7B = Published("vicuna-7b", "https://huggingface.co/Vision-CAIR/vicuna-7b", 13.5, "Vision-CAIR/vicuna-7b")
_LLAMA2 = Published(
    "Llama-2-7b-chat-hf",
    "https://huggingface.co/meta-llama/Llama-2-7b-chat-hf (gated: accept its licence, then log in)",
    13.5,
    "meta-llama/Llama-2-7b-chat-hf",
)
_DRIVE = "https://drive.google.com/file/d/"
_MINIGPT4_7B = Variant(
    "minigpt4-vicuna-7b",
    # "prerained" is its published name.
    Published(
        "prerained_minigpt4_7b.pth",
        f"{_DRIVE}1RY9jV0dyqLX-o38LrumkKRh6Jtaop58R or https://huggingface.co/spaces/Vision-CAIR/minigpt4",
        0.02,
        "Vision-CAIR/minigpt4",
        "space",
        "prerained_minigpt4_7b.pth",
    ),
    _VICUNA_7B,
)
_LLAMA2_7B = Variant(
    "minigpt4-llama2",
    Published("pretrained_minigpt4_llama2_7b.pth", f"{_DRIVE}11nAPjEok8eAGGEG1N2vXo3kBLCg0WgUk", 0.1),
    _LLAMA2,
    qformer=None,
    template=LLAMA2_TEMPLATE,
    stops=(),
)
_TINY_FILES = Published("minigpt4_tiny.pth", "made on first use", 0.0)
_TINY = Variant(
    "minigpt4-tiny",
    _TINY_FILES,
    Published("llama-tiny", "made on first use", 0.0),
    image_size=56,
    vision=VisionSize(width=48, num_blocks=3, num_heads=4, mlp=96, patch=14, table=4),
    qformer=QFormerSize(width=32, num_layers=4, num_heads=4, mlp=64, num_queries=8),
    llm_size=LlmSize(width=64, num_layers=3, mlp=128, num_heads=4, vocabulary=512),
    trained=False,
)
# Trained here on rendered scenes (extract/miniature), in the format of the Llama 2 variant.
_MINI = Variant(
    "minigpt4-mini",
    Published("minigpt4_mini.pth", "part of this package", 0.0),
    Published("llama-mini", "part of this package", 0.0),
    image_size=72,
    vision=VisionSize(width=128, num_blocks=4, num_heads=4, mlp=256, patch=12, table=6),
    qformer=None,
    llm_size=LlmSize(width=128, num_layers=2, mlp=256, num_heads=4, vocabulary=512),
    template=LLAMA2_TEMPLATE,
    stops=(),
    packaged=True,
)
_ALL = (
    _MINIGPT4_7B,
    replace(
        _MINIGPT4_7B,
        name="minigpt4-vicuna-13b",
        checkpoint=Published(
            "pretrained_minigpt4.pth",
            f"https://huggingface.co/Vision-CAIR/MiniGPT-4 or {_DRIVE}1a4zLvaiDBr-36pasffmgpvH5P7CKmpze",
            0.02,
            "Vision-CAIR/MiniGPT-4",
            "model",
            "pretrained_minigpt4.pth",
        ),
        llm=Published("vicuna", "https://huggingface.co/Vision-CAIR/vicuna", 26.0, "Vision-CAIR/vicuna"),
        llm_size=LlmSize(width=5120, num_layers=40, mlp=13824, num_heads=40),
    ),
    _LLAMA2_7B,
    replace(
        _LLAMA2_7B,
        name="minigpt-v2",
        checkpoint=Published("minigptv2_checkpoint.pth", f"{_DRIVE}1aVbfW7nkCSYx99_vCRyP1sOlQiWVSnAl", 0.6),
        image_size=448,
        lora_scale=16 / 64,
        template=V2_TEMPLATE,
        question="[caption] please describe this image?",
    ),
    _MINI,
    _TINY,
    replace(
        _TINY,
        name="minigpt-v2-tiny",
        checkpoint=replace(_TINY_FILES, file="minigptv2_tiny.pth"),
        image_size=112,
        qformer=None,
        lora_scale=16 / 64,
        template=V2_TEMPLATE,
        question="[caption] please describe this image?",
        stops=(),
    ),
)
VARIANTS: Mapping[str, Variant] = MappingProxyType({variant.name: variant for variant in _ALL})


def find_variant(name: str) -> Variant:
    """A variant by name.

    Raises:
        ValueError: unknown name; the message offers the closest one.
    """
    if name not in VARIANTS:
        raise ValueError(unknown_name("MiniGPT variant", name, VARIANTS))
    return VARIANTS[name]
