"""What training on videos, images and their captions shares: items, steps of one medium, batches, the model to start from.

Read from top to bottom. Values are the reference's (`video_mm/dataset`, `video_mm/models/criterions.py`).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import InterpolationMode, v2
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from .. import VideoMambaVideoProcessor, VideoMambaVideoTextConfig
from ..data.augmentation import EvaluationTransform
from ..data.captions import CaptionedFile, CaptionTokenizer
from ..data.clips import UnreadableFiles, drawn_from, read_frames
from ..data.masking import draw_noise
from ..modeling_videomamba_video_text import VideoMambaVideoTextPreTrainedModel
from ..video_processing_videomamba import interval_middles
from .arguments import BackboneArguments


@dataclass
class CaptionArguments:
    media_root: str | None = field(
        default=None, metadata={"help": "where relative paths in a list start from (default: where the list is)"}
    )
    max_text_length: int = field(default=32, metadata={"help": "tokens that a caption is cut to"})
    min_crop_area: float = field(default=0.5, metadata={"help": "smallest part of a frame that a random resized crop takes"})
    strict: bool = field(
        default=False, metadata={"help": "stop at a file that cannot be read, instead of skipping, counting and naming it"}
    )
    pure_bf16: bool = field(
        default=False,
        metadata={"help": "all weights in bf16, as in the reference; --bf16 is autocast over fp32 weights"},
    )


def random_frames(total: int, num_frames: int) -> list[int]:
    """A frame of each of `num_frames` intervals with whole bounds, never an interval's last one; as the reference's `rand`.

    If an interval has no other, frames are drawn from the whole video, in order. A short video repeats its last frame.
    """
    count = min(total, num_frames)
    bounds = np.linspace(0, total, count + 1).astype(int)
    if (np.diff(bounds) == 1).any():
        indices = sorted(random.sample(range(total), count))
    else:
        indices = [random.randrange(low, high - 1) for low, high in pairwise(bounds.tolist())]
    return indices + indices[-1:] * (num_frames - count)


def captioned_transform(
    processor: VideoMambaVideoProcessor, min_area: float = 0.5, horizontal_flip: bool = True
) -> v2.Compose:
    """From uint8 frames `(frames, 3, height, width)` to normalised ones `(frames, 3, size, size)` in fp32."""
    size = processor.size["height"], processor.size["width"]
    steps = [
        v2.RandomResizedCrop(size, (min_area, 1), (3 / 4, 4 / 3), InterpolationMode.BICUBIC, antialias=False),
        v2.RandomHorizontalFlip(0.5 if horizontal_flip else 0),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(processor.image_mean, processor.image_std),
    ]
    return v2.Compose(steps)


class CaptionedClips(Dataset):
    """Clips of videos, then of images, which are clips of one frame, each with one of its captions.

    What item i is in an epoch depends on the seed, the epoch and i, on nothing else. What cannot be read is replaced by the
    next of its medium that can. Without a `transform`, items are for validation and stay the same: the first caption, and the
    middle frames as the processor makes them.
    """

    repeats = 1

    def __init__(
        self,
        files: list[CaptionedFile],
        processor: VideoMambaVideoProcessor,
        transform: Callable[[Tensor], Tensor] | None,
        seed: int = 0,
        unreadable: UnreadableFiles | None = None,
    ):
        videos, images = ([file for file in files if file.medium == medium] for medium in ("video", "image"))
        self.files = videos + images
        self.media = {"videos": range(len(videos)), "images": range(len(videos), len(files))}
        same: dict[tuple[str, ...], int] = {}  # files with the same captions are not negatives of each other
        self.pair_ids = [same.setdefault(file.captions, i) for i, file in enumerate(self.files)]
        self.num_frames, self.seed, self.unreadable = processor.num_frames, seed, unreadable or UnreadableFiles()
        self.is_training = transform is not None
        self.transform = transform or EvaluationTransform(processor)
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        """`pixel_values` `(frames, 3, height, width)`, `caption`, `pair_id`, and the `key` of what else is drawn for it."""
        key = (self.seed, int(self.epoch), index)
        with drawn_from(*key):
            readable, frames = self._read_from(index)
            captions = self.files[readable].captions
            caption = random.choice(captions) if self.is_training else captions[0]
            clip = self.transform(frames)
        return {"pixel_values": clip, "caption": caption, "pair_id": self.pair_ids[readable], "key": key}

    def _read_from(self, index: int) -> tuple[int, Tensor]:
        medium, places = next(item for item in self.media.items() if index in item[1])
        choose = random_frames if self.is_training else interval_middles
        for i in range(len(places)):
            readable = places[(index - places.start + i) % len(places)]
            file = self.files[readable]
            try:
                return readable, read_frames({file.medium: file.path}, lambda total: choose(total, self.num_frames))
            except (ValueError, OSError) as error:
                self.unreadable.add(file.path, error)
        raise ValueError(f"None of the {len(places)} {medium} can be read.")


class OneMediumSampler(Sampler[int]):
    """Steps of videos and steps of images in random order, the same in all processes; an epoch goes through both media.

    What is left over at the end of a medium, less than a step, waits for another epoch.

    Args:
        clips: what items are drawn from; also tells the seed and the epoch.
        items_per_step: of all processes together. accelerate gives every process a batch of them.

    Raises:
        ValueError: if there are videos or images, but too few for a step.
    """

    def __init__(self, clips: CaptionedClips, items_per_step: int):
        self.clips, self.items_per_step = clips, items_per_step
        for medium, places in clips.media.items():
            if 0 < len(places) < items_per_step:
                raise ValueError(f"{len(places)} {medium} are too few for a step of {items_per_step}: train in smaller ones.")

    def __len__(self) -> int:
        return sum(len(places) // self.items_per_step for places in self.clips.media.values()) * self.items_per_step

    def __iter__(self) -> Iterator[int]:
        with drawn_from(self.clips.seed, int(self.clips.epoch)):
            steps = torch.cat([self._steps_of(places) for places in self.clips.media.values()])  # (steps, items_per_step)
            steps = steps[torch.randperm(len(steps))]
        yield from steps.flatten().tolist()

    def _steps_of(self, places: range) -> Tensor:
        kept = len(places) // self.items_per_step * self.items_per_step
        return (places.start + torch.randperm(len(places))[:kept]).view(-1, self.items_per_step)


def mask_words(masking: DataCollatorForLanguageModeling, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Texts with words masked, and the words, -100 where none is to be guessed, both of the shape of `input_ids`.

    Any token may be masked, [SEP] too, but neither padding nor [CLS].
    """
    tokenizer = masking.tokenizer
    is_kept = (input_ids == tokenizer.pad_token_id) | (input_ids == tokenizer.cls_token_id)
    return masking.torch_mask_tokens(input_ids.clone(), is_kept)


