"""From what people have in hand to a list of videos: files in any form, or arrays of pixels in one layout."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from PIL import ImageSequence
from PIL.Image import Image
from torch import Tensor
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from .video_sources import VideoSource


A_VIDEO_IS = (
    "A video is a path, an http(s) address, the content of a file, an open file or decoder, a list of frames, or an array "
    "(frames, height, width, channels) or (frames, channels, height, width) with 1, 3 or 4 channels"
)


class Frames(NamedTuple):
    """Pixels `(frames, channels, height, width)`, uint8, or with the factor that takes them to 0..255 if they are to be."""

    pixels: Tensor
    factor: float | None = 1.0

    def take(self, indices: Sequence[int]) -> "Frames":
        return self._replace(pixels=self.pixels[torch.as_tensor(indices, device=self.pixels.device)])


def list_videos(
    videos: Any,
    input_data_format: str | ChannelDimension | None = None,
    check_range: bool = True,
    convert_rgb: bool = True,
) -> list[VideoSource | Frames]:
    """A flat list of videos from one of them, a batch, or lists of any depth. Arrays of uint8 and of floats are not copied.

    Args:
        videos: [`A_VIDEO_IS`] says what a video is. A list of pictures, or of arrays of one frame each, is one video; a list
            of paths is as many. An array of 5 dimensions is a batch. One frame as an array is a video of one, and so
            is a picture, unless it is an animated one.
        input_data_format (`"channels_first"` or `"channels_last"`, *optional*): by default, told by the shape.
        check_range: whole numbers must be in 0..255, and floats in 0..1 or 0..255, told apart by the largest one. Otherwise
            they may be anything, and are left as they are.
        convert_rgb: grey is repeated for the three colours, and transparency left out, as Pillow's `convert("RGB")` does and
            as that of videos is.

    Raises:
        ValueError: if it is something else.
    """
    options = input_data_format, check_range, convert_rgb
    if _is_file(videos):
        return [videos]
    if isinstance(videos, Image):
        videos = [frame.copy() for frame in ImageSequence.Iterator(videos)]
    if isinstance(videos, (list, tuple)):
        if not videos:
            raise ValueError("An empty list is not a video.")
        is_frame = [_is_frame(video) for video in videos]
        if all(is_frame):
            return [_frames(_stack(videos, input_data_format), *options)]
        if any(is_frame):
            raise ValueError(f"A list holds single frames beside other things. {A_VIDEO_IS}.")
        return [flat for video in videos for flat in list_videos(video, *options)]
    if not isinstance(videos, Tensor):
        if not hasattr(videos, "__array__"):
            raise ValueError(f"{A_VIDEO_IS}, got {type(videos).__name__}.")
        videos = np.asarray(videos)
    if videos.ndim == 5:
        if not len(videos):
            raise ValueError(f"A batch of shape {tuple(videos.shape)} has no videos.")
        return [_frames(video, *options) for video in videos]
    if videos.ndim == 3 and {videos.shape[0], videos.shape[2]} & {1, 3, 4}:
        videos = videos[None]
    return [_frames(videos, *options)]


def to_levels(frames: Frames) -> Tensor:
    """Pixels in 0..255, `(frames, channels, height, width)`, uint8 or fp32."""
    if frames.pixels.dtype == torch.uint8:
        return frames.pixels
    return frames.pixels.float() if frames.factor is None else frames.pixels.float() * frames.factor


def picture_to_rgb(picture: Image) -> Image:
    """A picture of any mode in RGB. Transparency is left out, and 16 bits become 8.

    Raises:
        ValueError: for 32 bits, of which nobody knows the range.
    """
    if picture.mode.startswith("I;16"):  # Pillow would cut them off at 255
        return PIL.Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"A picture has 32 bits a pixel (Pillow's mode {picture.mode!r}): convert it to 8 bits first.")
    return picture.convert("RGB")


def _is_file(video: Any) -> bool:
    is_known = isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview, dict))
    return is_known or hasattr(video, "read") or hasattr(video, "get_frames_at")  # torchcodec's decoder


def _is_frame(frame: Any) -> bool:
    return isinstance(frame, Image) or (isinstance(frame, (np.ndarray, Tensor)) and frame.ndim in (2, 3))


def _stack(frames: Sequence, input_data_format: str | ChannelDimension | None) -> np.ndarray | Tensor:
    """Frames of one size, `(frames, ...)`. Those of two dimensions get one for the channel."""
    channel = -1 if input_data_format == ChannelDimension.LAST else 0
    arrays = [np.asarray(picture_to_rgb(frame)) if isinstance(frame, Image) else frame for frame in frames]
    shapes = {tuple(array.shape) for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"The frames of a video have one size, got {' and '.join(map(str, sorted(shapes)[:2]))}.")
    if all(isinstance(array, Tensor) for array in arrays):
        return torch.stack([array.unsqueeze(channel) if array.ndim == 2 else array for array in arrays])
    return np.stack([np.expand_dims(array, channel) if array.ndim == 2 else array for array in arrays])


def _frames(
    video: np.ndarray | Tensor, input_data_format: str | ChannelDimension | None, check_range: bool, convert_rgb: bool
) -> Frames:
    shape = tuple(video.shape)
    if video.ndim != 4:
        hint = ". Grey frames need a dimension for their channel: `video[..., None]`" if video.ndim in (2, 3) else ""
        raise ValueError(f"{A_VIDEO_IS}, got an array of shape {shape}{hint}.")
    if 0 in shape:
        raise ValueError(f"A video of shape {shape} has no frames or no pixels.")
    pixels = _tensor(video)
    if input_data_format is None:
        for channels in ((1, 3), (4,)):
            try:
                input_data_format = infer_channel_dimension_format(pixels, channels)
                break
            except ValueError:
                continue
    if input_data_format == ChannelDimension.LAST:
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] not in (1, 3, 4):
        raise ValueError(f"{A_VIDEO_IS}, got an array of shape {shape}.")
    if convert_rgb:
        pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]
    if pixels.dtype == torch.uint8 or not check_range:
        return Frames(pixels, 1.0 if pixels.dtype == torch.uint8 else None)
    return _with_levels(pixels)


def _with_levels(pixels: Tensor) -> Frames:
    if pixels.dtype == torch.bool:
        return Frames(pixels.to(torch.uint8) * 255)
    values = pixels if pixels.is_floating_point() else pixels.cpu().numpy()  # PyTorch knows no least uint16
    least, most = values.min().item(), values.max().item()
    if least >= 0 and most <= 255:
        return Frames(pixels, 255.0 if most <= 1 else 1.0) if pixels.is_floating_point() else Frames(pixels.to(torch.uint8))
    if pixels.is_floating_point():
        remedy = "floats are taken for levels in 0..1 or in 0..255; pass `do_rescale=False` if they are in another range"
    else:
        remedy = "whole numbers are taken for levels in 0..255; of 16 bits, pass `(video / 65535).astype('float32')`"
    raise ValueError(f"The pixels of a video ({pixels.dtype}) are from {least:g} to {most:g}: {remedy}.")


def _tensor(array: np.ndarray | Tensor) -> Tensor:
    if not isinstance(array, Tensor):
        if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
            raise ValueError(f"The pixels of a video are numbers in one array, got an array of {array.dtype}.")
        if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes into it
            array = torch.from_numpy(array)
    if array.is_complex() or array.is_quantized or (array.is_floating_point() and array.itemsize < 2):
        raise ValueError(f"The pixels of a video are numbers in one array, got a tensor of {array.dtype}.")
    if array.layout != torch.strided or array.is_meta:
        kind = "without data, on the device 'meta'" if array.is_meta else f"of layout {array.layout}"
        raise ValueError(f"The pixels of a video are numbers in one array, got a tensor {kind}.")
    return array


__all__ = ["Frames", "list_videos", "picture_to_rgb", "to_levels"]
