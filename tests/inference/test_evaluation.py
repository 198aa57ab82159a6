"""`videomamba evaluate`, from labelled videos to scores, metrics and a block for the model card."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Video
from filelock import FileLock
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaModel,
    VideoMambaVideoProcessor,
)
from modeling_videomamba.commands import evaluate as evaluate_command
from modeling_videomamba.data import outputs
from modeling_videomamba.data.clips import EvaluationViews, read_frames
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.inference import evaluation
from modeling_videomamba.inference.confusion_matrix import draw_confusion_matrix
from modeling_videomamba.inference.views import merge
from modeling_videomamba.training.metrics import metrics_of
from tests.conftest import golden, render_clip, render_noise, save_model, small_config
from tests.forks import fork, fork_group


HEAD = ["short", "a", "b", "long", "c", "d", "e"]  # not in the order of the class folders


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More of them only get into each other's way with models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three long and three short videos, in class folders."""
    root = tmp_path_factory.mktemp("videos")
    for label, num_frames in {"long": 32, "short": 10}.items():
        (root / "test" / label).mkdir(parents=True)
        for i in range(3):
            render_noise(root / "test" / label / f"{label}{i}.gif", seed=num_frames + i, num_frames=num_frames)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    ids = {name: i for i, name in enumerate(HEAD)}
    return save_model(tmp_path_factory.mktemp("model"), label2id=ids, id2label=dict(enumerate(HEAD)), num_labels=len(HEAD))


@pytest.fixture(scope="module")
def regressor(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("regressor"), num_labels=1, problem_type="regression")


def options(model: Path, data: Path, output_dir: Path, **changed) -> list[str]:
    given = {"model": model, "data": data, "output_dir": output_dir, "num_workers": 0} | changed
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def evaluate(*args, **changed) -> dict:
    """Runs the script in this process; returns what results.json says."""
    evaluate_command.main(options(*args, **changed))
    return json.loads((args[2] / "results.json").read_text())


def table_in(output_dir: Path) -> dict[str, list]:
    return pyarrow.parquet.read_table(output_dir / "scores.parquet").to_pydict()


def scores_in(output_dir: Path) -> np.ndarray:
    return np.array(table_in(output_dir)["scores"])


def write_list(file: Path, videos: Path, label="{name}", columns="") -> list[Path]:
    """Writes a list of all videos, sorted, and returns their paths."""
    paths = sorted(videos.rglob("*.gif"))
    lines = [f"{path},{label.format(name=path.parent.name, i=i)}{columns}\n" for i, path in enumerate(paths)]
    file.write_text("".join(lines))
    return paths


class TestMerging:
    def test_views_and_repeats_as_the_reference_merges_them(self):
        reference = golden("multiview_merge")
        logits = reference.inputs["logits"]  # (videos, clips, crops, classes)
        scores = VideoMambaVideoProcessor().post_process_video_classification(logits.flatten(0, 2), num_views=12).numpy()
        labels = reference.inputs["labels"].tolist()
        samples = [{"video": f"cam1/{i}.avi", "label": labels[i], "scores": scores[i]} for i in range(5)]
        repeats = [{"video": f"cam2/{i}.ch1.avi", "label": labels[i], "scores": -scores[i]} for i in range(5)]

        videos = merge(samples + repeats, by="stem")

        merged = np.stack([video["scores"] for video in videos])
        np.testing.assert_allclose(merged, reference.outputs["scores"], rtol=1e-6)
        metrics = metrics_of("single_label_classification")(merged, np.array([video["label"] for video in videos]))
        assert 100 * metrics["accuracy"] == pytest.approx(reference.outputs["top1"].item())
        assert 100 * metrics["top5_accuracy"] == pytest.approx(reference.outputs["top5"].item())

    def test_by_path_windows_are_averaged_and_files_of_one_name_are_two_videos(self):
        names = ["cam1/tea.avi", "cam2/tea.avi", "cam1/tea.avi"]
        samples = [{"video": name, "label": 1, "scores": np.array([i, 1.0])} for i, name in enumerate(names)]
        first, second = merge(samples, by="path")
        assert (first["video"], first["label"], first["scores"].tolist()) == ("cam1/tea.avi", 1, [1, 1])
        assert (second["video"], second["label"], second["scores"].tolist()) == ("cam2/tea.avi", 1, [1, 1])

    def test_one_video_cannot_have_two_labels(self):
        samples = [{"video": f"{name}/1.gif", "label": name, "scores": np.ones(2)} for name in ("jump", "run")]
        assert len(merge(samples, by="path")) == 2
        with pytest.raises(ValueError, match=r"jump/1.gif and run/1.gif would count as one video .* jump and run"):
            merge(samples, by="stem")


