"""The console command `videomamba`, which hands its arguments to the module of the command that is named first."""

from .command_line import run_command  # isort: skip  (first, see there)

import importlib
import sys

from ..closest_names import did_you_mean


COMMANDS = {
    "convert": "convert official checkpoints, and back",
    "classify": "the likeliest labels of some videos",
    "classify-many": "thousands of videos into one table",
    "evaluate": "measure a classifier on labelled videos",
    "finetune": "train a classifier of videos",
    "pretrain-images": "train a classifier of images",
    "distill": "train a classifier with a smaller one as its teacher",
    "pretrain-masked": "pretrain on videos without labels, with CLIP as the teacher",
    "pretrain-video-text": "pretrain on videos and images with captions",
    "finetune-retrieval": "fine-tune a model of videos and texts",
    "evaluate-retrieval": "measure how well texts find videos",
    "search": "find the videos that a sentence describes",
    "export": "one file for ONNX or torch.export",
    "publish": "the released checkpoints, converted, into an organisation of the hub",
}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: videomamba COMMAND [options]\n")
        print("\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items()))
        sys.exit(0 if argv else 2)
    if argv[0] not in COMMANDS:
        print(f"error: There is no command {argv[0]}.{did_you_mean(argv[0], COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    run_command(run, *argv)


def run(name: str, *argv: str) -> None:
    module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    sys.argv = [f"videomamba {name}", *argv]  # the name in --help
    module.main(list(argv))
