"""A metric of `evaluate` that needs no hub: its path is given to `evaluate.load`."""

import datasets
import evaluate
import numpy as np


class SeveralLabels(evaluate.Metric):
    """How well several labels a sample are told, as `map` and `micro_f1`.

    `map` is the mean over labels of the average precision: of the samples in the order of their scores, the precision at each
    that has the label, averaged. Samples of equal scores are in one place. A label that no sample has does not count.
    `micro_f1` is the harmonic mean of precision and recall over all pairs of a sample and a label, with 0.5 as the threshold.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: probabilities (samples, labels). references: 0 or 1 (samples, labels).",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Sequence(datasets.Value("float32")),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references) > 0.5  # (samples, labels)
        precisions = [average_precision(scores[:, i], labels[:, i]) for i in range(labels.shape[1]) if labels[:, i].any()]
        hits, mistakes = ((scores > 0.5) & labels).sum(), ((scores > 0.5) != labels).sum()
        return {
            "map": float(np.mean(precisions)) if precisions else 0.0,
            "micro_f1": float(2 * hits / (2 * hits + mistakes)) if hits + mistakes else 1.0,
        }


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Of one label: scores and whether it is there, both `(samples,)`."""
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(labels[order])[last_of_equals]
    precision = found / (np.flatnonzero(last_of_equals) + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / labels.sum())
