"""Augmentation and autoencoding: what each term does to values, masks, expectations and gradients."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from train.config import PRESETS, Augmentation, TrainConfig, preset_settings
from train.fit.augment import add_noise, corrupt, drop_features, drop_streams, mask_steps, mixup
from train.fit.autoencode import Decoders
from train.fit.loop import Fit, fit
from train.fit.losses import cross_entropy, focal, mse
from train.fit.objective import decoders_for, training_loss
from train.heads import HEADS, build_head, head_config
from train.heads.standardize import HeadModel, Standardize

torch.set_num_threads(1)

DIMS = {"video": 12, "image": 10, "text": 6}
STEPS = {"video": 16, "image": 16, "text": 4}
FULL = Augmentation(noise=0.3, feature_dropout=0.2, stream_dropout=0.3, temporal_mask=0.5, mixup=0.4)


def make_streams(batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {s: torch.randn(batch, STEPS[s], DIMS[s]) for s in DIMS}


def ones(batch: int) -> dict[str, Tensor]:
    return {s: torch.ones(batch, STEPS[s], DIMS[s]) for s in DIMS}


def make_model(name: str = "cross_gru", **options: object) -> HeadModel:
    torch.manual_seed(3)
    head = build_head(name, DIMS, 2, head_config(name, hidden=16, mlp=24, **options))
    return HeadModel(head, {s: Standardize(d) for s, d in DIMS.items()})


# --- each augmentation ---


@pytest.mark.parametrize("name", ["noise", "feature_dropout", "stream_dropout", "temporal_mask"])
def test_shapes_stay_and_the_input_is_not_written_to(name: str) -> None:
    streams = make_streams()
    before = {s: x.clone() for s, x in streams.items()}
    found, kept = corrupt(streams, Augmentation(**{name: 0.5}))
    assert any(not torch.equal(found[s], before[s]) for s in DIMS)
    for s in DIMS:
        assert found[s].shape == before[s].shape
        assert found[s].dtype == torch.float32
        assert torch.equal(streams[s], before[s])
        assert (kept[s].shape, kept[s].dtype) == ((5,), torch.bool)
        assert name == "stream_dropout" or kept[s].all()


def test_nothing_asked_for_changes_nothing_and_draws_nothing() -> None:
    streams, state = make_streams(), torch.get_rng_state()
    found, kept = corrupt(streams, Augmentation())
    assert all(torch.equal(found[s], streams[s]) and kept[s].all() for s in DIMS)
    assert torch.equal(torch.get_rng_state(), state)
    assert not Augmentation().any
    assert all(Augmentation(**{name: 0.1}).any for name in asdict(Augmentation()))


def test_noise_has_mean_zero_and_its_deviation() -> None:
    torch.manual_seed(0)
    noise = add_noise(ones(2000), 0.3)["image"] - 1
    assert noise.mean().item() == pytest.approx(0, abs=3e-3)
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)
    flat = noise.reshape(2000, -1)
    assert torch.corrcoef(flat[:, :4].T).fill_diagonal_(0).abs().max() < 0.1  # every element its own


def test_feature_dropout_takes_a_feature_from_all_steps_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    found = drop_features(ones(4000), 0.2)["video"]  # (B, T, D)
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert sorted(found.unique().tolist()) == [0, 1.25]
    assert (found == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert found.mean().item() == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(found.mean((0, 1)), torch.ones(12), atol=0.05, rtol=0)  # of every feature
    assert len(found[:, 0].unique(dim=0)) > 100  # windows differ


@pytest.mark.parametrize("longest", [0.25, 0.5, 0.95])
def test_a_temporal_mask_is_one_run_of_steps(longest: float) -> None:
    torch.manual_seed(0)
    found = mask_steps(ones(6000), longest)
    for s, steps in STEPS.items():
        gap = (found[s] == 0).all(-1)  # (B, T)
        assert torch.equal(gap, (found[s] == 0).any(-1))  # all features of a step or none
        edges = torch.diff(gap.int(), prepend=torch.zeros(6000, 1), append=torch.zeros(6000, 1)).abs().sum(1)
        assert set(edges.tolist()) == {0, 2}  # no gap, or one
        most = int(longest * steps + 1e-9)
        counts = torch.bincount(gap.sum(1), minlength=most + 1)
        assert len(counts) == most + 1  # never longer
        torch.testing.assert_close(counts / 6000, torch.full((most + 1,), 1 / (most + 1)), atol=0.03, rtol=0)
        assert gap.any(0).all()  # every step is hit, the first and the last too
        expected = sum(range(most + 1)) / (most + 1) / steps
        assert gap.float().mean().item() == pytest.approx(expected, abs=0.01)


def test_a_mask_longer_than_a_short_stream_does_nothing_to_it() -> None:
    torch.manual_seed(0)
    found = mask_steps(ones(50), 0.2)
    assert torch.equal(found["text"], ones(50)["text"])  # floor(0.2 * 4) = 0
    assert (found["image"] == 0).any()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_stream_dropout_takes_whole_streams_and_never_all(share: float) -> None:
    torch.manual_seed(0)
    found, kept = drop_streams(ones(9000), share)
    stays = torch.stack([kept[s] for s in DIMS], 1)  # (B, S)
    assert stays.any(1).all()
    for s in DIMS:
        assert torch.equal(found[s], ones(9000)[s] * kept[s][:, None, None])
        # Kept by itself, or as the one that is spared when all three would go.
        assert kept[s].float().mean().item() == pytest.approx(1 - share + share**3 / 3, abs=0.015)


def test_a_single_stream_is_never_dropped() -> None:
    found, kept = drop_streams({"image": ones(200)["image"]}, 0.9)
    assert kept["image"].all()
    assert (found["image"] == 1).all()


def test_mixup_is_one_convex_combination_for_all_streams() -> None:
    streams = make_streams(64)
    torch.manual_seed(1)
    found, partner, w = mixup(streams, 0.4)
    assert 0 <= w <= 1
    assert sorted(partner.tolist()) == list(range(64))
    for s, x in streams.items():
        torch.testing.assert_close(found[s], w * x + (1 - w) * x[partner])


def test_mixup_shares_are_beta() -> None:
    torch.manual_seed(0)
    streams, a = {"text": torch.zeros(2, 1, 1)}, 0.4
    shares = np.array([mixup(streams, a)[2] for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.05)


# --- the objective ---


def objective(config: TrainConfig, model: HeadModel, loss=mse, targets: Tensor | None = None, seed: int = 5) -> Tensor:
    streams = make_streams(32)
    targets = streams["image"][:, 0, :2].clone() if targets is None else targets
    torch.manual_seed(9)
    decoders = decoders_for(config, model, DIMS)
    torch.manual_seed(seed)
    return training_loss(config, model, decoders, loss, streams, targets)


def config_of(**values: object) -> TrainConfig:
    return TrainConfig(head_options={"hidden": 16, "mlp": 24}, **values)


def test_with_everything_off_it_is_the_loss_of_the_model_to_the_bit() -> None:
    model, streams = make_model(), make_streams(32)
    torch.manual_seed(5)
    expected = mse(model(streams)["output"], streams["image"][:, 0, :2])
    assert torch.equal(objective(config_of(), model), expected)


@pytest.mark.parametrize("name", sorted(asdict(FULL)))
def test_every_augmentation_reaches_the_loss(name: str) -> None:
    model = make_model(dropout=0.0)
    plain = objective(config_of(), model)
    assert not torch.equal(objective(config_of(augment=Augmentation(**{name: 0.5})), model), plain)


@pytest.mark.parametrize("loss", [focal, cross_entropy])
def test_mixup_mixes_the_losses_of_both_labels(loss) -> None:
    model, config = make_model(dropout=0.0), config_of(augment=Augmentation(mixup=0.4))
    targets, streams = torch.arange(32) % 2, make_streams(32)
    found = objective(config, model, loss, targets)
    torch.manual_seed(5)
    mixed, partner, w = mixup(streams, 0.4)
    outputs = model(mixed)["output"]
    torch.testing.assert_close(found, w * loss(outputs, targets) + (1 - w) * loss(outputs, targets[partner]))
    if loss is cross_entropy:  # the loss of the mixed labels
        log_p = outputs.log_softmax(1)
        labels = w * torch.nn.functional.one_hot(targets, 2) + (1 - w) * torch.nn.functional.one_hot(
            targets[partner], 2
        )
        torch.testing.assert_close(found, -(labels * log_p).sum(1).mean())


def test_mixed_losses_of_mse_have_the_gradient_of_mixed_labels() -> None:
    outputs, a, b = (torch.randn(8, 2, requires_grad=k == 0) for k in range(3))
    (mixed,) = torch.autograd.grad(0.3 * mse(outputs, a) + 0.7 * mse(outputs, b), outputs)
    (of_mixed,) = torch.autograd.grad(mse(outputs, 0.3 * a + 0.7 * b), outputs)
    torch.testing.assert_close(mixed, of_mixed)


# --- autoencoding ---


def test_the_term_is_the_mean_over_streams_of_the_squared_error() -> None:
    torch.manual_seed(0)
    decoders, x = Decoders({"image": 10, "text": 6}, 16), make_streams(4)
    named = {"h_image": torch.randn(4, 16, 16), "h_text": torch.randn(4, 16)}  # states of every step; one state
    image = torch.nn.functional.mse_loss(decoders["image"](named["h_image"]), x["image"])
    text = torch.nn.functional.mse_loss(decoders["text"](named["h_text"]), x["text"].mean(1))
    torch.testing.assert_close(decoders(named, x), (image + text) / 2)


def test_windows_that_lost_a_stream_do_not_count_for_it() -> None:
    torch.manual_seed(0)
    decoders, x = Decoders({"image": 10, "text": 6}, 16), make_streams(4)
    named = {"h_image": torch.randn(4, 16, 16), "h_text": torch.randn(4, 4, 16)}
    kept = {"image": torch.tensor([True, False, True, False]), "text": torch.zeros(4, dtype=torch.bool)}
    image = torch.nn.functional.mse_loss(decoders["image"](named["h_image"][::2]), x["image"][::2])
    torch.testing.assert_close(decoders(named, x, kept), image / 2)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_the_term_alone_reaches_the_encoder_of_every_stream(name: str) -> None:
    """Also the image GRU of the literal head, which the task's loss cannot reach."""
    model, config = make_model(name), replace(config_of(autoencode=0.7), head=name)
    decoders = decoders_for(config, model, DIMS)
    training_loss(config, model, decoders, lambda y, t: 0.0 * y.sum(), make_streams(), torch.zeros(5)).backward()
    assert set(decoders) == set(model.streams)
    for s in model.streams:
        parts = [p for k, p in model.named_parameters() if k.startswith((f"head.grus.{s}.", f"head.means.{s}."))]
        assert parts
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parts), s
        assert decoders[s].weight.grad.abs().max() > 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.head.mlp.parameters())