class TestScores:
    def test_a_folder_of_classes(self, videos, model, tmp_path):
        results = evaluate(model, videos, tmp_path, num_clips=2, num_crops=3, batch_size=4)

        processor = VideoMambaVideoProcessor.from_pretrained(model)
        network = VideoMambaForVideoClassification.from_pretrained(model).eval()
        paths = sorted(videos.rglob("*.gif"))
        with torch.inference_mode():
            by_hand = [
                network(processor(str(path), num_clips=2, num_crops=3, return_tensors="pt")["pixel_values"]).logits
                for path in paths
            ]
        expected = torch.stack([logits.softmax(-1).mean(0) for logits in by_hand])
        np.testing.assert_allclose(scores_in(tmp_path), expected, rtol=1e-4)

        table = table_in(tmp_path)
        assert table["video"] == [str(path) for path in paths]
        assert table["label"] == [path.parent.name for path in paths]
        assert table["prediction"] == [HEAD[i] for i in expected.argmax(-1)]
        hits = [HEAD[i] == path.parent.name for i, path in zip(expected.argmax(-1), paths)]
        top5 = [HEAD.index(path.parent.name) in row.topk(5).indices for row, path in zip(expected, paths)]
        assert results["accuracy"] == np.mean(hits)
        assert results["top5_accuracy"] == np.mean(top5)
        wanted = {"num_videos": 6, "split": "test", "num_clips": 2, "num_crops": 3, "num_frames": 4, "merge": "path"}
        assert wanted.items() <= results.items()
        assert Image.open(tmp_path / "confusion_matrix.png").width > 300

    def test_a_folder_or_data_set_without_splits_is_evaluated_as_it_is(self, videos, model, tmp_path, capsys):
        results = evaluate(model, videos / "test", tmp_path / "out")
        assert (results["split"], results["num_videos"]) == ("all", 6)
        assert f"{videos / 'test'}, all of it, since it has no splits: 6 videos" in capsys.readouterr().out

        paths = sorted(map(str, videos.rglob("*.gif")))
        Dataset.from_dict({"video": paths, "label": [Path(path).parent.name for path in paths]}).save_to_disk(
            tmp_path / "data"
        )
        again = evaluate(model, tmp_path / "data", tmp_path / "again")
        assert (again["split"], again["accuracy"]) == ("all", results["accuracy"])

    def test_several_labels_a_video(self, videos, tmp_path):
        names = dict(enumerate(HEAD))
        model = save_model(tmp_path / "model", problem_type="multi_label_classification", id2label=names, num_labels=len(HEAD))
        paths = sorted(videos.rglob("*.gif"))
        labels = [f"{path.parent.name};{HEAD[i % 2]}" for i, path in enumerate(paths)]
        (tmp_path / "list.csv").write_text("".join(f"{path},{label}\n" for path, label in zip(paths, labels)))
        results = evaluate(model, tmp_path / "list.csv", tmp_path / "out", num_clips=2)
        assert {"map", "micro_f1"} <= results.keys()
        table, scores = table_in(tmp_path / "out"), scores_in(tmp_path / "out")
        assert [set(row) for row in table["label"]] == [set(label.split(";")) for label in labels]
        assert [set(row) for row in table["prediction"]] == [{HEAD[i] for i in np.flatnonzero(row > 0.5)} for row in scores]
        assert "mean average precision" in (tmp_path / "out/card_block.md").read_text()

    def test_decoding_in_workers_and_autocast(self, videos, model, tmp_path):
        evaluate(model, videos, tmp_path / "fp32")
        evaluate(model, videos, tmp_path / "bf16", num_workers=1, bf16=True)
        half, single = scores_in(tmp_path / "bf16"), scores_in(tmp_path / "fp32")
        np.testing.assert_allclose(half, single, atol=0.05)
        assert not np.array_equal(half, single)

    def test_a_single_list_has_its_own_name_and_val_stands_in_for_test(self, videos, model, tmp_path):
        write_list(tmp_path / "list.csv", videos, label="3")
        assert evaluate(model, tmp_path / "list.csv", tmp_path / "one")["split"] == "list"
        with pytest.raises(ValueError, match="--split val: .*list.csv is a single list, which has no splits"):
            evaluate(model, tmp_path / "list.csv", tmp_path / "one", split="val")
        (tmp_path / "list.csv").rename(tmp_path / "val.csv")
        assert evaluate(model, tmp_path, tmp_path / "two")["split"] == "val"
        (tmp_path / "val.csv").rename(tmp_path / "train.csv")
        with pytest.raises(ValueError, match=r"has neither test nor val videos; --split train takes"):
            evaluate(model, tmp_path, tmp_path / "three")

    def test_class_ids_of_another_order_are_told_apart_by_their_names(self, videos, model, tmp_path):
        write_list(tmp_path / "list.csv", videos, label="0")
        (tmp_path / "names.txt").write_text("\n".join(reversed(HEAD)))
        evaluate(model, tmp_path / "list.csv", tmp_path / "out", labels=tmp_path / "names.txt")
        assert set(table_in(tmp_path / "out")["label"]) == {"e"}

    def test_videos_inside_a_data_set_are_all_different(self, videos, model, tmp_path):
        contents = [path.read_bytes() for path in sorted(videos.rglob("long*.gif"))]
        rows = {"video": [{"path": "clip.gif", "bytes": content} for content in contents], "label": ["long"] * 3}
        features = Features({"video": Video(decode=False), "label": ClassLabel(names=["long"])})
        datasets.DatasetDict({"test": Dataset.from_dict(rows, features)}).save_to_disk(tmp_path / "data")
        assert evaluate(model, tmp_path / "data", tmp_path / "out")["num_videos"] == 3

    def test_values_are_regressed(self, videos, regressor, tmp_path):
        write_list(tmp_path / "list.csv", videos, label="0.{i}")
        results = evaluate(regressor, tmp_path / "list.csv", tmp_path / "out", num_clips=2)
        errors = scores_in(tmp_path / "out")[:, 0] - np.arange(6) / 10
        assert results["mse"] == pytest.approx(np.mean(errors**2), rel=1e-5)
        assert not (tmp_path / "out/confusion_matrix.png").exists()

    @pytest.mark.parametrize("by", ["path", "stem"])
    def test_windows_of_long_videos(self, videos, regressor, tmp_path, by):
        write_list(tmp_path / "list.csv", videos / "test/long", label="0.{i}", columns=",1.28")  # 32 frames at 25 a second
        cut = {"window_seconds": 0.5, "window_stride": 0.5}
        results = evaluate(regressor, tmp_path / "list.csv", tmp_path / "out", merge=by, **cut)
        assert (results["num_samples"], results["num_videos"]) == (6, 3)
        table = table_in(tmp_path / "out")
        assert list(zip(table["start"], table["end"])) == [(0, 0.5), (0.5, 1)] * 3
        values = scores_in(tmp_path / "out").reshape(3, 2)
        merged = values.mean(1) if by == "path" else values[:, 0]
        assert results["mse"] == pytest.approx(np.mean((merged - np.arange(3) / 10) ** 2), rel=1e-5)

    def test_clips_of_another_length(self, videos, model, tmp_path):
        assert evaluate(model, videos, tmp_path / "8", num_frames=8)["num_frames"] == 8
        evaluate(model, videos, tmp_path / "4")
        assert not np.allclose(scores_in(tmp_path / "8"), scores_in(tmp_path / "4"))

    def test_shuffled_frames_change_what_moves_and_nothing_else(self, videos, model, tmp_path):
        render_noise(tmp_path / "still.gif", seed=0, num_frames=1)
        paths = write_list(tmp_path / "list.csv", videos / "test/long")
        (tmp_path / "list.csv").open("a").write(f"{tmp_path / 'still.gif'},long\n")
        evaluate(model, tmp_path / "list.csv", tmp_path / "ordered")
        for name in ("shuffled", "again"):
            assert evaluate(model, tmp_path / "list.csv", tmp_path / name, shuffle_frames=True)["shuffle_frames"]
        ordered, shuffled, again = (scores_in(tmp_path / name) for name in ("ordered", "shuffled", "again"))
        assert np.array_equal(shuffled, again)
        assert (np.abs(shuffled - ordered).max(axis=1) > 1e-3).tolist() == [True] * len(paths) + [False]


