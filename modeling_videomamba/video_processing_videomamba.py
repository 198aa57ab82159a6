"""Video processor of VideoMamba: from video files or arrays to the clips that the model takes."""

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoInput, VideoMetadata, make_batched_metadata

from .video_decoding import decode_video
from .video_inputs import Frames, list_videos, to_levels
from .video_sources import VideoSource


class VideoMambaVideoProcessorKwargs(VideosKwargs, total=False):
    """Beside the usual ones: the views of one video in multi-view evaluation. They belong to a call and are never saved.

    num_clips (`int`, defaults to 1): clips of `num_frames` each, all over the whole video, one shifted against the other.
    num_crops (`int`, defaults to 1): 1 is the centre crop; more are squares along the longer side, from end to end.
    """

    num_clips: int
    num_crops: int


class VideoMambaVideoProcessor(BaseVideoProcessor):
    r"""
    The reference's evaluation transform. `num_frames` frames, from the middles of as many equal segments of the whole video
    (a shorter video repeats frames; frames that are sampled already need `do_sample_frames=False`); bilinear resize of the
    shorter side, without antialiasing; centre crop; ImageNet normalisation. With `fps` instead of `num_frames`, so many frames
    a second.

    Takes one video or a list of them:

    - files: paths, http(s) addresses, `bytes`, binary files that are open, items of `datasets.Video` (decoded or not),
      decoders of torchcodec;
    - frames: arrays `(frames, height, width, channels)` or `(frames, channels, height, width)`, lists of arrays of one frame
      each, lists of Pillow's pictures, or an animated one. Whole numbers are levels in 0..255; floats are levels in 0..1, or
      in 0..255 if one is above 1; any other range is an error. Grey is repeated for the three colours, and transparency is
      left out.

    Returns `pixel_values` `(videos * num_clips * num_crops, num_frames, 3, height, width)`: the views of a video follow each
    other, clip by clip. [`post_process_video_classification`] joins their scores again.

    Example:

    ```python
    >>> processor = VideoMambaVideoProcessor(num_frames=16)
    >>> inputs = processor("dog.mp4", num_clips=4, num_crops=3, return_tensors="pt")
    >>> scores = processor.post_process_video_classification(model(**inputs).logits, num_views=12)
    ```
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 16
    frame_sampling = "segments"
    num_clips = 1
    num_crops = 1
    valid_kwargs = VideoMambaVideoProcessorKwargs
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Unpack[VideoMambaVideoProcessorKwargs]) -> None:
        super().__init__(**kwargs)
        if type(self.num_frames) is not int or self.num_frames < 1:
            raise ValueError(f"`num_frames` must be a whole number of at least 1, got {self.num_frames!r}.")

    def preprocess(self, videos: VideoInput, **kwargs: Unpack[VideoMambaVideoProcessorKwargs]) -> BatchFeature:
        for name in ("num_frames", "num_clips", "num_crops"):
            if kwargs.get(name) is not None and kwargs[name] < 1:
                raise ValueError(f"`{name}` must be at least 1, got {kwargs[name]}.")
        fps, num_frames = kwargs.get("fps"), kwargs.get("num_frames")
        if fps is not None:
            if num_frames is not None:
                raise ValueError(f"`num_frames` {num_frames} and `fps` {fps} exclude each other: pass one of them.")
            if fps <= 0:
                raise ValueError(f"`fps` must be above 0, got {fps}.")
            kwargs["num_frames"] = None  # not the processor's own
        settings = {name: getattr(self, name) for name in ("do_rescale", "rescale_factor", "do_convert_rgb")} | kwargs
        has_levels = settings["do_rescale"] and math.isclose(settings["rescale_factor"] or 0, 1 / 255)
        videos = list_videos(videos, kwargs.pop("input_data_format", None), has_levels, settings["do_convert_rgb"])
        batch = super().preprocess(videos, **kwargs)
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        num_clips: int | None = None,
        fps: float | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Indices of the frames of all clips, `(num_clips * num_frames,)`, clip by clip.

        The video is cut into `num_frames` equal segments; clip k of n takes from each the frame at (k + 1) / (n + 1) of its
        length: for one clip, its middle. With `frame_sampling="intervals"`, as video-text models were trained, the bounds of
        the segments are whole frames, and there is one clip.

        With `fps` instead of `num_frames`, there are as many segments as make so many frames a second. Where the frame rate of
        the video varies, they are equally long in seconds.
        """
        num_clips = num_clips or self.num_clips
        if num_frames is None and fps is not None:
            if metadata.fps is None:
                raise ValueError("`fps` needs the frame rate of the video: pass it in `video_metadata`, or pass `num_frames`.")
            num_frames = max(1, int(metadata.total_num_frames / metadata.fps * fps))
        num_frames = num_frames or self.num_frames
        last = metadata.total_num_frames - 1
        if self.frame_sampling not in ("segments", "intervals"):
            raise ValueError(f"`frame_sampling` must be 'segments' or 'intervals', got {self.frame_sampling!r}.")
        if self.frame_sampling == "intervals":
            if num_clips > 1:
                raise ValueError(f"`num_clips` must be 1 with `frame_sampling='intervals'`, got {num_clips}.")
            return interval_middles(metadata.total_num_frames, num_frames)
        frame_times = getattr(metadata, "frame_times", None)
        if fps is not None and frame_times is not None:
            places = np.add.outer(np.arange(1, num_clips + 1) / (num_clips + 1), np.arange(num_frames))  # (clips, frames)
            seconds = places.ravel() * metadata.duration / num_frames
            return np.searchsorted(frame_times, seconds, side="right") - 1
        segment = last / num_frames
        starts = np.round(segment * np.arange(num_frames)).astype(int)  # half to even
        shifts = [int(segment / (num_clips + 1) * (clip + 1)) for clip in range(num_clips)]
        return np.concatenate([np.minimum(starts + shift, last) for shift in shifts])

    def fetch_videos(self, video_url_or_urls: str | list, sample_indices_fn: Callable | None = None) -> tuple | list:
        if isinstance(video_url_or_urls, list):
            return list(zip(*[self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]))

        if sample_indices_fn is None:
            return decode_video(video_url_or_urls, lambda metadata: np.arange(metadata.total_num_frames))
        # `preprocess` hands on all that it was called with.
        settings = self._standardize_kwargs(**getattr(sample_indices_fn, "keywords", {}))

        def shrink(frames: Tensor) -> Tensor:
            """Resizes them now rather than later, when all have been decoded; then nothing is left to resize."""
            return self.resize(frames, settings["size"], resample=settings["resample"])

        shrink = shrink if settings.get("do_resize") else None
        return decode_video(video_url_or_urls, lambda metadata: sample_indices_fn(metadata=metadata), shrink=shrink)

    def _decode_and_sample_videos(
        self,
        videos: list[VideoSource | Frames],
        video_metadata: list | dict | VideoMetadata | None,
        do_sample_frames: bool | None = None,
        sample_indices_fn: Callable | None = None,
    ) -> tuple[list[Frames], list[VideoMetadata]]:
        if video_metadata is None:
            given = [None] * len(videos)
        else:
            given = make_batched_metadata(videos, video_metadata=video_metadata)
            if len(given) != len(videos):
                raise ValueError(f"`video_metadata` is that of {len(given)} videos, but {len(videos)} were given.")
        sampled, metadata_of_sampled = [], []
        for video, metadata in zip(videos, given):
            if isinstance(video, Frames):
                video, metadata = self._sample(video, metadata, sample_indices_fn if do_sample_frames else None)
            else:
                frames, metadata = self.fetch_videos(video, sample_indices_fn)
                video = Frames(frames)
            sampled.append(video)
            metadata_of_sampled.append(metadata)
        return sampled, metadata_of_sampled

    def _sample(
        self, video: Frames, metadata: VideoMetadata | None, sample_indices_fn: Callable | None
    ) -> tuple[Frames, VideoMetadata]:
        total, _, height, width = video.pixels.shape
        if metadata is None:
            metadata = VideoMetadata(total, height=height, width=width, frames_indices=list(range(total)))
        if sample_indices_fn is None:
            return video, metadata
        if metadata.total_num_frames != total:
            raise ValueError(
                f"`video_metadata` says that a video has {metadata.total_num_frames} frames, but {total} were given. If these "
                "are sampled already, pass `do_sample_frames=False`."
            )
        metadata = copy(metadata)  # it may be the caller's
        metadata.frames_indices = sample_indices_fn(metadata=metadata)
        return video.take(metadata.frames_indices), metadata

    def _prepare_input_videos(self, videos: list[Frames], device: str | None = None, **kwargs) -> list[Tensor]:
        videos = [to_levels(video) for video in videos]
        return [video.to(device) for video in videos] if device is not None else videos

    def resize(self, image: Tensor, size, **kwargs) -> Tensor:
        return super().resize(image, size, **(kwargs | {"antialias": False}))

    def _preprocess(self, videos: list[Tensor], num_clips: int, num_crops: int, return_tensors=None, **kwargs) -> BatchFeature:
        if num_clips > 1:
            for video in videos:
                if len(video) % num_clips:
                    raise ValueError(f"{len(video)} frames cannot be divided into `num_clips` {num_clips} of equal length.")
            videos = [clip for video in videos for clip in video.chunk(num_clips)]
        if num_crops > 1:
            crop_size = kwargs["crop_size"]
            if crop_size.height != crop_size.width:
                size = f"{crop_size.height} x {crop_size.width}"
                raise ValueError(f"`num_crops` {num_crops} makes squares, but this model takes frames of {size} pixels.")
            if kwargs["do_resize"]:
                videos = [self.resize(video, size=kwargs["size"], resample=kwargs["resample"]) for video in videos]
            videos = [crop for video in videos for crop in crops_along_longer_side(video, num_crops)]
            kwargs |= {"do_resize": False, "do_center_crop": False}
        lengths = sorted({len(video) for video in videos})
        if return_tensors is not None and len(lengths) > 1:
            raise ValueError(
                f"Videos of {' and '.join(map(str, lengths))} frames do not fit into one batch: process them one by one, or "
                "pass `num_frames`."
            )
        return super()._preprocess(videos, return_tensors=return_tensors, **kwargs)

    def post_process_video_classification(self, logits: Tensor, num_views: int = 1, problem_type: str | None = None) -> Tensor:
        """Scores `(videos, labels)` from the logits of all views `(videos * num_views, labels)`.

        As the reference merges views, their scores in fp32 are averaged: softmax, or by `model.config.problem_type` sigmoid
        for several labels at once, and the values themselves for regression.
        """
        logits = logits.float()
        if problem_type == "multi_label_classification":
            scores = logits.sigmoid()
        else:
            scores = logits if problem_type == "regression" else logits.softmax(dim=-1)
        return scores.unflatten(0, (-1, num_views)).mean(dim=1)

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name not in ("num_clips", "num_crops")}


def interval_middles(total: int, num_frames: int) -> np.ndarray:
    """The middle frame of each of `num_frames` intervals with whole bounds; a short video repeats its last one."""
    if total < num_frames:
        return np.minimum(np.arange(num_frames), total - 1)
    bounds = np.linspace(0, total, num_frames + 1).astype(int)
    return (bounds[:-1] + bounds[1:] - 1) // 2


def crops_along_longer_side(video: Tensor, num_crops: int) -> list[Tensor]:
    """Square crops of a video `(frames, channels, height, width)`, evenly spaced from end to end of its longer side."""
    short, long = sorted(video.shape[-2:])
    dim = -1 if video.shape[-1] == long else -2
    step = (long - short) / (num_crops - 1)
    return [video.narrow(dim, int(k * step), short) for k in range(num_crops)]


__all__ = ["VideoMambaVideoProcessor", "VideoMambaVideoProcessorKwargs"]
