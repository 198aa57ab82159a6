"""What is written appears whole or not at all, beside nothing left by processes that were killed."""

import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from modeling_videomamba.checkpoints.converter import convert, save, save_official
from modeling_videomamba.data.unfinished import written_whole
from tests.conftest import FIXTURES
from tests.training_runs import command


CHECKPOINT = FIXTURES / "pth_checkpoints" / "checkpoint.safetensors"
FORK = multiprocessing.get_context("fork")


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def write_and_wait(output: Path, connection: Connection) -> None:
    with written_whole(output) as unfinished:
        unfinished.mkdir()
        (unfinished / "half").touch()
        connection.send("writing")
        connection.recv()


class Writer(NamedTuple):
    """A process that is writing until it is told to end."""

    process: BaseProcess
    connection: Connection

    def end(self) -> int:
        self.connection.send("end")
        self.process.join()
        return self.process.exitcode


@pytest.fixture
def writer(tmp_path):
    """Writes `tmp_path / "model"`."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=write_and_wait, args=(tmp_path / "model", theirs))
    process.start()
    assert ours.recv() == "writing"
    yield Writer(process, ours)
    process.kill()
    process.join()


class TestLeftovers:
    def test_of_a_killed_process_are_removed_by_the_next_run_to_the_same_place(self, tmp_path, writer):
        writer.process.kill()
        writer.process.join()
        assert len(hidden(tmp_path)) == 1
        with written_whole(tmp_path / "another") as unfinished:
            unfinished.mkdir()
            assert len(hidden(tmp_path)) == 2
        with written_whole(tmp_path / "model") as unfinished:
            unfinished.mkdir()
            assert len(hidden(tmp_path)) == 1  # its own
        assert hidden(tmp_path) == []

    def test_of_a_live_process_are_not(self, tmp_path, writer):
        with written_whole(tmp_path / "model") as unfinished:
            unfinished.mkdir()
        assert (tmp_path / "model").is_dir()
        assert len(hidden(tmp_path)) == 1

    def test_directories_of_other_names_are_not(self, tmp_path):
        mine = [".model", ".model-notes", ".model-abcd1234", ".model2-abcd1234.unfinished"]
        for name in mine:
            (tmp_path / name).mkdir()
        with written_whole(tmp_path / "model") as unfinished:
            unfinished.mkdir()
        assert sorted(hidden(tmp_path)) == sorted(mine)


class TestTwoAtOnce:
    def test_one_wins_and_the_other_says_so(self, tmp_path, writer):
        with written_whole(tmp_path / "model") as unfinished:
            unfinished.mkdir()
            (unfinished / "mine").touch()
        assert writer.end() != 0
        assert os.listdir(tmp_path / "model") == ["mine"]
        assert hidden(tmp_path) == []

    @pytest.mark.parametrize("what", ["directory", "file"])
    def test_whoever_wins_nothing_is_mixed(self, tmp_path, what):
        outcomes, together = [], threading.Barrier(6)

        def write(number):
            try:
                with written_whole(tmp_path / "model") as unfinished:
                    if what == "directory":
                        unfinished.mkdir()
                        (unfinished / str(number)).touch()
                    else:
                        unfinished.write_text(str(number))
                    together.wait()
                outcomes.append(number)
            except FileExistsError as error:
                assert "exists and is not an empty directory" in str(error)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        found = os.listdir(tmp_path / "model") if what == "directory" else [(tmp_path / "model").read_text()]
        assert found == [str(number) for number in outcomes]
        assert len(found) == 1


@pytest.fixture(scope="module")
def model():
    return convert(CHECKPOINT)[0]


class TestOutput:
    def test_an_official_file_is_not_overwritten(self, tmp_path, model):
        save(model, tmp_path / "model", card="")
        (tmp_path / "official.pth").write_text("the only copy")
        with pytest.raises(FileExistsError, match=r"official\.pth exists"):
            save_official(tmp_path / "model", tmp_path / "official.pth")
        assert (tmp_path / "official.pth").read_text() == "the only copy"

    @pytest.mark.slow
    @pytest.mark.parametrize("what", ["convert", "--to-official"])
    def test_a_full_disk_is_one_line_and_leaves_nothing(self, tmp_path, model, what):
        """A limit on the size of files stands for the disk: what is written fails in the same places."""
        save(model, tmp_path / "model", card="")
        arguments = [CHECKPOINT, tmp_path / "out"] if what == "convert" else [what, tmp_path / "model", tmp_path / "out"]
        process = subprocess.run(
            [sys.executable, *command("convert"), *arguments],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        )
        assert process.returncode == 2
        assert process.stderr.startswith(f"error: Cannot write {tmp_path / 'out'}: ")
        assert process.stderr.count("\n") == 1
        assert os.listdir(tmp_path) == ["model"]
