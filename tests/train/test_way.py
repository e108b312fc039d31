"""Folds at once or one after another: a fixed rule, and a line that says it."""

from dataclasses import replace

import pytest
import torch

from train.config import TrainConfig
from train.fit.way import check_way, pick_way

SMALL = TrainConfig(head_options={"hidden": 8, "mlp": 8})


def test_what_is_asked_for_is_done_and_said(problem) -> None:
    p = problem("va")
    given = (p.task, SMALL, p.features, p.windows)
    assert pick_way("together", "cpu", *given) == (True, "cross_gru: folds train all at once on cpu, as asked for")
    assert pick_way("one-by-one", "cuda", *given) == (
        False,
        "cross_gru: folds train one after another on cuda, as asked for",
    )
    for act in (lambda: check_way("togethr"), lambda: pick_way("togethr", "cpu", *given)):
        with pytest.raises(ValueError, match="did you mean 'together'"):
            act()


@pytest.mark.parametrize(
    ("head", "hidden", "dim", "together"),
    [
        ("cross_gru", 64, 768, True),
        ("cross_gru", 128, 768, True),
        ("cross_gru", 256, 768, False),
        ("video", 128, 768, True),
        ("video", 512, 768, False),
        ("text", 64, 768, True),
        ("text", 128, 768, False),
        ("mean_pool", 64, 384, True),
        ("mean_pool", 64, 768, False),
    ],
)
def test_auto_takes_what_was_measured_to_be_faster(problem, head: str, hidden: int, dim: int, together: bool) -> None:
    p = problem("va")
    steps = {"video": 16, "image": 16, "text": 4}
    features = replace(p.features, banks={s: torch.zeros(1, dim) for s in steps})
    windows = replace(p.windows, rows={s: torch.zeros(len(p.windows), t, dtype=torch.long) for s, t in steps.items()})
    config = replace(SMALL, head=head, head_options={"hidden": hidden, "mlp": hidden})
    found, why = pick_way("auto", "cpu", p.task, config, features, windows)
    assert found == together
    assert f"{head}: folds train {'all at once' if together else 'one after another'} on cpu: " in why
    assert pick_way("auto", "cuda", p.task, config, features, windows)[0]
