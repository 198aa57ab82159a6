"""What every script does with a user's mistake, with a fault of this project, with Ctrl-C, and with progress bars."""

import argparse
import errno
import importlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
import tomllib
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForVideoClassification

from modeling_videomamba import VideoMambaConfig
from modeling_videomamba.checkpoints.by_name import DEMO_MODEL
from modeling_videomamba.closest_names import closest, did_you_mean
from modeling_videomamba.commands import (
    classify_many,
    evaluate_retrieval,
    finetune_retrieval,
    pretrain_images,
    pretrain_masked,
    pretrain_video_text,
)
from modeling_videomamba.commands import command_line as command
from modeling_videomamba.commands import distill as distill_command
from modeling_videomamba.commands import evaluate as evaluate_command
from modeling_videomamba.commands import finetune as finetune_command
from modeling_videomamba.commands import search as search_command
from modeling_videomamba.commands.parser import DataclassParser
from modeling_videomamba.data import extras as extras_module
from modeling_videomamba.data import interruption
from modeling_videomamba.data.clips import UnreadableFiles
from modeling_videomamba.data.media_lists import load_media
from modeling_videomamba.training.arguments import MediaArguments
from modeling_videomamba.training.learning_rate import epoch_cosine
from modeling_videomamba.training.recipe import read_recipe
from tests.conftest import render_noise
from tests.forks import fork
from tests.rows import all_rows
from tests.training_runs import ROOT, SMALL_MODEL


def raised(function, *args) -> Exception:
    with pytest.raises(Exception) as error:
        function(*args)
    return error.value


