"""The losses of classifiers and regressors are torch's own, whatever the weights and however a step is divided."""

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from modeling_videomamba.data.clips import UNREADABLE_LABEL
from modeling_videomamba.training.losses import ClassificationLoss, class_weights_of
from tests.rows import all_rows


SINGLE, SEVERAL, VALUES = "single_label_classification", "multi_label_classification", "regression"
WEIGHTS = torch.tensor([0.5, 1.0, 4.0])
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.0], [-1.0, 0.5, 2.0], [0.1, 0.2, 0.3]])
IDS = torch.tensor([0, 2, 2, 1])
MIXED = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
SETS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
CASES = {
    "ids": (SINGLE, None, IDS, F.cross_entropy(LOGITS, IDS)),
    "ids, weighted": (SINGLE, WEIGHTS, IDS, F.cross_entropy(LOGITS, IDS, WEIGHTS, reduction="sum") / 4),
    "mixed": (SINGLE, None, MIXED, F.cross_entropy(LOGITS, MIXED)),
    "mixed, weighted": (SINGLE, WEIGHTS, MIXED, F.cross_entropy(LOGITS, MIXED, WEIGHTS)),
    "several": (SEVERAL, None, SETS, F.binary_cross_entropy_with_logits(LOGITS, SETS)),
    "several, weighted": (SEVERAL, WEIGHTS, SETS, F.binary_cross_entropy_with_logits(LOGITS, SETS, pos_weight=WEIGHTS)),
    "values": (VALUES, None, torch.tensor([0.0, 1.0, 2.0, 3.0]), F.mse_loss(LOGITS[:, 0], torch.arange(4.0))),
}

by_case = pytest.mark.parametrize(("problem_type", "weights", "labels", "expected"), CASES.values(), ids=CASES)


def outputs(logits: torch.Tensor) -> ImageClassifierOutput:
    return ImageClassifierOutput(logits=logits)


@by_case
def test_it_is_torchs(problem_type, weights, labels, expected):
    loss = ClassificationLoss(problem_type, weights)
    torch.testing.assert_close(loss(outputs(LOGITS), labels), expected)
    torch.testing.assert_close(loss(outputs(LOGITS.bfloat16()), labels), expected, rtol=2e-2, atol=2e-2)


@by_case
def test_the_parts_of_a_step_add_up_to_it(problem_type, weights, labels, expected):
    loss = ClassificationLoss(problem_type, weights)
    parts = [loss(outputs(LOGITS[part]), labels[part], labels.numel()) for part in (slice(1), slice(1, 4))]
    torch.testing.assert_close(sum(parts), expected)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        (SINGLE, torch.tensor([0, 2, UNREADABLE_LABEL, 1])),
        (SEVERAL, SETS.clone().index_fill_(0, torch.tensor([2]), torch.nan)),
        (VALUES, torch.tensor([0.0, 1.0, torch.nan, 2.0])),
    ],
)
def test_what_cannot_be_read_does_not_count(problem_type, labels):
    loss = ClassificationLoss(problem_type, None if problem_type == VALUES else WEIGHTS)
    kept = torch.tensor([0, 1, 3])
    torch.testing.assert_close(loss(outputs(LOGITS), labels), loss(outputs(LOGITS[kept]), labels[kept]))


class TestClassWeights:
    NAMES = ["cat", "dog", "eel"]

    def weights(self, text: str, labels: list, problem_type: str = SINGLE) -> list[float]:
        return class_weights_of(text, labels, self.NAMES, problem_type).tolist()

    def test_balanced_classes_count_the_same_in_all(self):
        labels = [0, 0, 0, 0, 1, 1, 2]
        weights = self.weights("balanced", labels)
        assert weights == pytest.approx([7 / 12, 7 / 6, 7 / 3])
        assert sum(weights[label] for label in labels) == pytest.approx(len(labels))  # so the learning rate means the same

    def test_balanced_labels_count_as_much_as_their_absence(self):
        assert self.weights("balanced", [[1, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1]], SEVERAL) == pytest.approx([1 / 3, 3, 1])

    def test_a_list_is_in_the_order_of_ids_and_names_are_the_others_1(self):
        assert self.weights("[1, 2, 0.5]", [0]) == [1, 2, 0.5]
        assert self.weights('{"dog": 3}', [0]) == [1, 3, 1]

    def test_what_is_wrong_is_said(self):
        def check(text, message):
            with pytest.raises(ValueError, match=message.replace("?", r"\?")):
                self.weights(text, [0, 0])

        all_rows(
            check,
            [
                ("balnced", "expected balanced, a list of numbers"),
                ("[1, 2]", "has 2 numbers for 3 classes: cat, dog, eel"),
                ('{"dgo": 2}', "there is no class 'dgo'. Did you mean dog?"),
                ("[1, -1, 2]", "expected balanced, a list of numbers from 0 on"),
                ("[1, NaN, 2]", "expected balanced, a list of numbers from 0 on"),
                ("[0, 0, 0]", "expected balanced, a list of numbers from 0 on"),
                ("balanced", "no video to train on is dog, eel"),
            ],
        )

    def test_values_have_no_classes(self):
        with pytest.raises(ValueError, match="have no classes"):
            self.weights("balanced", [0.5], VALUES)
