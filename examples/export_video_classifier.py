"""Exports a classifier of videos into one file, and compares its logits with the model's.

    python examples/export_video_classifier.py --model my-model --output model.onnx  # for onnxruntime, without PyTorch
    python examples/export_video_classifier.py --model my-model --output model.pt2   # for torch.export.load

The file takes `pixel_values (batch, num_frames, channels, height, width)`, as the model's processor makes them, and gives
`logits (batch, num_labels)`. Any batch, in a `.pt2` file any number of frames, too; all else is as in the model's
configuration. For other sizes, save what `model.resize_position_embeddings(num_frames=16, image_size=384)` makes of it, and
export that.
"""

import sys
from collections.abc import Callable
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone, installed or not

from examples.common.command import ArgumentParser, run_command


# isort: split
import torch
from torch import Tensor
from transformers import AutoModelForVideoClassification, PreTrainedModel
from transformers.utils import logging

import modeling_videomamba  # noqa: F401  (registers the model)
from examples.common.outputs import replacing


DEMO_MODEL = ROOT / "examples/demo_model"
TOLERANCE = 1e-4  # of the largest logit


def export(model: PreTrainedModel, pixel_values: Tensor, output: Path) -> None:
    """Writes `output`, in the format of its suffix. `pixel_values`: any two clips of the right size."""
    free = {0: torch.export.Dim.AUTO}
    if output.suffix == ".pt2" and model.config.num_frames is not None:
        free[1] = torch.export.Dim.AUTO  # the frames, whole tubelets
    with torch.no_grad():
        program = torch.export.export(model, (pixel_values,), dynamic_shapes=(free,))
    if output.suffix == ".pt2":
        torch.export.save(program, output)
        return
    from modeling_videomamba.selective_scan_onnx import ONNX_TRANSLATIONS

    torch.onnx.export(
        program,
        f=output,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        custom_translation_table=ONNX_TRANSLATIONS,
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def load(exported: Path) -> Callable[[Tensor], Tensor]:
    """The logits of an exported file, as a function of `pixel_values`."""
    if exported.suffix == ".pt2":
        module = torch.export.load(exported).module()
        return lambda pixel_values: module(pixel_values).logits
    import onnxruntime

    session = onnxruntime.InferenceSession(exported)
    return lambda pixel_values: torch.from_numpy(session.run(["logits"], {"pixel_values": pixel_values.numpy()})[0])


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="directory or hub repository of a VideoMamba classifier")
    parser.add_argument("--output", type=Path, required=True, help="file to write: .onnx or .pt2")
    args = parser.parse_args()
    if args.output.suffix not in (".onnx", ".pt2"):
        parser.error(f"--output: a file ending in .onnx or .pt2, got {args.output}")
    logging.disable_progress_bar()

    # Other implementations of the scan are bound to a device, and are unknown to ONNX.
    model = AutoModelForVideoClassification.from_pretrained(args.model, dtype="float32", scan_implementation="torch").eval()
    config = model.config
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    clips = torch.randn(3, config.num_frames or config.tubelet_size, config.num_channels, height, width)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.output) as unfinished:
        export(model, clips[:2], unfinished)
    with torch.no_grad():
        expected = model(clips).logits
        difference = ((load(args.output)(clips) - expected).abs().max() / expected.abs().max()).item()
    megabytes = args.output.stat().st_size / 1e6
    print(f"{args.output}: {megabytes:.0f} MB; logits of three random clips differ by {difference:.1e} of the largest")
    if not difference <= TOLERANCE:
        sys.exit(f"error: more than {TOLERANCE:.0e}, do not use it")


if __name__ == "__main__":
    run_command(main)
