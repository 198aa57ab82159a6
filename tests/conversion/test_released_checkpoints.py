"""The table of released checkpoints is complete, agrees with itself and with the architecture, and is found by name."""

import csv
import re
from dataclasses import FrozenInstanceError

import pytest
import torch

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextPreTraining,
    VideoMambaVideoTextConfig,
)
from modeling_videomamba.checkpoints.released import ALIASES, NUM_LABELS, TABLE, expected_config, find_released, load_released
from modeling_videomamba.flop_counter import count_flops
from tests.rows import for_every


RELEASED = load_released()
CLASSIFIERS = [row for row in RELEASED.values() if row.task.endswith("-classification")]
PRETRAINED = [row for row in RELEASED.values() if row.task == "masked-pretraining"]
VIDEO_TEXT = [row for row in RELEASED.values() if row.task == "video-text"]

ID = re.compile(
    r"videomamba-(?P<size>ti|s|m|b)-"
    r"(?:mm-(?P<corpus>5m|17m|25m)"
    r"|(?P<dataset>in1k|k400|ssv2|breakfast|coin)"
    r"(?:-mask-pt|(?:-mask)?(?:-f(?P<frames>8|16|32|64))?(?:-res(?P<resolution>288|384|448|576))?))"
)
SIZES = {"ti": "tiny", "s": "small", "m": "middle", "b": "base"}
DATASETS = {
    "in1k": "imagenet-1k",
    "k400": "kinetics-400",
    "ssv2": "something-something-v2",
    "breakfast": "breakfast",
    "coin": "coin",
}


class TestTable:
    def test_as_many_as_the_model_zoo_has(self):
        with TABLE.open(newline="") as file:
            ids = [row["id"] for row in csv.DictReader(file)]
        assert len(ids) == len(set(ids)) == len(RELEASED) == 63
        assert list(RELEASED) == ids
        counts = {task: sum(row.task == task for row in RELEASED.values()) for task in {r.task for r in RELEASED.values()}}
        assert counts == {
            "image-classification": 10,
            "masked-pretraining": 2,
            "video-classification": 20 + 12 + 8 + 8,
            "video-text": 3,
        }

    def test_no_file_is_named_twice(self):
        assert len({row.file for row in RELEASED.values()}) == 63

    @for_every(RELEASED.values())
    def test_the_id_says_what_the_columns_say(self, row):
        name = ID.fullmatch(row.id)
        assert row.size == SIZES[name["size"]]
        assert row.dataset == (name["corpus"] or DATASETS[name["dataset"]])
        assert row.resolution == int(name["resolution"] or 224)
        if name["frames"]:
            assert row.frames == int(name["frames"])
        else:
            assert row.frames == {"image-classification": None, "masked-pretraining": 8, "video-text": 8}[row.task]

    @for_every(RELEASED.values())
    def test_the_file_says_what_the_columns_say(self, row):
        size, frames, resolution = re.fullmatch(
            r"videomamba_(t|s|m|b)16_\w+?(?:_f(\d+))?_res(?:\d+to)*(\d+)\.pth", row.file
        ).groups()
        assert SIZES[size.replace("t", "ti")] == row.size
        assert (frames and int(frames), int(resolution)) == (row.frames, row.resolution)
        assert ("_mask_ft_" in row.file, "_mask_pt_" in row.file) == (
            "-mask" in row.id and row.task == "video-classification",
            row.task == "masked-pretraining",
        )

    @for_every(RELEASED.values())
    def test_the_parent_is_one_of_them_and_can_be_the_parent(self, row):
        if row.parent is not None:
            parent = RELEASED[row.parent]
            assert parent is not row
            assert (parent.size, parent.resolution <= row.resolution) == (row.size, True)
            assert (parent.frames or 0) <= (row.frames or 0)

    def test_training_starts_from_scratch_or_from_a_parent_that_did(self):
        for row in RELEASED.values():
            ancestors = [row]
            while ancestors[-1].parent is not None:
                ancestors.append(RELEASED[ancestors[-1].parent])
                assert len(ancestors) < 6
            assert ancestors[-1].task == (
                "masked-pretraining" if "-mask" in row.id or "-mm-" in row.id else "image-classification"
            )

    @for_every(CLASSIFIERS)
    def test_a_classifier_has_an_accuracy_and_views(self, row):
        assert 60 < row.top1 < 100
        assert row.top5 is None or row.top1 < row.top5 < 100
        views = {"imagenet-1k": (1, 1), "coin": (10, 3)}.get(row.dataset, (4, 3))
        assert (row.clips, row.crops) == views

    @for_every(PRETRAINED + VIDEO_TEXT)
    def test_the_others_have_none(self, row):
        assert (row.top1, row.top5, row.clips, row.crops, row.gflops) == (None,) * 5

    @for_every(RELEASED.values())
    def test_quirks_are_sentences(self, row):
        for quirk in row.quirks:
            assert re.fullmatch(r"\S.*[^.\s]", quirk), quirk
            assert quirk[0].isupper() or quirk[0].isdigit()

    @for_every([row for row in CLASSIFIERS if row.size == "middle" and row.frames])
    def test_who_has_a_twin_of_equal_shapes_says_so(self, row):
        twin = row.id.replace("-mask", "") if "-mask" in row.id else re.sub(r"-f(\d)", r"-mask-f\1", row.id)
        assert expected_config(RELEASED[twin]).to_dict() == expected_config(row).to_dict()
        assert f"Every tensor should have the same shape as in {twin}, so only values tell the two files apart" in row.quirks


