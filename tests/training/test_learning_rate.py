"""Learning rates over time are the reference's own."""

import json

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from modeling_videomamba.training.learning_rate import epoch_cosine, scale_learning_rate, warmup_cosine
from tests.conftest import FIXTURES


REFERENCE = json.loads((FIXTURES / "optimizer_groups_and_schedules.json").read_text())


@pytest.mark.parametrize(
    ("case", "steps", "warmup", "peak", "start", "end"),
    [
        ("cosine_scheduler(1e-3,1e-6,5 epochs,4 it,warmup_epochs=1,start_warmup_value=1e-6)", 20, 4, 1e-3, 1e-6, 1e-6),
        ("cosine_scheduler(1e-3,1e-5,3 epochs,5 it,warmup_epochs=1,warmup_steps=2)", 15, 2, 1e-3, 0, 1e-5),
        ("cosine_scheduler(0.05,0.05,2 epochs,3 it)", 6, 0, 0.05, 0, 0.05),
    ],
)
def test_schedule_is_the_references(case, steps, warmup, peak, start, end):
    curve = [warmup_cosine(step, steps, warmup, peak, start, end) for step in range(steps)]
    assert curve == pytest.approx(REFERENCE[case], rel=1e-12)


def test_learning_rates_grow_with_all_clips_of_a_step():
    assert scale_learning_rate(2e-4, clips_per_step=1024) == pytest.approx(8e-4)  # Ti on Kinetics: 8 GPUs x 64 videos, twice


@pytest.mark.parametrize(("epochs", "warmup"), [(300, 5), (30, 5), (10, 0)])
@pytest.mark.parametrize("lag", [False, True])
def test_schedule_of_images_is_timms(epochs, warmup, lag):
    """The reference steps timm's scheduler after every epoch with that epoch's own index, and so is one late."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=4e-3)
    scheduler = CosineLRScheduler(optimizer, epochs, lr_min=1e-5, warmup_t=warmup, warmup_lr_init=1e-6)
    curve = []
    for epoch in range(epochs):
        curve.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch if lag else epoch + 1)
    ours = [epoch_cosine(epoch, epochs, warmup, peak=4e-3, start=1e-6, end=1e-5, lag=lag) for epoch in range(epochs)]
    assert ours == pytest.approx(curve, rel=1e-9)
