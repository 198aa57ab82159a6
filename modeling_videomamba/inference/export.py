"""A classifier as one file: ONNX, or a `torch.export` program."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel


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


def load(exported: Path) -> Callable[[Tensor], Tensor]:
    """The logits of an exported file, as a function of `pixel_values`."""
    if exported.suffix == ".pt2":
        module = torch.export.load(exported).module()
        return lambda pixel_values: module(pixel_values).logits
    import onnxruntime

    session = onnxruntime.InferenceSession(exported)
    return lambda pixel_values: torch.from_numpy(session.run(["logits"], {"pixel_values": pixel_values.numpy()})[0])
