"""Metrics of a classifier or a regressor, through `evaluate`."""

from collections.abc import Callable
from pathlib import Path

import evaluate
import numpy as np
from transformers import EvalPrediction

from .clips import UNREADABLE_LABEL


METRICS = Path(__file__).parents[1] / "metrics"


def metrics_of(problem_type: str) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """A function of scores `(samples, labels)` and labels `(samples,)`; samples that could not be read do not count."""
    is_regression = problem_type == "regression"
    metric = evaluate.load(str(METRICS / ("mean_squared_error.py" if is_regression else "top_k_accuracy.py")))

    def compute(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        readable = ~np.isnan(labels) if is_regression else labels != UNREADABLE_LABEL
        if not readable.any():
            raise ValueError("None of the videos could be read.")
        predictions = scores[readable]
        return metric.compute(predictions=predictions[:, 0] if is_regression else predictions, references=labels[readable])

    return compute


def as_compute_metrics(
    compute: Callable[[np.ndarray, np.ndarray], dict[str, float]],
) -> Callable[[EvalPrediction], dict[str, float]]:
    return lambda prediction: compute(prediction.predictions, prediction.label_ids)
