"""Learning rates over the course of training, as the reference sets them (`utils.cosine_scheduler`, timm 0.4.12)."""

import math


def scale_learning_rate(learning_rate: float, clips_per_step: int, reference: int = 256) -> float:
    """The linear rule. Every augmented copy of a video counts as a clip, whatever process or micro-batch it is in.

    The reference scales in this way the peak, the floor and the start of the warm-up alike.
    """
    return learning_rate * clips_per_step / reference


def warmup_cosine(step: int, num_steps: int, num_warmup_steps: int, peak: float, start: float, end: float) -> float:
    """The learning rate of a step: `num_warmup_steps` from `start` up to `peak` inclusive, then a cosine that nears `end`."""
    if step < num_warmup_steps:
        return start + (peak - start) * step / max(num_warmup_steps - 1, 1)
    progress = (step - num_warmup_steps) / max(num_steps - num_warmup_steps, 1)
    return end + (peak - end) * (1 + math.cos(math.pi * min(progress, 1))) / 2


def epoch_cosine(
    epoch: int, num_epochs: float, num_warmup_epochs: float, peak: float, start: float, end: float, lag: bool = False
) -> float:
    """The learning rate of a whole epoch, as timm 0.4.12's cosine gives it to the reference's training on images.

    The warm-up climbs from `start` to `peak`, which the epoch after it would reach, but the cosine has gone on from epoch 0 in
    the meantime. With `lag`, an epoch takes the rate of the one before it, as in the reference, whose scheduler is late.
    """
    if lag:
        epoch = max(epoch - 1, 0)
    if epoch < num_warmup_epochs:
        return start + (peak - start) * epoch / num_warmup_epochs
    return end + (peak - end) * (1 + math.cos(math.pi * min(epoch / num_epochs, 1))) / 2