class TestWhoseMistakeItIs:
    def test_what_our_checks_say_is_for_the_user(self):
        error = raised(read_recipe, "nowhere")
        assert command.message_of(error).startswith("There is no recipe ")

    def test_so_is_what_they_say_of_the_fields_of_a_configuration(self):
        error = raised(lambda: VideoMambaConfig(hidden_size=0))
        assert command.message_of(error) == "`hidden_size` must be at least 1, got 0."

    def test_the_same_exception_of_python_in_our_code_is_a_fault_of_ours(self):
        error = raised(epoch_cosine, *("many" for _ in range(6)))
        assert "modeling_videomamba" in str(error.__traceback__.tb_next.tb_frame.f_globals["__name__"])
        assert command.message_of(error) is None

    def test_that_of_a_library_is_too(self):
        assert command.message_of(raised(torch.randn(2, 3).view, 5)) is None
        assert command.message_of(raised(argparse.ArgumentParser().add_argument, "a", "--b")) is None

    @pytest.mark.parametrize(
        ("file", "content"), [("config.json", "{}"), ("config.json", '{"model_type": "bert"}'), ("model.safetensors", "x")]
    )
    def test_what_a_library_says_of_a_model_that_the_user_names_is_for_the_user(self, file, content, tmp_path):
        model = shutil.copytree(DEMO_MODEL, tmp_path / "model")
        (model / file).write_text(content)
        error = raised(AutoModelForVideoClassification.from_pretrained, model)
        assert command.message_of(error).startswith(f"Cannot load {model}: ")

    def test_so_is_what_one_says_of_a_data_set(self, tmp_path):
        (tmp_path / "dataset_info.json").write_text("{")
        (tmp_path / "state.json").write_text("{")
        assert command.message_of(raised(load_media, str(tmp_path), "train")).startswith(f"Cannot load {tmp_path}: ")

    def test_a_failed_assertion_is_too(self, monkeypatch):
        def broken() -> None:
            raise AssertionError("cannot be")

        monkeypatch.setitem(broken.__globals__, "__name__", "examples.broken")
        assert command.message_of(raised(broken)) is None

    def test_the_operating_system_speaks_to_the_user_from_wherever_it_is_called(self, tmp_path):
        error = raised((tmp_path / "nowhere").open)
        assert command.message_of(error) == f"{tmp_path}/nowhere: No such file or directory"
        assert command.message_of(OSError("the hub says\n  no")) == "the hub says no"

    def test_a_full_disk_is_named_whatever_the_library_makes_of_it(self):
        error = RuntimeError("unexpected pos 64 vs 0")
        error.__context__ = OSError(errno.ENOSPC, "No space left on device", "model.safetensors")
        assert command.message_of(error) == "no space left on the disk, while writing model.safetensors"
        assert command.message_of(Exception("I/O error: No space left on device (os error 28)")).startswith("no space left")

    def test_memory_that_a_processor_lacks_is_told_without_a_traceback(self):
        error = raised(torch.empty, 10**15)
        assert isinstance(error, RuntimeError)
        assert "Smaller batches need less" in command.message_of(error)

    def test_a_model_that_the_hub_does_not_give_is_named(self, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        error = raised(AutoModelForVideoClassification.from_pretrained, "no/where")
        assert "no/where" in command.message_of(error)

    def test_an_error_in_a_process_that_loads_data_is_the_error_itself(self, tmp_path):
        loader = DataLoader(Strict(tmp_path), num_workers=1)
        assert command.message_of(raised(list, loader)) == "Cannot read bad.mp4 (--strict): no video"
        loader = DataLoader(Broken(), num_workers=1)
        assert command.message_of(raised(list, loader)) is None

    def test_a_package_that_is_missing_is_named_with_what_installs_it(self):
        error = ModuleNotFoundError("No module named 'datasets'", name="datasets")
        install = 'pip install "modeling-videomamba[train]"'
        assert command.message_of(error) == f"The package datasets is not installed: {install} brings it."
        error = ImportError("Using the `Trainer` with `PyTorch` requires `accelerate>=1.1.0`: Please run `pip install ...`")
        assert install in command.message_of(error)
        assert command.message_of(ModuleNotFoundError("No module named 'helpers'", name="helpers")) is None

    def test_training_says_so_where_it_is_imported(self, monkeypatch):
        find = extras_module.find_spec
        monkeypatch.setattr(extras_module, "find_spec", lambda name: None if name in ("datasets", "peft") else find(name))
        needed = r'^modeling_videomamba.training needs datasets, peft: pip install "modeling-videomamba\[train\]"$'
        with pytest.raises(ImportError, match=needed):
            importlib.reload(importlib.import_module("modeling_videomamba.training"))

    def test_the_extras_are_those_of_the_project(self):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        imported_as = {"pyyaml": "yaml", "scikit-image": "skimage", "scikit-learn": "sklearn"}
        for extra, packages in extras_module.EXTRAS.items():
            named = {imported_as.get(name, name) for name in extras[extra] if not name.startswith("modeling-videomamba")}
            assert set(packages) == named


class Strict(torch.utils.data.Dataset):
    def __init__(self, folder: Path):
        self.unreadable = UnreadableFiles(folder / "unreadable.txt", strict=True)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        self.unreadable.add("bad.mp4", ValueError("no video"))


class Broken(Strict):
    def __init__(self):
        pass

    def __getitem__(self, index: int):
        epoch_cosine(*("many" for _ in range(6)))


class TestRunCommand:
    def test_a_mistake_is_one_line_and_status_2(self, capsys):
        with pytest.raises(SystemExit) as ending:
            command.run_command(read_recipe, "nowhere")
        assert ending.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: There is no recipe ")
        assert printed.err.count("\n") == 1

    def test_a_fault_of_ours_keeps_its_traceback(self, capsys):
        with pytest.raises(RuntimeError, match="is invalid for input of size 6"):
            command.run_command(torch.randn(2, 3).view, 5)
        assert capsys.readouterr().err == ""

    def test_what_ends_a_script_on_purpose_is_left_alone(self):
        with pytest.raises(SystemExit, match="1"):
            command.run_command(sys.exit, 1)

    def test_ctrl_c_is_one_line_that_says_what_goes_on(self, capsys, monkeypatch):
        monkeypatch.setattr(interruption, "note", "")
        interruption.say_when_interrupted(": the same command goes on")
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
        try:
            with pytest.raises(SystemExit) as ending:
                command.run_command(lambda: signal.raise_signal(signal.SIGINT))
        finally:
            signal.signal(signal.SIGINT, before)
        assert ending.value.code == 130
        assert capsys.readouterr().err == "interrupted: the same command goes on\n"

    def test_a_launcher_of_processes_is_interrupted_as_well(self, capsys, monkeypatch):
        monkeypatch.setattr(interruption, "note", "")

        def launch():
            raise SignalException("Process 1 got signal: 2", sigval=signal.Signals.SIGINT)

        with pytest.raises(SystemExit) as ending:
            command.run_command(launch)
        assert ending.value.code == 130
        assert capsys.readouterr().err == "interrupted\n"

    def test_a_script_that_another_one_started_has_said_what_is_wrong(self, capsys):
        with pytest.raises(SystemExit) as ending:
            command.run_command(subprocess.CompletedProcess("script.py", 2).check_returncode)
        assert ending.value.code == 2
        assert capsys.readouterr().err == ""

    def test_of_several_processes_the_first_speaks_first(self, capsys, monkeypatch):
        waited = []
        monkeypatch.setattr(time, "sleep", waited.append)
        monkeypatch.setenv("RANK", "1")
        assert command.report(raised(read_recipe, "nowhere")) == 2
        assert waited == [command.SECONDS_FOR_THE_FIRST]


def small_model(directory: Path) -> list[str]:
    return ["--model_config", SMALL_MODEL, "--output_dir", str(directory), "--use_cpu", "True", "--report_to", "none"]


FINETUNE, EVALUATE, BULK = finetune_command, evaluate_command, classify_many
MISTAKES = [  # what a user says, and what the line has
    (FINETUNE, "--epochs 3", "There is no option --epochs. Did you mean --warmup-epochs or --num-train-epochs?"),
    (FINETUNE, "--lr 3", "There is no option --lr. Did you mean --learning-rate or "),
    (FINETUNE, "--batch_size=3", "--per-device-train-batch-size? --help-all lists all options."),
    (FINETUNE, "--zzz", "There is no option --zzz. --help-all lists all options."),
    (FINETUNE, "stray", "Unexpected argument 'stray': --help shows what there is."),
    (FINETUNE, "--num_train_epochs many", "invalid float value: 'many'"),
    (FINETUNE, "--num_train_epochs 0", "--num_train_epochs must be in (0, inf), got 0."),
    (FINETUNE, "--num_train_epochs 3 --warmup_epochs 5", "--warmup_epochs 5 is more than --num_train_epochs 3: give "),
    (FINETUNE, "--min_crop_area 2", "--min_crop_area must be in (0, 1], got 2."),
    (FINETUNE, "--per_device_train_batch_size 0", "--per_device_train_batch_size must be at least 1, got 0."),
    (FINETUNE, "--eval_strategy steps", "--load_best_model_at_end requires the save and eval strategy to match"),
    (FINETUNE, "--recipe videomamba-ti-ssv2", "videomamba-ti-ssv2.yaml. Did you mean videomamba-ti-ssv2-f8 or "),
    (FINETUNE, "", "No --data given."),
    (FINETUNE, "--data {videos}", "Give either --model, what to start from, or --model_config"),
    (FINETUNE, "--data {videos} --model {tmp}/nowhere", "There is no model {tmp}/nowhere: no such directory or name."),
    (FINETUNE, "--data {videos} --model videomamba-ti-k40", "no such directory or name. Did you mean videomamba-ti-k400 or"),
    (FINETUNE, "--data {videos} --model_config tinny", "got 'tinny'. Did you mean tiny?"),
    (FINETUNE, '--data {videos} --model_config {{"hiden_size":3}}', "no field hiden_size. Did you mean hidden_size"),
    (FINETUNE, '--data {videos} --model_config {{"hidden_size":0}}', "error: `hidden_size` must be at least 1, got 0."),
    (FINETUNE, '--data {videos} --model_config {{"num_hidden_layers":100000000}}', "must be at most 1,000, got 100,000,000."),
    (FINETUNE, "--data {videos} {small} --auto_augment rnd", "--auto_augment rnd is not a policy of timm, such as "),
    (
        FINETUNE,
        "--data {videos} {small} --metric_for_best_model acuracy",
        "acuracy: there is accuracy, top5_accuracy and loss.",
    ),
    (FINETUNE, "--data {videos} {small} --report_to tensorbord", "tensorbord is not supported, only "),
    (FINETUNE, "--data {videos} {small} --resume_from_checkpoint {tmp}", "{tmp} is not a checkpoint of a training."),
    (FINETUNE, "--data {videos} {small} --output_dir {tmp}/text.txt", "{tmp}/text.txt: File exists"),
    (FINETUNE, "--data {videos} {small} --labels {tmp}/nowhere", "--labels: there is no file {tmp}/nowhere."),
    (EVALUATE, "", "the following arguments are required: --model, --output-dir"),
    (EVALUATE, "--model videomamba-demo --output_dir {tmp}/e", "No --data given."),
    (EVALUATE, "--model x --output_dir y --split tset", "argument --split: invalid choice: 'tset'"),
    (BULK, "--model x --videos y --output_dir z --nm_clips 2", "There is no option --nm_clips. Did you mean --num-clips"),
    (
        BULK,
        "--model videomamba-demo --videos {tmp}/no --output_dir {tmp}/m",
        "There is no folder or list {tmp}/no",
    ),
    (search_command, "x --index {tmp}/nowhere", "There is no index in {tmp}/nowhere"),
    (search_command, "x --index y --tob 3", "There is no option --tob. Did you mean --top"),
    (evaluate_retrieval, "--modl x --data y --output_dir z", "the following arguments are required: --model"),
    (pretrain_masked, "--mask_ratio 1", "--mask_ratio must be in [0, 1), got 1."),
    (pretrain_masked, "--data {videos} {small} --teacher {tmp}/nowhere", "There is no model {tmp}/nowhere: "),
    (distill_command, "--data {videos} {small}", "Give the --teacher: a smaller model, trained before."),
    (distill_command, "--teacher x --freeze_backbone", "--freeze_backbone: it is the backbone that learns"),
    (pretrain_images, "--data {videos} {small}", "The class folder {videos}/cat has no images"),
    (pretrain_video_text, "--output_dir {tmp}/o", "Give --videos, --images, or both: "),
    (
        EVALUATE,
        "--model videomamba-retrieval-demo --data {videos} --output_dir {tmp}/m",
        "is no trained classifier of videos, but a videomamba_video_text",
    ),
    (finetune_retrieval, "--output_dir {tmp}/o", "Give --model, a pretrained video-text model; "),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed, label in enumerate(("cat", "dog")):
        (folder / label).mkdir()
        for i in range(2):
            render_noise(folder / label / f"{i}.gif", 2 * seed + i, num_frames=4)
    return folder


def test_a_mistake_in_any_script_is_one_line(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def check(script, said: str, line: str) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "text.txt").write_text("text")
        argv = []
        for word in said.split():
            argv += small_model(folder / "o") if word == "{small}" else [word.format(videos=videos, tmp=folder)]
        with pytest.raises(SystemExit) as ending:
            command.run_command(script.main, argv)
        printed = capsys.readouterr().err
        assert ending.value.code == 2
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert line.format(videos=videos, tmp=folder) in printed

    all_rows(check, MISTAKES)


class TestRecipes:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 1\n b: [2\n", r"mine.yaml, line 2: this is not YAML, "),
            ("- a\n", r"mine.yaml is not a recipe: expected lines of `option: value`, got \['a'\]"),
            ("base: mine.yaml\n", r"mine.yaml is its own base: "),
            ("base: nowhere\n", r"There is no recipe .*nowhere.yaml"),
            ("learning_rte: 1\n", r"mine.yaml has an unknown key, learning_rte. Did you mean learning_rate"),
        ],
    )
    def test_what_is_wrong_with_one_of_ones_own_is_told_with_its_place(self, text, message, tmp_path):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises((ValueError, OSError), match=message):
            finetune_command.main(["--recipe", str(tmp_path / "mine.yaml")])

    def test_one_that_is_no_text(self, tmp_path):
        (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="mine.yaml is not YAML"):
            read_recipe(str(tmp_path / "mine.yaml"))


class TestClosestNames:
    NAMES = ("--num_train_epochs", "--learning_rate", "--lr_reference", "--output_dir", "--per_device_train_batch_size")

    @pytest.mark.parametrize(
        ("said", "meant"),
        [
            ("--epochs", "--num_train_epochs"),
            ("--lr", "--learning_rate"),
            ("--learning-rte", "--learning_rate"),
            ("--output", "--output_dir"),
            ("--batch_size", "--per_device_train_batch_size"),
            ("--num_epochs", "--num_train_epochs"),
        ],
    )
    def test_the_first_is_the_one_that_is_meant(self, said, meant):
        assert closest(said, self.NAMES)[0] == meant

    def test_nothing_is_guessed_where_nothing_is_near(self):
        assert did_you_mean("--zzz", self.NAMES) == ""

    def test_help_still_works(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            DataclassParser(MediaArguments).parse_args(["--help"])
        assert "--media-root" in capsys.readouterr().out


def write_into_a_closed_pipe() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    os.dup2(theirs, 1)
    sys.stdout = os.fdopen(1, "w")
    command.run_command(print, "a" * 100_000)


def test_a_pipe_that_has_seen_enough_is_no_fault(capfd):
    process = fork(write_into_a_closed_pipe)
    process.join()
    assert process.exitcode == 1
    assert capfd.readouterr().err == ""


IN_A_PIPE = """
import sys
import modeling_videomamba.commands.command_line
from tqdm import tqdm
for _ in tqdm(range(3), mininterval=0):
    pass
print("done")
sys.modules["datasets"] = None
import datasets
"""
BARE = {name: text for name, text in os.environ.items() if not name.startswith("TQDM_")}  # as if nobody had said anything


def test_in_a_pipe_there_are_no_bars_and_an_import_that_fails_is_explained_like_everything_else():
    process = subprocess.run([sys.executable, "-c", IN_A_PIPE], cwd=ROOT, env=BARE, capture_output=True, text=True)
    assert process.stdout == "done\n"
    install = 'pip install "modeling-videomamba[train]"'
    assert process.stderr == f"error: The package datasets is not installed: {install} brings it.\n"
    assert process.returncode == 2


def draw_bar(terminal: int) -> None:
    sys.stderr = os.fdopen(terminal, "w")
    for name in os.environ.keys() - BARE.keys():
        del os.environ[name]
    tqdm.__init__ = vars(tqdm)["__init__"].func  # as it is before `command_line` is imported
    command._limit_progress_bars()
    for _ in tqdm(range(3), mininterval=0):
        pass
    sys.stderr.flush()


def test_on_a_terminal_bars_are_wiped_when_they_are_full():
    """tqdm wipes a bar by a carriage return, spaces, and another carriage return."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    process = fork(draw_bar, theirs)
    os.close(theirs)
    drawn = b""
    try:
        while part := os.read(ours, 4096):
            drawn += part
    except OSError:  # the other end is closed
        pass
    process.join()
    *_, last, end = drawn.decode().split("\r")
    assert "2/3" in drawn.decode()
    assert last.strip() == end == ""