class TestArchitecture:
    @for_every(CLASSIFIERS)
    def test_parameters_are_those_of_the_model(self, row):
        config = expected_config(row)
        with torch.device("meta"):
            model = (VideoMambaForVideoClassification if row.frames else VideoMambaForImageClassification)(config)
        assert model.num_parameters() == row.parameters
        assert config.num_labels == NUM_LABELS[row.dataset]

    @for_every(PRETRAINED)
    def test_masked_pretraining(self, row):
        config = expected_config(row)
        with torch.device("meta"):
            assert row.parameters == VideoMambaForPreTraining(config).num_parameters()
        assert (config.hidden_size, config.num_frames, config.num_labels) == (576, 8, 0)

    @for_every(CLASSIFIERS + PRETRAINED)
    def test_cost_with_the_scan(self, row):
        assert row.gflops_with_scan == round(count_flops(expected_config(row)) / 1e9, 1)

    @for_every(VIDEO_TEXT)
    def test_video_text(self, row):
        config = expected_config(row)
        with torch.device("meta"):
            model = VideoMambaForVideoTextPreTraining(VideoMambaVideoTextConfig(vision_config=config))
        assert model.num_parameters() == row.parameters
        assert (config.hidden_size, config.num_frames, config.num_labels) == (576, 8, 0)


class TestNames:
    @for_every(RELEASED)
    def test_an_id(self, name):
        assert find_released(name).id == name

    @for_every(ALIASES)
    def test_an_alias(self, alias):
        assert alias not in RELEASED
        assert find_released(alias).id == ALIASES[alias]

    @for_every(
        [
            ("videomamba-m-k400", "videomamba-m-k400-f16"),
            ("videomamba-ti-ssv2", "videomamba-ti-ssv2-f16"),
            ("videomamba-s-breakfast", "videomamba-s-breakfast-f32"),
            ("videomamba-ti-coin", "videomamba-ti-coin-f32"),
            ("videomamba-m-k400-best", "videomamba-m-k400-mask-f64-res384"),
            ("videomamba-m-mm", "videomamba-m-mm-25m"),
            ("videomamba-b-in1k", "videomamba-b-in1k"),
        ]
    )
    def test_the_rule_behind_the_aliases(self, alias, id):
        assert find_released(alias).id == id

    def test_best_is_best(self):
        best = max((row for row in CLASSIFIERS if row.dataset == "kinetics-400"), key=lambda row: row.top1)
        assert find_released("videomamba-m-k400-best") == best

    def test_an_unknown_name_is_answered_with_the_closest_ones(self):
        with pytest.raises(ValueError, match=r"no released checkpoint 'videomamba-m-k40'\. The closest names are .*m-k400\b"):
            find_released("videomamba-m-k40")
        with pytest.raises(ValueError, match=r"no released checkpoint 'resnet50'\. Names look like"):
            find_released("resnet50")

    def test_a_row_cannot_be_changed(self):
        with pytest.raises(FrozenInstanceError):
            find_released("videomamba-m-k400").top1 = 100.0


class TestZeroShotRetrieval:
    def test_every_video_text_checkpoint_has_ten_rows(self):
        with TABLE.with_name("zero_shot_retrieval.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["id", "dataset", "direction", "r1", "r5", "r10"]
        assert {(row["id"], row["dataset"], row["direction"]) for row in rows} == {
            (checkpoint.id, dataset, direction)
            for checkpoint in VIDEO_TEXT
            for dataset in ("msrvtt", "didemo", "activitynet", "lsmdc", "msvd")
            for direction in ("text-to-video", "video-to-text")
        }
        assert len(rows) == 30
        for row in rows:
            assert 0 < float(row["r1"]) < float(row["r5"]) < float(row["r10"]) < 100
