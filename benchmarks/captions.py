"""MiniGPT captions: batched generation in slots against the straightforward loop, same weights, same process.

The straightforward loop takes one frame at a time through the vision half and calls transformers' ``generate`` from
scratch: prompt and image are computed anew, and every token reads all weights for one frame. Ours computes the shared
text once, image and question once per frame, and one token for all slots per call; both are greedy.

    python benchmarks/captions.py                  # toy sizes on a CPU, about a minute
    python benchmarks/captions.py --size 7b        # random weights at the size of Vicuna-7B, for a GPU (about 40 GB)
    python benchmarks/captions.py --json out.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from extract.encoders.minigpt import tiny
from extract.encoders.minigpt.decoding import Decoding, frame_digest
from extract.encoders.minigpt.generation import SlotGenerator
from extract.encoders.minigpt.llm import load_llm
from extract.encoders.minigpt.prompt import Prompt, conversation, load_tokenizer, stop_sequences, tokenize
from extract.encoders.minigpt.variants import find_variant
from extract.encoders.minigpt.vision import MiniGptVision


class EndsWith(StoppingCriteria):
    """Ends a batch of one at a stop sequence."""

    def __init__(self, stops: list[tuple[int, ...]]) -> None:
        self._stops = stops

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.Tensor:
        tokens = input_ids[0].tolist()
        return torch.tensor([any(tuple(tokens[-len(s) :]) == s for s in self._stops)], device=input_ids.device)


def one_by_one(vision, llm, prompt: Prompt, stops, pictures: torch.Tensor, max_new_tokens: int) -> list[list[int]]:
    """The straightforward loop."""
    answers = []
    embed = llm.get_input_embeddings()
    criteria = StoppingCriteriaList([EndsWith(stops)])
    with torch.inference_mode():
        for picture in pictures:
            image = vision.encode(picture[None].to(llm.device))
            before, after = (embed(torch.tensor([ids], device=llm.device)) for ids in (prompt.before, prompt.after))
            embeddings = torch.cat([before, image.to(before.dtype), after], dim=1)
            tokens = llm.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=llm.device),
                do_sample=False,
                min_new_tokens=1,
                max_new_tokens=max_new_tokens,
                stopping_criteria=criteria,
                pad_token_id=llm.config.eos_token_id,
            )
            answers.append(tokens[0].tolist())
    return answers


def in_slots(vision, generator: SlotGenerator, pictures: torch.Tensor, batch: int) -> list[list[int]]:
    """Ours, from pixels on."""
    device = vision.llama_proj.weight.device
    with torch.inference_mode():
        parts = [vision.encode(pictures[i : i + batch].to(device)) for i in range(0, len(pictures), batch)]
    return generator.generate(torch.cat(parts), [frame_digest(p.numpy()) for p in pictures])


def build(size: str, folder: Path):
    """Vision half, language half, prompt and stops, with random weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    variant = find_variant("minigpt4-tiny")
    tiny.write_files(folder, variant)
    tokenizer = load_tokenizer(folder / variant.llm.file)
    if size == "tiny":
        vision = MiniGptVision.from_original(
            *(folder / f for f in ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", variant.checkpoint.file)), variant
        )
        llm = load_llm(folder / variant.llm.file, variant, {}, device=device, dtype=dtype, quantize=None)
    else:
        # The toy's tokenizer and vocabulary: what the words are does not matter for the speed.
        large = find_variant("minigpt4-vicuna-7b")
        variant = replace(large, llm_size=replace(large.llm_size, vocabulary=len(tokenizer)))
        torch.manual_seed(0)
        with torch.device(device):
            vision = MiniGptVision(variant)
            for parameter in vision.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            torch.set_default_dtype(dtype)
            llm = LlamaForCausalLM(LlamaConfig(vocab_size=32000, max_position_embeddings=2048)).eval()
            torch.set_default_dtype(torch.float32)
    vision.place(device, dtype)
    prompt = tokenize(tokenizer, conversation(variant, None))
    return variant, vision, llm, prompt, stop_sequences(tokenizer, variant)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "7b"], default="tiny")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=100, help="longest caption")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved; the ratio is taken within each")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU; toy matrices gain nothing from more")
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    with tempfile.TemporaryDirectory() as folder:
        variant, vision, llm, prompt, stops = build(args.size, Path(folder))
    side = variant.image_size
    coarse = np.random.default_rng(0).integers(0, 256, (args.frames, 4, 4, 3), dtype=np.uint8)
    pictures = torch.from_numpy(coarse.repeat(-(-side // 4), 1).repeat(-(-side // 4), 2)[:, :side, :side].copy())
    decoding = Decoding(max_new_tokens=args.tokens)
    generator = SlotGenerator(llm, prompt, variant.num_image_tokens, decoding, stops, num_slots=args.slots)
    one_by_one(vision, llm, prompt, stops, pictures[:2], 4)  # warm both
    in_slots(vision, generator, pictures[: args.slots], 8)

    slow_s, fast_s, ratios, equal, num_tokens = [], [], [], 0, 0
    for _ in range(args.repeats):
        started = time.perf_counter()
        slow = one_by_one(vision, llm, prompt, stops, pictures, args.tokens)
        slow_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        fast = in_slots(vision, generator, pictures, 8)
        fast_s.append(time.perf_counter() - started)
        ratios.append(slow_s[-1] / fast_s[-1])
        equal, num_tokens = sum(a == b for a, b in zip(slow, fast, strict=True)), sum(map(len, slow))

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    print(f"{args.size} on {device}, {torch.get_num_threads()} threads: {args.frames} frames, {num_tokens} tokens")
    print(f"{'':<28}{'s':>8}{'captions/s':>12}{'tokens/s':>10}")
    for name, seconds in (("generate, frame by frame", slow_s), (f"slots, {args.slots} at once", fast_s)):
        s = statistics.median(seconds)
        print(f"{name:<28}{s:>8.2f}{args.frames / s:>12.1f}{num_tokens / s:>10.0f}")
    print(f"ratio min/median/max {min(ratios):.2f}/{statistics.median(ratios):.2f}/{max(ratios):.2f}")
    print(f"equal captions: {equal} of {args.frames}")
    if args.json:
        figures = {
            "captions_ratio": statistics.median(ratios),
            "captions_ratio_min": min(ratios),
            "captions_ratio_max": max(ratios),
            "texts_equal": equal == args.frames,
            "texts_equal_share": equal / args.frames,
            "frames": args.frames,
            "tokens": num_tokens,
            "captions_per_s": args.frames / statistics.median(fast_s),
            "tokens_per_s": num_tokens / statistics.median(fast_s),
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
