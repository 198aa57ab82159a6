"""Exports a classifier of videos into one file, and compares its logits with the model's.

    videomamba export --model my-model --output model.onnx  # for onnxruntime, without PyTorch
    videomamba export --model my-model --output model.pt2   # for torch.export.load

The file takes `pixel_values (batch, num_frames, channels, height, width)`, as the model's processor makes them, and gives
`logits (batch, num_labels)`. Any batch, in a `.pt2` file any number of frames, too; all else is as in the model's
configuration. For other sizes, save what `model.resize_position_embeddings(num_frames=16, image_size=384)` makes of it, and
export that.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
from transformers.utils import logging

from ..checkpoints.by_name import DEMO_MODEL
from ..checkpoints.default_processor import processor_for
from ..data.outputs import replacing
from ..inference.export import describe, export, load
from .parser import DataclassParser


TOLERANCE = 1e-4  # of the largest logit


def main(argv: list[str] | None = None) -> None:
    parser = DataclassParser(description=__doc__)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="directory or hub repository of a VideoMamba classifier")
    parser.add_argument("--output", type=Path, required=True, help="file to write: .onnx or .pt2")
    args = parser.parse_args(argv)
    if args.output.suffix not in (".onnx", ".pt2"):
        parser.error(f"--output: a file ending in .onnx or .pt2, got {args.output}")
    logging.disable_progress_bar()

    # Other implementations of the scan are bound to a device, and are unknown to ONNX.
    model = AutoModelForVideoClassification.from_pretrained(args.model, dtype="float32", scan_implementation="torch").eval()
    try:
        processor = AutoVideoProcessor.from_pretrained(args.model)
    except OSError:  # a model that was saved alone
        processor = processor_for(model.config)
    config = model.config
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    clips = torch.randn(3, config.num_frames or config.tubelet_size, config.num_channels, height, width)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.output) as unfinished:
        export(model, clips[:2], unfinished, describe(model, processor))
    with torch.no_grad():
        expected = model(clips).logits
        difference = ((load(args.output)(clips) - expected).abs().max() / expected.abs().max()).item()
    megabytes = args.output.stat().st_size / 1e6
    print(f"{args.output}: {megabytes:.0f} MB; logits of three random clips differ by {difference:.1e} of the largest")
    if not difference <= TOLERANCE:
        sys.exit(f"error: more than {TOLERANCE:.0e}, do not use it")
