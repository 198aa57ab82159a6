"""`videomamba classify-many`, from a folder or list of videos to one table, whatever happens on the way."""

import csv
import gc
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from filelock import FileLock

from modeling_videomamba import VideoMambaForVideoClassification, VideoMambaVideoProcessor
from modeling_videomamba.commands import classify_many
from modeling_videomamba.data import outputs
from modeling_videomamba.inference import bulk_classification
from modeling_videomamba.inference.bulk_classification import MOST_WAITING, batches_by_shape
from tests.conftest import render_clip, render_noise, save_model, served
from tests.forks import fork_group
from tests.training_runs import command, finish, start


COMMAND = command("classify-many")
LABELS = ["a", "b", "c, and d", "e", "f", "g"]  # one more than there are columns for

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), num_labels=len(LABELS), id2label=dict(enumerate(LABELS)))


@pytest.fixture
def videos(tmp_path) -> Path:
    """Five videos in a folder and a folder in it, of which no two look alike."""
    (tmp_path / "videos/more").mkdir(parents=True)
    for i, name in enumerate(["0.gif", "1.gif", "more/2.gif", "more/3.gif", "more/4.gif"]):
        render_noise(tmp_path / "videos" / name, seed=i, num_frames=8 + 3 * i)
    (tmp_path / "videos/notes.txt").write_text("no video")
    return tmp_path / "videos"


def options(model: Path, videos: Path, output_dir: Path, **changed) -> list[str]:
    given = {"model": model, "videos": videos, "output_dir": output_dir} | changed
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def classify(*args, **changed) -> list[dict]:
    """Runs the script in this process, and reads its table."""
    classify_many.main(options(*args, **changed))
    return table_in(args[2])


def table_in(output_dir: Path) -> list[dict]:
    with (output_dir / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def part(output_dir: Path, process: int) -> list[str]:
    """The names of the videos that a process wrote down, in this order."""
    lines = (output_dir / f"part-{process}.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["video"] for line in lines if line.endswith("\n")]


def all_parts(output_dir: Path) -> list[str]:
    return [video for process in range(len(list(output_dir.glob("part-*.jsonl")))) for video in part(output_dir, process)]


def assert_same_tables(ours: list[dict], theirs: list[dict]) -> None:
    """But for rounding: batches of another size."""
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs):
        scores, expected = ({key: float(row[key]) for key in row if key.startswith("score_")} for row in (row, other))
        assert scores == pytest.approx(expected, rel=1e-4)
        assert row | scores == other | scores


def run_in_two_processes(model: Path, videos: Path, output_dir: Path) -> None:
    """As `--num_processes 2`, but with forks of this process, which need not import anything."""
    PartialState._reset_state()  # what is known of an earlier run
    gc.collect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify_many, "LaunchConfig", partial(classify_many.LaunchConfig, start_method="fork"))
        patch.setattr(torch.cuda, "is_available", lambda: False)
        classify_many.main(options(model, videos, output_dir, batch_size=1, num_processes=2))
    PartialState._reset_state()


