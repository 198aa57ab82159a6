"""Output directories: one run at a time, results that are whole, and no success without them."""

import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from filelock import FileLock

from modeling_videomamba.commands import finetune as finetune_command
from modeling_videomamba.data import outputs
from modeling_videomamba.data.media_files import printable
from modeling_videomamba.data.outputs import LOCK, check_held, held, hold, release, replacing
from modeling_videomamba.training.trainer import VideoMambaTrainer
from tests.conftest import render_noise
from tests.rows import all_rows
from tests.training_runs import options


FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(outputs, "PATIENCE", 0)


def hold_with_a_child(directory: Path, connection: Connection) -> None:
    hold(directory)
    child = os.fork()  # as those that decode are
    if child:
        connection.send(child)
    signal.pause()


@pytest.fixture
def other_run(tmp_path) -> Iterator[BaseProcess]:
    """A run of another process that holds the directory `out`, and has a child."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold_with_a_child, args=(tmp_path / "out", theirs))
    process.start()
    child = ours.recv()
    yield process
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.join()


class TestHolding:
    def test_keeps_other_runs_out_and_tells_them_who_it_is(self, other_run, tmp_path):
        message = f"out is in use: process {other_run.pid} on .* is writing to it. Wait .* or choose another directory"
        for _ in range(2):  # asking changes nothing
            with pytest.raises(BlockingIOError, match=message):
                hold(tmp_path / "out")

    def test_ends_with_the_process_even_if_it_is_killed_and_has_children(self, other_run, tmp_path):
        other_run.kill()
        other_run.join()
        with held(tmp_path / "out"):
            check_held(tmp_path / "out")

    def test_may_be_repeated_and_ends_with_the_first_release(self, tmp_path):
        hold(tmp_path / "out")
        hold(f"{tmp_path}/out/")
        with pytest.raises(TimeoutError):
            FileLock(tmp_path / "out" / LOCK, timeout=0).acquire()
        release(tmp_path / "out")
        release(tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_is_not_ended_by_a_child(self, tmp_path):
        """As the processes that decode are: each of them ends before the run does."""
        with held(tmp_path / "out"):
            child = FORK.Process(target=release, args=(tmp_path / "out",))
            child.start()
            child.join()
            assert child.exitcode == 0
            check_held(tmp_path / "out")
            with pytest.raises(TimeoutError):
                FileLock(tmp_path / "out" / LOCK, timeout=0, is_singleton=False).acquire()

    def test_leaves_nothing_behind_where_nothing_was_written(self, tmp_path):
        (tmp_path / "old").mkdir()
        (tmp_path / "new/file").parent.mkdir()
        (tmp_path / "new/file").touch()
        for name in ("old", "new", "out"):
            with held(tmp_path / name):
                assert (tmp_path / name / LOCK).exists()
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["new", "new/file", "old"]

    @pytest.mark.parametrize("is_made_again", [False, True])
    def test_notices_that_the_directory_was_removed(self, tmp_path, is_made_again):
        with held(tmp_path / "out"):
            check_held(tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
            if is_made_again:
                (tmp_path / "out").mkdir()
            with pytest.raises(FileNotFoundError, match="out was removed or replaced while this run was writing"):
                check_held(tmp_path / "out")
            hold(tmp_path / "out")  # another run in the same process
            check_held(tmp_path / "out")

    def test_without_locks_a_file_system_is_warned_of(self, tmp_path, monkeypatch, capsys):
        def refuse(self, timeout):
            raise OSError(outputs.errno.ENOLCK, "no locks available")

        monkeypatch.setattr(FileLock, "acquire", refuse)
        with held(tmp_path / "out"):
            check_held(tmp_path / "out")
        assert "without locks: let only one run write to it" in capsys.readouterr().err


class TestTraining:
    """Every command that trains holds its output directory; what they share is tested with one of them."""

    @pytest.fixture
    def videos(self, tmp_path) -> Path:
        for name in ("train/a/0.gif", "train/b/1.gif", "val/a/2.gif"):
            (tmp_path / "videos" / name).parent.mkdir(parents=True)
            render_noise(tmp_path / "videos" / name, seed=int(name[-5]), num_frames=4)
        return tmp_path / "videos"

    def train(self, *args, **changed) -> None:
        small = {"per_device_train_batch_size": 1, "repeated_augmentation": 1, "num_train_epochs": 1, "warmup_epochs": 0}
        finetune_command.main(options(*args, **(small | changed)))

    def test_into_the_directory_of_another_run_is_refused(self, videos, tmp_path):
        (tmp_path / "out").mkdir()
        with FileLock(tmp_path / "out" / LOCK), pytest.raises(BlockingIOError, match="out is in use: another run"):
            self.train(videos, tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]

    def test_into_a_directory_that_vanishes_is_no_success(self, videos, tmp_path, monkeypatch):
        saved = VideoMambaTrainer.save_model

        def remove_and_save(*args, **kwargs):
            shutil.rmtree(tmp_path / "out")
            saved(*args, **kwargs)

        monkeypatch.setattr(VideoMambaTrainer, "save_model", remove_and_save)
        with pytest.raises(FileNotFoundError, match="out was removed or replaced while this run was writing to it"):
            self.train(videos, tmp_path / "out", save_strategy="no", load_best_model_at_end=False)

    def test_leaves_the_directory_free(self, videos, tmp_path):
        self.train(videos, tmp_path / "out", save_strategy="no", load_best_model_at_end=False)
        assert (tmp_path / "out/model.safetensors").exists()
        assert not (tmp_path / "out" / LOCK).exists()

    @pytest.mark.parametrize("labels", [["0", "0", "10000000000"], ["0", "0", "-1"]])
    def test_with_a_label_that_is_no_class_is_refused_by_its_line(self, videos, tmp_path, labels):
        """Before a head of that size is made."""
        lines = [f"{file} {label}" for file, label in zip(sorted(videos.rglob("*.gif")), labels)]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        with pytest.raises(ValueError, match=f"{tmp_path}/list.txt, line 3: .*class id"):
            self.train(tmp_path / "list.txt", tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestWriting:
    def test_replaces_the_file_when_it_is_whole(self, tmp_path):
        for text in ("old", "new"):
            with replacing(tmp_path / "file.csv") as unfinished:
                unfinished.write_text(text)
                assert unfinished.suffix == ".csv"
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.csv", "new")]

    def test_that_fails_leaves_the_old_file_and_nothing_else(self, tmp_path):
        (tmp_path / "file.csv").write_text("old")
        with pytest.raises(KeyError), replacing(tmp_path / "file.csv") as unfinished:
            unfinished.write_text("half")
            raise KeyError
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.csv", "old")]

    def test_on_a_full_disk_names_the_file(self, tmp_path):
        (tmp_path / "file.csv").write_text("old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # to a process, the end of its file is that of the disk
        try:
            with (
                pytest.raises(OSError, match=f"File too large: '{tmp_path}/file.csv'"),
                replacing(tmp_path / "file.csv") as unfinished,
            ):
                unfinished.write_text("much" * 1000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.csv", "old")]

    def test_into_a_directory_that_is_gone_names_the_file(self, tmp_path):
        missing = pytest.raises(OSError, match="No such file or directory: '.*/gone/file.csv'")
        with missing, replacing(tmp_path / "gone/file.csv") as unfinished:
            unfinished.write_text("")


class TestNames:
    def test_are_shown_without_what_controls_a_terminal(self):
        def check(name, shown):
            assert printable(name) == shown

        all_rows(
            check,
            [
                ("über 日本 👩‍👩‍👧.mp4", "über 日本 👩‍👩‍👧.mp4"),
                ("caf\udce9.mp4", r"caf\udce9.mp4"),
                ("\x1b[2Jgone.mp4", r"\x1b[2Jgone.mp4"),
                ("two\r\nlines\tand more\x00", r"two\r\nlines\tand more\x00"),
                ("\x7f\x85\x9b31m\u2028\u2029", r"\x7f\x85\x9b31m\u2028\u2029"),
                ("\u202e4pm.exe\u2066", r"\u202e4pm.exe\u2066"),
            ],
        )
