"""Folds in one program: each is the model that torch's own layers and AdamW make of it, whoever trains beside it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from train.config import PRESETS, Augmentation, TrainConfig
from train.fit.adamw import StackedAdamW
from train.fit.fitting import EVAL_BATCH, Fit
from train.fit.fold_stack import FoldStack
from train.fit.loop import fit
from train.fit.objective import Objective, decoders_for
from train.fit.together import Member, fit_together
from train.heads import HEADS
from train.heads.layers import CrossAttention
from train.heads.noise import Draws
from train.runs.checkpoints import build_model
from train.tasks import TASKS

torch.set_num_threads(1)

DIMS = {"video": 12, "image": 10, "text": 6}
STEPS = {"video": 16, "image": 16, "text": 4}
WINDOWS, BATCH, MEMBERS = 40, 8, 3
STRONG = Augmentation(noise=0.3, feature_dropout=0.2, stream_dropout=0.3, temporal_mask=0.5, mixup=0.4)


# --- against separate models of torch ---


class TorchAttention(nn.MultiheadAttention):
    """torch's own, with the weights of ours."""

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(query, memory, memory, need_weights=False)[0]


def with_torch_layers(objective: Objective) -> Objective:
    """A copy that runs on nn.GRU and nn.MultiheadAttention."""
    plain = deepcopy(objective)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, CrossAttention):
                own = TorchAttention(child.embed_dim, child.num_heads, batch_first=True).to(child.in_proj_weight.dtype)
                own.load_state_dict(child.state_dict())
                setattr(module, name, own)
    return plain


def objectives_of(head: str, dtype: torch.dtype) -> list[Objective]:
    found = []
    for k in range(MEMBERS):
        torch.manual_seed(k)
        options = {"hidden": 16, "mlp": 24, "dropout": 0.0}
        config = TrainConfig(head=head, head_options=options, learning_rate=1e-3 * (k + 1), autoencode=0.3)
        model = build_model(TASKS["va"], config, DIMS)
        for s in model.streams:
            model.standardizers[s].fit(torch.randn(100, DIMS[s]) * 2 + 1)
        found.append(Objective(TASKS["va"], config, model, decoders_for(config, model, DIMS)).to(dtype))
    return found


def banks_of(dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(9)
    return {s: torch.randn(WINDOWS, STEPS[s], DIMS[s], dtype=dtype) for s in DIMS}, torch.rand(WINDOWS, 2, dtype=dtype)


def gradients_of(stack: FoldStack, raw: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    leaf = stack.adamw.weights.detach().requires_grad_()
    none = torch.empty(MEMBERS, 0)
    losses = stack._all_losses(leaf, stack.buffers, None, raw, targets, none, none, torch.ones(MEMBERS))
    return stack.layout.unpack(torch.autograd.grad(losses.sum(), leaf)[0])


def has_signal(name: str) -> bool:
    """Whether the gradient of a weight is more than rounding noise, of which AdamW makes steps of full size in float32.

    A bias of keys shifts all scores alike; over one key, queries and keys do nothing.
    """
    return "attend" not in name or "in_proj" not in name


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["64", "32"])
def test_outputs_gradients_and_fifty_steps_are_those_of_separate_models(
    head: str, dtype: torch.dtype, tolerance: float
) -> None:
    objectives, (banks, targets) = objectives_of(head, dtype), banks_of(dtype)
    plain = [with_torch_layers(o) for o in objectives]
    streams = objectives[0].model.streams
    stack = FoldStack(
        objectives, None, lambda index: {s: banks[s][index] for s in streams}, targets, Draws(), capture=False
    )
    close = {"atol": tolerance, "rtol": tolerance}

    every = torch.arange(WINDOWS).expand(MEMBERS, -1)
    for found, p in zip(stack.outputs(every), plain, strict=True):
        torch.testing.assert_close(found.to(dtype), p.model(banks)["output"], atol=max(tolerance, 1e-6), rtol=tolerance)
    index = torch.stack([torch.randperm(WINDOWS)[:BATCH] for _ in range(MEMBERS)])
    found_gradients = gradients_of(stack, {s: banks[s][index] for s in streams}, targets[index])
    for k, p in enumerate(plain):
        p({s: b[index[k]] for s, b in banks.items()}, targets[index[k]], None).backward()
        for name, parameter in p.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found_gradients[name][k], expected, **close, msg=name)

    optimizers = [
        torch.optim.AdamW(p.parameters(), lr=p.config.learning_rate, weight_decay=p.config.weight_decay) for p in plain
    ]
    on, none = torch.ones(MEMBERS, dtype=torch.bool), torch.empty(MEMBERS, 0)
    stack.total = stack.total.to(dtype)
    for _ in range(50):
        index = torch.stack([torch.randperm(WINDOWS)[:BATCH] for _ in range(MEMBERS)])
        stack.learn(index, none, none, torch.ones(MEMBERS), on, slice(None))
        for k, (p, optimizer) in enumerate(zip(plain, optimizers, strict=True)):
            optimizer.zero_grad()
            p({s: b[index[k]] for s, b in banks.items()}, targets[index[k]], None).backward()
            for parameter in p.parameters():  # torch skips what has no gradient, a row has no holes: decay only
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            optimizer.step()
    for k, p in enumerate(plain):
        found = stack.state_dict(k)
        for name, parameter in p.named_parameters():
            if dtype == torch.float64 or has_signal(name):
                torch.testing.assert_close(found[name], parameter.detach(), **close, msg=f"{k} {name}")
        after = stack.outputs(every)[k].to(dtype)
        torch.testing.assert_close(after, p.model(banks)["output"].detach(), atol=max(tolerance, 1e-6), rtol=tolerance)


