"""The loss of classifiers and regressors, clip by clip, so that it is the same in however many parts a step is computed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from ..closest_names import did_you_mean
from ..data.clips import UNREADABLE_LABEL


@dataclass
class ClassificationLoss:
    """What a Trainer takes as `compute_loss_func`.

    Cross-entropy for one label a clip, binary cross-entropy for several, squared error for values. `class_weights`
    `(num_labels,)` are torch's `weight` of a cross-entropy and `pos_weight` of a binary one. The mean is over clips: it is not
    divided by the weights of their labels, as it is not in torch if labels are probabilities.
    """

    problem_type: str = "single_label_classification"
    class_weights: Tensor | None = None

    def __call__(
        self, outputs: ImageClassifierOutput, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The mean over the clips of the batch that can be read, see [`mean_over_clips`]."""
        return mean_over_clips(self.of_clips(outputs.logits, labels), labels, num_items_in_batch)

    def of_clips(self, logits: Tensor, labels: Tensor) -> Tensor:
        """One loss a clip, `(clips,)` in fp32; 0 for a clip that could not be read.

        Args:
            logits: `(clips, num_labels)`.
            labels: class ids `(clips,)`; mixed labels, or which of the labels each clip has, `(clips, num_labels)`, between 0
                and 1; values `(clips,)`.
        """
        logits = logits.float()
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.problem_type == "regression":
            return F.mse_loss(logits[:, 0], labels, reduction="none").nan_to_num()
        if self.problem_type == "multi_label_classification":
            losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
            return losses.mean(dim=1).nan_to_num()
        return F.cross_entropy(logits, labels, weight=weights, reduction="none", ignore_index=UNREADABLE_LABEL)


def mean_over_clips(losses: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The mean of losses `(clips,)` over the clips that could be read.

    In training, whose batch may be in parts, `num_items_in_batch` counts the elements of all labels.
    """
    if num_items_in_batch is not None:
        return losses.sum() / (num_items_in_batch / labels[0].numel())
    first = labels.flatten(1)[:, 0] if labels.ndim > 1 else labels
    readable = ~first.isnan() if first.is_floating_point() else first != UNREADABLE_LABEL
    return losses.sum() / readable.sum().clamp(min=1)


def class_weights_of(text: str | None, labels: Sequence, names: list[str], problem_type: str) -> Tensor | None:
    """`--class_weights` as a tensor `(num_labels,)`, fp32, with the ids or the vectors of all `labels` trained on.

    Balanced weights of a cross-entropy are `videos / (num_labels * videos of the class)`, those of a binary one the videos
    without a label by those with it.

    Raises:
        ValueError: if the text is not understood, the labels are values, or a class that is to be balanced has no video.
    """
    if text is None:
        return None
    if problem_type == "regression":
        raise ValueError("--class_weights: labels that are values have no classes.")
    if text == "balanced":
        several = problem_type == "multi_label_classification"
        counts = np.sum(labels, axis=0) if several else np.bincount(labels, minlength=len(names))
        if missing := [name for name, count in zip(names, counts) if count == 0]:
            raise ValueError(f"--class_weights balanced: no video to train on is {', '.join(missing[:5])}.")
        weights = (len(labels) - counts) / counts if several else len(labels) / (len(names) * counts)
        return torch.tensor(weights, dtype=torch.float32)
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if isinstance(given, dict):
        for name in given:
            if name not in names:
                raise ValueError(f"--class_weights: there is no class {name!r}.{did_you_mean(name, names)}")
        given = [given.get(name, 1) for name in names]
    is_weight = isinstance(given, list) and all(type(x) in (int, float) and 0 <= x < float("inf") for x in given)
    if not is_weight or not any(given):
        raise ValueError(
            f'--class_weights: expected balanced, a list of numbers from 0 on or {{"name": number}} as JSON, got {text!r}.'
        )
    if len(given) != len(names):
        raise ValueError(f"--class_weights has {len(given)} numbers for {len(names)} classes: {', '.join(names[:5])}, ...")
    return torch.tensor(given, dtype=torch.float32)
