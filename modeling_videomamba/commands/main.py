"""The console command `videomamba`, which hands its arguments to the module of the command that is named first."""

import importlib
import sys

from ..closest_names import did_you_mean
from .command_line import run_command


GROUPS = {
    "Use a model": {
        "classify": "the likeliest labels of some videos",
        "classify-many": "thousands of videos into one table",
        "index": "look at the videos of a folder, for searching",
        "search": "find the videos that a sentence describes",
        "evaluate": "measure a classifier on labelled videos",
        "evaluate-retrieval": "measure how well texts find videos, and videos texts",
    },
    "Train one": {
        "finetune": "a classifier of videos",
        "pretrain-images": "a classifier of images",
        "distill": "a classifier, with a smaller one as its teacher",
        "pretrain-masked": "a video model without labels, with CLIP as its teacher",
        "pretrain-video-text": "a model of videos and texts, from captions",
        "finetune-retrieval": "a model of videos and texts, for retrieval",
    },
    "Checkpoints": {
        "list": "the released checkpoints and their names",
        "convert": "official checkpoints into model directories, and back",
        "export": "a classifier into one file, for ONNX or torch.export",
        "publish": "the released checkpoints, converted, into an organisation on the hub",
    },
    "About this installation": {
        "report": "versions, devices, and which scan runs on each and why",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    run_command(run, *argv)


def run(*argv: str) -> None:
    name, *rest = argv or [""]
    if name in ("", "-h", "--help", "--help-all", "help"):
        print(overview())
        sys.exit(0 if name else 2)
    if name == "--version":
        from .. import __version__

        print(f"videomamba {__version__}")
        return
    if name not in COMMANDS:
        raise ValueError(f"There is no command {name}.{did_you_mean(name, COMMANDS)} videomamba --help lists all.")
    module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    sys.argv = [f"videomamba {name}", *rest]  # the name in --help
    module.main(rest)


def overview() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: videomamba COMMAND [options]    (videomamba COMMAND --help tells more)"]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:{width}}  {text}" for name, text in commands.items())]
    return "\n".join(lines)
