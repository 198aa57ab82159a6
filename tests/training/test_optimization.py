"""Learning rates, weight decay and schedules are the reference's own."""

import json

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
)
from modeling_videomamba.checkpoints.official_layout import to_official
from modeling_videomamba.training.optimization import (
    epoch_cosine,
    parameter_groups,
    parameter_settings,
    scale_learning_rate,
    warmup_cosine,
)
from tests.conftest import FIXTURES, small_config


REFERENCE = json.loads((FIXTURES / "optimizer_groups_and_schedules.json").read_text())


def official_settings(model, **kwargs) -> dict[str, tuple[float, float]]:
    """`parameter_settings`, by the reference's names."""
    settings = parameter_settings(model, **kwargs)
    tags = {name: torch.full_like(parameter, i) for i, (name, parameter) in enumerate(model.named_parameters())}
    names = list(dict(model.named_parameters()))
    return {name: settings[names[int(tag.flatten()[0])]] for name, tag in to_official(tags, model.config).items()}


@pytest.mark.parametrize(
    ("case", "depth", "norm", "layer_decay"),
    [
        ("video_sm finetune depth3 layer_decay 0.75", 3, True, 0.75),
        ("video_sm finetune depth3 layer_decay 0.8", 3, True, 0.8),
        ("video_sm finetune depth3 layer_decay 1.0", 3, True, 1.0),
        ("video_sm finetune depth2 LayerNorm layer_decay 1.0", 2, False, 1.0),
    ],
)
def test_groups_are_the_references(case, depth, norm, layer_decay):
    model = VideoMambaForVideoClassification(small_config(num_hidden_layers=depth, rms_norm=norm))
    expected = {name: (group["lr_scale"], group["weight_decay"]) for group in REFERENCE[case] for name in group["params"]}
    settings = official_settings(model, weight_decay=0.05, layer_decay=layer_decay)
    assert settings.keys() == expected.keys()
    assert settings == {name: pytest.approx(values, rel=1e-12) for name, values in expected.items()}


def test_true_layer_decay_scales_every_block_by_its_depth():
    model = VideoMambaForVideoClassification(small_config(num_hidden_layers=32, hidden_size=16))
    scales = {name: scale for name, (scale, _) in parameter_settings(model, 0.05, 0.8, mode="true").items()}
    expected = REFERENCE["layer_decay_values_middle_0.8"]  # embeddings, 32 blocks, head
    assert scales["videomamba.embeddings.patch_embeddings.projection.weight"] == pytest.approx(expected[0])
    for i in range(32):
        assert scales[f"videomamba.layers.{i}.mixer.in_proj.weight"] == pytest.approx(expected[1 + i])
    for name in ("videomamba.norm.weight", "classifier.weight", "videomamba.embeddings.temporal_position_embeddings"):
        assert scales[name] == expected[-1] == 1


def test_every_trained_parameter_is_in_one_group():
    model = VideoMambaForVideoClassification(small_config())
    model.videomamba.embeddings.requires_grad_(False)
    compiled = torch.compile(model)  # its parameters have other names
    groups = parameter_groups(compiled.named_parameters(), parameter_settings(model, 0.05, 0.75, "true"), learning_rate=2.0)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)  # the first is logged
    assert {group["lr"] for group in groups} == {2.0, 2.0 * 0.75, 2.0 * 0.75**2}


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


@pytest.mark.parametrize(
    ("case", "model"),
    [
        ("image_sm (timm 0.4.12 add_weight_decay) depth2", VideoMambaForImageClassification(small_config(num_frames=None))),
        ("video_sm masked pretrain depth2", VideoMambaForPreTraining(small_config())),
    ],
)
def test_groups_of_pretraining_are_the_references(case, model):
    expected = {name: (group["lr_scale"], group["weight_decay"]) for group in REFERENCE[case] for name in group["params"]}
    assert official_settings(model, weight_decay=0.05) == expected
