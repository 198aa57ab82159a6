"""Retrieval, as it is measured: which frames stand for a video, which pairs are judged, where the right answers end up.

Pairs are judged in two steps. The dual encoder compares every video with every text by cosines. Then the model looks at both
sides of the likeliest pairs at once; whatever it does not look at ranks below them.
"""

from bisect import bisect_left
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from transformers.image_utils import PILImageResampling

from .. import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor
from ..data.captions import CaptionedFile
from ..data.clips import UnreadableFiles, read_frames
from ..video_decoding import decode_video
from ..video_processing_videomamba import interval_middles
from ..video_text_losses import similarities


NOT_MATCHED = -100.0  # the score of a pair that the model did not look at
PLACES = (1, 5, 10)


def read_middle_frames(file: CaptionedFile, num_frames: int, seconds: float | None = None) -> Tensor:
    """Frames `(num_frames, 3, height, width)`, uint8, of a video or of its first `seconds`.

    They are the middles of equal intervals; a video that is shorter repeats its last frame, an image its only one.

    Raises:
        ValueError, OSError: if it cannot be read, or does not say how many frames a second has.
    """
    if seconds is None or file.medium == "image":
        frames = read_frames({file.medium: file.path}, lambda total: interval_middles(total, num_frames))
        return frames.expand(num_frames, -1, -1, -1)

    def choose(metadata) -> np.ndarray:
        if metadata.fps is None:
            raise ValueError("The video does not say how many frames it shows a second, so it cannot be cut off.")
        length = int(seconds * metadata.fps)
        if metadata.frame_times is not None:  # the rate varies
            length = bisect_left(metadata.frame_times, seconds)
        return interval_middles(max(min(metadata.total_num_frames, length), 1), num_frames)

    return decode_video(file.path, choose)[0]


class RetrievalClips(Dataset):
    """`(index, clip)` of videos or images, a clip being `(frames, 3, height, width)`; `None` in place of what cannot be read.

    The whole frame is resized to `image_size`, `(height, width)`, whatever its aspect.
    """

    def __init__(
        self,
        files: list[CaptionedFile],
        processor: VideoMambaVideoProcessor,
        image_size: tuple[int, int],
        num_frames: int,
        unreadable: UnreadableFiles | None = None,
        seconds: float | None = None,
    ):
        self.files, self.processor, self.unreadable = files, processor, unreadable or UnreadableFiles()
        self.image_size, self.num_frames, self.seconds = image_size, num_frames, seconds

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None]:
        try:
            return index, self._transform(read_middle_frames(self.files[index], self.num_frames, self.seconds))
        except Exception as error:  # of whatever type: no file may end the run
            self.unreadable.add(self.files[index].path, error)
            return index, None

    def _transform(self, frames: Tensor) -> Tensor:
        [clip] = self.processor(
            frames,
            do_sample_frames=False,
            size=dict(zip(("height", "width"), self.image_size)),
            do_center_crop=False,
            resample=PILImageResampling.BICUBIC,
            return_tensors="pt",
        )["pixel_values"]
        return clip


def join_readable(items: list[tuple[int, Tensor | None]]) -> tuple[list[int], Tensor | None]:
    """A batch of clips `(videos, frames, 3, height, width)` and their indices; `None` if nothing in it could be read."""
    readable = [(index, clip) for index, clip in items if clip is not None]
    return [index for index, _ in readable], torch.stack([clip for _, clip in readable]) if readable else None


class Encoded(NamedTuple):
    """Videos or texts, on the CPU: where they are in the common space, and what [`match_pairs`] looks at."""

    embeds: Tensor  # of unit length, videos (videos, frames, projection_dim), texts (texts, projection_dim)
    states: Tensor  # videos (videos, patches, hidden), texts (texts, length, hidden)


@torch.inference_mode()
def encode_videos(
    model: VideoMambaForVideoTextRetrieval, batches: Iterable[tuple[list[int], Tensor | None]], bf16: bool = False
) -> tuple[list[int], Encoded]:
    """The readable ones among the videos, by their indices, and what they are encoded as.

    Raises:
        ValueError: if there is none.
    """
    readable, encoded = [], []
    for indices, clips in batches:
        if clips is not None:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                encoded.append(_encoded(model.get_video_features(clips.to(model.device))))
            readable += indices
    if not readable:
        raise ValueError("None of the videos could be read.")
    return readable, _join(encoded)


@torch.inference_mode()
def encode_texts(
    model: VideoMambaForVideoTextRetrieval, input_ids: Tensor, mask: Tensor, batch_size: int, bf16: bool = False
) -> Encoded:
    """`input_ids`, `mask`: `(texts, length)`."""
    encoded = []
    for ids, ids_mask in zip(input_ids.split(batch_size), mask.split(batch_size)):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            encoded.append(_encoded(model.get_text_features(ids.to(model.device), ids_mask.to(model.device))))
    return _join(encoded)


def _encoded(features) -> Encoded:
    return Encoded(F.normalize(features.pooler_output.float(), dim=-1).cpu(), features.last_hidden_state.cpu())


