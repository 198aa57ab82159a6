"""Damaged input of every kind gives a right result or one clear error; and the fuzzing that tells so would tell otherwise."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from modeling_videomamba.checkpoints.official_layout import CheckpointError
from tests.fuzzing import checkpoints, configurations, directories, lists, videos

from .__main__ import main
from .outcomes import Case, Outcome, attempt, judge
from .workers import KINDS, make_case, run_cases


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"),
    [("videos", 80), ("lists", 300), ("configurations", 120), ("directories", 40), ("checkpoints", 100)],
)
def test_every_outcome_is_a_right_result_or_one_clear_error(kind, number, tmp_path):
    results = list(run_cases(kind, seed=0, numbers=range(number), keep=tmp_path / "faults"))
    faults = [str(result) for result in results if result.outcome is Outcome.FAULT]
    assert not faults, "\n".join(faults)
    counts = Counter(result.outcome for result in results)
    assert counts.total() == number
    assert min(counts[Outcome.RIGHT], counts[Outcome.CLEAR_ERROR]) > number / 20, "the damage is too mild or too great"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestCases:
    @pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
    @pytest.mark.parametrize("kind", KINDS)
    def test_depend_on_seed_and_number_only(self, tmp_path, kind):
        def written(seed: int, number: int, place: str) -> dict[str, bytes]:
            folder = tmp_path / place
            folder.mkdir()
            make_case(kind, seed, number, folder)
            return {name: content.replace(os.fsencode(folder), b"") for name, content in files_in(folder).items()}

        case = written(5, 3, "case")
        others = [written(5 + i % 2, 4 + i, f"other{i}") for i in range(4)]
        assert written(5, 3, "again") == case
        assert others.count(case) < len(others)


class TestAnError:
    def outcome(self, error: Exception) -> Outcome:
        def fail():
            raise error

        outcome, _ = judge(Case("", lambda: attempt(fail, mentions=["clip.mp4"])))
        return outcome

    def test_of_one_line_that_names_the_file_is_clear(self):
        assert self.outcome(ValueError("Cannot decode clip.mp4.")) is Outcome.CLEAR_ERROR
        assert self.outcome(FileNotFoundError("No such file: clip.mp4")) is Outcome.CLEAR_ERROR

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("clip.mp4"),
            ValueError("Cannot decode the video."),
            ValueError("Cannot decode clip.mp4:\nit is truncated."),
            ValueError("Cannot decode clip.mp4\x1b[2J."),
            ValueError("clip.mp4" * 1000),
            ValueError(""),
        ],
    )
    def test_of_another_type_or_unclear_is_a_fault(self, error):
        assert self.outcome(error) is Outcome.FAULT


class TestFaultsOfVideos:
    @pytest.fixture
    def outcome(self, tmp_path, monkeypatch, one_thread):
        """Of an undamaged video, decoded by a function that takes the place of `decode_video`."""
        path = tmp_path / "clip.mp4"
        path.write_bytes(videos.content_of("h264.mp4"))
        decode = videos.decode_video

        def judged(change=lambda *answer: answer, due=videos.Due.ANYTHING):
            monkeypatch.setattr(videos, "decode_video", lambda *args: change(*decode(*args)))
            return judge(Case("", lambda: videos.check(str(path), str(path), "h264.mp4", due, [3, 1])))

        return judged

    def test_none(self, outcome):
        assert outcome(due=videos.Due.ALL_FRAMES) == (Outcome.RIGHT, "")

    def test_another_exception(self, outcome):
        def fail(*answer):
            raise KeyError("stream")

        assert outcome(fail)[0] is Outcome.FAULT

    def test_another_frame_alone_than_with_all(self, outcome):
        def change(frames, metadata):
            return frames if len(frames) > 2 else frames.flip(0), metadata

        assert "alone" in outcome(change, due=videos.Due.ALL_FRAMES)[1]

    def test_decoders_that_differ(self, outcome):
        def change(frames, metadata):
            return frames.roll(1, 0) if metadata.video_backend == "pyav" else frames, metadata

        videos.reference("h264.mp4", None)
        assert outcome(change, due=videos.Due.ALL_FRAMES)[0] is Outcome.FAULT

    def test_a_frame_too_few(self, outcome):
        assert outcome(lambda frames, metadata: (frames[1:], metadata))[0] is Outcome.FAULT

    def test_frames_of_what_is_not_a_video(self, outcome):
        assert "not a video" in outcome(due=videos.Due.AN_ERROR)[1]


class TestFaultsOfLists:
    """A list of three videos whose second line is damaged."""

    @pytest.fixture
    def outcome(self, tmp_path):
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            (tmp_path / name).touch()
        rows = [("a.mp4", "run"), ("b.mp4", "run"), ("c.mp4", "jump")]
        made = lists._List([",".join(row) for row in rows], rows, ".csv")

        def judged(read, second="b.mp4,run", is_whole=False):
            path = tmp_path / "list.csv"
            path.write_text(lists.render([made.units[0], second, made.units[2]], ".csv"))
            return judge(Case("", lambda: lists.check(path, lists._Reader(None, read), made, is_whole)))[0]

        return judged

    def test_none(self, outcome):
        assert outcome(lists._read_labelled, is_whole=True) is Outcome.RIGHT
        assert outcome(lists._read_labelled, "b.mp4") is Outcome.CLEAR_ERROR

    def test_rows_that_a_quote_has_swallowed(self, outcome):
        assert outcome(lambda path, count: [("a.mp4", "run"), ("b.mp4", "run\nc.mp4,jump")], 'b.mp4,"run') is Outcome.FAULT

    def test_a_row_too_many_or_in_another_place(self, outcome):
        rows = [("a.mp4", "run"), ("b", "x"), ("c.mp4", "jump")]
        assert outcome(lambda path, count: rows, "b,x") is Outcome.RIGHT
        assert outcome(lambda path, count: [*rows, ("d.mp4", "run")], "b,x") is Outcome.FAULT
        assert outcome(lambda path, count: rows[::-1], "b,x") is Outcome.FAULT

    def test_an_error_about_a_list_that_is_whole(self, outcome):
        def fail(path, count):
            raise ValueError(f"{path}: line 2 is wrong.")

        assert outcome(fail) is Outcome.CLEAR_ERROR
        assert outcome(fail, is_whole=True) is Outcome.FAULT


class TestFaultsOfCheckpoints:
    SOURCE = "pth_checkpoints/raw_state_dict.pth"

    def outcome(self, monkeypatch, change, must_fail=False) -> tuple[Outcome, str]:
        path = checkpoints.FIXTURES / self.SOURCE
        convert, expected = checkpoints.convert, checkpoints.reference(self.SOURCE)
        assert expected.tensors
        monkeypatch.setattr(checkpoints, "convert", lambda path: change(*convert(path)))
        damaged = checkpoints._Damaged("", b"", ".pth", must_fail)
        return judge(Case("", lambda: checkpoints.check(path, self.SOURCE, damaged)))

    def test_none(self, monkeypatch):
        assert self.outcome(monkeypatch, lambda *answer: answer) == (Outcome.RIGHT, "")

    def test_another_weight(self, monkeypatch):
        def change(model, remarks):
            with torch.no_grad():
                model.classifier.weight[0, 0] += 1
            return model, remarks

        assert self.outcome(monkeypatch, change) == (Outcome.FAULT, "classifier.weight is another, in silence")

    def test_another_configuration(self, monkeypatch):
        def change(model, remarks):
            model.config.layer_norm_eps = 1.0
            return model, remarks

        assert self.outcome(monkeypatch, change) == (Outcome.FAULT, "another layer_norm_eps, in silence")

    def test_what_must_not_be_converted(self, monkeypatch):
        assert self.outcome(monkeypatch, lambda *answer: answer, must_fail=True) == (Outcome.FAULT, "it is converted")

    def test_code_that_is_run(self, tmp_path):
        content = checkpoints._as_pth(checkpoints.RunsCode(tmp_path / checkpoints.CODE_WAS_RUN))
        (tmp_path / "checkpoint.pth").write_bytes(content)
        damaged = checkpoints._Damaged("", content, ".pth", True)
        case = Case("", lambda: checkpoints.check(tmp_path / "checkpoint.pth", self.SOURCE, damaged))
        assert judge(case)[0] is Outcome.CLEAR_ERROR
        torch.load(tmp_path / "checkpoint.pth", weights_only=False)
        assert judge(case) == (Outcome.FAULT, "code in the file was run")

    def test_an_error_that_names_neither_file_nor_tensor(self, monkeypatch):
        def fail(*answer):
            raise CheckpointError("It is wrong.")

        assert self.outcome(monkeypatch, fail)[0] is Outcome.FAULT


class TestFaultsOfConfigurations:
    def outcome(self, tmp_path) -> tuple[Outcome, str]:
        configurations.small_config().save_pretrained(tmp_path)
        return judge(Case("", lambda: configurations.check(configurations.VideoMambaConfig, tmp_path)))

    def test_none(self, tmp_path):
        assert self.outcome(tmp_path) == (Outcome.RIGHT, "")

    def test_a_model_that_cannot_be_run(self, tmp_path, monkeypatch):
        def fail(config):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        monkeypatch.setattr(configurations, "_run", fail)
        assert self.outcome(tmp_path)[0] is Outcome.FAULT

    def test_a_configuration_that_is_saved_as_another(self, tmp_path, monkeypatch):
        def save(config, folder):
            folder.mkdir()
            (folder / "config.json").write_text('{"model_type": "videomamba", "num_frames": 3}')

        configurations.small_config().save_pretrained(tmp_path)
        monkeypatch.setattr(configurations.VideoMambaConfig, "save_pretrained", save)
        outcome, detail = judge(Case("", lambda: configurations.check(configurations.VideoMambaConfig, tmp_path)))
        assert outcome is Outcome.FAULT
        assert "it is another" in detail

    def test_a_processor_that_ignores_its_number_of_frames(self, tmp_path, monkeypatch):
        for name, content in directories.files().items():
            (tmp_path / name).write_bytes(content)
        case = Case("", lambda: directories.check(tmp_path, "num_frames"))
        assert judge(case) == (Outcome.RIGHT, "")
        sample = directories.VideoMambaVideoProcessor.sample_frames
        monkeypatch.setattr(
            directories.VideoMambaVideoProcessor, "sample_frames", lambda *args, **kwargs: sample(*args, **kwargs)[:-1]
        )
        assert judge(case)[0] is Outcome.FAULT


PLANTED = """
import os, time
from tests.fuzzing.outcomes import Case, ClearError, Fault