class TestTheTable:
    def test_is_what_the_model_says_of_one_video_after_the_other(self, videos, model, tmp_path):
        rows = classify(model, videos, tmp_path / "out", num_clips=2, num_crops=3, num_frames=8, batch_size=13)

        paths = sorted(videos.rglob("*.gif"))
        assert [row["video"] for row in rows] == [str(path) for path in paths]
        processor = VideoMambaVideoProcessor.from_pretrained(model)
        network = VideoMambaForVideoClassification.from_pretrained(model).eval()
        for path, row in zip(paths, rows):
            views = processor(path, num_clips=2, num_crops=3, num_frames=8, return_tensors="pt")
            with torch.inference_mode():
                logits = network(**views, interpolate_pos_encoding=True).logits
            best = processor.post_process_video_classification(logits, num_views=6)[0].topk(5)
            assert list(row) == ["video", "error", *(f"{kind}_{i}" for i in range(1, 6) for kind in ("label", "score"))]
            assert [row[f"label_{i}"] for i in range(1, 6)] == [LABELS[label] for label in best.indices]
            assert [float(row[f"score_{i}"]) for i in range(1, 6)] == pytest.approx(best.values.tolist(), rel=1e-4)
            assert row["error"] == ""

    def test_decoding_in_workers_and_autocast_change_nothing_but_digits(self, videos, model, tmp_path):
        expected = classify(model, videos, tmp_path / "fp32")
        rows = classify(model, videos, tmp_path / "workers", num_workers=2)
        assert_same_tables(rows, expected)
        half = classify(model, videos, tmp_path / "bf16", bf16=True)
        difference = [abs(float(row["score_1"]) - float(other["score_1"])) for row, other in zip(half, expected)]
        assert 0 < max(difference) < 0.05

    @pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
    def test_where_no_label_wins_every_score_has_a_column(self, videos, tmp_path, problem_type):
        model = save_model(tmp_path / "model", num_labels=7, problem_type=problem_type)
        row = classify(model, videos, tmp_path / "out")[0]
        assert list(row) == ["video", "error", *(f"score_LABEL_{i}" for i in range(7))]
        inputs = VideoMambaVideoProcessor.from_pretrained(model)(row["video"], return_tensors="pt")
        with torch.inference_mode():
            logits = VideoMambaForVideoClassification.from_pretrained(model).eval()(**inputs).logits[0]
        expected = logits if problem_type == "regression" else logits.sigmoid()
        assert [float(row[f"score_LABEL_{i}"]) for i in range(7)] == pytest.approx(expected.tolist(), rel=1e-4)


class TestNames:
    def test_one_that_is_no_utf8_is_classified_and_escaped_in_the_table(self, videos, model, tmp_path, capsys):
        shutil.copy(videos / "0.gif", os.fsencode(videos) + b"/caf\xe9.gif")
        rows = {Path(row["video"]).name: row for row in classify(model, videos, tmp_path / "out")}
        assert rows["caf\\udce9.gif"] | {"video": ""} == rows["0.gif"] | {"video": ""}
        assert rows["0.gif"]["label_1"]

        capsys.readouterr()
        assert len(classify(model, videos, tmp_path / "out")) == 6
        assert "6 videos, of which 6 are done" in capsys.readouterr().out

    def test_one_with_control_characters_is_classified_escaped_and_not_done_again(self, videos, model, tmp_path, capsys):
        for name in ("\x1b[2J.gif", "two\nlines.gif", "=1+1.gif", "\u202efig.gif"):
            shutil.copy(videos / "0.gif", videos / name)
        rows = {Path(row["video"]).name: row for row in classify(model, videos, tmp_path / "out")}
        for name in (r"\x1b[2J.gif", r"two\nlines.gif", "=1+1.gif", r"\u202efig.gif"):
            assert rows[name] | {"video": ""} == rows["0.gif"] | {"video": ""}
        classify(model, videos, tmp_path / "out")
        assert "9 videos, of which 9 are done" in capsys.readouterr().out

    def test_one_that_is_no_utf8_may_have_an_error(self, videos, model, tmp_path):
        (videos / "caf\udce9.gif").write_text("no video")
        [row] = [row for row in classify(model, videos, tmp_path / "out") if row["error"]]
        assert row["error"].startswith(f"Cannot decode the video {videos}/caf\\udce9.gif")

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-2.5", "'-2.5"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("＝1+1", "'＝1+1"),
            ("\t=1+1", r"\t=1+1"),
            ("\r=1+1", r"\r=1+1"),
            ("\x1b[31mred", r"\x1b[31mred"),
            ("a=b", "a=b"),
            (None, ""),
            (-2.5, "-2.5"),
            (1e-9, "1e-09"),
        ],
    )
    def test_texts_are_no_formulas_and_numbers_stay_numbers(self, text, shown):
        assert bulk_classification.cell(text) == shown

    def test_labels_are_no_formulas(self, videos, tmp_path):
        names = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "run"]
        model = save_model(tmp_path / "model", num_labels=5, id2label=dict(enumerate(names)))
        row = classify(model, videos, tmp_path / "out")[0]
        assert {row[f"label_{i}"] for i in range(1, 6)} == {*(f"'{name}" for name in names[:4]), "run"}

    def test_of_a_regressor_negative_scores_are_numbers(self, videos, tmp_path):
        model = save_model(tmp_path / "model", num_labels=1, problem_type="regression")
        network = VideoMambaForVideoClassification.from_pretrained(model)
        torch.nn.init.constant_(network.classifier.bias, -100)
        network.save_pretrained(model)
        assert all(-200 < float(row["score_LABEL_0"]) < -50 for row in classify(model, videos, tmp_path / "out"))