def _join(parts: list[Encoded]) -> Encoded:
    return Encoded(*map(torch.cat, zip(*parts)))


@torch.inference_mode()
def match_pairs(
    model: VideoMambaForVideoTextRetrieval,
    videos: Encoded,
    texts: Encoded,
    mask: Tensor,
    chosen: Tensor,
    batch_size: int,
    bf16: bool = False,
) -> Tensor:
    """How well pairs match, `(videos, texts)`; [`NOT_MATCHED`] for those that are not chosen.

    Args:
        mask (`Tensor` of shape `(texts, length)`): 0 at padding.
        chosen (`Tensor` of shape `(videos, texts)`): the pairs to judge, bool.
        batch_size: how many texts to judge a video by at once.
    """
    scores = torch.full(chosen.shape, NOT_MATCHED)
    for video, texts_of_video in enumerate(chosen):
        tokens = videos.states[video].to(model.device)  # once for all its texts
        for some in texts_of_video.nonzero()[:, 0].split(batch_size):
            states, states_mask = texts.states[some].to(model.device), mask[some].to(model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                logits = model.match(states, states_mask, tokens.expand(len(some), -1, -1))  # (pairs, 2)
            scores[video, some] = logits[:, 1].float().cpu()
    return scores


def score_pairs(
    model: VideoMambaForVideoTextRetrieval,
    videos: Encoded,
    texts: Encoded,
    mask: Tensor,
    top_k: int,
    batch_size: int,
    bf16: bool = False,
) -> dict[str, Tensor]:
    """Cosines of all pairs, and scores of the `top_k` likeliest texts of every video, and videos of every text.

    Returns:
        `dual`, `video_to_text` `(videos, texts)`; `text_to_video` `(texts, videos)`.
    """
    dual = similarities(videos.embeds, texts.embeds)
    of_videos, of_texts = likeliest(dual, top_k), likeliest(dual.T, top_k)
    matched = match_pairs(model, videos, texts, mask, of_videos | of_texts.T, batch_size, bf16)  # no pair twice
    return {
        "dual": dual,
        "video_to_text": matched.where(of_videos, NOT_MATCHED),
        "text_to_video": matched.T.where(of_texts, NOT_MATCHED),
    }


def likeliest(scores: Tensor, k: int) -> Tensor:
    """Which scores are among the `k` best of their row: bool, of the shape of `scores`. Of equal ones, the first is better."""
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def ranks(scores: Tensor, right: Tensor) -> list[int]:
    """For every query the place, from 1 on, of the best ranked of its right answers.

    Args:
        scores (`Tensor` of shape `(queries, candidates)`): equal ones rank by their index.
        right (`Tensor` of shape `(queries, candidates)`): bool; at least one in a row.

    Raises:
        ValueError: if there are scores that are no numbers.
    """
    if not scores.isfinite().all():
        raise ValueError("There are scores that are infinite or no numbers.")
    order = scores.argsort(dim=1, descending=True, stable=True)
    return (right.gather(1, order).int().argmax(dim=1) + 1).tolist()


def recalls(scores: Tensor, right: Tensor) -> dict[str, float]:
    """The part of the queries with a right answer among the first 1, 5 and 10, and the median rank; see [`ranks`]."""
    places = ranks(scores, right)
    found = {f"r{k}": sum(place <= k for place in places) / len(places) for k in PLACES}
    return found | {"median_rank": float(median(places))}


def retrieval_metrics(scores: dict[str, Tensor], video_of_text: list[int]) -> dict[str, float]:
    """`text_to_video_r1` and so on, also `..._r5`, `..._r10`, `..._median_rank`; the other way; and both of the dual encoder.

    Args:
        scores: of [`score_pairs`].
        video_of_text: the right video of every text. A video may be that of several texts.
    """
    dual = scores["dual"]
    right = torch.tensor(video_of_text) == torch.arange(len(dual))[:, None]  # (videos, texts)
    measured = {
        "text_to_video": recalls(scores["text_to_video"], right.T),
        "video_to_text": recalls(scores["video_to_text"], right),
        "dual_text_to_video": recalls(dual.T, right.T),
        "dual_video_to_text": recalls(dual, right),
    }
    return {f"{way}_{name}": value for way, values in measured.items() for name, value in values.items()}


def metrics_table(metrics: dict[str, float]) -> str:
    """The metrics in Markdown, recalls in percent."""
    names = {
        "text_to_video": "text to video",
        "video_to_text": "video to text",
        "dual_text_to_video": "text to video, dual encoder alone",
        "dual_video_to_text": "video to text, dual encoder alone",
    }
    lines = ["| | R@1 | R@5 | R@10 | median rank |", "|:--|--:|--:|--:|--:|"]
    for way, name in names.items():
        percent = [f"{100 * metrics[f'{way}_r{k}']:.1f}" for k in PLACES]
        lines.append(f"| {' | '.join([name, *percent, format(metrics[f'{way}_median_rank'], 'g')])} |")
    return "\n".join(lines)
