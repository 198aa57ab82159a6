"""Metrics of a classifier or a regressor, through `evaluate`."""

from collections.abc import Callable
from pathlib import Path

import evaluate
import numpy as np
from transformers import EvalPrediction

from ..data.clips import UNREADABLE_LABEL


METRICS = Path(__file__).with_name("evaluate_metrics")
FILES = {"regression": "mean_squared_error.py", "multi_label_classification": "several_labels.py"}
METRIC_NAMES = {  # by problem type; the first tells the best model
    "single_label_classification": ("accuracy", "top5_accuracy"),
    "multi_label_classification": ("map", "micro_f1"),
    "regression": ("mse",),
}


def metrics_of(problem_type: str | None) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """A function of scores `(samples, labels)` and labels; samples that could not be read do not count.

    Labels are `(samples,)`, or of 0 and 1 `(samples, labels)` if a sample may have several, whose scores are probabilities.
    """
    is_regression = problem_type == "regression"
    metric = evaluate.load(str(METRICS / FILES.get(problem_type, "top_k_accuracy.py")))

    def compute(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        first = labels[:, 0] if labels.ndim == 2 else labels
        readable = ~np.isnan(first) if np.issubdtype(labels.dtype, np.floating) else first != UNREADABLE_LABEL
        if not readable.any():
            raise ValueError("None of the videos could be read.")
        predictions = scores[readable]
        return metric.compute(predictions=predictions[:, 0] if is_regression else predictions, references=labels[readable])

    return compute


def as_compute_metrics(problem_type: str) -> Callable[[EvalPrediction], dict[str, float]]:
    """[`metrics_of`] for a Trainer, which has logits."""
    compute = metrics_of(problem_type)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        scores = prediction.predictions
        if problem_type == "multi_label_classification":
            scores = 0.5 * (1 + np.tanh(0.5 * scores))  # a sigmoid that does not overflow
        return compute(scores, prediction.label_ids)

    return compute_metrics
