"""Converts official VideoMamba checkpoints to directories that transformers loads, and back.

    videomamba convert videomamba-m-k400 my-model          a released one, downloaded from the hub
    videomamba convert checkpoint.pth my-model --labels kinetics-400            a file of your own
    videomamba convert --all models
    videomamba convert --to-official my-model checkpoint.pth

The architecture is read off the tensors. What no tensor tells is given as --set KEY=VALUE; a square frame, an epsilon of 1e-5
and patches that do not overlap are assumed otherwise. A checkpoint of another model is refused, Vision Mamba (Vim) and
VideoMambaPro among them, as far as its file tells. The directory holds weights, configuration, processor, a model card, and
the code, so that it also loads where this package is not installed (`trust_remote_code=True`).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from .. import VideoMambaVideoTextConfig
from ..checkpoints.converter import convert, convert_released, save, save_official
from ..checkpoints.default_processor import RELEASED_TOKENIZER, tokenizer_for
from ..checkpoints.labels import LABEL_FILES
from ..checkpoints.model_card import model_card, released_model_card
from ..checkpoints.official_layout import read_checkpoint
from ..checkpoints.released import ALIASES, find_released, load_released
from ..checkpoints.verification import verify
from ..data.unfinished import check_free
from .command_line import one_line
from .parser import DataclassParser


ESSENTIAL = ("labels", "all", "to_official", "verify", "push_to_hub")


def parse_setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value, parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{key}: {value[:50]!r} is not a JSON value") from None


def _not_json(constant: str) -> None:
    raise ValueError(constant)  # NaN and Infinity, which Python takes


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = DataclassParser(description=__doc__, essential=ESSENTIAL)
    parser.add_argument("source", nargs="?", help="name of a released checkpoint, or an official file, .pth or .safetensors")
    parser.add_argument("output", nargs="?", help="directory to write; must not exist, or be empty")
    parser.add_argument("--all", metavar="DIRECTORY", help="convert all released checkpoints into this directory")
    parser.add_argument("--to-official", action="store_true", help="from a model directory to an official-layout .pth")
    parser.add_argument(
        "--verify", action="store_true", help="compare with an independent forward pass on the official tensors"
    )
    parser.add_argument(
        "--tokenizer",
        default=RELEASED_TOKENIZER,
        help="of a video-text model: a directory, a hub repository, or none (default: %(default)s)",
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="then upload the directory to this repository")
    parser.add_argument(
        "--labels", help=f"of your own file, names of its labels: a file, or {', '.join(LABEL_FILES)}, breakfast"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        type=parse_setting,
        action="append",
        help="a configuration field that no tensor of your own file tells, with a JSON value; repeatable: "
        "'image_size=[40,24]', patch_stride=8, layer_norm_eps=1e-3, drop_path_rate=0.1",
    )
    parser.add_argument("--num-labels", type=int, help="keep the first rows of the head only: 400 of a Kinetics-710 head")
    parser.add_argument("--num-frames", type=int, help="interpolate to so many frames; makes an image model a video one")
    parser.add_argument("--image-size", type=int, help="interpolate to square frames of this many pixels")
    parser.add_argument("--tubelet-size", type=int, help="frames a patch spans, when an image model becomes a video one")
    parser.add_argument("--inflation", choices=("center", "mean"), default="center", help="and how its kernel fills them")
    parser.add_argument(
        "--assume-videomamba",
        action="store_true",
        default=None,
        help="convert it even if it seems to be a checkpoint of Vision Mamba (Vim) or VideoMambaPro",
    )
    args = parser.parse_args(argv)
    if args.all and (args.to_official or args.source):
        parser.error("--all converts every released checkpoint: give neither a source nor --to-official")
    if not args.all and args.output is None:
        parser.error("Give a source and an output, or --all DIRECTORY. videomamba list shows the released checkpoints.")
    for_a_file = {
        "--labels": args.labels,
        "--set": args.overrides,
        "--num-labels": args.num_labels,
        "--num-frames": args.num_frames,
        "--image-size": args.image_size,
        "--tubelet-size": args.tubelet_size,
        "--assume-videomamba": args.assume_videomamba,
    }
    given = [option for option, value in for_a_file.items() if value is not None]
    if given and (args.all or args.to_official or not is_path(args.source)):
        parser.error(f"{', '.join(given)}: for a file of your own, given by its path, not for a released checkpoint")
    if args.verify and (args.num_frames or args.image_size):
        parser.error("--verify compares at the checkpoint's own size: leave --num-frames and --image-size out")
    return args


def is_path(source: str) -> bool:
    """Whether a source is a path. The name of a released checkpoint is none, even where a directory is called so."""
    path = Path(source)
    if source in load_released() or source in ALIASES:
        return path.is_file()
    return path.suffix != "" or len(path.parts) != 1 or path.exists()


def convert_one(source: str, output: str | Path, args: argparse.Namespace) -> None:
    """Converts a released checkpoint or a file, writes the directory, and tells what it is."""
    check_free(Path(output))
    if is_path(source):
        sizes = (args.num_frames, args.image_size, args.tubelet_size, args.inflation, args.num_labels)
        model, remarks = convert(source, dict(args.overrides or []), args.labels, *sizes, bool(args.assume_videomamba))
        file, card = Path(source), model_card(model, Path(output).name, Path(source).name)
    else:
        checkpoint = find_released(source)
        model, remarks, file = convert_released(checkpoint)
        card = released_model_card(checkpoint, model.config.official_revision)
        remarks += [f"beware: {quirk}" for quirk in checkpoint.quirks]
    tokenizer, config = None, model.config
    if isinstance(config, VideoMambaVideoTextConfig):
        if args.tokenizer != "none":
            tokenizer = tokenizer_for(config, args.tokenizer)
        config = config.vision_config
    save(model, output, card, tokenizer)
    print(f"{output}: {type(model).__name__}, {model.num_parameters():,} parameters")
    print(f"  {config.num_hidden_layers} blocks of width {config.hidden_size}, {config.num_frames or 1} frame(s) of ", end="")
    print(f"{config.image_size} pixels, {'RMSNorm' if config.rms_norm else 'LayerNorm'}")
    for remark in remarks:
        print(f"  {remark}")
    if args.verify:
        print(f"  largest difference from the official tensors' features, in fp64: {verify(read_checkpoint(file), model):.1e}")
    if args.push_to_hub:
        api = HfApi()
        repository = api.create_repo(args.push_to_hub, exist_ok=True).repo_id
        print(f"  uploaded: {api.upload_folder(repo_id=repository, folder_path=output)}")


def convert_all(directory: Path, args: argparse.Namespace) -> int:
    """Converts every released checkpoint, whatever happens to the others; returns the number of failures."""
    outcomes = {}
    for name in load_released():
        try:
            convert_one(name, directory / name, args)
            outcomes[name] = "converted"
        except (ValueError, OSError) as error:
            outcomes[name] = f"failed: {one_line(str(error))}"
            print(f"{name}: {outcomes[name]}", file=sys.stderr)
    print("\nreport")
    for name, outcome in outcomes.items():
        print(f"  {name:40s} {outcome}")
    return sum(outcome != "converted" for outcome in outcomes.values())


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.all:
        sys.exit(1 if convert_all(Path(args.all), args) else 0)
    elif args.to_official:
        save_official(args.source, args.output)
        print(f"{args.output}: an official-layout state dict under 'model'")
    else:
        convert_one(args.source, args.output, args)
