"""A classifier as one file: ONNX, or a `torch.export` program."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_utils import PILImageResampling

from .. import VideoMambaVideoProcessor


METADATA = "videomamba"  # its name in the metadata of an ONNX file; videomamba.json in a program


def describe(model: PreTrainedModel, processor: VideoMambaVideoProcessor) -> str:
    """What somebody needs who runs the file without this package: labels, and how frames become `pixel_values`. JSON."""
    size, crop = dict(processor.size), dict(processor.crop_size) if processor.do_center_crop else None
    return json.dumps(
        {
            "labels": [model.config.id2label[i] for i in range(model.config.num_labels)],
            "problem_type": model.config.problem_type or "single_label_classification",
            "num_frames": model.config.num_frames,
            "frame_sampling": f"{processor.frame_sampling}: of each of num_frames equal segments of the video, its middle",
            "resize": {name: side for name, side in size.items() if side is not None},
            "interpolation": f"{PILImageResampling(processor.resample).name.lower()}, without antialiasing, rounded to levels",
            "center_crop": crop,
            "rescale": processor.rescale_factor,
            "mean": list(processor.image_mean),
            "std": list(processor.image_std),
        },
        ensure_ascii=False,
    )


def export(model: PreTrainedModel, pixel_values: Tensor, output: Path, description: str) -> None:
    """Writes `output`, in the format of its suffix, with a description. `pixel_values`: any two clips of the right size."""
    free = {0: torch.export.Dim.AUTO}
    if output.suffix == ".pt2" and model.config.num_frames is not None:
        free[1] = torch.export.Dim.AUTO  # the frames, whole tubelets
    with torch.no_grad():
        program = torch.export.export(model, (pixel_values,), dynamic_shapes=(free,))
    if output.suffix == ".pt2":
        torch.export.save(program, output, extra_files={f"{METADATA}.json": description})
        return
    import onnx

    from ..selective_scan_onnx import ONNX_TRANSLATIONS

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
    exported = onnx.load(output)
    onnx.helper.set_model_props(exported, {METADATA: description})
    onnx.save(exported, output)


def load(exported: Path) -> Callable[[Tensor], Tensor]:
    """The logits of an exported file, as a function of `pixel_values`."""
    if exported.suffix == ".pt2":
        module = torch.export.load(exported).module()
        return lambda pixel_values: module(pixel_values).logits
    import onnxruntime

    session = onnxruntime.InferenceSession(exported)
    return lambda pixel_values: torch.from_numpy(session.run(["logits"], {"pixel_values": pixel_values.numpy()})[0])
