"""The five masks of masked pretraining: counts and structure as the reference's, and the laws that they are drawn from."""

import itertools
from math import prod

import pytest
import torch

from modeling_videomamba.data.masking import MASK_TYPES, draw_noise, mask_patches
from tests.conftest import golden


GENERATORS = {  # the reference's class for each type that it draws without the teacher
    "random": "RandomMaskingGenerator",
    "tube": "TubeMaskingGenerator",
    "clip_row": "RandomRowMaskingGenerator",
    "frame_row": "TubeRowMaskingGenerator",
}
DRAWS = 20_000


def draw(mask_type, ratio, size, clips=4, attention=None):
    """Masks `(clips, positions, rows, columns)`."""
    torch.manual_seed(0)
    noise = torch.stack([draw_noise(*size) for _ in range(clips)])
    if mask_type == "attention" and attention is None:
        attention = torch.rand(clips, size[0], size[1] * size[2]) + 0.1
    return mask_patches(noise, mask_type, ratio, attention).view(clips, *size)


def structure(mask):
    """What the masks `(clips, positions, rows, columns)` of a type have in common."""
    rows = mask.flatten(0, 2)  # of patches
    return {
        "masked in a clip": mask.flatten(1).sum(dim=1).unique().tolist(),
        "masked in a frame": len(mask.flatten(2).sum(dim=2).unique()) == 1,
        "whole rows": bool((rows.all(dim=1) | ~rows.any(dim=1)).all()),
        "the same in all frames": bool((mask == mask[:, :1]).all()),
        "the same in all clips": bool((mask == mask[:1]).all()),
    }


@pytest.mark.parametrize("case", ["masks_8x14x14_r80", "masks_4x6x6"])
@pytest.mark.parametrize("mask_type", GENERATORS)
def test_counts_and_structure_are_the_references(mask_type, case):
    reference = golden(case)
    size = reference.inputs["window_size"].tolist()
    theirs = reference.outputs[GENERATORS[mask_type]].view(4, *size)
    assert structure(draw(mask_type, reference.meta["mask_ratio"], size)) == structure(theirs)


def test_attention_leaves_the_same_number_in_every_frame():
    """Whole patches are left out, rounded down: 156 of 196, so that 40 of each frame are visible, as in the paper."""
    assert structure(draw("attention", 0.8, (8, 14, 14)))["masked in a clip"] == [8 * 156]
    assert structure(draw("attention", 0.8, (8, 14, 14)))["masked in a frame"]


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@pytest.mark.parametrize("ratio", [0.0, 0.35, 0.9])
def test_any_ratio_masks_that_part_rounded_down(mask_type, ratio):
    size = (3, 5, 4)
    units = {"random": 60, "tube": 20, "clip_row": 5, "frame_row": 5, "attention": 20}[mask_type]  # what is rounded
    [masked] = structure(draw(mask_type, ratio, size))["masked in a clip"]
    assert masked == int(ratio * units) * (prod(size) // units)


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_every_patch_is_masked_equally_often(mask_type):
    """The marginal of every type, with attention everywhere alike: each patch with the probability of its part."""
    size = (2, 4, 3)
    attention = torch.ones(DRAWS, 2, 12)
    masks = draw(mask_type, 0.6, size, DRAWS, attention).float()
    expected = masks[0].mean()
    deviation = (expected * (1 - expected) / DRAWS) ** 0.5
    assert ((masks.mean(dim=0) - expected).abs() < 5 * deviation).all()


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_frames_are_drawn_independently_or_are_the_same(mask_type):
    """The covariance of the same patch in two frames: that of one drawing for tubes, none where frames draw for themselves."""
    draws = 10 * DRAWS
    masks = draw(mask_type, 0.5, (2, 4, 2), draws, torch.ones(draws, 2, 8)).float()
    first, second = masks[:, 0, 0, 0], masks[:, 1, 0, 0]
    covariance = ((first - first.mean()) * (second - second.mean())).mean()
    expected = {
        "tube": 0.25,
        "random": -0.25 / 15,  # without replacement among 16 patches
        "clip_row": -0.25 / 7,  # among 8 rows
    }.get(mask_type, 0.0)
    assert abs(covariance - expected) < 5 * 0.25 / draws**0.5


def test_attention_guided_masks_follow_their_exact_law():
    """Visible patches are drawn one by one without replacement: every pair's probability, by hand, of 5 patches."""
    weights = torch.tensor([0.4, 0.3, 0.2, 0.07, 0.03])
    attention = 3 * weights.expand(DRAWS, 1, 5)  # its sum does not matter
    visible = ~draw("attention", 0.6, (1, 1, 5), DRAWS, attention).view(DRAWS, 5)
    assert (visible.sum(dim=1) == 2).all()
    for i, j in itertools.combinations(range(5), 2):
        a, b = weights[i].item(), weights[j].item()
        probability = a * b / (1 - a) + b * a / (1 - b)  # i first or j first
        frequency = (visible[:, i] & visible[:, j]).float().mean().item()
        assert abs(frequency - probability) < 5 * (probability * (1 - probability) / DRAWS) ** 0.5, (i, j)


def test_attention_guided_masks_draw_as_torch_multinomial_does():
    """The reference calls `torch.multinomial`: how often each patch is visible, in two samples of the same size."""
    weights = torch.rand(8, generator=torch.Generator().manual_seed(1)) ** 2
    ours = (~draw("attention", 0.5, (1, 2, 4), DRAWS, weights.expand(DRAWS, 1, 8))).float().mean(dim=0).flatten()
    drawn = torch.multinomial(weights.expand(DRAWS, 8), 8)[:, :4]
    theirs = torch.zeros(DRAWS, 8).scatter_(1, drawn, 1.0).mean(dim=0)
    deviation = (2 * theirs * (1 - theirs) / DRAWS).sqrt()
    assert ((ours - theirs).abs() < 5 * deviation).all()


def test_a_mask_is_a_function_of_its_noise():
    torch.manual_seed(0)
    noise = draw_noise(2, 4, 4)[None]
    assert mask_patches(noise, "random", 0.5).equal(mask_patches(noise.repeat(3, 1, 1, 1), "random", 0.5)[2:])


def test_what_cannot_be_drawn():
    noise = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"need attention of shape \(2, 3, 16\), got None"):
        mask_patches(noise, "attention", 0.5)
    with pytest.raises(ValueError, match=r"need attention of shape \(2, 3, 16\), got \(2, 3, 17\)"):
        mask_patches(noise, "attention", 0.5, torch.ones(2, 3, 17))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 80"):
        mask_patches(noise, "random", 80)
    with pytest.raises(ValueError, match="Unknown mask type 'checkerboard': there are attention, random, tube, clip_row, fra"):
        mask_patches(noise, "checkerboard", 0.5)
