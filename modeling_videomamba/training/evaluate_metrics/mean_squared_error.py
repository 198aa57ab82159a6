"""A metric of `evaluate` that needs no hub: its path is given to `evaluate.load`."""

import datasets
import evaluate
import numpy as np


class MeanSquaredError(evaluate.Metric):
    """The mean squared error of one predicted value a sample, as `mse`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: values (samples,). references: values (samples,).",
            features=datasets.Features({"predictions": datasets.Value("float32"), "references": datasets.Value("float32")}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"mse": float(np.mean((np.asarray(predictions) - np.asarray(references)) ** 2))}