def test_decoders_are_asked_for_what_was_there_before_the_corruption() -> None:
    """With noise far above the signal, the squared error stays near that of the clean features."""
    model = make_model(dropout=0.0)
    loud = config_of(augment=Augmentation(noise=100.0), autoencode=1.0)
    for config in (config_of(autoencode=1.0), loud):
        assert objective(config, model, lambda y, t: 0.0 * y.sum()).item() < 2


def test_the_weight_scales_the_term_and_zero_makes_no_decoder() -> None:
    model = make_model(dropout=0.0)
    off, one, two = (objective(config_of(autoencode=v), model).item() for v in (0.0, 1.0, 2.0))
    assert two - off == pytest.approx(2 * (one - off), rel=1e-5)
    assert one > off
    assert not list(decoders_for(config_of(), model, DIMS).parameters())


# --- in the loop ---

LOOP = TrainConfig(head_options={"hidden": 8, "mlp": 8}, learning_rate=0.01, max_epochs=3, augment=FULL, autoencode=0.5)


def run(p: SimpleNamespace, config: TrainConfig = LOOP, **options: object) -> Fit:
    train = p.windows.track % 4 != 0
    return fit(p.task, config, p.features, p.windows, train, ~train, **options)


def test_training_lowers_the_reconstruction_error(problem) -> None:
    p = problem("va")
    config = replace(LOOP, augment=Augmentation(), head_options={"hidden": 32, "mlp": 8}, max_epochs=6)
    weak, strong = (run(p, replace(config, autoencode=v)).history for v in (0.0, 5.0))
    assert strong[-1]["train_loss"] < 0.8 * strong[0]["train_loss"]
    assert strong[0]["train_loss"] > weak[0]["train_loss"] + 1  # 5 x an error of about 1
    assert strong[0]["val_loss"] < 2  # of the task alone


