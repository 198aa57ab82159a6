"""A metric of `evaluate` that needs no hub: its path is given to `evaluate.load`."""

import datasets
import evaluate
import numpy as np


class TopKAccuracy(evaluate.Metric):
    """The share of samples whose label is among the k with the highest scores, as `accuracy` (k = 1) and `top5_accuracy`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: scores (samples, labels). references: class ids (samples,).",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        best = np.argsort(-np.asarray(predictions), axis=1, kind="stable")  # (samples, labels), the highest score first
        hits = best == np.asarray(references)[:, None]
        return {"accuracy": float(hits[:, :1].any(axis=1).mean()), "top5_accuracy": float(hits[:, :5].any(axis=1).mean())}