def prepare():
    pass

def wrong():
    raise Fault("a wrong result")

def make_case(random, folder):
    (folder / "input").write_text(folder.name)
    checks = [lambda: None, lambda: ClearError("a reason"), wrong, os.abort, lambda: time.sleep(600),
              lambda: b"x" * (1 << 29) and time.sleep(600), lambda: None]
    return Case(f"planted {folder.name}", checks[int(folder.name)])
"""


class TestTheCommand:
    @pytest.fixture
    def planted(self, tmp_path, monkeypatch):
        """A kind whose cases are right, an error, wrong, dead, hanging, greedy, and right."""
        (tmp_path / "planted_kind.py").write_text(PLANTED)
        monkeypatch.syspath_prepend(tmp_path)
        return "planted_kind"

    def test_outlives_processes_that_die_or_take_all_memory(self, planted, tmp_path):
        results = list(run_cases(planted, 0, [0, 1, 2, 3, 5, 6], tmp_path / "kept", memory=1 << 28))
        right, error, fault = Outcome.RIGHT, Outcome.CLEAR_ERROR, Outcome.FAULT
        assert [(result.number, result.outcome) for result in results] == [
            *[(0, right), (1, error), (2, fault), (3, fault), (5, fault), (6, right)]
        ]
        details = ["", "a reason", "a wrong result", "the process dies with exit status -6.", "it takes more than", ""]
        assert all(result.detail.startswith(detail) for result, detail in zip(results, details, strict=True))
        assert results[3].mutation == "planted 3"
        assert files_in(tmp_path / "kept") == {f"planted_kind-0-{i}/input": str(i).encode() for i in (2, 3, 5)}

    def test_ends_a_process_that_hangs(self, planted):
        (result,) = run_cases(planted, 0, [4], seconds=1)
        assert result.outcome is Outcome.FAULT
        assert "hangs" in result.detail

    def test_reports_faults_with_what_repeats_them(self, capsys, monkeypatch):
        def run(kind, seed, numbers, keep):
            return (r for r in run_cases_planted if r.number in numbers)

        from tests.fuzzing import __main__ as command

        from .workers import Result

        run_cases_planted = [
            Result("lists", 7, 0, "as written", Outcome.RIGHT, ""),
            Result("lists", 7, 1, "a quote", Outcome.FAULT, "a row is missing"),
        ]
        monkeypatch.setattr(command, "run_cases", run)
        assert main(["lists", "--seed", "7", "--number", "2"]) == 1
        out = capsys.readouterr().out
        assert "python -m tests.fuzzing lists --seed 7 --case 1 --keep faults" in out
        assert "lists, seed 7: 1 right, 0 clear error, 1 fault" in out
        assert main(["lists", "--seed", "7", "--case", "0"]) == 0

    def test_refuses_a_kind_that_there_is_not(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["pictures"])
        assert "pictures: choose from videos, lists" in capsys.readouterr().err