class TestLists:
    def test_a_list_has_paths_and_addresses_and_what_cannot_be_read_has_its_reason(self, videos, model, tmp_path, capsys):
        (tmp_path / "text.mp4").write_text("no video")
        with served(videos) as address:
            entries = [
                "videos/more/2.gif",
                "text.mp4",
                str(videos / "0.gif"),
                "missing.mp4",
                f"{address}/1.gif",
                f"{address}/missing.gif",
                "videos/more/2.gif",
            ]
            (tmp_path / "list.txt").write_text("\n".join(entries))
            rows = classify(model, tmp_path / "list.txt", tmp_path / "out")

        names = [entry if entry.startswith("http") else str(tmp_path / entry) for entry in entries]
        assert [row["video"] for row in rows] == names[:-1], "each once, in the order of the list"
        by_name = {row["video"]: row for row in classify(model, videos, tmp_path / "folder")}
        good = [by_name[str(videos / name)] for name in ("more/2.gif", "0.gif", "1.gif")]
        assert_same_tables([row | {"video": ""} for row in rows[::2]], [row | {"video": ""} for row in good])
        errors = ["Cannot decode the video", "No such video file", "Cannot fetch the video"]
        for row, error in zip(rows[1::2], errors):
            assert row["error"].startswith(error)
            assert row["label_1"] == row["score_1"] == ""
        assert "3 of 6 could not be classified" in capsys.readouterr().out

    def test_a_csv_of_the_training_scripts_is_a_list(self, videos, model, tmp_path):
        (tmp_path / "val.csv").write_text("path,label\nmore/3.gif,jump\n0.gif,run\n")
        rows = classify(model, tmp_path / "val.csv", tmp_path / "out", media_root=os.path.relpath(videos))
        assert [row["video"] for row in rows] == [str(videos / "more/3.gif"), str(videos / "0.gif")]


class TestWhatIsWrong:
    @pytest.mark.parametrize("name", ["num_clips", "num_crops", "num_frames", "batch_size", "num_processes"])
    def test_none_of_something_is_an_error_before_anything_is_written(self, videos, model, tmp_path, name):
        with pytest.raises(ValueError, match=f"--{name} must be at least 1, got 0"):
            classify(model, videos, tmp_path / "out", **{name: 0})
        assert not (tmp_path / "out").exists()

    def test_nothing_to_classify_is_an_error(self, model, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="has no videos"):
            classify(model, tmp_path / "empty", tmp_path / "out")
        with pytest.raises(FileNotFoundError, match="There is no folder or list"):
            classify(model, tmp_path / "nowhere", tmp_path / "out")

    def test_a_damaged_part_is_named_with_its_line(self, videos, model, tmp_path):
        classify(model, videos, tmp_path / "out")
        lines = (tmp_path / "out/part-0.jsonl").read_text().splitlines()
        for damage in ("{", "3", "{}", '{"video": ["0.gif"]}', "\0" * 20, "[" * 100_000):
            (tmp_path / "out/part-0.jsonl").write_text("\n".join([lines[0], damage, *lines[1:], ""]))
            with pytest.raises(ValueError, match="part-0.jsonl, line 2: .* Remove the file to have its videos done again"):
                classify(model, videos, tmp_path / "out")
        for damage in ("{", "3", "[" * 100_000, "\0"):
            (tmp_path / "out/settings.json").write_text(damage)
            with pytest.raises(ValueError, match="settings.json"):
                classify(model, videos, tmp_path / "out")


