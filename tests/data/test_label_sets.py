"""Several labels a video: how they are written, what becomes of them, and how well they are told."""

import evaluate
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from sklearn.metrics import average_precision_score, f1_score

from modeling_videomamba.data.label_sets import label_set_names, label_vectors, num_label_sets
from modeling_videomamba.data.media_lists import hold_out, label_names, read_list, write_list
from modeling_videomamba.data.mixing import ClipMixing
from modeling_videomamba.training.metrics import METRICS, as_compute_metrics
from tests.rows import all_rows


NAMES = ["bark", "cat", "dog"]
ID2LABEL = dict(enumerate(NAMES))
VECTORS = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def table(labels: list, feature: object | None = None) -> Dataset:
    columns = {"video": [f"{i}.mp4" for i in range(len(labels))], "label": labels}
    features = None if feature is None else Features({"video": Value("string"), "label": feature})
    return Dataset.from_dict(columns, features)


TABLES = {
    "names in a field": table(["dog; bark", "cat", ""]),
    "lists of names": table([["dog", "bark"], ["cat"], []]),
    "named ids": table([[2, 0], [1], []], Sequence(ClassLabel(names=NAMES))),
}
NUMBERED = {
    "ids in a field": table(["2;0", "1", ""]),
    "lists of ids": table([[2, 0], [1], []]),
    "values of 0 and 1": table([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    "true and false": table([[True, False, True], [False, True, False], [False, False, False]]),
}


@pytest.mark.parametrize("name", TABLES)
def test_labels_with_names(name):
    assert label_set_names(TABLES[name]) == NAMES
    assert label_vectors(TABLES[name], ID2LABEL, "train") == VECTORS


@pytest.mark.parametrize("name", NUMBERED)
def test_labels_that_are_numbers(name):
    assert label_set_names(NUMBERED[name]) is None
    assert num_label_sets(NUMBERED[name]) == 3
    assert label_vectors(NUMBERED[name], {i: f"LABEL_{i}" for i in range(3)}, "train") == VECTORS


def test_a_column_of_single_labels_has_sets_of_one():
    assert label_vectors(table([2, 0]), ID2LABEL, "train") == [[0, 0, 1], [1, 0, 0]]
    assert label_vectors(table([2, 0], ClassLabel(names=NAMES)), ID2LABEL, "train") == [[0, 0, 1], [1, 0, 0]]


def test_they_are_put_in_the_order_of_the_heads_ids():
    assert label_vectors(TABLES["lists of names"], {0: "dog", 1: "cat", 2: "bark"}, "train")[0] == [1, 0, 1]
    assert label_vectors(TABLES["named ids"], {0: "dog", 1: "bark", 2: "cat"}, "train")[1] == [0, 0, 1]


def test_a_label_that_the_head_lacks_is_named():
    def check(labels, message):
        with pytest.raises(ValueError, match=message):
            label_vectors(table(labels), ID2LABEL, "train")

    all_rows(
        check,
        [
            (["dog;eel"], "train has the label 'eel', which the model's head does not have. It has bark, cat, dog"),
            (["0;3"], "train has the label '3'"),
            ([[1.0, 0.0]], "expected 3 values of 0 or 1 for each video"),
            ([[1.0, 0.0, 0.5]], "expected 3 values of 0 or 1 for each video"),
        ],
    )


def test_numbers_that_are_not_ids_are_not_names_either():
    def check(labels, wrong):
        with pytest.raises(ValueError, match=f"row [12]: expected class ids, 0 or more, got {wrong}"):
            label_set_names(table(labels))

    all_rows(
        check,
        [
            (["0;2", "0;-1"], "'-1'"),
            (["0;2", "1.5"], "'1.5'"),
            (["0;2", "nan"], "'nan'"),
            (["0;2", "9" * 5000], "'999"),
            ([0.0, 1.5], "'0.0'"),
        ],
    )


def test_a_list_of_them_is_read_held_out_and_written_again(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.mp4").write_text("")
    (tmp_path / "list.csv").write_text("".join(f"{i}.mp4,{'cat;dog' if i % 2 else 'bark'}\n" for i in range(10)))
    videos = read_list(tmp_path / "list.csv")
    kept, held_out = hold_out(videos, 0.2, seed=0, by_class=False)
    assert (len(kept), len(held_out)) == (8, 2)
    write_list(held_out, tmp_path / "held_out.csv")
    again = read_list(tmp_path / "held_out.csv")
    assert label_vectors(again, ID2LABEL, "val") == label_vectors(held_out, ID2LABEL, "val")

    lists = table([["cat", "dog"], ["bark"]] * 5)
    assert len(hold_out(lists, 0.2, seed=0, by_class=False)[1]) == 2
    write_list(lists, tmp_path / "lists.csv")
    assert (tmp_path / "lists.csv").read_text().splitlines()[0].endswith(",cat;dog")


@pytest.mark.parametrize("name", [*TABLES, *NUMBERED])
def test_in_whatever_way_they_are_written_they_mean_the_same_in_a_list(name, tmp_path):
    videos = (TABLES | NUMBERED)[name]
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_text("")
    videos = videos.map(lambda row: {"video": str(tmp_path / row["video"])})
    write_list(videos, tmp_path / "list.csv")
    assert (
        label_vectors(read_list(tmp_path / "list.csv"), ID2LABEL if name in TABLES else {0: "a", 1: "b", 2: "c"}, "")
        == VECTORS
    )


def test_one_label_a_video_cannot_be_learned_from_several():
    with pytest.raises(ValueError, match="several labels: --problem_type multi_label_classification"):
        label_names(table([["cat"]]))


def test_mixing_and_smoothing_take_each_label_by_itself():
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    clips = torch.zeros(2, 1, 3, 4, 4)
    _, smoothed = ClipMixing(3, mixup_alpha=0, cutmix_alpha=0, label_smoothing=0.2)(clips, labels)
    torch.testing.assert_close(smoothed, torch.tensor([[0.9, 0.1, 0.9], [0.1, 0.9, 0.1]]))
    _, mixed = ClipMixing(3, mixup_alpha=1, cutmix_alpha=0, label_smoothing=0)(clips, labels)
    torch.testing.assert_close(mixed[0] + mixed[1], torch.ones(3))


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(str(METRICS / "several_labels.py"))


class TestMetrics:
    @pytest.mark.parametrize("decimals", [8, 1])  # with one, many scores are equal
    def test_they_are_those_of_scikit_learn(self, metric, decimals):
        random = np.random.default_rng(0)
        scores = random.random((50, 4)).round(decimals)
        labels = (random.random((50, 4)) < [0.1, 0.3, 0.5, 0.9]).astype(float)
        results = metric.compute(predictions=scores, references=labels)
        assert results["map"] == pytest.approx(average_precision_score(labels, scores.astype(np.float32), average="macro"))
        assert results["micro_f1"] == pytest.approx(f1_score(labels, scores > 0.5, average="micro"))

    def test_a_label_that_no_video_has_does_not_count(self, metric):
        results = metric.compute(predictions=[[0.9, 0.9], [0.1, 0.1]], references=[[1, 0], [0, 0]])
        assert results == {"map": 1.0, "micro_f1": pytest.approx(2 / 3)}

    def test_a_trainers_logits_become_probabilities_and_what_cannot_be_read_does_not_count(self):
        logits = np.array([[1.0, -1.0], [-1000.0, 1000.0], [5.0, 5.0]], dtype=np.float32)
        labels = np.array([[1, 0], [0, 1], [np.nan, np.nan]], dtype=np.float32)
        prediction = type("Prediction", (), {"predictions": logits, "label_ids": labels})
        assert as_compute_metrics("multi_label_classification")(prediction) == {"map": 1.0, "micro_f1": 1.0}
