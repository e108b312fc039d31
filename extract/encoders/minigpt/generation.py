"""Batched generation: a fixed number of slots, a static key-value cache, and the next frame in every slot that is done.

Four things make it cheaper than ``generate`` frame by frame: the weights are read once per step for all slots, the text
before the image is computed once per run, image and text behind it once per frame, and a row that stops early gives its
slot to a waiting frame instead of holding the batch.

Every call of the model has the same shapes, whatever the frames: free slots compute along and are not read. All prompts
have the same length, so there is no padding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import LlamaForCausalLM
from transformers.cache_utils import Cache, CacheLayerMixin

from extract.encoders.minigpt.decoding import Chooser, Decoding
from extract.encoders.minigpt.prompt import Prompt


@dataclass
class Place:
    """Where the next call of the model writes its keys and values.

    Attributes:
        rows: int64 (R,), slots of the batch; positions: int64 (R, n), where in them.
        length: positions that the attention sees, 0 to ``length`` - 1; the mask decides which of them count.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    length: int


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer: (slots, heads, positions, head size), allocated once."""

    def __init__(self, cache: SlotCache, num_slots: int, num_positions: int) -> None:
        super().__init__()
        self._cache, self._shape = cache, (num_slots, num_positions)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate."""
        slots, positions = self._shape
        self.keys, self.values = (
            torch.zeros(slots, s.shape[1], positions, s.shape[3], dtype=s.dtype, device=s.device)
            for s in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (R, heads, n, head size) at the current place; returns what the rows attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        place = self._cache.place
        at = (place.rows[:, None], slice(None), place.positions)  # indexes (R, n, heads, head size)
        self.keys[at] = key_states.transpose(1, 2)
        self.values[at] = value_states.transpose(1, 2)
        if len(place.rows) == len(self.keys):
            return self.keys[:, :, : place.length], self.values[:, :, : place.length]
        return self.keys[place.rows, :, : place.length], self.values[place.rows, :, : place.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Unused: the mask is given."""
        return self._shape[1], 0

    def get_seq_length(self) -> int:
        """Unused: the positions are given."""
        return 0

    def get_max_length(self) -> int:
        """Positions of a slot."""
        return self._shape[1]


class SlotCache(Cache):
    """A static cache whose rows are at positions of their own."""

    def __init__(self, num_layers: int, num_slots: int, num_positions: int) -> None:
        self.place: Place
        self._slot_layers = [SlotLayer(self, num_slots, num_positions) for _ in range(num_layers)]
        super().__init__(layers=list(self._slot_layers))

    def spread(self, num_positions: int) -> None:
        """Copy the first positions of slot 0 to all slots."""
        for layer in self._slot_layers:
            for buffer in (layer.keys, layer.values):
                assert buffer is not None
                buffer[:, :, :num_positions] = buffer[:1, :, :num_positions].clone()


@dataclass
class Counts:
    """What was done, for benchmarks and the summary.

    Attributes:
        frames, tokens: captions finished, and tokens in them.
        steps: calls of the model for one token per slot; prefills: calls for image and prompt.
        cut: captions that reached ``max_new_tokens``.
    """

    frames: int = 0
    tokens: int = 0
    steps: int = 0
    prefills: int = 0
    cut: int = 0


@dataclass
class _Slot:
    """A frame in the making."""

    item: int
    tokens: list[int] = field(default_factory=list)


class SlotGenerator:
    """Answers one fixed prompt about many images.

    Attributes:
        num_slots: frames in the making at once; refill: frames whose prompt is computed in one call.
        counts: what was done since the start.
    """

    def __init__(
        self,
        llm: LlamaForCausalLM,
        prompt: Prompt,
        num_image_tokens: int,
        decoding: Decoding,
        stops: Sequence[tuple[int, ...]],
        *,
        num_slots: int = 32,
    ) -> None:
        """``stops``: token sequences that end an answer, the end-of-text token ``(id,)`` first.

        Raises:
            ValueError: prompt and answer do not fit the model's context.
        """
        self.counts = Counts()
        self._llm, self._decoding, self._stops = llm, decoding, [tuple(s) for s in stops]
        self._device = str(llm.device)
        self._num_before = len(prompt.before)
        self._num_prompt = self._num_before + num_image_tokens + len(prompt.after)
        self._length = self._num_prompt + decoding.max_new_tokens
        limit = llm.config.max_position_embeddings
        if self._length > limit:
            raise ValueError(
                f"a prompt of {self._num_prompt} tokens and {decoding.max_new_tokens} new ones exceed the language "
                f"model's {limit} positions; use a shorter --caption-prompt or fewer --caption-tokens"
            )
        self._after = self._embed(prompt.after)  # (1, n, D)
        self._before = self._embed(prompt.before)  # (1, num_before, D)
        self._lay_out(num_slots)

    def resize(self, num_slots: int) -> None:
        """Another number of slots, between calls of ``generate``; the old key-value cache is let go first."""
        del self._cache, self._chooser
        self._lay_out(num_slots)

    def _lay_out(self, num_slots: int) -> None:
        self.num_slots, self.refill = num_slots, max(1, num_slots // 4)
        # One slot more than frames: prompts of a part-filled refill are written there and never read.
        self._cache = SlotCache(self._llm.config.num_hidden_layers, num_slots + 1, self._length)
        vocabulary = self._llm.config.vocab_size
        self._chooser = Chooser(self._decoding, num_slots + 1, vocabulary, self._stops[0][0], self._device)
        self._tokens = torch.zeros(num_slots + 1, dtype=torch.int64, device=self._device)
        self._positions = torch.full((num_slots + 1,), self._num_prompt, device=self._device)
        self._all = torch.arange(num_slots + 1, device=self._device)
        self._prefill_prefix(self._before)

    @torch.inference_mode()
    def generate(self, images: torch.Tensor, digests: Sequence[bytes]) -> list[list[int]]:
        """Answers about n images.

        Args:
            images: image tokens (n, num_image_tokens, D).
            digests: identity of each frame, see ``frame_digest``.

        Returns:
            n lists of generated tokens, the stop sequence included where one ended them.

        Raises:
            ValueError: the model computes values that are not finite.
        """
        waiting, answers = deque(range(len(images))), [[] for _ in digests]  # type: tuple[deque[int], list[list[int]]]
        slots: list[_Slot | None] = [None] * self.num_slots
        while waiting or any(slots):
            free = [i for i, slot in enumerate(slots) if slot is None]
            if waiting and (len(free) >= self.refill or len(free) >= len(waiting)):
                rows = free[: min(self.refill, len(waiting))]
                items = [waiting.popleft() for _ in rows]
                first = self._prefill(rows, images[items], [digests[i] for i in items])
                for row, item in zip(rows, items, strict=True):
                    slots[row] = _Slot(item)
                self._collect(slots, dict(zip(rows, first, strict=True)), answers)
                continue
            tokens = self._step()
            self._collect(slots, {i: tokens[i] for i, slot in enumerate(slots) if slot}, answers)
        return answers

    def _collect(self, slots: list[_Slot | None], tokens: dict[int, int], answers: list[list[int]]) -> None:
        """Note each row's new token; free the rows that are done."""
        for row, token in tokens.items():
            slot = slots[row]
            assert slot is not None
            slot.tokens.append(token)
            ended = any(tuple(slot.tokens[-len(stop) :]) == stop for stop in self._stops)
            if ended or len(slot.tokens) == self._decoding.max_new_tokens:
                answers[slot.item], slots[row] = slot.tokens, None
                self.counts.frames += 1
                self.counts.tokens += len(slot.tokens)
                self.counts.cut += not ended

    # ------------------------------------------------------------------ calls of the model

    def _prefill_prefix(self, before: torch.Tensor) -> None:
        """The text before the image, the same for all: computed once, copied to every slot."""
        with torch.inference_mode():
            positions = torch.arange(self._num_before, device=self._device)[None]
            self._run(before, self._all[:1], positions, self._num_before)
            self._cache.spread(self._num_before)

    def _prefill(self, rows: list[int], images: torch.Tensor, digests: list[bytes]) -> list[int]:
        """Image and text behind it into some slots; returns the first token of each."""
        missing = self.refill - len(rows)
        images = torch.cat([images, images[-1:].expand(missing, -1, -1)])
        slots = torch.tensor(rows + [self.num_slots] * missing, device=self._device)  # (refill,)
        embeddings = torch.cat([images.to(self._after.dtype), self._after.expand(self.refill, -1, -1)], dim=1)
        positions = torch.arange(self._num_before, self._num_prompt, device=self._device).expand(self.refill, -1)
        hidden = self._run(embeddings, slots, positions, self._num_prompt)
        self._chooser.reset(slots[: len(rows)], digests)
        none = torch.zeros(self.refill, dtype=torch.int64, device=self._device)
        logits = self._llm.lm_head(hidden[:, -1]).float()  # (refill, V)
        if not torch.isfinite(logits).all():
            raise ValueError(
                f"the language model computes values that are not finite in {str(self._llm.dtype)[6:]}: its weights "
                "are damaged, or the type is too narrow (try --dtype bfloat16 or float32)"
            )
        tokens = self._chooser.choose(logits, slots, none)
        self._tokens[slots], self._positions[slots] = tokens, self._num_prompt
        self.counts.prefills += 1
        return tokens[: len(rows)].tolist()

    def _step(self) -> list[int]:
        """One token more for every slot."""
        positions = self._positions.clamp(max=self._length - 1)[:, None]  # (S, 1); free slots stay where they are
        embeddings = self._llm.model.embed_tokens(self._tokens[:, None])  # (S, 1, D)
        hidden = self._run(embeddings, self._all, positions, self._length)
        generated = self._positions - self._num_prompt + 1
        tokens = self._chooser.choose(self._llm.lm_head(hidden[:, -1]).float(), self._all, generated)
        self._tokens, self._positions = tokens, self._positions + 1
        self.counts.steps += 1
        return tokens.tolist()

    def _run(self, embeddings: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, length: int) -> torch.Tensor:
        """Embeddings (R, n, D) at ``positions`` (R, n) of slots ``rows`` -> hidden states (R, n, D)."""
        self._cache.place = Place(rows, positions, length)
        mask = torch.arange(length, device=self._device) <= positions[:, None, :, None]  # (R, 1, n, length)
        return self._llm.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state

    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self._llm.model.embed_tokens(torch.tensor([ids], dtype=torch.int64, device=self._device))