# --- whole trainings ---

CONFIG = TrainConfig(
    head_options={"hidden": 8, "mlp": 8}, learning_rate=0.01, max_epochs=3, patience=5, augment=STRONG, autoencode=0.3
)


def members_of(
    p: SimpleNamespace, config: TrainConfig, folds: Sequence[int] = (0, 1, 2), **more: object
) -> list[Member]:
    """Folds of 4; fold k lacks some more windows, so that all have other numbers of batches and last batches."""
    found = []
    for fold in folds:
        val = p.windows.track % 4 == fold
        train = ~val & (np.arange(len(val)) >= 11 * fold)
        found.append(Member(config, train, val, fold, **more))  # type: ignore[arg-type]
    return found


def one_by_one(p: SimpleNamespace, members: Sequence[Member]) -> list[Fit]:
    return [fit(p.task, m.config, p.features, p.windows, m.train, m.val, fold=m.fold) for m in members]


def together(p: SimpleNamespace, members: Sequence[Member], **options: object) -> list[Fit]:
    return fit_together(p.task, members, p.features, p.windows, **options)  # type: ignore[arg-type]


def rows_of(done: Fit) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in done.history]


def assert_close(a: Fit, b: Fit, tolerance: float = 1e-3) -> None:
    assert a.best_epoch == b.best_epoch
    for one, other in zip(rows_of(a), rows_of(b), strict=True):
        assert one == pytest.approx(other, abs=tolerance, rel=tolerance)
    for name, value in a.model.state_dict().items():
        if "in_proj" not in name:
            torch.testing.assert_close(value, b.model.state_dict()[name], atol=tolerance, rtol=tolerance, msg=name)


def assert_same(a: Fit, b: Fit) -> None:
    assert (a.best_epoch, rows_of(a)) == (b.best_epoch, rows_of(b))
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name


@pytest.mark.parametrize("head", sorted(HEADS))
def test_all_at_once_is_one_after_another(problem, head: str) -> None:
    """Same order, dropout and augmentation, for every head."""
    p = problem("va")
    members = members_of(p, replace(CONFIG, head=head, max_epochs=2))
    for a, b in zip(one_by_one(p, members), together(p, members), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["violence", "expr", "au"])
def test_class_weights_are_those_of_each_fold(problem, name: str) -> None:
    p = problem(name)
    members = members_of(p, replace(CONFIG, max_epochs=2))
    for a, b in zip(one_by_one(p, members), together(p, members), strict=True):
        assert_close(a, b)


def test_a_fold_does_not_depend_on_those_beside_it(problem) -> None:
    p = problem("va")
    members = members_of(p, CONFIG)
    every, fewer = together(p, members), together(p, members[1:])
    assert_close(every[1], fewer[0], 1e-5)
    assert_close(every[2], together(p, members[2:])[0], 1e-5)
    assert_close(every[0], together(p, [members[0], *members_of(p, replace(CONFIG, seed=5))])[0], 1e-5)


def test_members_may_differ_in_seed_rate_decay_and_patience(problem) -> None:
    p = problem("violence")
    changes = [{}, {"seed": 1}, {"learning_rate": 0.002}, {"weight_decay": 0.5}, {"max_epochs": 1}]
    members = [replace(members_of(p, CONFIG, [0])[0], config=replace(CONFIG, **change)) for change in changes]
    done = together(p, members)
    for a, b in zip(one_by_one(p, members), done, strict=True):
        assert_close(a, b)
    assert len({b.history[0]["train_loss"] for b in done[:4]}) == 4
    assert [len(b.history) for b in done] == [3, 3, 3, 3, 1]