class TestFilesThatRaise:
    @pytest.fixture
    def reader(self, monkeypatch) -> dict[str, Exception]:
        """What the processor raises for a file, by the file's name."""
        errors, read = {}, VideoMambaVideoProcessor.__call__

        def raise_or_read(self, video, *args, **kwargs):
            if error := errors.get(Path(video).name):
                raise error
            return read(self, video, *args, **kwargs)

        monkeypatch.setattr(VideoMambaVideoProcessor, "__call__", raise_or_read)
        return errors

    def test_anything_have_that_as_their_reason_and_the_others_an_answer(self, videos, model, tmp_path, reader, capsys):
        expected = classify(model, videos, tmp_path / "whole")
        reader |= {
            "0.gif": IndexError("list index out of range"),
            "1.gif": MemoryError(),
            "2.gif": RuntimeError("vector::_M_default_append"),
            "3.gif": KeyError("a"),
        }
        for _ in range(2):  # and every restart
            rows = classify(model, videos, tmp_path / "out")
            assert [row["error"] for row in rows] == [
                f"{videos}/0.gif: IndexError: list index out of range",
                f"{videos}/1.gif: MemoryError: ",
                f"{videos}/more/2.gif: RuntimeError: vector::_M_default_append",
                f"{videos}/more/3.gif: KeyError: 'a'",
                "",
            ]
        assert rows[4] == expected[4]
        reader.clear()
        assert classify(model, videos, tmp_path / "out") == expected

    def test_anything_in_a_worker_do_not_end_it(self, videos, model, tmp_path, reader):
        reader["1.gif"] = IndexError("list index out of range")
        rows = classify(model, videos, tmp_path / "out", num_workers=1)
        assert [bool(row["error"]) for row in rows] == [False, True, False, False, False]

    def test_in_the_model_have_that_as_their_reason(self, videos, model, tmp_path, monkeypatch):
        answer, calls = bulk_classification.classify_views, []

        def fail_first(*args):
            calls.append(args)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("too large")
            return answer(*args)

        monkeypatch.setattr(bulk_classification, "classify_views", fail_first)
        rows = classify(model, videos, tmp_path / "out", batch_size=1)
        assert [row["error"] for row in rows] == [f"{videos}/0.gif: OutOfMemoryError: too large", "", "", "", ""]

    def test_an_accelerator_that_fails_ends_the_run(self, videos, model, tmp_path, monkeypatch):
        def fail(*args):
            raise torch.AcceleratorError("an illegal memory access", 700)

        monkeypatch.setattr(bulk_classification, "classify_views", fail)
        with pytest.raises(torch.AcceleratorError):
            classify(model, videos, tmp_path / "out")

    def test_what_vanishes_or_is_no_file_has_its_reason(self, videos, model, tmp_path):
        (videos / "link.mp4").symlink_to(tmp_path / "nowhere.mp4")
        (videos / "empty.mp4").touch()
        (videos / "folder.mp4").mkdir()
        (videos / "folder.mp4/0.txt").touch()
        (tmp_path / "list.txt").write_text(
            "\n".join(f"videos/{n}.mp4" for n in ("link", "empty", "folder")) + "\nvideos/0.gif\n"
        )
        rows = classify(model, tmp_path / "list.txt", tmp_path / "out")
        assert [bool(row["error"]) for row in rows] == [True, True, True, False]


