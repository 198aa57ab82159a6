"""Which patches masked pretraining leaves out: the five masks of Fig. 5 and Table 5 of the paper.

A mask is a function of noise: of n numbers from the exponential distribution, the k smallest are k of n places drawn without
replacement; divided by weights, they are drawn one after the other with probabilities in proportion to the weights, which is
what `torch.multinomial` does. So the noise can be drawn with a clip, wherever that is read, and the mask where the teacher is.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F


MaskType = Literal["attention", "random", "tube", "clip_row", "frame_row"]
MASK_TYPES = get_args(MaskType)


def draw_noise(positions: int, rows: int, columns: int) -> Tensor:
    """`(positions, rows, columns)` numbers from the global generator: what a clip's mask is made of."""
    return torch.empty(positions, rows, columns).exponential_()


def mask_patches(noise: Tensor, mask_type: MaskType, ratio: float, attention: Tensor | None = None) -> Tensor:
    """The patches to leave out.

    Args:
        noise (`Tensor` of shape `(clips, positions, rows, columns)`): see [`draw_noise`].
        mask_type:
            `"random"`: patches of the whole clip. `"tube"`: patches of a frame, the same in every frame. `"clip_row"`: whole
            rows of patches from all frames, of which some may lose more than others. `"frame_row"`: whole rows of every
            frame. `"attention"`: in every frame the visible patches are drawn one by one, with probabilities in proportion to
            the teacher's attention.
        ratio (`float`): the part that is left out, rounded down to whole patches, or rows.
        attention (`Tensor` of shape `(clips, positions, rows * columns)`, *optional*):
            Of the teacher's CLS token to the patches of its frame; not negative, of any sum.

    Returns:
        `Tensor` of shape `(clips, positions * rows * columns)`, bool, `True` where a patch is left out; in the order of
        `bool_masked_pos`.

    Source: the reference's `datasets/masking_generator.py` and `engines/engine_for_pretraining_videomamba.py`.
    """
    clips, positions, rows, columns = noise.shape
    patches = rows * columns
    if not 0 <= ratio < 1:
        raise ValueError(f"The ratio of masked patches must be in [0, 1), got {ratio}.")
    if mask_type == "random":
        masked = _smallest(noise.flatten(1), int(ratio * (positions * patches)))
    elif mask_type == "tube":
        masked = _smallest(noise[:, 0].flatten(1), int(ratio * patches))  # (clips, patches)
        masked = masked[:, None].expand(-1, positions, -1)
    elif mask_type == "clip_row":
        masked = _smallest(noise[..., 0].flatten(1), positions * int(ratio * rows))  # (clips, positions * rows)
        masked = masked[..., None].expand(-1, -1, columns)
    elif mask_type == "frame_row":
        masked = _smallest(noise[..., 0], int(ratio * rows))  # (clips, positions, rows)
        masked = masked[..., None].expand(-1, -1, -1, columns)
    elif mask_type == "attention":
        if attention is None or attention.shape != (clips, positions, patches):
            got = None if attention is None else tuple(attention.shape)
            raise ValueError(f"Attention-guided masks need attention of shape {(clips, positions, patches)}, got {got}.")
        masked = ~_smallest(noise.flatten(2) / attention.float(), patches - int(ratio * patches))
    else:
        raise ValueError(f"Unknown mask type {mask_type!r}: there are {', '.join(MASK_TYPES)}.")
    return masked.reshape(clips, -1)


def of_visible_tokens(features: Tensor, bool_masked_pos: Tensor) -> Tensor:
    """Of a teacher's features those of CLS and of the patches that are not left out, in order: what a student aligns with.

    Args:
        features (`Tensor` of shape `(clips, layers, 1 + patches, width)`)
        bool_masked_pos (`Tensor` of shape `(clips, patches)`): see [`mask_patches`].

    Returns:
        `Tensor` of shape `(clips, layers, 1 + visible patches, width)`.
    """
    visible = F.pad(~bool_masked_pos, (1, 0), value=True)  # (clips, 1 + patches)
    tokens = features.transpose(1, 2)[visible]  # (clips * (1 + visible patches), layers, width)
    return tokens.unflatten(0, (len(features), -1)).transpose(1, 2)


def _smallest(values: Tensor, count: int) -> Tensor:
    """Whether a value is one of the `count` smallest along the last dimension."""
    return values.argsort(dim=-1).argsort(dim=-1) < count