class TestMemory:
    @pytest.mark.parametrize("num_crops", [1, 3])
    @pytest.mark.parametrize(("do_resize", "size"), [(True, (32, 48)), (False, (64, 96))])
    def test_frames_are_resized_as_they_are_decoded_and_the_views_are_the_same(self, num_crops, do_resize, size, tmp_path):
        render_clip(tmp_path / "clip.mp4", size=(64, 96))
        row = {"video": str(tmp_path / "clip.mp4")}
        edge = min(size)
        processor = VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=edge, do_resize=do_resize)
        handed_on = []

        class Views(EvaluationViews):
            def _views_of(self, frames):
                handed_on.append(tuple(frames.shape))
                return super()._views_of(frames)

        sampling = FRAME_SAMPLINGS["ssv2"]
        videos = Dataset.from_list([row])
        views = Views(videos, [0], sampling, processor, unreadable=None, num_clips=2, num_crops=num_crops)[0]["pixel_values"]
        assert handed_on == [(8, 3, *size)]

        frames = read_frames(row, lambda total: sampling.views(total, 4, 2))
        assert frames.shape == (8, 3, 64, 96)
        options = {"do_sample_frames": False, "num_clips": 2, "num_crops": num_crops}
        torch.testing.assert_close(views, processor(frames, **options, return_tensors="pt")["pixel_values"])


