"""Which parameters learn at which rate and decay is the reference's own."""

import json

import pytest
import torch

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
)
from modeling_videomamba.checkpoints.official_layout import to_official
from modeling_videomamba.training.parameter_groups import parameter_groups, parameter_settings
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
    ("case", "model"),
    [
        ("image_sm (timm 0.4.12 add_weight_decay) depth2", VideoMambaForImageClassification(small_config(num_frames=None))),
        ("video_sm masked pretrain depth2", VideoMambaForPreTraining(small_config())),
    ],
)
def test_groups_of_pretraining_are_the_references(case, model):
    expected = {name: (group["lr_scale"], group["weight_decay"]) for group in REFERENCE[case] for name in group["params"]}
    assert official_settings(model, weight_decay=0.05) == expected