def test_one_that_has_stopped_changes_no_more_and_others_go_on(problem) -> None:
    p = problem("violence")
    config = replace(CONFIG, max_epochs=12, learning_rate=0.05, augment=Augmentation(), autoencode=0.0)
    members, seen = [], []
    for m in members_of(p, config):
        own = replace(config, patience=1 + 2 * m.fold)
        members.append(replace(m, config=own, on_epoch=lambda row, fold=m.fold: seen.append((fold, row["epoch"]))))
    done = together(p, members)
    lengths = [len(d.history) for d in done]
    assert len(set(lengths)) > 1  # else nothing was to be seen here
    assert lengths == [sum(fold == k for fold, _ in seen) for k in range(3)]
    assert lengths == [min(12, d.best_epoch + 2 + 2 * k) for k, d in enumerate(done)]
    assert seen[:3] == [(0, 1), (1, 1), (2, 1)]  # epoch by epoch
    for a, b in zip(one_by_one(p, members), done, strict=True):
        assert_close(a, b)


def cut(epoch: int, fold: int):
    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return lambda m: replace(m, on_epoch=stop) if m.fold == fold else m


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_cut_at_any_fold_and_resumed_it_ends_the_same(problem, tmp_path: Path, fold: int) -> None:
    """Folds before the cut are an epoch further than those after it."""
    p = problem("violence")
    plain = members_of(p, CONFIG)
    members = [replace(m, state_file=tmp_path / f"{m.fold}.state.pt") for m in plain]
    with pytest.raises(KeyboardInterrupt):
        together(p, list(map(cut(2, fold), members)))
    torch.rand(3)
    seen: list[float] = []
    resumed = together(p, [replace(m, on_epoch=lambda row: seen.append(row["epoch"])) for m in members])
    for a, b in zip(together(p, plain), resumed, strict=True):
        assert_close(a, b, 1e-5)
    assert sorted(seen) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_state_goes_on_in_the_other_way(problem, tmp_path: Path) -> None:
    p = problem("violence")
    plain = members_of(p, CONFIG)
    members = [replace(m, state_file=tmp_path / f"{m.fold}.state.pt") for m in plain]
    with pytest.raises(KeyboardInterrupt):
        together(p, list(map(cut(2, 2), members)))
    whole = one_by_one(p, plain)
    m = members[0]
    alone = fit(p.task, CONFIG, p.features, p.windows, m.train, m.val, fold=0, state_file=m.state_file)
    assert_close(whole[0], alone)
    stop = cut(2, 1)(members[1])
    with pytest.raises(KeyboardInterrupt):
        fit(
            p.task,
            CONFIG,
            p.features,
            p.windows,
            stop.train,
            stop.val,
            fold=1,
            state_file=stop.state_file,
            on_epoch=stop.on_epoch,
        )
    for a, b in zip(whole, together(p, members), strict=True):
        assert_close(a, b)


def test_a_loss_that_explodes_names_its_fold(problem) -> None:
    p = problem("va")
    labels = p.windows.labels.copy()
    members = members_of(p, CONFIG)
    broken = replace(members[2], train=p.windows.track == 19)
    members[0], members[1] = (replace(m, train=m.train & (p.windows.track != 19)) for m in members[:2])
    labels[p.windows.track == 19] = 3e38
    bad = SimpleNamespace(task=p.task, features=p.features, windows=replace(p.windows, labels=labels))
    with pytest.raises(ValueError, match=r"fold 3: the training loss became (inf|nan) in epoch 1"):
        together(bad, [members[0], members[1], broken])


