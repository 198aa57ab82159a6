"""Pretrains a video model together with BERT on videos and images with captions (section 3.4 and Table 7 of the paper).

    python examples/pretrain_video_text.py --recipe videomamba-m-mm-5m-mask-pt --videos webvid2m.json --images cc3m.json
    python examples/pretrain_video_text.py --recipe videomamba-m-mm-5m --videos webvid2m.json --images cc3m.json
    accelerate launch --config_file examples/accelerate/ddp.yaml examples/pretrain_video_text.py --recipe ...

First with most patches hidden, which a CLIP teacher chooses: four losses, contrastive, matching, masked words, and alignment
with the teacher. Then an epoch on whole clips, without the teacher (`--teacher none`) and its loss. A list is
`[{"video" or "image": PATH, "caption": TEXT or [TEXT, ...]}, ...]`; a step has videos or images, not both. `--model` is what
to start from: a video model, beside which BERT starts from `--text_model`, or a video-text model. The output directory is
what `finetune_retrieval.py` starts from and `evaluate_retrieval.py` measures. An interrupted run goes on from its last
checkpoint.
Source: the reference's `video_mm/tasks/pretrain.py`, whose weights are in bf16 (`--pure_bf16`).
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from examples.common.command import run_command


# isort: split
import torch
from torch import Tensor
from transformers import BertForMaskedLM, set_seed

from conversion.converter import processor_for
from examples.common.arguments import AlignmentArguments, BackboneArguments, parse_arguments
from examples.common.captions import load_captions
from examples.common.clips import UnreadableFiles
from examples.common.masking import mask_patches, of_visible_tokens
from examples.common.models import locate, start_pretraining_model
from examples.common.outputs import hold
from examples.common.run import finish, save_and_validate, train
from examples.common.settings import compare_settings, settings_of
from examples.common.teachers import ClipImageTower, ClipTeacher, load_clip
from examples.common.video_text import (
    CaptionArguments,
    CaptionedClips,
    VideoTextCollator,
    captioned_transform,
    continue_video_text_model,
    is_video_text,
    load_tokenizer,
)
from examples.common.video_text_trainer import VideoTextTrainer, VideoTextTrainingArguments, save_companions
from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoTextPreTraining, VideoMambaVideoTextConfig


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
    """The model that training starts from, in fp32, and where its tokenizer is.

    A video model brings its alignment heads along, if it was aligned before, and BERT its head that guesses words, if it has
    one; the cross-attention, the projections and the matching head are new.
    """
    parent = None if model_args.model is None else locate(model_args.model)
    if parent is not None and is_video_text(parent):
        return continue_video_text_model(VideoMambaForVideoTextPreTraining, parent, model_args), parent
    vision = start_pretraining_model(model_args, alignment, teacher_width)
    bert = BertForMaskedLM.from_pretrained(text.text_model, dtype=torch.float32)
    config = VideoMambaVideoTextConfig(
        vision_config=vision.config, text_config=bert.config, num_fusion_layers=text.num_fusion_layers
    )
    model = VideoMambaForVideoTextPreTraining(config)
    model.vision_model.load_state_dict(vision.videomamba.state_dict())
    model.alignment_heads.load_state_dict(vision.alignment_heads.state_dict())
    model.text_model.load_state_dict(bert.bert.state_dict(), strict=False)
    model.masked_language_head.load_state_dict(bert.cls.state_dict())
    return model, text.text_model


def teacher_of(clip: ClipImageTower, vision: VideoMambaConfig, alignment: VideoTextAlignmentArguments) -> ClipTeacher:
    return ClipTeacher(
        clip,
        vision.grid_size,
        vision.num_aligned_layers,
        alignment.teacher_layer_interval,
        vision.normalize_alignment,
        alignment.teacher_normalization,
    )


def main(argv: list[str] | None = None) -> None:
    arguments = (
        *(BackboneArguments, TextArguments, VideoTextDataArguments),
        *(VideoTextAlignmentArguments, VideoTextPretrainingArguments),
    )
    model_args, text, data_args, alignment, args = parse_arguments(*arguments, description=__doc__, argv=argv)
    set_seed(args.seed)
    lists = [source for source in (data_args.videos, data_args.images) if source is not None]
    files = [file for source in lists for file in load_captions(source, data_args.media_root)]

    output_dir = Path(args.output_dir)
    settings = settings_of(model_args, text, data_args, alignment, args)
    settings.pop("strict")
    compare_settings(output_dir / "settings.json", settings)
    unreadable = UnreadableFiles(output_dir / "unreadable_files.txt", data_args.strict)
    with args.main_process_first(desc="teacher and student"):
        clip = None
        if alignment.teacher != "none":
            clip = load_clip(alignment.teacher, torch.bfloat16 if args.bf16 or data_args.pure_bf16 else torch.float32)
        teacher_width = VideoMambaConfig.alignment_size if clip is None else clip.config.projection_dim
        model, tokenizer_source = start_model(model_args, text, alignment, teacher_width)
        output_dir.mkdir(parents=True, exist_ok=True)
        if args.process_index == 0:
            hold(output_dir)
            unreadable.file.unlink(missing_ok=True)
    vision = model.config.vision_config
    if clip is not None and vision.alignment_size != teacher_width:
        raise ValueError(f"The model was aligned with features of width {vision.alignment_size}, not {teacher_width}.")
    if data_args.pure_bf16:
        model.to(torch.bfloat16)
        args.bf16 = False

    processor = processor_for(model.config)
    longest = model.config.text_config.max_position_embeddings
    tokenizer = load_tokenizer(tokenizer_source, data_args.max_text_length, longest)
    transform = captioned_transform(processor, data_args.min_crop_area, alignment.horizontal_flip)
    grid = None if clip is None else vision.grid_size
    trainer = VideoTextPretrainingTrainer(
        model=model,
        args=args,
        train_dataset=CaptionedClips(files, processor, transform, args.seed, unreadable),
        data_collator=VideoTextCollator(tokenizer, data_args.max_text_length, text.word_mask_ratio, grid),
        processing_class=processor,
        teacher=None if clip is None else teacher_of(clip, vision, alignment),
        alignment=alignment,
    )
    train(trainer, settings)
    save_and_validate(trainer, unreadable)
    save_companions(trainer, tokenizer, settings)
    finish(trainer)


if __name__ == "__main__":
    run_command(main)
