"""``extract doctor``: what a captioner needs before anything is downloaded, and what of a data set can be used."""

from __future__ import annotations

from rich.console import Console

from extract.commands.parts import explained, load, out
from extract.config import CaptionerConfig
from shared.cache import FeatureCache


@explained
def captioner(config: CaptionerConfig) -> int:
    """``extract doctor --captioner``: 0 if a run could start now, 1 if something is missing, 2 for a bad choice."""
    from extract.encoders.captioners import HUB_PREFIX, build_captioner, check_captioner
    from extract.encoders.minigpt.variants import VARIANTS

    if config.name in VARIANTS:
        return _diagnose_minigpt(out, config)
    check_captioner(config)
    if config.name.startswith(HUB_PREFIX):
        return _diagnose_hub(out, config)
    # The others have no files: whether they work is seen by making one.
    made = build_captioner(config)
    out.print(f"{config.name}: ready")
    for key, value in made.recipe().items():
        out.print(f"  {key}: {value}")
    return 0


@explained
def dataset(name: str, *, root: str | None, cache: str | None, follow_links: bool = False) -> int:
    """``extract doctor --dataset``: 0 all that is there is usable, 1 some is not, 2 nothing is."""
    from extract.jobs.dataset_doctor import examine
    from extract.show.dataset import print_checkup

    store = FeatureCache.open(cache) if cache is not None else None
    known = store.paths().values() if store is not None else ()
    found = examine(load(name, root, render=False, cached=known, follow_links=follow_links), store)
    print_checkup(out, found)
    return found.exit_status


def _diagnose_minigpt(console: Console, config: CaptionerConfig) -> int:
    from extract.encoders.captioners.endpoint import Endpoint
    from extract.encoders.minigpt.doctor import inspect
    from extract.encoders.minigpt.files import weights_folder
    from extract.encoders.minigpt.llm import QUANTIZERS
    from extract.encoders.minigpt.memory import memory
    from extract.encoders.minigpt.variants import find_variant

    variant = find_variant(config.name)
    findings = inspect(variant, config.weights)
    if variant.packaged and not config.weights:
        console.print(f"{variant.name}: part of this package, unpacked on first use")
    elif variant.trained or config.weights:
        console.print(f"{variant.name}: files in {weights_folder(config.weights)}")
    else:
        console.print(f"{variant.name}: a toy with random weights, made on first use")
    for found in findings:
        published = found.part.published
        size = _size(found.num_bytes) if found.path else f"about {_size(published.size_gb * 1e9)}"
        if found.problem:
            state = "NOT USABLE"
        elif found.cached:
            state = f"found in the cache of the Hugging Face hub ({found.part.repo})"
        elif found.path:
            state = "found" if found.path.name == published.file else f"found ({found.path.name})"
        elif found.on_hub:
            state = f"missing; a run downloads it from {found.part.repo}"
        else:
            state = "MISSING"
        console.print(f"  {found.part.role:<16}{published.file:<34}{size:<15}{state}")
    for found in findings:
        if found.problem:
            console.print(f"{found.part.role}: {found.problem}")
        elif not found.ready:
            console.print(f"{found.part.role}: {found.part.published.file} is published at {found.part.published.url}")

    if not variant.trained and config.server is None:
        return 0 if all(found.ready for found in findings) else 1
    slots, limit = config.batch_size, config.max_new_tokens or 300
    for quantize in (None, *QUANTIZERS):
        need = memory(variant, num_slots=slots, max_new_tokens=limit, quantize=quantize)
        name = f"--caption-quantize {quantize}" if quantize else "float16"
        console.print(
            f"GPU memory, {name}: about {need.total / 1e9:.1f} GB (vision {need.vision / 1e9:.1f}, language model "
            f"{need.llm / 1e9:.1f}, key-value cache {need.cache / 1e9:.1f} for {slots} frames of {limit} tokens at "
            f"once, rest {need.workspace / 1e9:.1f})"
        )
    console.print(f"this machine: {_gpu()}; fewer frames at once: --caption-batch")
    if config.server is not None:
        endpoint = Endpoint(config.server, config.server_model, needs="prompt embeddings")
        console.print(f"language half: {endpoint.model}, served at {endpoint.url}")
    return 0 if all(found.ready for found in findings) else 1


def _diagnose_hub(console: Console, config: CaptionerConfig) -> int:
    from extract.encoders.captioners.hub_files import find_cached

    folder = find_cached(config)
    if folder is None:
        repository = config.name.partition(":")[2]
        console.print(f"{config.name}: not downloaded; a run downloads it from https://huggingface.co/{repository}")
        return 1
    weights = sorted(folder.glob("*.safetensors"))
    total = sum(file.stat().st_size for file in weights)
    console.print(f"{config.name}: {len(weights)} weight files, {_size(total)}, in {folder}")
    console.print("GPU memory: about as much in the precision of the files, and some GB for pictures and answers")
    console.print(f"this machine: {_gpu()}; fewer frames at once: --caption-batch")
    return 0 if weights else 1


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU (on a CPU only the toys are practical)"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {total / 1e9:.0f} GB, {free / 1e9:.0f} GB free"
