"""Fine-tunes a video-text model for retrieval, with the contrastive and the matching loss, on one list of captions.

    videomamba finetune-retrieval --model videomamba-m-mm-25m --data msrvtt_train.json --output-dir my-retrieval
    videomamba finetune-retrieval --model runs/videomamba-m-mm-5m --data train.json --validation val.json ...

A list is `[{"video": PATH, "caption": TEXT or [TEXT, ...]}, ...]`; of several captions, every epoch draws one. The losses of
--validation, a list that is not trained on, show when to stop; recalls are measured by `videomamba evaluate-retrieval`. The
defaults are for a small list; `--recipe retrieval` has the reference's values. An interrupted run goes on from its last
checkpoint.
Source: the reference's `video_mm/tasks/retrieval.py`, whose weights are in bf16 (`--pure_bf16`).
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import set_seed

from .. import VideoMambaForVideoTextRetrieval
from ..checkpoints.by_name import locate
from ..checkpoints.default_processor import processor_for
from ..data.captions import load_captions
from ..data.clips import UnreadableFiles
from ..data.outputs import hold
from ..data.settings import compare_settings
from ..data.sides import texts_with_sides
from ..training.arguments import BackboneArguments
from ..training.mirroring import decide_mirroring
from ..training.retrieval import RetrievalTrainer, RetrievalTrainingArguments
from ..training.run import finish, save_and_validate, train
from ..training.settings import settings_of
from ..training.video_text import (
    CaptionArguments,
    CaptionedClips,
    VideoTextCollator,
    captioned_transform,
    continue_video_text_model,
    is_video_text,
    load_tokenizer,
)
from ..training.video_text_trainer import save_companions
from .parser import OF_EVERY_TRAINING, parse_arguments


ESSENTIAL = ("model", "data", "validation", *OF_EVERY_TRAINING)


@dataclass
class RetrievalDataArguments(CaptionArguments):
    data: str = field(default="", metadata={"help": "list to train on: .json, .jsonl or .csv"})
    validation: str | None = field(default=None, metadata={"help": "list to validate on, with the first caption of each"})
    horizontal_flip: bool | None = field(
        default=None, metadata={"help": "mirror half of the clips (default: unless captions tell left from right)"}
    )


@dataclass
class RetrievalModelArguments(BackboneArguments):
    """`model` is a video-text model."""

    def __post_init__(self) -> None:
        if self.model is None or self.model_config is not None:
            raise ValueError("Give --model, a pretrained video-text model; there is no training for retrieval from scratch.")


def start_model(model_args: RetrievalModelArguments) -> tuple[VideoMambaForVideoTextRetrieval, str]:
    """The model that training starts from, in fp32, and where its tokenizer is.

    Raises:
        ValueError: if it is no video-text model.
    """
    parent = locate(model_args.model)
    if not is_video_text(parent):
        raise ValueError(f"{model_args.model} is no video-text model: pretrain one first, with pretrain_video_text.py.")
    return continue_video_text_model(VideoMambaForVideoTextRetrieval, parent, model_args), parent


def main(argv: list[str] | None = None) -> None:
    arguments = RetrievalModelArguments, RetrievalDataArguments, RetrievalTrainingArguments
    model_args, data_args, args = parse_arguments(*arguments, description=__doc__, argv=argv, essential=ESSENTIAL)
    set_seed(args.seed)
    files = load_captions(data_args.data, data_args.media_root)
    sides = texts_with_sides(text for file in files for text in file.captions)
    data_args.horizontal_flip = decide_mirroring(data_args.horizontal_flip, sides, "captions", args.process_index == 0)
    held_out = None if data_args.validation is None else load_captions(data_args.validation, data_args.media_root)

    output_dir = Path(args.output_dir)
    settings = settings_of(model_args, data_args, args)
    settings.pop("strict")
    compare_settings(output_dir / "settings.json", settings)
    unreadable = UnreadableFiles(output_dir / "unreadable_files.txt", data_args.strict)
    with args.main_process_first(desc="model"):
        model, parent = start_model(model_args)
        output_dir.mkdir(parents=True, exist_ok=True)
        if args.process_index == 0:
            hold(output_dir)
            unreadable.file.unlink(missing_ok=True)
    if data_args.pure_bf16:
        model.to(torch.bfloat16)
        args.bf16 = False

    processor = processor_for(model.config)
    tokenizer = load_tokenizer(parent, data_args.max_text_length, model.config.text_config.max_position_embeddings)
    transform = captioned_transform(processor, data_args.min_crop_area, data_args.horizontal_flip)
    validation = None if held_out is None else CaptionedClips(held_out, processor, None, args.seed, unreadable)
    if validation is None:
        args.eval_strategy = "no"
    args.label_names, args.prediction_loss_only = ["pair_ids"], True
    trainer = RetrievalTrainer(
        model=model,
        args=args,
        train_dataset=CaptionedClips(files, processor, transform, args.seed, unreadable),
        eval_dataset=validation,
        data_collator=VideoTextCollator(tokenizer, data_args.max_text_length),
        processing_class=processor,
    )
    train(trainer, settings)
    save_and_validate(trainer, unreadable)
    save_companions(trainer, tokenizer, settings)
    finish(trainer)