class TestTheDirectory:
    def test_is_that_of_one_run(self, videos, model, tmp_path, monkeypatch):
        monkeypatch.setattr(outputs, "PATIENCE", 0)
        (tmp_path / "out").mkdir()
        with FileLock(tmp_path / "out" / outputs.LOCK), pytest.raises(BlockingIOError, match="out is in use: another run"):
            classify(model, videos, tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [outputs.LOCK]
        classify(model, videos, tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            *("errors-0.jsonl", "part-0.jsonl", "predictions.csv", "settings.json")
        ]

    def test_may_not_vanish_during_the_run(self, videos, model, tmp_path, monkeypatch):
        answer = bulk_classification.classify_views

        def remove(*args):
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            return answer(*args)

        monkeypatch.setattr(bulk_classification, "classify_views", remove)
        with pytest.raises(FileNotFoundError, match="out was removed or replaced while this run was writing to it"):
            classify(model, videos, tmp_path / "out")
        monkeypatch.undo()
        assert len(classify(model, videos, tmp_path / "out")) == 5

    def test_may_not_lose_a_file_during_the_run(self, videos, model, tmp_path, monkeypatch):
        answer = bulk_classification.classify_views

        def remove(*args):
            (tmp_path / "out/part-0.jsonl").unlink(missing_ok=True)
            return answer(*args)

        monkeypatch.setattr(bulk_classification, "classify_views", remove)
        with pytest.raises(ValueError, match="out has no answer for 5 videos, such as .*0.gif: start again"):
            classify(model, videos, tmp_path / "out")


class TestShapes:
    def test_a_batch_has_clips_of_one_shape(self):
        shapes = [2, 3, 2, 3, 2, 3, 3, 2]
        batches = batches_by_shape(((str(i), torch.zeros(shape)) for i, shape in enumerate(shapes)), size=3)
        assert [[name for name, _ in batch] for batch in batches] == [["0", "2", "4"], ["1", "3", "5"], ["6"], ["7"]]

    def test_of_many_shapes_few_clips_wait(self):
        items = ((str(i), torch.zeros(1 + i % 50)) for i in range(100))
        seen = []
        for batch in batches_by_shape(items, size=2):
            assert len({clip.shape for _, clip in batch}) == 1
            seen += [int(name) for name, _ in batch]
            assert max(seen) - len(seen) < 2 * MOST_WAITING
        assert sorted(seen) == list(range(100))

    def test_frames_that_are_not_cropped_go_through_the_model_in_their_own_shape(self, model, tmp_path):
        shutil.copytree(model, tmp_path / "model")
        VideoMambaVideoProcessor(num_frames=4, do_resize=False, do_center_crop=False).save_pretrained(tmp_path / "model")
        (tmp_path / "videos").mkdir()
        for i, size in {0: (32, 48), 1: (48, 32), 3: (34, 48), 4: (64, 32)}.items():
            render_clip(tmp_path / f"videos/{i}.mp4", num_frames=8, size=size)
        shutil.copy(tmp_path / "videos/0.mp4", tmp_path / "videos/2.mp4")  # x264 does not always write the same file twice
        rows = classify(tmp_path / "model", tmp_path / "videos", tmp_path / "out")
        assert [bool(row["label_1"]) for row in rows] == [True, True, True, False, True]
        assert rows[3]["error"].startswith("Frames of 34 x 48 pixels cannot be cut into patches of 16 pixels")
        assert rows[0] | {"video": ""} == rows[2] | {"video": ""} != rows[1] | {"video": ""}


class TestGoingOn:
    def test_a_folder_that_grew_and_a_file_that_was_repaired(self, videos, model, tmp_path, capsys):
        (videos / "more/3.gif").rename(tmp_path / "good.gif")
        (videos / "more/3.gif").write_text("no video")
        before = classify(model, videos, tmp_path / "out")
        assert "1 of 5 could not be classified" in capsys.readouterr().out
        old = [row["video"] for row in before if not row["error"]]

        (tmp_path / "good.gif").replace(videos / "more/3.gif")
        render_noise(videos / "00.gif", seed=9, num_frames=8)
        after = classify(model, videos, tmp_path / "out")
        assert "6 videos, of which 4 are done" in capsys.readouterr().out
        assert all_parts(tmp_path / "out") == [*old, str(videos / "00.gif"), str(videos / "more/3.gif")]
        assert [row["video"] for row in after] == [str(path) for path in sorted(videos.rglob("*.gif"))]
        assert [row for row in after if row["video"] in old] == [row for row in before if row["video"] in old]
        assert not any(row["error"] for row in after)

    def test_when_all_is_done_the_table_is_written_again(self, videos, model, tmp_path):
        rows = classify(model, videos, tmp_path / "out")
        (tmp_path / "out/predictions.csv").unlink()
        shutil.rmtree(videos / "more")  # and what is done is not opened again
        assert classify(model, videos, tmp_path / "out") == rows[:2]

    def test_other_settings_or_another_list_need_another_directory(self, videos, model, tmp_path):
        classify(model, videos, tmp_path / "out")
        with pytest.raises(ValueError, match=r"other settings: num_clips was 1 and is 2\. Give another --output_dir"):
            classify(model, videos, tmp_path / "out", num_clips=2)
        with pytest.raises(ValueError, match=r"other settings: videos was .*videos and is .*videos/more"):
            classify(model, videos / "more", tmp_path / "out")
        other = save_model(tmp_path / "other", num_labels=len(LABELS), rms_norm=False)
        with pytest.raises(ValueError, match=r"model_fingerprint was \w+ and is"):
            classify(other, videos, tmp_path / "out")

    def test_the_same_model_may_be_called_otherwise(self, videos, model, tmp_path, monkeypatch, capsys):
        rows = classify(model, videos, tmp_path / "out")
        assert json.loads((tmp_path / "out/settings.json").read_text())["model"] == str(model)
        monkeypatch.chdir(model.parent)
        for name in (model.name, f"{model.name}/"):
            capsys.readouterr()
            assert classify(name, videos, tmp_path / "out") == rows
            assert "5 videos, of which 5 are done" in capsys.readouterr().out


class TestProcesses:
    def test_two_processes_have_a_half_each_and_give_the_same_table(self, videos, model, tmp_path):
        run_in_two_processes(model, videos, tmp_path / "two")
        paths = [str(path) for path in sorted(videos.rglob("*.gif"))]
        assert (part(tmp_path / "two", 0), part(tmp_path / "two", 1)) == (paths[::2], paths[1::2])
        assert_same_tables(table_in(tmp_path / "two"), classify(model, videos, tmp_path / "one"))

    def test_killed_and_started_again_it_loses_nothing_and_repeats_nothing(self, videos, model, tmp_path, capsys):
        for i in range(100):
            shutil.copy(videos / f"{i % 2}.gif", tmp_path / f"videos/{i:02}.gif")
        expected = classify(model, videos, tmp_path / "whole", batch_size=1)
        out = tmp_path / "out"

        processes = fork_group(2, classify_many.main, options(model, videos, out, batch_size=1))
        while len(list(out.glob("part-*.jsonl"))) < 2 or min(len(part(out, i)) for i in range(2)) < 5:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.005)
        for process in processes:
            process.kill()  # SIGKILL
            process.join()
        assert not (out / "predictions.csv").exists(), "it was over before it was killed"
        done = [part(out, i) for i in range(2)]
        (out / "part-1.jsonl").open("a").write('{"video": "half a li')

        capsys.readouterr()
        rows = classify(model, videos, out, batch_size=1)
        assert f"{len(expected)} videos, of which {len(done[0] + done[1])} are done" in capsys.readouterr().out
        assert rows == expected
        assert part(out, 0)[: len(done[0])] == done[0]
        assert part(out, 1) == done[1]
        assert sorted(all_parts(out)) == [row["video"] for row in expected], "each video once"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "command",
        [
            ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *COMMAND],
            [*COMMAND, "--num_processes=2"],
        ],
        ids=["torchrun", "by itself"],
    )
    def test_whoever_starts_the_processes(self, videos, model, tmp_path, command):
        finish(start(*command, *options(model, videos, tmp_path / "two"), CUDA_VISIBLE_DEVICES=""))
        assert [len(part(tmp_path / "two", i)) for i in range(2)] == [3, 2]
        assert_same_tables(table_in(tmp_path / "two"), classify(model, videos, tmp_path / "one"))

    def test_but_not_twice(self, videos, model, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of torchrun")
        with pytest.raises(SystemExit):
            classify(model, videos, tmp_path / "out", num_processes=2)
        assert "leave out --num_processes" in capsys.readouterr().err