class TestRecipes:
    def test_what_a_recipe_says_of_data_counts_and_the_rest_is_left_out(self, videos, model, tmp_path):
        recipe = "model: its-parent\nnum_frames: 64\nlearning_rate: 1e-4\nbf16: true\nnum_clips: 2\nmerge: stem\n"
        (tmp_path / "recipe.yaml").write_text(recipe)
        results = evaluate(model, videos, tmp_path / "out", recipe=tmp_path / "recipe.yaml", num_crops=3)
        wanted = {"num_clips": 2, "num_crops": 3, "merge": "stem", "num_frames": 4, "bf16": False, "model": str(model)}
        assert wanted.items() <= results.items()

    def test_the_model_is_never_taken_from_a_recipe(self, videos, tmp_path, capsys):
        (tmp_path / "recipe.yaml").write_text("model: its-parent\n")
        with pytest.raises(SystemExit):
            evaluate_command.main(["--recipe", str(tmp_path / "recipe.yaml"), "--output_dir", "unused"])
        assert "required: --model" in capsys.readouterr().err

    def test_an_unknown_option_is_an_error(self, videos, model, tmp_path, capsys):
        with pytest.raises(SystemExit, match="2"):
            evaluate(model, videos, tmp_path, learning_rate=1)
        assert "There is no option --learning_rate." in capsys.readouterr().err