class VideoTextCollator:
    """Joins items of one medium into the inputs of a video-text model.

    Args:
        tokenizer: BERT's.
        max_text_length: tokens of every caption, padded or cut.
        word_ratio: the part of the words that is masked; 0 leaves `masked_input_ids` and `masked_labels` out.
        grid: rows and columns of patches; then there is `mask_noise` `(clips, frames, rows, columns)`, see [`mask_patches`].

    An item always has the same words and patches masked, whatever is in the batch beside it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_text_length: int,
        word_ratio: float = 0.0,
        grid: tuple[int, int] | None = None,
    ):
        self.tokenize, self.grid = CaptionTokenizer(tokenizer, max_text_length), grid
        self.masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=word_ratio) if word_ratio else None

    def __call__(self, items: list[dict]) -> dict[str, Tensor]:
        input_ids, attention_mask = self.tokenize([item["caption"] for item in items])
        batch = {
            "pixel_values": torch.stack([item["pixel_values"] for item in items]),
            "pair_ids": torch.tensor([item["pair_id"] for item in items]),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
        }
        drawn = [self._draw(item, ids) for item, ids in zip(items, input_ids)]
        return batch | {name: torch.stack([tensors[name] for tensors in drawn]) for name in drawn[0]}

    def _draw(self, item: dict, input_ids: Tensor) -> dict[str, Tensor]:
        tensors = {}
        with drawn_from(*item["key"], 1):
            if self.masking is not None:
                tensors["masked_input_ids"], tensors["masked_labels"] = mask_words(self.masking, input_ids)
            if self.grid is not None:
                tensors["mask_noise"] = draw_noise(len(item["pixel_values"]), *self.grid)
        return tensors


def is_video_text(parent: str) -> bool:
    """Whether a directory or a hub repository has a video-text model."""
    return PreTrainedConfig.get_config_dict(parent)[0].get("model_type") == VideoMambaVideoTextConfig.model_type


def continue_video_text_model(
    model_class: type[VideoMambaVideoTextPreTrainedModel], parent: str, args: BackboneArguments
) -> VideoMambaVideoTextPreTrainedModel:
    """A trained video-text model, in fp32, with what `args` change of its video side."""
    config = VideoMambaVideoTextConfig.from_pretrained(parent)
    if args.drop_path_rate is not None:
        config.vision_config.drop_path_rate = args.drop_path_rate
    model = model_class.from_pretrained(parent, config=config, dtype=torch.float32)
    model.vision_model.resize_position_embeddings(args.image_size, args.num_frames)
    return model


def load_tokenizer(parent: str, max_text_length: int, longest: int) -> PreTrainedTokenizerBase:
    """
    Raises:
        ValueError: if the text side cannot take captions of this length: it has `longest` positions.
    """
    if max_text_length > longest:
        raise ValueError(f"--max_text_length {max_text_length}, but the text side has {longest} positions.")
    return AutoTokenizer.from_pretrained(parent)