@pytest.mark.parametrize("name", ["violence", "va"])
@pytest.mark.parametrize("head", ["cross_gru", "cross_gru_literal", "mean_pool", "text"])
def test_augmented_training_learns_and_its_checkpoint_has_no_decoder(problem, name: str, head: str) -> None:
    p = problem(name)
    config = replace(LOOP, head=head, augment=PRESETS["augmented"]["augment"], autoencode=0.1, max_epochs=6)
    done = run(p, config)
    assert done.history[done.best_epoch]["val_score"] > 0.7
    assert not any("decoder" in key for key in done.model.state_dict())
    plain = run(p, replace(config, augment=Augmentation(), autoencode=0.0))
    assert done.model.state_dict().keys() == plain.model.state_dict().keys()


def test_one_seed_is_one_result_and_resuming_changes_nothing(problem, tmp_path) -> None:
    p, file = problem("violence"), tmp_path / "state.pt"
    whole = run(p)

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(p, state_file=file, on_epoch=stop)
    torch.rand(7)
    for again in (run(p), run(p, state_file=file)):
        assert [r["train_loss"] for r in again.history] == [r["train_loss"] for r in whole.history]
        for key, value in whole.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[key]), key


def test_decoders_learn_too(problem, tmp_path) -> None:
    p, weights = problem("va"), []
    for epochs in (1, 2):
        file = tmp_path / f"{epochs}.pt"
        run(p, replace(LOOP, max_epochs=epochs), state_file=file)
        weights.append(torch.load(file, weights_only=True)["model"])
    for s in DIMS:
        assert not torch.equal(*(w[f"decoders.{s}.weight"] for w in weights))


