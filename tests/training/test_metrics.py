"""Metrics of classes and of values. Those of several labels a video are tested with the labels."""

from types import SimpleNamespace

import numpy as np
import pytest

from modeling_videomamba.data.clips import UNREADABLE_LABEL
from modeling_videomamba.training.metrics import as_compute_metrics, metrics_of


SINGLE = "single_label_classification"


def test_a_class_is_right_if_it_is_the_first_or_among_the_first_five():
    scores = np.array([[9, 8, 7, 6, 5, 4, 3]] * 4, dtype=np.float32)
    assert metrics_of(SINGLE)(scores, np.array([0, 1, 4, 5])) == {"accuracy": 0.25, "top5_accuracy": 0.75}
    assert metrics_of(SINGLE)(scores[:, :2], np.array([0, 1, 1, 1])) == {"accuracy": 0.25, "top5_accuracy": 1.0}


def test_of_values_the_squared_error_counts():
    scores = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
    assert metrics_of("regression")(scores, np.array([1.0, 0.0, 4.0], dtype=np.float32)) == {"mse": pytest.approx(5 / 3)}


def test_what_cannot_be_read_does_not_count():
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    assert metrics_of(SINGLE)(scores, np.array([0, UNREADABLE_LABEL, 1]))["accuracy"] == 0.5
    values = np.array([1.0, np.nan, 3.0], dtype=np.float32)
    assert metrics_of("regression")(scores[:, :1], values) == {"mse": 2.0}
    for problem_type, labels in ((SINGLE, np.array([UNREADABLE_LABEL])), ("regression", np.array([np.nan]))):
        with pytest.raises(ValueError, match="None of the videos could be read"):
            metrics_of(problem_type)(scores[:1], labels)


def test_a_label_is_told_where_its_logit_is_above_0():
    """Which is a probability of one half."""
    logits = np.array([[0.3, -0.3], [0.2, -0.1]], dtype=np.float32)
    labels = np.array([[1, 0], [1, 0]], dtype=np.float32)
    prediction = SimpleNamespace(predictions=logits, label_ids=labels)
    assert as_compute_metrics("multi_label_classification")(prediction)["micro_f1"] == 1
    wrong = SimpleNamespace(predictions=-logits, label_ids=labels)
    assert as_compute_metrics("multi_label_classification")(wrong)["micro_f1"] == 0
