"""Mixup and CutMix of clips, drawn as the reference does (`datasets/mixup.py`, batch mode).

timm's is the same but for boxes of an odd size, which later versions of it place otherwise.
"""

import numpy as np
from torch import Tensor
from torch.nn.functional import one_hot


class ClipMixing:
    """Mixes each clip with its mirror image in the batch, by Mixup or by CutMix, and their smoothed labels likewise.

    One choice, one weight and one box for the whole batch; the box is the same in all frames. An alpha of 0 turns its method
    off, and with both off only the labels change. Draws from NumPy's global generator.
    """

    def __init__(self, num_labels: int, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, label_smoothing: float = 0.1):
        self.num_labels, self.label_smoothing = num_labels, label_smoothing
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha

    def __call__(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Clips `(clips, frames, 3, height, width)` and class ids `(clips,)`; labels become `(clips, num_labels)`, fp32.

        Labels of which a clip has several are `(clips, num_labels)` before, 0 or 1. Smoothing moves each towards 1/2.
        """
        weight = 1.0
        if self.mixup_alpha or self.cutmix_alpha:
            np.random.rand()  # the reference draws whether to mix at all, and always does
            both = self.mixup_alpha and self.cutmix_alpha
            use_cutmix = np.random.rand() < 0.5 if both else bool(self.cutmix_alpha)
            alpha = self.cutmix_alpha if use_cutmix else self.mixup_alpha
            weight = float(np.random.beta(alpha, alpha))
            partners = pixel_values.flip(0)
            if use_cutmix:
                top, bottom, left, right = _box(*pixel_values.shape[-2:], weight)
                pixel_values = pixel_values.clone()
                pixel_values[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
                weight = 1 - (bottom - top) * (right - left) / (pixel_values.shape[-2] * pixel_values.shape[-1])
            else:
                pixel_values = pixel_values * weight + partners * (1 - weight)

        has_several = labels.ndim == 2
        off = self.label_smoothing / (2 if has_several else self.num_labels)
        chosen = labels if has_several else one_hot(labels, self.num_labels)  # (clips, num_labels)
        targets = chosen * (1 - self.label_smoothing) + off
        return pixel_values, targets * weight + targets.flip(0) * (1 - weight)


def _box(height: int, width: int, weight: float) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box with `1 - weight` of the area, cut off where it leaves the frame."""
    ratio = np.sqrt(1 - weight)
    half_height, half_width = int(height * ratio) // 2, int(width * ratio) // 2
    row, column = np.random.randint(height), np.random.randint(width)
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    return top, bottom, left, right