class TestWhatIsWrong:
    @pytest.fixture
    def with_a_bad_one(self, videos, tmp_path) -> Path:
        """A list whose second video is none."""
        write_list(tmp_path / "list.csv", videos)
        bad = tmp_path / "bad.gif"
        bad.write_text("no video")
        lines = (tmp_path / "list.csv").read_text().splitlines()
        (tmp_path / "list.csv").write_text("\n".join([lines[0], f"{bad},long", *lines[1:]]))
        return tmp_path / "list.csv"

    def test_whatever_a_video_makes_the_model_raise_is_named_and_does_not_count(
        self, videos, model, tmp_path, monkeypatch, capsys
    ):
        score, calls = evaluation.classify_views, []

        def fail_second(*args):
            calls.append(args)
            if len(calls) == 2:
                raise ValueError("Frames of 34 x 48 pixels cannot be cut into patches")
            return score(*args)

        monkeypatch.setattr(evaluation, "classify_views", fail_second)
        results = evaluate(model, videos, tmp_path / "out")
        assert results["unreadable_videos"] == [f"{videos}/test/long/long1.gif"]
        assert results["num_videos"] == 5
        assert f"skipped {videos}/test/long/long1.gif: Frames of 34 x 48 pixels" in capsys.readouterr().err
        assert evaluate(model, videos, tmp_path / "out")["num_videos"] == 6

    def test_an_id_without_a_name_is_named_with_its_line(self, videos, model, tmp_path):
        write_list(tmp_path / "list.csv", videos, label="{i}00000000")
        (tmp_path / "names.txt").write_text("\n".join(HEAD))
        for given in ({}, {"labels": tmp_path / "names.txt"}):
            with pytest.raises(ValueError, match=f"head of 7 does not have: 1.* The first is in {tmp_path}/list.csv, line 2"):
                evaluate(model, tmp_path / "list.csv", tmp_path / "out", **given)

    def test_an_unreadable_video_is_named_and_does_not_count(self, videos, model, with_a_bad_one, tmp_path, capsys):
        results = evaluate(model, with_a_bad_one, tmp_path / "out")
        bad = str(tmp_path / "bad.gif")
        assert results["unreadable_videos"] == [bad]
        assert results["num_videos"] == 6
        assert (tmp_path / "out/unreadable_files.txt").read_text() == f"{bad}\n"
        assert "1 video(s) could not be read" in capsys.readouterr().out
        without = evaluate(model, videos, tmp_path / "without")
        assert results["accuracy"] == without["accuracy"]
        assert np.array_equal(scores_in(tmp_path / "out"), scores_in(tmp_path / "without"))

        render_noise(tmp_path / "bad.gif", seed=0, num_frames=8)  # repaired, and tried again
        results = evaluate(model, with_a_bad_one, tmp_path / "out")
        assert (results["num_videos"], results["unreadable_videos"]) == (7, [])
        assert not (tmp_path / "out/unreadable_files.txt").exists()

    def test_a_name_that_is_no_utf8_counts_as_unreadable(self, videos, model, tmp_path):
        shutil.copytree(videos, tmp_path / "videos")
        shutil.copy(videos / "test/long/long0.gif", tmp_path / "videos/test/long/caf\udce9.gif")
        results = evaluate(model, tmp_path / "videos", tmp_path / "out")
        assert results["unreadable_videos"] == [f"{tmp_path}/videos/test/long/caf\\udce9.gif"]
        assert results["num_videos"] == 6

    def test_strict_stops_at_it(self, model, with_a_bad_one, tmp_path):
        with pytest.raises(ValueError, match=r"Cannot read .*bad.gif"):
            evaluate(model, with_a_bad_one, tmp_path / "out", strict=True)

    def test_no_readable_video(self, model, tmp_path):
        (tmp_path / "bad.gif").write_text("no video")
        (tmp_path / "list.csv").write_text("bad.gif,long\n")
        with pytest.raises(ValueError, match="None of the 1 videos could be read"):
            evaluate(model, tmp_path / "list.csv", tmp_path / "out")

    @pytest.mark.parametrize("name", ["num_clips", "num_crops", "num_frames", "batch_size"])
    def test_none_of_something(self, videos, model, tmp_path, name):
        with pytest.raises(ValueError, match=f"--{name} must be at least 1, got 0"):
            evaluate(model, videos, tmp_path / "out", **{name: 0})
        assert not (tmp_path / "out").exists()

    def test_a_label_that_the_head_does_not_have(self, videos, model, tmp_path):
        write_list(tmp_path / "list.csv", videos, label="very {name}")
        with pytest.raises(ValueError, match="head of 7 does not have: 'very long', 'very short'"):
            evaluate(model, tmp_path / "list.csv", tmp_path / "out")

    def test_a_model_without_a_trained_head(self, videos, tmp_path):
        VideoMambaModel(small_config()).save_pretrained(tmp_path / "bare")
        with pytest.raises(ValueError, match=r"no trained classifier of videos, it lacks classifier"):
            evaluate(tmp_path / "bare", videos, tmp_path / "out")

    def test_a_model_of_images(self, videos, tmp_path):
        VideoMambaForImageClassification(small_config(num_frames=None)).save_pretrained(tmp_path / "images")
        with pytest.raises(ValueError, match="is a model of images"):
            evaluate(tmp_path / "images", videos, tmp_path / "out")

    def test_scores_of_other_settings_are_not_mixed(self, videos, model, tmp_path):
        evaluate(model, videos, tmp_path / "out")
        with pytest.raises(ValueError, match=r"other settings: num_clips was 1 and is 2\. Give another --output_dir"):
            evaluate(model, videos, tmp_path / "out", num_clips=2)
        other = save_model(tmp_path / "other", num_labels=len(HEAD), id2label=dict(enumerate(HEAD)), rms_norm=False)
        with pytest.raises(ValueError, match=r"model_fingerprint was \w+ and is"):
            evaluate(other, videos, tmp_path / "out")
        assert evaluate(model, videos, tmp_path / "out", merge="stem")["merge"] == "stem"  # of the same scores


