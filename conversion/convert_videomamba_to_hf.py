"""Converts an official VideoMamba classifier, for videos or images, to a directory that transformers loads.

    python conversion/convert_videomamba_to_hf.py checkpoint.pth my-model --labels kinetics-400

The architecture is read off the tensors. What no tensor tells is given as --set KEY=VALUE; a square frame, an epsilon of 1e-5
and patches that do not overlap are assumed otherwise. The directory holds weights, configuration, processor, a model card, and
the code, so that it also loads where this package is not installed (`trust_remote_code=True`).
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from conversion.labels import LABEL_FILES, load_labels
from conversion.model_card import model_card
from conversion.official_layout import CheckpointError, check_against, infer_config, inflate, read_checkpoint, rename
from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaModel,
    VideoMambaPreTrainedModel,
    VideoMambaVideoProcessor,
)


def convert(
    source: str | Path,
    overrides: dict[str, Any] | None = None,
    labels: str | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    tubelet_size: int | None = None,
    inflation: str = "center",
) -> tuple[VideoMambaPreTrainedModel, list[str]]:
    """Loads an official checkpoint into the class that fits it: a video or image classifier, or, without a head, a bare model.

    Args:
        source: path of the checkpoint.
        overrides: configuration fields that no tensor tells.
        labels: see [`load_labels`].
        num_frames, image_size: another number of frames or frame size, which position embeddings are interpolated to. An
            image checkpoint with `num_frames` becomes the start of a video model: temporal embeddings of zero, no head.
        tubelet_size, inflation: for an image checkpoint that becomes a video model, see [`inflate`].

    Returns:
        The model, and remarks on what was left out or made up.
    """
    tensors = read_checkpoint(source)
    config = infer_config(tensors, overrides or {})
    tensors, left_out = rename(tensors)
    remarks = [f"left out, of use in training only: {', '.join(left_out)}"] if left_out else []
    if num_frames is not None and config.num_frames is None:
        config.num_frames, config.tubelet_size = num_frames, tubelet_size or 1
        kernel = "videomamba.embeddings.patch_embeddings.projection.weight"
        tensors[kernel] = inflate(tensors[kernel], config.tubelet_size, inflation)
        temporal = torch.zeros(1, config.num_temporal_positions, config.hidden_size)
        tensors["videomamba.embeddings.temporal_position_embeddings"] = temporal
        remarks.append("an image model becomes a video model: temporal position embeddings of zero, the image head left out")
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}

    if "classifier.weight" in tensors:
        model_class = VideoMambaForVideoClassification if config.num_frames else VideoMambaForImageClassification
        if labels is not None:
            config.id2label = load_labels(labels, config.num_labels)
            config.label2id = {name: i for i, name in config.id2label.items()}
        else:
            remarks.append("no --labels: classes are called LABEL_0, LABEL_1, ...")
    else:
        if labels is not None:
            raise CheckpointError("--labels given, but the converted model has no classification head.")
        model_class = VideoMambaModel
        tensors = {name.removeprefix("videomamba."): tensor for name, tensor in tensors.items()}
        remarks.append("no classification head: from_pretrained(..., num_labels=N) of a classifier adds a new one")
    with torch.device("meta"):
        model = model_class(config)
    check_against(model.state_dict(), tensors)
    model.load_state_dict(tensors, assign=True)
    if num_frames is not None or image_size is not None:
        model.resize_position_embeddings(image_size, num_frames)
    return model.eval(), remarks


def processor_for(config: VideoMambaConfig) -> VideoMambaVideoProcessor | CLIPImageProcessor:
    """The reference's evaluation transform: for videos our own processor, for images CLIP's with ImageNet statistics."""
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    crop_size, side = {"height": height, "width": width}, max(height, width)
    if config.num_frames is not None:
        return VideoMambaVideoProcessor(num_frames=config.num_frames, size={"shortest_edge": side}, crop_size=crop_size)
    return CLIPImageProcessor(
        size={"shortest_edge": int(side / 0.875)},
        crop_size=crop_size,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


def save(model: VideoMambaPreTrainedModel, output_dir: str | Path, source: str | Path) -> None:
    """Writes the model directory beside its place first, then moves it there whole."""
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} exists and is not an empty directory: remove it or choose another.")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}-", dir=output_dir.parent))
    try:
        model.save_pretrained(unfinished)
        processor_for(model.config).save_pretrained(unfinished)
        (unfinished / "README.md").write_text(model_card(model, output_dir.name, Path(source).name), encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.replace(output_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def parse_setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        raise argparse.ArgumentTypeError(f"{key}: {value!r} is no JSON value") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="official checkpoint, .pth or .safetensors")
    parser.add_argument("output_dir", help="directory to write; must not exist, or be empty")
    parser.add_argument("--labels", help=f"label names: a file, or one of {', '.join(LABEL_FILES)}")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        type=parse_setting,
        action="append",
        default=[],
        help="configuration field that no tensor tells, with a JSON value; repeatable. 'image_size=[40,24]', patch_stride=8, "
        "layer_norm_eps=1e-3, drop_path_rate=0.1",
    )
    parser.add_argument(
        "--num-frames", type=int, help="interpolate to this number of frames; makes an image model a video one"
    )
    parser.add_argument("--image-size", type=int, help="interpolate to square frames of this many pixels")
    parser.add_argument("--tubelet-size", type=int, help="frames a patch spans, when an image model becomes a video one")
    parser.add_argument("--inflation", choices=("center", "mean"), default="center", help="and how its kernel fills them")
    args = parser.parse_args()
    try:
        model, remarks = convert(
            args.source,
            dict(args.overrides),
            args.labels,
            args.num_frames,
            args.image_size,
            args.tubelet_size,
            args.inflation,
        )
        save(model, args.output_dir, args.source)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    config = model.config
    print(f"{args.output_dir}: {type(model).__name__}, {model.num_parameters():,} parameters")
    print(f"  {config.num_hidden_layers} blocks of width {config.hidden_size}, {config.num_frames or 1} frame(s) of ", end="")
    print(f"{config.image_size} pixels, {'RMSNorm' if config.rms_norm else 'LayerNorm'}")
    for remark in remarks:
        print(f"  {remark}")


if __name__ == "__main__":
    main()
