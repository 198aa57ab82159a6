"""Pretraining on videos and images with captions, beside BERT: section 3.4 and Table 7 of the paper.

Source: the reference's `video_mm/tasks/pretrain.py`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import BertForMaskedLM

from .. import VideoMambaForPreTraining, VideoMambaForVideoTextPreTraining, VideoMambaVideoTextConfig
from ..checkpoints.by_name import locate
from ..data.masking import mask_patches, of_visible_tokens
from .arguments import AlignmentArguments, BackboneArguments
from .models import start_pretraining_model
from .teachers import ClipTeacher
from .video_text import (
    CaptionArguments,
    continue_video_text_model,
    is_video_text,
)
from .video_text_trainer import VideoTextTrainer, VideoTextTrainingArguments


@dataclass
class VideoTextDataArguments(CaptionArguments):
    videos: str | None = field(default=None, metadata={"help": "list of videos and their captions: .json, .jsonl or .csv"})
    images: str | None = field(default=None, metadata={"help": "list of images and their captions"})

    def __post_init__(self) -> None:
        if self.videos is None and self.images is None:
            raise ValueError("Give --videos, --images, or both: lists of files and their captions.")


@dataclass
class TextArguments:
    text_model: str = field(
        default="google-bert/bert-base-uncased", metadata={"help": "the BERT to start from: a directory or a hub repository"}
    )
    num_fusion_layers: int = field(default=3, metadata={"help": "how many of its last layers look at a video"})
    word_mask_ratio: float = field(default=0.5, metadata={"help": "part of a caption's words that is to be guessed"})


@dataclass
class VideoTextAlignmentArguments(AlignmentArguments):
    """`mask_ratio` is that of videos. `teacher` may be none."""

    image_mask_ratio: float = field(default=0.5, metadata={"help": "part of an image's patches that is left out"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.image_mask_ratio < 1:
            raise ValueError(f"--image_mask_ratio must be in [0, 1), got {self.image_mask_ratio:g}.")


@dataclass
class VideoTextPretrainingArguments(VideoTextTrainingArguments):
    """BERT, which is pretrained, needs smaller steps than a video model alone. There is nothing to validate on."""

    learning_rate: float = 1e-4
    eval_strategy: str = "no"


class VideoTextPretrainingTrainer(VideoTextTrainer):
    def __init__(self, *args, teacher: ClipTeacher | None, alignment: VideoTextAlignmentArguments, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = None if teacher is None else teacher.to(self.args.device)
        self.alignment = alignment

    def model_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the teacher's mask and features, if there is one."""
        if self.teacher is None:
            return inputs
        clips, noise = inputs["pixel_values"], inputs["mask_noise"]
        mask_type = self.alignment.mask_type
        ratio = self.alignment.mask_ratio if clips.shape[1] > 1 else self.alignment.image_mask_ratio
        features, attention = self.teacher(clips, with_attention=mask_type == "attention")
        masked = mask_patches(noise, mask_type, ratio, attention)  # (clips, patches)
        targets = of_visible_tokens(features, masked)  # (clips, layers, 1 + visible patches, width)
        others = {name: tensor for name, tensor in inputs.items() if name != "mask_noise"}
        return others | {"bool_masked_pos": masked, "target_features": targets}


def start_model(
    model_args: BackboneArguments, text: TextArguments, alignment: VideoTextAlignmentArguments, teacher_width: int
) -> tuple[VideoMambaForVideoTextPreTraining, str]:
    """The model that training starts from, in fp32, and where its tokenizer is."""
    parent = None if model_args.model is None else locate(model_args.model)
    if parent is not None and is_video_text(parent):
        return continue_video_text_model(VideoMambaForVideoTextPreTraining, parent, model_args), parent
    vision = start_pretraining_model(model_args, alignment, teacher_width)
    bert = BertForMaskedLM.from_pretrained(text.text_model, dtype=torch.float32)
    return join_video_and_text(vision, bert, text.num_fusion_layers), text.text_model


def join_video_and_text(
    vision: VideoMambaForPreTraining, bert: BertForMaskedLM, num_fusion_layers: int = 3
) -> VideoMambaForVideoTextPreTraining:
    """A video-text model with the weights of a video model and of a BERT, whose last `num_fusion_layers` look at the video.

    The video model brings its alignment heads along, and BERT its head that guesses words; the cross-attention, the
    projections and the matching head are new.
    """
    config = VideoMambaVideoTextConfig(
        vision_config=vision.config, text_config=bert.config, num_fusion_layers=num_fusion_layers
    )
    model = VideoMambaForVideoTextPreTraining(config)
    model.vision_model.load_state_dict(vision.videomamba.state_dict())
    model.alignment_heads.load_state_dict(vision.alignment_heads.state_dict())
    model.text_model.load_state_dict(bert.bert.state_dict(), strict=False)
    model.masked_language_head.load_state_dict(bert.cls.state_dict())
    return model