def evaluate_until_killed(arguments: list[str]) -> None:
    """Kills its process at the fourth sample."""
    read = EvaluationViews.__getitem__

    def read_or_die(self, index: int):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    EvaluationViews.__getitem__ = read_or_die
    evaluate_command.main(arguments)


class TestInterruptions:
    def test_a_killed_run_goes_on_where_it_was(self, videos, model, tmp_path, capsys):
        copies = tmp_path / "copies"
        copies.mkdir()
        for path in videos.rglob("*.gif"):
            (copies / path.name).write_bytes(path.read_bytes())
        paths = write_list(tmp_path / "list.csv", copies, label="long")
        evaluate(model, tmp_path / "list.csv", tmp_path / "whole")

        arguments = options(model, tmp_path / "list.csv", tmp_path / "out")
        process = fork(evaluate_until_killed, arguments)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        part = tmp_path / "out/part-0.jsonl"
        lines = part.read_text().splitlines()
        assert [json.loads(line)["video"] for line in lines] == [str(path) for path in paths[:3]]
        part.open("a").write('{"index": 3, "video": "lo')  # killed while writing
        for path in paths[:3]:
            path.unlink()

        capsys.readouterr()
        results = evaluate(model, tmp_path / "list.csv", tmp_path / "out")
        assert "6 videos or windows, of which 3 are done" in capsys.readouterr().out
        assert part.read_text().splitlines()[:3] == lines
        assert [json.loads(line)["index"] for line in part.read_text().splitlines()] == [0, 1, 2, 3, 4, 5]
        assert not (tmp_path / "out/unreadable_files.txt").exists(), "the removed videos are not opened again"
        assert results["num_videos"] == 6
        assert np.array_equal(scores_in(tmp_path / "out"), scores_in(tmp_path / "whole"))

    def test_the_same_model_may_be_called_otherwise(self, videos, model, tmp_path, monkeypatch, capsys):
        evaluate(model, videos, tmp_path / "out")
        assert json.loads((tmp_path / "out/settings.json").read_text())["model"] == str(model)
        monkeypatch.chdir(model.parent)
        assert evaluate(f"{model.name}/", videos, tmp_path / "out")["model"] == f"{model.name}/"
        assert "6 videos or windows, of which 6 are done" in capsys.readouterr().out

    def test_processes_share_the_videos_and_one_goes_on_alone(self, videos, model, tmp_path, capsys):
        write_list(tmp_path / "list.csv", videos)
        processes = fork_group(2, evaluate_command.main, options(model, tmp_path / "list.csv", tmp_path / "two"))
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        parts = [(tmp_path / f"two/part-{i}.jsonl").read_text().splitlines(keepends=True) for i in range(2)]
        assert [[json.loads(line)["index"] for line in part] for part in parts] == [[0, 2, 4], [1, 3, 5]]
        evaluate(model, tmp_path / "list.csv", tmp_path / "one")
        np.testing.assert_allclose(scores_in(tmp_path / "two"), scores_in(tmp_path / "one"), rtol=1e-4)

        (tmp_path / "two/part-1.jsonl").write_text(parts[1][0])
        evaluate(model, tmp_path / "list.csv", tmp_path / "two")
        assert "of which 4 are done" in capsys.readouterr().out
        np.testing.assert_allclose(scores_in(tmp_path / "two"), scores_in(tmp_path / "one"), rtol=1e-4)


