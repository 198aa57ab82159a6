"""Repeated augmentation by the sampler, as the reference trains on images (`image_sm/samplers.py`, from DeiT)."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from .clips import TrainingClips, drawn_from


class RepeatedAugmentationSampler(Sampler[int]):
    """Every image `repeats` times in a row of the shuffled order, until as many items are drawn as there are images.

    So an epoch sees a part of the images, in `repeats` versions each: item `i + n * len(images)` is copy n of image i. One
    item after the other goes to another process, so that the copies of an image are in one step, on different GPUs. From 256
    images on, a number that 256 does not divide is rounded down, as in the reference.

    Args:
        clips: what items are drawn from; also tells the epoch.
        repeats: copies of an image.
        batch_size, num_processes: of a step. The order is that of whole batches, one process after the other, which is how
            accelerate hands them out.
    """

    def __init__(self, clips: TrainingClips, repeats: int, batch_size: int, num_processes: int):
        self.clips, self.repeats = clips, repeats
        self.batch_size, self.num_processes = batch_size, num_processes

    def __len__(self) -> int:
        num_images = len(self.clips)
        kept = num_images // 256 * 256 or num_images
        return kept // self.num_processes * self.num_processes

    def __iter__(self) -> Iterator[int]:
        with drawn_from(self.clips.seed, int(self.clips.epoch)):
            images = torch.randperm(len(self.clips))
        copies = images[:, None] + torch.arange(self.repeats) * len(self.clips)  # (images, repeats)
        for step in copies.flatten()[: len(self)].split(self.batch_size * self.num_processes):
            for process in range(self.num_processes):
                yield from step[process :: self.num_processes].tolist()