# --- configuration ---


def test_presets_and_what_is_set_on_top_of_them() -> None:
    assert not PRESETS["plain"]["augment"].any
    assert PRESETS["plain"]["autoencode"] == 0
    assert all(asdict(PRESETS["augmented"]["augment"]).values())
    assert PRESETS["augmented"]["autoencode"] > 0
    chosen = preset_settings("augmented", {"mixup": 0.0}, 2.0)
    assert chosen["augment"] == replace(PRESETS["augmented"]["augment"], mixup=0.0)
    assert chosen["autoencode"] == 2.0
    assert preset_settings("plain", {"noise": 0.5}, None)["augment"] == Augmentation(noise=0.5)


def test_the_config_survives_json_and_refuses_nonsense() -> None:
    config = TrainConfig(augment=FULL, autoencode=0.5)
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["augment"] == asdict(FULL)
    assert TrainConfig.from_dict({}).augment == Augmentation()  # of a run from before there was any
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        TrainConfig.from_dict({"augment": {"niose": 1}})
    for bad in ({"noise": -1}, {"mixup": float("nan")}, {"feature_dropout": 1.0}, {"temporal_mask": -0.1}):
        with pytest.raises(ValueError, match=f"augmentation {next(iter(bad))}"):
            Augmentation(**bad)
    with pytest.raises(ValueError, match="autoencode"):
        TrainConfig(autoencode=-1.0)
