"""One contract for every head in the table, and what is special about each."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from train.heads import HEADS, build_head, head_class, head_config
from train.heads.layers import CrossAttention, Dropout, Gru, run_side_by_side, written_out
from train.heads.standardize import HeadModel, Standardize

torch.set_num_threads(1)

DIMS = {"video": 12, "image": 10, "text": 6}
STEPS = {"video": 16, "image": 16, "text": 4}
# The image GRU of the literal head is dead by construction: see its own tests below.
DEAD = {"cross_gru_literal": "grus.image."}


def make_streams(batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {s: torch.randn(batch, STEPS[s], DIMS[s], generator=generator) for s in DIMS}


def make_head(name: str, seed: int = 0, num_outputs: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return build_head(name, DIMS, num_outputs, head_config(name, hidden=16, mlp=24))


@pytest.fixture(params=sorted(HEADS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# --- the contract ---


@pytest.mark.parametrize("num_outputs", [1, 2, 12])
def test_output_is_float32_of_batch_by_outputs(name: str, num_outputs: int) -> None:
    named = make_head(name, num_outputs=num_outputs)(make_streams(3))
    assert named["output"].shape == (3, num_outputs)
    assert all(value.dtype == torch.float32 and value.shape[0] == 3 for value in named.values())
    assert {f"h_{s}" for s in head_class(name).streams} <= set(named)
    assert named["fused"].ndim == 2


def test_any_number_of_steps_and_a_batch_of_one(name: str) -> None:
    head = make_head(name)
    for steps in (1, 7):
        streams = {s: torch.randn(1, steps, d) for s, d in DIMS.items()}
        assert head(streams)["output"].shape == (1, 2)


def test_gradients_reach_every_parameter(name: str) -> None:
    head = make_head(name)
    head(make_streams())["output"].square().sum().backward()
    for key, parameter in head.named_parameters():
        if not key.startswith(DEAD.get(name, "-")):
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    head, streams = make_head(name).eval(), make_streams(6)
    other = {s: torch.cat([x[:1], 3 * torch.randn_like(x[1:])]) for s, x in streams.items()}
    with torch.no_grad():
        full = head(streams)["output"]
        torch.testing.assert_close(head(other)["output"][0], full[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(
            head({s: x[2:3] for s, x in streams.items()})["output"][0], full[2], rtol=0, atol=1e-6
        )


def test_same_seed_same_head_and_same_dropout(name: str) -> None:
    outputs = [make_head(name, seed=3)(make_streams())["output"] for _ in range(2)]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], make_head(name, seed=4)(make_streams())["output"])
    head = make_head(name).eval()
    assert torch.equal(head(make_streams())["output"], head(make_streams())["output"])


def test_state_dict_survives_safetensors(name: str) -> None:
    def model(seed: int) -> HeadModel:
        return HeadModel(make_head(name, seed), {s: Standardize(d) for s, d in DIMS.items()}).eval()

    old, new, streams = model(0), model(1), make_streams()
    for stream in old.streams:
        old.standardizers[stream].fit(torch.randn(50, DIMS[stream]) * 3 + 1)
    state = load(save({key: value.contiguous() for key, value in old.state_dict().items()}))
    assert {f"standardizers.{s}.{part}" for s in head_class(name).streams for part in ("mean", "std")} <= set(state)
    assert not torch.equal(old(streams)["output"], new(streams)["output"])
    new.load_state_dict(state, strict=True)
    assert torch.equal(old(streams)["output"], new(streams)["output"])


def test_a_missing_or_wrong_stream_is_named(name: str) -> None:
    needed = head_class(name).streams[-1]
    with pytest.raises(ValueError, match=f"'{needed}', which is missing"):
        build_head(name, {s: d for s, d in DIMS.items() if s != needed}, 2)
    head, streams = make_head(name), make_streams()
    without = {s: x for s, x in streams.items() if s != needed}
    with pytest.raises(ValueError, match=f"'{needed}', which was not given"):
        head(without)
    model = HeadModel(head, {s: Standardize(d) for s, d in DIMS.items()})
    with pytest.raises(ValueError, match=f"'{needed}', which was not given"):
        model(without)
    for wrong in (streams[needed][..., :-1], streams[needed][0]):
        with pytest.raises(ValueError, match=rf"'{needed}' must be \(B, T, {DIMS[needed]}\)"):
            head(streams | {needed: wrong})


def test_streams_it_does_not_read_are_ignored(name: str) -> None:
    head, streams = make_head(name).eval(), make_streams()
    only = {s: streams[s] for s in head.streams}
    assert torch.equal(head(streams | {"audio": torch.zeros(1)})["output"], head(only)["output"])


def test_config_is_frozen_and_checked(name: str) -> None:
    config = head_config(name)
    assert config.hidden == 64
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden = 3
    for bad in ({"hidden": 0}, {"dropout": 1.0}, {"mlp": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            head_config(name, **bad)
    with pytest.raises(ValueError, match="did you mean 'hidden'"):
        head_config(name, hiden=3)


# --- the table ---


def test_unknown_head_gets_the_closest_match() -> None:
    with pytest.raises(ValueError, match=r"unknown head 'cross_gr'; did you mean 'cross_gru'"):
        build_head("cross_gr", DIMS, 2)
    with pytest.raises(ValueError, match="takes a SingleConfig, not a CrossGruConfig"):
        build_head("video", DIMS, 2, head_config("cross_gru"))
    with pytest.raises(ValueError, match="multiple of attention_heads"):
        head_config("cross_gru", hidden=10, attention_heads=4)


def test_naming_heads_labels_folds_and_tasks_does_not_import_torch() -> None:
    names = "train.heads, shared.labels.formats, train.judging.folds, train.tasks"
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the default head ---


@pytest.mark.parametrize("stream", sorted(DIMS))
def test_every_stream_moves_the_default_head(stream: str) -> None:
    head, streams = make_head("cross_gru").eval(), make_streams()
    other = streams | {stream: make_streams(seed=1)[stream]}
    assert (head(other)["output"] - head(streams)["output"]).abs().max() > 1e-3


def test_cross_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attend, query, memory = CrossAttention(8, 2, 0.0), torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    weights = zip(attend.in_proj_weight.chunk(3), attend.in_proj_bias.chunk(3), (query, memory, memory), strict=True)
    q, k, v = (nn.functional.linear(x, w, b).unflatten(-1, (2, 4)).transpose(1, 2) for w, b, x in weights)
    mixed = torch.softmax(q @ k.transpose(-1, -2) / 4**0.5, -1) @ v  # (3, 2, 5, 4)
    expected = attend.out_proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attend(query, memory), expected)


@pytest.mark.parametrize("steps", [(16, 16, 4), (1, 3, 2), (5,)])
def test_grus_written_out_side_by_side_are_those_of_torch(steps: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    grus = [Gru(3 + k, 8).double() for k in range(len(steps))]
    streams = [torch.randn(2, t, 3 + k, dtype=torch.float64) for k, t in enumerate(steps)]
    for gru, x, found in zip(grus, streams, run_side_by_side(grus, streams), strict=True):
        torch.testing.assert_close(found, gru(x), rtol=0, atol=1e-12)
        with written_out():
            torch.testing.assert_close(gru(x), found, rtol=0, atol=1e-12)


def test_dropout_keeps_the_expectation_and_rests_outside_training() -> None:
    torch.manual_seed(0)
    drop, x = Dropout(0.2), torch.ones(200, 200)
    assert sorted(drop(x).unique().tolist()) == [0, 1.25]
    assert drop(x).mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(drop.eval()(x), x)


def test_checkpoint_names_of_gru_and_attention_are_those_of_torch() -> None:
    assert set(Gru(3, 4).state_dict()) == set(nn.GRU(3, 4).state_dict())
    assert set(CrossAttention(4, 2, 0.0).state_dict()) == set(nn.MultiheadAttention(4, 2).state_dict())
    assert "grus.video.weight_ih_l0" in make_head("cross_gru").state_dict()
    assert "attend.text.in_proj_weight" in make_head("cross_gru").state_dict()


# --- pairs and mean pooling ---


@pytest.mark.parametrize("pair", ["video_image", "image_text", "video_text"])
def test_a_pair_reads_both_of_its_streams_and_no_third(pair: str) -> None:
    head, streams = make_head(pair).eval(), make_streams()
    assert set(head.streams) == set(pair.split("_"))
    assert "image" not in head.streams or head.streams[0] == "image"  # the query, as in cross_gru
    for stream in DIMS:
        other = streams | {stream: make_streams(seed=1)[stream]}
        moved = (head(other)["output"] - head(streams)["output"]).abs().max().item()
        assert (moved > 1e-3) == (stream in head.streams)


def test_a_pair_is_a_branch_of_the_default_head() -> None:
    """With the same weights, what `video_image` fuses is the z_video of `cross_gru`, and `image_text` its z_text."""
    full, streams = make_head("cross_gru").eval(), make_streams()
    for name, memory in (("video_image", "video"), ("image_text", "text")):
        pair = make_head(name, seed=1).eval()
        for part, own in (("grus.image", pair.grus["image"]), (f"grus.{memory}", pair.grus[memory])):
            own.load_state_dict(full.get_submodule(part).state_dict())
        pair.attend.load_state_dict(full.attend[memory].state_dict())
        pair.norm.load_state_dict(full.norm[memory].state_dict())
        torch.testing.assert_close(pair(streams)["fused"], full(streams)[f"z_{memory}"])


@pytest.mark.parametrize("name", ["mean_pool", "concat"])
def test_mean_pooling_alone_does_not_know_order(name: str) -> None:
    head, streams = make_head(name).eval(), make_streams()
    backwards = {s: x.flip(1) for s, x in streams.items()}
    moved = (head(backwards)["output"] - head(streams)["output"]).abs().max().item()
    assert moved < 1e-6 if name == "mean_pool" else moved > 1e-3


# --- equations 1-9 as printed ---


@pytest.mark.parametrize("attention_heads", [1, 4])
@pytest.mark.parametrize("training", [False, True])
def test_the_literal_head_ignores_the_image_stream_exactly(training: bool, attention_heads: int) -> None:
    torch.manual_seed(0)
    config = head_config("cross_gru_literal", hidden=16, attention_heads=attention_heads)
    head = build_head("cross_gru_literal", DIMS, 2, config).train(training)
    streams, outputs = make_streams(), []
    for seed in (1, 2):
        torch.manual_seed(7)  # the same dropout
        outputs.append(head(streams | {"image": 10 * make_streams(seed=seed)["image"]}))
    assert not torch.equal(outputs[0]["h_image"], outputs[1]["h_image"])
    assert (outputs[0]["output"] - outputs[1]["output"]).abs().max().item() == 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("attention_heads", [1, 4])
def test_the_literal_head_gives_the_image_gru_a_gradient_of_exactly_zero(attention_heads: int, seed: int) -> None:
    torch.manual_seed(seed)
    config = head_config("cross_gru_literal", hidden=16, attention_heads=attention_heads)
    head, streams = build_head("cross_gru_literal", DIMS, 2, config), make_streams()
    streams["image"].requires_grad_()
    head(streams)["output"].square().sum().backward()
    dead = [p.grad for p in head.grus["image"].parameters()] + [streams["image"].grad]
    assert all(g is None or g.abs().max().item() == 0.0 for g in dead)
    assert head.grus["video"].weight_ih_l0.grad.abs().max() > 0


def test_the_literal_head_is_the_equations() -> None:
    head, streams = make_head("cross_gru_literal").eval(), make_streams()
    named = head(streams)
    for s in ("video", "text"):
        gru = nn.GRU(DIMS[s], 16, batch_first=True)
        gru.load_state_dict(head.grus[s].state_dict())
        h = gru(streams[s])[1][0]  # (B, H) last state
        torch.testing.assert_close(named[f"h_{s}"], h)
        attend = head.attend[s]
        value = nn.functional.linear(h, attend.in_proj_weight[32:], attend.in_proj_bias[32:])
        torch.testing.assert_close(named[f"z_{s}"], attend.out_proj(value))  # softmax over one key is 1


# --- standardisation ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_standardize_uses_moments_of_the_training_rows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = (torch.randn(40_000, 4) * torch.tensor([1.0, 30.0, 0.01, 2.0]) + torch.tensor([0.0, 50.0, 0.0, -3.0])).to(
        dtype
    )
    scale = Standardize(4).fit(rows)
    torch.testing.assert_close(scale.mean, rows.double().mean(0).float())
    torch.testing.assert_close(scale.std, rows.double().std(0, correction=0).float())
    ready = scale(rows)
    assert ready.dtype == torch.float32
    torch.testing.assert_close(ready.std(0), torch.ones(4), atol=1e-3, rtol=0)


def test_standardize_takes_rows_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.heads.standardize._ROWS_AT_ONCE", 7)
    bank, rows = torch.randn(50, 4).half(), torch.arange(3, 50, 2)
    found, expected = Standardize(4).fit(bank, rows), Standardize(4).fit(bank[rows].float())
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.std, expected.std)
    with pytest.raises(ValueError, match="at least one row"):
        Standardize(4).fit(bank, rows[:0])


def test_a_dimension_that_does_not_vary_becomes_zero() -> None:
    rows = torch.stack([torch.full((20_000,), 0.1), torch.zeros(20_000), torch.randn(20_000) * 1e-4], dim=1)
    scale = Standardize(3).fit(rows)
    assert scale.std[:2].tolist() == [1.0, 1.0]
    assert scale(rows)[:, :2].abs().max() < 1e-6
    assert scale(rows)[:, 2].std().item() == pytest.approx(1.0, abs=1e-3)


def test_a_small_spread_around_a_large_mean_keeps_its_digits() -> None:
    rows = (1000 + 0.01 * torch.randn(5000, 1, dtype=torch.float64)).float()
    assert Standardize(1).fit(rows).std.item() == pytest.approx(rows.double().std(correction=0).item(), rel=1e-6)


def test_standardize_refuses_what_it_cannot_use() -> None:
    scale = Standardize(3)
    x = torch.randn(2, 5, 3)
    assert torch.equal(scale(x), x)
    for bad in (torch.zeros(0, 3), torch.zeros(4, 2), torch.zeros(4, 5, 3)):
        with pytest.raises(ValueError, match="rows, 3"):
            scale.fit(bad)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            scale.fit(torch.tensor([[0.0, value, 0.0], [1.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"\.\.\., 3"):
        scale(torch.zeros(2, 5, 4))


def test_model_standardises_only_what_the_head_reads() -> None:
    head, streams = make_head("video").eval(), make_streams()
    model = HeadModel(head, {s: Standardize(d).fit(torch.randn(30, d) * 5) for s, d in DIMS.items()}).eval()
    assert set(model.standardizers) == {"video"}
    expected = head({"video": model.standardizers["video"](streams["video"])})["output"]
    assert torch.equal(model(streams)["output"], expected)
    assert torch.equal(model({"video": streams["video"].double()})["output"], expected)
    with pytest.raises(ValueError, match="no standardiser for video"):
        HeadModel(head, {"image": Standardize(10)})
