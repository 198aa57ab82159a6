"""Pretrains a video model together with BERT on videos and images with captions (section 3.4 and Table 7 of the paper).

    videomamba pretrain-video-text --recipe videomamba-m-mm-5m-mask-pt --videos webvid2m.json --images cc3m.json
    videomamba pretrain-video-text --recipe videomamba-m-mm-5m --videos webvid2m.json --images cc3m.json
    accelerate launch -m modeling_videomamba pretrain-video-text --recipe ...

First with most patches hidden, which a CLIP teacher chooses: four losses, contrastive, matching, masked words, and alignment
with the teacher. Then an epoch on whole clips, without the teacher (`--teacher none`) and its loss. A list is
`[{"video" or "image": PATH, "caption": TEXT or [TEXT, ...]}, ...]`; a step has videos or images, not both. `--model` is what
to start from: a video model, beside which BERT starts from `--text_model`, or a video-text model. The output directory is
what `videomamba finetune-retrieval` starts from and `videomamba evaluate-retrieval` measures. An interrupted run goes on
from its last checkpoint.
Source: the reference's `video_mm/tasks/pretrain.py`, whose weights are in bf16 (`--pure_bf16`).
"""

from pathlib import Path

import torch
from transformers import set_seed

from .. import VideoMambaConfig
from ..checkpoints.default_processor import processor_for
from ..data.captions import load_captions
from ..data.clips import UnreadableFiles
from ..data.outputs import hold
from ..data.settings import compare_settings
from ..data.sides import texts_with_sides
from ..training.arguments import BackboneArguments
from ..training.mirroring import decide_mirroring
from ..training.run import finish, save_and_validate, train
from ..training.settings import settings_of
from ..training.teachers import ClipTeacher, load_clip
from ..training.video_text import (
    CaptionedClips,
    VideoTextCollator,
    captioned_transform,
    load_tokenizer,
)
from ..training.video_text_pretraining import (
    TextArguments,
    VideoTextAlignmentArguments,
    VideoTextDataArguments,
    VideoTextPretrainingArguments,
    VideoTextPretrainingTrainer,
    start_model,
)
from ..training.video_text_trainer import save_companions
from .parser import OF_EVERY_TRAINING, parse_arguments


ESSENTIAL = ("model", "model_config", "videos", "images", "teacher", *OF_EVERY_TRAINING)


def main(argv: list[str] | None = None) -> None:
    arguments = (
        *(BackboneArguments, TextArguments, VideoTextDataArguments),
        *(VideoTextAlignmentArguments, VideoTextPretrainingArguments),
    )
    model_args, text, data_args, alignment, args = parse_arguments(
        *arguments, description=__doc__, argv=argv, essential=ESSENTIAL
    )
    set_seed(args.seed)
    lists = [source for source in (data_args.videos, data_args.images) if source is not None]
    files = [file for source in lists for file in load_captions(source, data_args.media_root)]
    sides = texts_with_sides(text for file in files for text in file.captions)
    alignment.horizontal_flip = decide_mirroring(alignment.horizontal_flip, sides, "captions", args.process_index == 0)

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
    teacher = None
    if clip is not None:
        teacher = ClipTeacher.for_student(clip, vision, alignment.teacher_layer_interval, alignment.teacher_normalization)
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
        teacher=teacher,
        alignment=alignment,
    )
    train(trainer, settings)
    save_and_validate(trainer, unreadable)
    save_companions(trainer, tokenizer, settings)
    finish(trainer)