def test_validation_of_many_folds_takes_the_memory_of_one(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem("va")
    members = members_of(p, replace(CONFIG, max_epochs=1))
    stack, taken = stack_of(p, members, monkeypatch), []
    gather = stack.gather
    index = torch.arange(3 * 20).reshape(3, 20) % len(p.windows)
    whole = stack.outputs(index)
    monkeypatch.setattr(stack, "gather", lambda part: taken.append(part.numel()) or gather(part))
    monkeypatch.setitem(EVAL_BATCH, "cpu", 12)
    torch.testing.assert_close(stack.outputs(index), whole)
    assert max(taken) <= 12
    assert sum(taken) == index.numel()


def test_what_has_another_shape_is_refused(problem) -> None:
    p = problem("va")
    members = members_of(p, CONFIG)
    for name, value in (("head", "video"), ("batch_size", 4), ("autoencode", 0.0), ("augment", Augmentation())):
        other = replace(members[1], config=replace(CONFIG, **{name: value}))
        with pytest.raises(ValueError, match=f"the same {name}"):
            together(p, [members[0], other])
    with pytest.raises(ValueError, match="no member"):
        together(p, [])


# --- the step as a GPU will see it ---


class NoSync(TorchDispatchMode):
    """Refuses what makes the host wait for the device, or gives shapes that only the device knows."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"), name
        for arg in args[1:2] if name in ("index", "index_put_") else ():
            assert all(i is None or i.dtype != torch.bool for i in arg), "indexing by a mask"
        return func(*args, **(kwargs or {}))


def stack_of(p: SimpleNamespace, members: Sequence[Member], monkeypatch: pytest.MonkeyPatch) -> FoldStack:
    """The stack of a training, after its first epoch."""
    made: list[FoldStack] = []
    start = FoldStack.__init__

    def note(self: FoldStack, *args: object, **options: object) -> None:
        start(self, *args, **options)  # type: ignore[arg-type]
        made.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(FoldStack, "__init__", note)
        together(p, [replace(m, config=replace(m.config, max_epochs=1)) for m in members])
    return made[0]


@pytest.mark.parametrize("name", ["violence", "va", "au"])
@pytest.mark.parametrize("head", ["cross_gru", "mean_pool"])
def test_a_step_never_waits_for_the_device(problem, monkeypatch: pytest.MonkeyPatch, name: str, head: str) -> None:
    p = problem(name)
    stack = stack_of(p, members_of(p, replace(CONFIG, head=head)), monkeypatch)
    monkeypatch.setattr(StackedAdamW, "step", StackedAdamW.step_written_out)  # what a GPU runs
    stack.begin(stack.plan, stack.shares, stack.num_steps)
    stack.noise.seed([(0, k) for k in range(3)])
    stack.noise.fill()
    before = stack.adamw.weights.clone()
    with NoSync():
        stack.step()
    assert not torch.equal(stack.adamw.weights, before)


class Graph:
    """Stands for a CUDA graph: what is recorded is put back, what is replayed is done."""

    stack: FoldStack
    works, replays = True, 0

    def replay(self) -> None:
        Graph.replays += 1
        self.stack.step()


class Recording:
    def __init__(self, graph: Graph) -> None:
        s = Graph.stack
        self.held = [s.adamw.weights, s.adamw.mean, s.adamw.square, s.adamw.steps, s.total, s.cursor]
        self.before = [t.clone() for t in self.held]

    def __enter__(self) -> None:
        if not Graph.works:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def __exit__(self, *exc: object) -> None:
        for tensor, value in zip(self.held, self.before, strict=True):
            tensor.copy_(value)


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


@pytest.mark.parametrize("works", [True, False])
def test_recorded_steps_are_steps_and_without_a_graph_training_goes_on(
    problem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, works: bool
) -> None:
    """The graph is a stand-in: no GPU is needed, and none is tested."""
    p = problem("va")
    members = members_of(p, CONFIG)
    expected = together(p, members)
    for name, value in (("CUDAGraph", Graph), ("graph", Recording), ("Stream", Stream), ("current_stream", Stream)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(Graph, "works", works)
    monkeypatch.setattr(Graph, "replays", 0)
    start = FoldStack.__init__

    def wanted(self: FoldStack, *args: object, **options: object) -> None:
        start(self, *args, **options)  # type: ignore[arg-type]
        self._capture_wanted, Graph.stack = True, self

    monkeypatch.setattr(FoldStack, "__init__", wanted)
    for a, b in zip(expected, together(p, members), strict=True):
        assert_same(a, b)
    steps = Graph.stack.plan.shape[0]
    assert Graph.replays == (3 * steps - 3 if works else 0)
    lines = [r.message for r in caplog.records]
    told = ["no CUDA graph, training goes on without: operation not permitted when stream is capturing"]
    assert lines == ([] if works else told)


def test_a_compiled_step_is_the_step(problem) -> None:
    p = problem("va")
    members = members_of(p, replace(CONFIG, head="text", max_epochs=1))  # the one that compiles fastest
    for a, b in zip(together(p, members), together(p, members, compiled=True), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("way", [one_by_one, together])
def test_bfloat16_products_leave_the_weights_in_float32(problem, way) -> None:
    p = problem("va")
    config = replace(CONFIG, **PRESETS["augmented"], max_epochs=2)
    exact = way(p, members_of(p, config))
    rough = way(p, members_of(p, replace(config, precision="bfloat16")))
    for a, b in zip(exact, rough, strict=True):
        assert all(v.dtype == torch.float32 for v in b.model.state_dict().values())
        assert b.history[-1]["train_loss"] == pytest.approx(a.history[-1]["train_loss"], rel=0.05)
        assert b.history[-1]["train_loss"] != a.history[-1]["train_loss"]
