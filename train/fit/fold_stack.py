"""Several heads of one shape as one program: their weights are rows of one tensor, and `torch.func.vmap` runs them.

The step reads nothing but tensors that stay where they are (windows, noise, a counter), so that a GPU can replay it as
a CUDA graph; on a CPU the same function runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from train.fit.adamw import StackedAdamW
from train.fit.fitting import EVAL_BATCH, Gather, reduced
from train.fit.objective import Objective
from train.heads.layers import written_out
from train.heads.noise import Draws, Noise, Tape, drawing_from

ALIGN = 4  # every weight begins at a multiple of 16 bytes, where kernels for matrices want it
WARM_UP = 3  # steps before capture, so that libraries have allocated what they need

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where each weight of an objective lies in its row.

    Attributes:
        shapes: name -> shape, in the order of ``parameters()``.
        size: P, length of a row.
    """

    shapes: Mapping[str, torch.Size]

    @property
    def widths(self) -> list[int]:
        """Numbers that each weight takes up, with the gap behind it."""
        return [-(-shape.numel() // ALIGN) * ALIGN for shape in self.shapes.values()]

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Name -> weight becomes a row (P,)."""
        parts = [
            torch.nn.functional.pad(values[name].detach().reshape(-1), (0, width - shape.numel()))
            for (name, shape), width in zip(self.shapes.items(), self.widths, strict=True)
        ]
        return torch.cat(parts)

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (..., P) become name -> (..., *shape), views of them."""
        named = {}
        for (name, shape), part in zip(self.shapes.items(), rows.split(self.widths, dim=-1), strict=True):
            # Cut only where there is a gap: the gradient of a cut is a copy.
            part = part if part.shape[-1] == shape.numel() else part[..., : shape.numel()]
            named[name] = part.unflatten(-1, shape)
        return named


class FoldStack:
    """M objectives of one shape, their optimiser, and the step that trains them all.

    Attributes:
        adamw: weights (M, P) and what the optimiser keeps of them.
        buffers: name -> (M, ...), the standardisers.
        total: (M,), sum of the losses of the windows that were learned from, since ``begin``.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        class_weights: Sequence[Tensor] | None,
        gather: Gather,
        targets: Tensor,
        draws: Draws,
        *,
        capture: bool = True,
        compiled: bool = False,
    ) -> None:
        """Stack the objectives; each has its own learning rate and weight decay in its config.

        Args:
            objectives: on the device of ``targets``.
            class_weights: as the loss takes them, one per objective; None: none.
            gather: window numbers (M, B) -> stream -> (M, B, T_s, D_s).
            targets: (W,) or (W, K).
            draws: what one step takes from the tape.
            capture: on a GPU, replay the step as a CUDA graph.
            compiled: put the forward and backward pass through ``torch.compile``.
        """
        self.template, self.config = objectives[0], objectives[0].config
        self.layout = Layout({name: p.shape for name, p in self.template.named_parameters()})
        self.device = str(targets.device)
        self.gather, self.targets, self.draws = gather, targets, draws
        rows = torch.stack([self.layout.pack(dict(o.named_parameters())) for o in objectives])  # (M, P)
        configs = [o.config for o in objectives]
        self.adamw = StackedAdamW.start(rows, [c.learning_rate for c in configs], [c.weight_decay for c in configs])
        named = [dict(o.named_buffers()) for o in objectives]
        self.buffers = {name: torch.stack([one[name] for one in named]) for name in named[0]}
        self.class_weights = None if class_weights is None else torch.stack(list(class_weights))
        self._capture_wanted = capture and self.device.startswith("cuda") and gather.tier == "device"
        self._losses = _compile(self._all_losses) if compiled else self._all_losses
        self.total = torch.zeros(len(rows), device=self.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self.plan: Tensor
        self.shares: Tensor
        self.num_steps: Tensor
        self.cursor: Tensor
        self.noise: Noise

    def __len__(self) -> int:
        return len(self.adamw.weights)

    # ------------------------------------------------------------------ one member

    def state_dict(self, member: int) -> dict[str, Tensor]:
        """Copies of a member's weights and buffers, under the names of the objective."""
        row = self.layout.unpack(self.adamw.weights[member])
        return {k: v.clone() for k, v in (row | {n: b[member] for n, b in self.buffers.items()}).items()}

    def optimizer_state(self, member: int) -> dict[str, Any]:
        """State dict of a `torch.optim.AdamW` of this member alone: state files know no stacks."""
        a, shapes = self.adamw, self.layout.shapes
        mean, square = (self.layout.unpack(values[member]) for values in (a.mean, a.square))
        state = {
            k: {"step": a.steps[member].clone(), "exp_avg": mean[name].clone(), "exp_avg_sq": square[name].clone()}
            for k, name in enumerate(shapes)
        }
        rate, decay = float(a.learning_rate[member]), float(a.decay[member])
        like = torch.optim.AdamW([torch.empty(0)], lr=rate, weight_decay=decay, fused=True)
        alone = like.state_dict()["param_groups"][0]
        return {"state": state, "param_groups": [alone | {"params": list(range(len(shapes)))}]}

    def restore(self, member: int, weights: Mapping[str, Tensor], state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Put a member to where ``state_dict`` and ``optimizer_state`` found it."""
        a, names = self.adamw, list(self.layout.shapes)
        a.weights[member] = self.layout.pack(weights)
        for name, values in self.buffers.items():
            values[member] = weights[name]
        if state:
            a.steps[member] = state[0]["step"]
            a.mean[member] = self.layout.pack({n: state[k]["exp_avg"] for k, n in enumerate(names)})
            a.square[member] = self.layout.pack({n: state[k]["exp_avg_sq"] for k, n in enumerate(names)})

    def keep(self, which: Sequence[int]) -> None:
        """Leave the others out from now on."""
        self.adamw = self.adamw.kept(which)
        self.buffers = {name: values[list(which)] for name, values in self.buffers.items()}
        self.class_weights = None if self.class_weights is None else self.class_weights[list(which)]
        self.total = self.total[list(which)]
        self._graph = None

    # ------------------------------------------------------------------ the step

    def _all_losses(
        self,
        weights: Tensor,
        buffers: dict[str, Tensor],
        class_weights: Tensor | None,
        raw: dict[str, Tensor],
        targets: Tensor,
        uniforms: Tensor,
        normals: Tensor,
        shares: Tensor,
    ) -> Tensor:
        """Loss of every member, each on its own batch: (M,)."""

        def one(
            weights: dict[str, Tensor],
            buffers: dict[str, Tensor],
            class_weights: Tensor | None,
            raw: dict[str, Tensor],
            targets: Tensor,
            uniforms: Tensor,
            normals: Tensor,
            share: Tensor,
        ) -> Tensor:
            with drawing_from(Tape(uniforms, normals, share)):
                return functional_call(self.template, (weights, buffers), (raw, targets, class_weights))

        own = None if class_weights is None else 0
        over = vmap(one, in_dims=(0, 0, own, 0, 0, 0, 0, 0))
        named = self.layout.unpack(weights)
        with written_out(), reduced(self.config, self.device):
            return over(named, buffers, class_weights, raw, targets, uniforms, normals, shares)

    def learn(
        self, index: Tensor, uniforms: Tensor, normals: Tensor, shares: Tensor, active: Tensor, which: slice
    ) -> None:
        """One step of the members ``which`` on windows (m, B); those that are not active, bool (m,), stay as they are.

        The members share no weight, so the gradient of the sum of their losses holds the gradient of each.
        """
        adamw = self.adamw.rows(which)
        leaf = adamw.weights.detach().requires_grad_()
        buffers = {name: values[which] for name, values in self.buffers.items()}
        class_weights = None if self.class_weights is None else self.class_weights[which]
        losses_of = self._losses if which == slice(None) else self._all_losses
        losses = losses_of(
            leaf, buffers, class_weights, self.gather(index), self.targets[index], uniforms, normals, shares
        )
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        adamw.step(gradient, active)
        self.total[which] += (losses.detach() * index.shape[1]).masked_fill(~active, 0.0)

    # ------------------------------------------------------------------ an epoch

    def begin(self, plan: Tensor, shares: Tensor, num_steps: Tensor) -> None:
        """Lay out an epoch of full batches.

        Args:
            plan: int64 (S, M, B), windows of every step.
            shares: float32 (S, M), the w of mixup.
            num_steps: int64 (M,), steps of each member, S at most; afterwards it stays as it is.
        """
        fits = self._graph is not None and self.plan.shape[1:] == plan.shape[1:] and len(self.plan) >= len(plan)
        if not fits:  # else the graph reads where the last epoch's plan lies
            self._graph = None
            self.plan, self.shares = plan.clone(), shares.clone()
            self.num_steps = num_steps.clone()
            self.noise = Noise(self.draws, len(self), self.device)
            self.cursor = torch.zeros(1, dtype=torch.long, device=self.device)
        self.plan[: len(plan)].copy_(plan)
        self.shares[: len(shares)].copy_(shares)
        self.num_steps.copy_(num_steps)
        self.cursor.zero_()
        self.total.zero_()
        self.template.train()

    def step(self) -> None:
        """The next step of the epoch, read from tensors that stay in their place."""
        row = self.cursor % len(self.noise)
        self.learn(
            self.plan.index_select(0, self.cursor)[0],
            self.noise.uniforms.index_select(1, row)[:, 0],
            self.noise.normals.index_select(1, row)[:, 0],
            self.shares.index_select(0, self.cursor)[0],
            self.cursor < self.num_steps,
            slice(None),
        )
        self.cursor += 1

    def run(self, seeds: Sequence[Sequence[int]], num_steps: int) -> None:
        """All full batches of the epoch that ``begin`` laid out; ``seeds`` of each member's noise."""
        self.noise.seed(seeds)
        for k in range(num_steps):
            if k % len(self.noise) == 0:
                self.noise.fill()
            if self._capture_wanted and self._graph is None:
                self._warm_up_or_capture(k)
            elif self._graph is not None:
                self._graph.replay()
            else:
                self.step()

    def _warm_up_or_capture(self, done: int) -> None:
        """The first steps on a stream of their own, then record one and do it; where that fails, go on without."""
        if done < WARM_UP:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.step()
            torch.cuda.current_stream().wait_stream(stream)
            return
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):  # records, computes nothing
                self.step()
        except RuntimeError as error:
            log.warning("no CUDA graph, training goes on without: %s", str(error).partition("\n")[0])
            self._capture_wanted = False
            self.step()
            return
        self._graph = graph
        graph.replay()

    # ------------------------------------------------------------------ outputs

    @torch.no_grad()
    def outputs(self, index: Tensor) -> Tensor:
        """Outputs of every member for windows (M, n): float32 (M, n, K), on the device."""
        self.template.eval()
        model = self.template.model
        named = self.layout.unpack(self.adamw.weights) | self.buffers
        own = {k.removeprefix("model."): v for k, v in named.items() if k.startswith("model.")}
        with written_out():
            over = vmap(lambda values, raw: functional_call(model, values, (raw,))["output"])
            each = max(1, EVAL_BATCH[torch.device(self.device).type] // len(self))  # as much memory as one member takes
            parts = [over(own, self.gather(part)).float() for part in index.split(each, dim=1)]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def task_loss(self, member: int, outputs: Tensor, index: Tensor) -> Tensor:
        """The task's loss of a member's outputs (n, K) for windows (n,): (), on the device."""
        weights = None if self.class_weights is None else self.class_weights[member]
        return self.template.task_loss(outputs, self.targets[index], weights)


def _compile(losses: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import torch._dynamo  # takes a second to import, and is seldom wanted

    torch._dynamo.config.allow_rnn = True  # nn.GRU is only looked at: inside `written_out` its kernel is not called
    return torch.compile(losses, fullgraph=True)
