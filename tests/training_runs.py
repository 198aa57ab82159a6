"""Training commands at test size, in this process or in one of their own, and what they leave behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file


ROOT = Path(__file__).parents[1]
SMALL_MODEL = json.dumps({"hidden_size": 16, "num_hidden_layers": 2, "image_size": 32, "num_frames": 4})


def command(name: str) -> tuple[str, ...]:
    """What Python, or a launcher of several processes, is to run for `videomamba NAME`."""
    return "-m", "modeling_videomamba", name


def options(data: Path, output_dir: Path, **changed) -> list[str]:
    """Options of a run of 2 epochs of steps of 4; those of `changed` win, `None` leaves an option out."""
    given = {
        "data": data,
        "output_dir": output_dir,
        "model_config": SMALL_MODEL,
        "num_train_epochs": 2,
        "warmup_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_reference": 0,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
        "use_cpu": True,
        "disable_tqdm": True,
    } | changed
    return [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]


def losses(directory: Path) -> list[float]:
    """Of every step."""
    history = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], **tolerance) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


def start(*command, **environment) -> subprocess.Popen:
    """A Python process of one thread: two would add up in another order from one process to the next."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(whole: Path, part: Path, after: int) -> None:
    """Makes of a whole run what it left when it was killed while it wrote the checkpoint that followed the one of a step."""
    shutil.copytree(whole, part)
    (part / "model.safetensors").unlink()
    folders = {int(folder.name.split("-")[1]): folder for folder in part.glob("checkpoint-*")}
    assert after in folders and after < max(folders), "there is nothing to interrupt"
    _, half_written, *later = (folders[step] for step in sorted(folders) if step >= after)
    (half_written / "trainer_state.json").write_text('{"epoch": ')
    for folder in later:
        shutil.rmtree(folder)


def kill_after_checkpoint(process: subprocess.Popen, output_dir: Path, step: int) -> None:
    """Kills a training that has just written the checkpoint of a step, and sees to it that it was not over."""
    while not (output_dir / f"checkpoint-{step}/trainer_state.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output_dir / "model.safetensors").exists(), "it was over before it was killed"


def finish(process: subprocess.Popen) -> None:
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
