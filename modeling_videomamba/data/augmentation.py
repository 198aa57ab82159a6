"""Training transforms of clips: every frame of a clip is changed in the same way.

A clip is `(frames, 3, height, width)`. torchvision's v2 transforms treat the leading dimension so by themselves; timm's
augmentation policies and random erasing, which know single pictures only, are taught to here. Values are the reference's
(`datasets/{kinetics_sparse,video_transforms,random_erasing}.py`).
"""

import random

import numpy as np
import torch
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from transformers.image_utils import PILImageResampling

from .. import VideoMambaVideoProcessor


GREY = (128, 128, 128)


class ClipAutoAugment(v2.Transform):
    """timm's RandAugment or AutoAugment with one draw of operations and magnitudes for all frames.

    Takes and returns uint8. `policy` is timm's notation: `rand-m7-n4-mstd0.5-inc1` applies 4 operations, each with probability
    1/2 and a magnitude from N(7, 0.5); `v0` is AutoAugment's for ImageNet.
    """

    def __init__(self, policy: str):
        super().__init__()
        self.policy = policy
        make = rand_augment_transform if policy.startswith("rand") else auto_augment_transform
        self.augment = make(policy, {"img_mean": GREY, "interpolation": PILImageResampling.BICUBIC})

    def transform(self, inpt: Tensor, params: dict) -> Tensor:
        draw = random.getstate(), np.random.get_state()
        frames = []
        for frame in inpt:
            random.setstate(draw[0])
            np.random.set_state(draw[1])
            frames.append(v2.functional.pil_to_tensor(self.augment(v2.functional.to_pil_image(frame))))
        return torch.stack(frames)


class ClipRandomErasing(v2.RandomErasing):
    """Puts noise into one box, at the same place of all frames, but new noise for every pixel of every frame."""

    def __init__(self, p: float):
        super().__init__(p, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value="random")

    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])  # as one picture of frames * 3 channels


class MultiScaleCrop(v2.Transform):
    """Crops a part whose sides are scales of the shorter side, at one of 13 fixed places, and resizes it to a square.

    The two sides are at most one step of `scales` apart. Used for masked pretraining, in place of random resized crops.
    """

    def __init__(self, size: int, scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)):
        super().__init__()
        self.size, self.scales = size, scales

    def make_params(self, flat_inputs: list[Tensor]) -> dict:
        height, width = flat_inputs[0].shape[-2:]
        sides = [int(min(height, width) * scale) for scale in self.scales]
        sides = [self.size if abs(side - self.size) < 3 else side for side in sides]
        steps = range(len(sides))
        crop_height, crop_width = random.choice([(sides[i], sides[j]) for i in steps for j in steps if abs(i - j) <= 1])
        column, row = random.choice(CROP_PLACES)
        top, left = row * ((height - crop_height) // 4), column * ((width - crop_width) // 4)
        return {"top": top, "left": left, "height": crop_height, "width": crop_width}

    def transform(self, inpt: Tensor, params: dict) -> Tensor:
        return v2.functional.resized_crop(inpt, **params, size=[self.size, self.size], antialias=True)


# (column, row) in quarters of the room that the crop leaves: corners, middles of the edges, centre, middles of the quadrants
CROP_PLACES = [(x, y) for x in (0, 2, 4) for y in (0, 2, 4)] + [(x, y) for x in (1, 3) for y in (1, 3)]


def training_transform(
    size: int,
    mean: list[float],
    std: list[float],
    auto_augment: str | None = "rand-m7-n4-mstd0.5-inc1",
    min_area: float = 0.08,
    horizontal_flip: bool = True,
    random_erasing: float = 0.25,
) -> v2.Compose:
    """From uint8 frames `(frames, 3, height, width)` to normalised ones `(frames, 3, size, size)` in fp32.

    `min_area` is the smallest part of the frame that a random resized crop takes.
    """
    steps = [ClipAutoAugment(auto_augment)] if auto_augment else []
    steps += [
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomResizedCrop(size, (min_area, 1), (3 / 4, 4 / 3), InterpolationMode.BILINEAR, antialias=False),
        v2.RandomHorizontalFlip(0.5 if horizontal_flip else 0),
        v2.Normalize(mean, std),
        ClipRandomErasing(random_erasing),
    ]
    return v2.Compose(steps)


def pretraining_transform(size: int, mean: list[float], std: list[float], horizontal_flip: bool = True) -> v2.Compose:
    """The transform of masked pretraining, from and to the same as [`training_transform`]."""
    steps = [
        MultiScaleCrop(size),
        v2.RandomHorizontalFlip(0.5 if horizontal_flip else 0),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean, std),
    ]
    return v2.Compose(steps)


class EvaluationTransform:
    """One view of uint8 frames `(frames, 3, height, width)`, as the processor makes it: `(frames, 3, size, size)`, fp32."""

    def __init__(self, processor: VideoMambaVideoProcessor):
        self.processor = processor

    def __call__(self, frames: Tensor) -> Tensor:
        return self.processor(frames, do_sample_frames=False, return_tensors="pt")["pixel_values"][0]