class TestTheDirectory:
    def test_is_that_of_one_run(self, videos, model, tmp_path, monkeypatch):
        monkeypatch.setattr(outputs, "PATIENCE", 0)
        (tmp_path / "out").mkdir()
        with FileLock(tmp_path / "out" / outputs.LOCK), pytest.raises(BlockingIOError, match="out is in use: another run"):
            evaluate(model, videos, tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [outputs.LOCK]

    @pytest.mark.parametrize("what", ["the directory", "scores"])
    def test_may_not_lose_scores_during_the_run(self, videos, model, tmp_path, monkeypatch, what):
        """Which are not those of unreadable videos."""
        score = evaluation.classify_views

        def remove(*args):
            part = tmp_path / "out/part-0.jsonl"
            shutil.rmtree(part.parent, ignore_errors=True) if what == "the directory" else part.unlink(missing_ok=True)
            return score(*args)

        monkeypatch.setattr(evaluation, "classify_views", remove)
        lost = {"the directory": "out was removed or replaced", "scores": "out has no scores of 6 videos, such as .*long0.gif"}
        with pytest.raises((FileNotFoundError, ValueError), match=lost[what]):
            evaluate(model, videos, tmp_path / "out")
        monkeypatch.undo()
        assert evaluate(model, videos, tmp_path / "out")["num_videos"] == 6


class TestCards:
    def test_the_block_is_a_card_of_its_own(self, videos, model, tmp_path):
        results = evaluate(model, videos, tmp_path, num_clips=2, num_crops=3, dataset_name="My clips")
        card = ModelCard.load(tmp_path / "card_block.md")
        top1, top5 = card.data.eval_results
        assert (top1.dataset_name, top1.dataset_split, top1.metric_type) == ("My clips", "test", "accuracy")
        assert top1.metric_name == "top-1, %, 4 frames x 3 crops x 2 clips"
        assert top1.metric_value == pytest.approx(100 * results["accuracy"], abs=0.01)
        assert top5.metric_value == pytest.approx(100 * results["top5_accuracy"], abs=0.01)
        assert f"| 4 x 3 x 2 | 6 | path | {top1.metric_value:.2f} | {top5.metric_value:.2f} |" in card.text

    def test_a_models_card_takes_results_once_and_keeps_all_else(self, videos, tmp_path):
        model = save_model(tmp_path / "model", num_labels=2, id2label={0: "long", 1: "short"})
        place = {"task_type": "video-classification", "dataset_type": "clips", "dataset_name": "Clips"}
        source = {"source_name": "its authors", "source_url": "https://example.org"}
        claim = EvalResult(**place, dataset_split="test", metric_type="accuracy", metric_value=99.9, **source)
        data = ModelCardData(license="apache-2.0", model_name="clipper", eval_results=[claim])
        (model / "README.md").write_text(f"---\n{data}\n---\n\n# Clipper\n\nIt clips.\n")

        for output, changes in {"a": {}, "b": {"num_clips": 2}, "c": {"shuffle_frames": True}}.items():
            evaluate(model, videos, tmp_path / output, dataset_name="Clips", update_card=True, **changes)

        card = ModelCard.load(model / "README.md")
        assert (card.data.license, card.data.model_name) == ("apache-2.0", "clipper")
        found = [(result.dataset_name, result.source_name, result.metric_name) for result in card.data.eval_results]
        assert found == [  # no top-5 of two labels
            ("Clips", "its authors", None),
            ("Clips", None, "top-1, %, 4 frames x 1 crops x 2 clips"),
            ("Clips (frames shuffled)", None, "top-1, %, 4 frames x 1 crops x 1 clips"),
        ]
        assert card.text.startswith("\n# Clipper\n\nIt clips.\n\n<!-- results on Clips, test -->")
        assert card.text.count("## Results on") == 2
        assert "| 4 x 1 x 2 |" in card.text

    def test_a_model_without_a_card_gets_one(self, videos, tmp_path):
        model = save_model(tmp_path / "model", num_labels=2, id2label={0: "long", 1: "short"})
        evaluate(model, videos, tmp_path / "out", update_card=True)
        assert "# model\n\n<!-- results on" in (model / "README.md").read_text()

    def test_only_a_directory_has_a_card_to_update(self, videos, tmp_path):
        with pytest.raises(ValueError, match="videomamba-ti-k400-f16 is not a directory"):
            evaluate("videomamba-ti-k400-f16", videos, tmp_path, update_card=True)


class TestConfusionMatrix:
    def test_names_and_counts(self):
        figure = draw_confusion_matrix([0, 0, 2, 2, 2], [0, 2, 2, 2, 2], ["run", "never seen", "jump"])
        [axes] = figure.axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["run", "jump"]
        assert {text.get_position(): text.get_text() for text in axes.texts} == {
            (0, 0): "50%\n1",
            (1, 0): "50%\n1",
            (1, 1): "100%\n3",
        }
        assert axes.get_title() == "4 of 5 videos right"

    @pytest.mark.parametrize("num_classes", [2, 40])
    def test_dollars_are_no_formulas(self, num_classes, tmp_path):
        labels = list(range(num_classes))
        figure = draw_confusion_matrix(labels, labels[::-1], [rf"bad $\frac$ {i}" for i in labels])
        figure.savefig(tmp_path / "matrix.png")

    def test_of_many_classes_the_most_frequent_confusions(self):
        labels = [*range(400), 7, 7, 9]
        predictions = [*range(400), 8, 8, 3]
        figure = draw_confusion_matrix(labels, predictions, [f"class {i}" for i in range(400)])
        [listing] = [text.get_text() for axes in figure.axes for text in axes.texts]
        assert listing.splitlines()[1:] == ["2 ×  class 7  →  class 8", "1 ×  class 9  →  class 3"]
