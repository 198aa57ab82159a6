"""Pretrains a video model without labels: its tokens of the few visible patches learn to be those of a CLIP model.

    videomamba pretrain-masked --recipe videomamba-m-k400-mask-pt --data kinetics
    videomamba pretrain-masked --data my_videos --teacher openai/clip-vit-base-patch16 --output-dir my-model \\
        --model-config '{"hidden_size": 192, "num_hidden_layers": 24, "num_frames": 8}' --mask_type frame_row

Only CLS and the visible patches, a fifth of all, go through the student; the teacher looks at every frame as a whole (section
3.3, Fig. 5 and Table 5 of the paper). `my_videos` is any folder of videos, or a list, or a `datasets` data set. The output
directory is what fine-tuning starts from: `videomamba finetune --model my-model`. Source: the reference's
`video_sm/engines/engine_for_pretraining_videomamba.py`.
"""

from pathlib import Path

import torch
from transformers import set_seed

from ..checkpoints.default_processor import processor_for
from ..data.augmentation import EvaluationTransform, pretraining_transform
from ..data.clips import MaskingCollator, TrainingClips, UnreadableFiles, require_readable
from ..data.frame_sampling import FRAME_SAMPLINGS
from ..data.media_lists import folder_names, load_splits
from ..data.outputs import hold
from ..data.settings import compare_settings
from ..data.sides import names_with_sides
from ..data.windows import cut_into_windows
from ..training.arguments import AlignmentArguments, BackboneArguments, MaskedPretrainingArguments, PretrainingDataArguments
from ..training.cards import write_pretraining_card
from ..training.masked_pretraining import MaskedPretrainingTrainer
from ..training.mirroring import decide_mirroring
from ..training.models import start_pretraining_model
from ..training.run import finish, save_and_validate, train
from ..training.settings import settings_of
from ..training.teachers import ClipTeacher, load_clip
from .parser import OF_EVERY_TRAINING, parse_arguments


ESSENTIAL = ("model", "model_config", "data", "teacher", "mask_type", "mask_ratio", *OF_EVERY_TRAINING)


def main(argv: list[str] | None = None) -> None:
    arguments = (BackboneArguments, PretrainingDataArguments, AlignmentArguments, MaskedPretrainingArguments)
    model_args, data_args, alignment, args = parse_arguments(*arguments, description=__doc__, argv=argv, essential=ESSENTIAL)
    set_seed(args.seed)
    source = data_args.data, data_args.media_root, data_args.data_config
    videos, validation, _ = load_splits(*source, args.validation_fraction, args.seed, labelled=False)
    sides = names_with_sides(folder_names(videos))
    alignment.horizontal_flip = decide_mirroring(alignment.horizontal_flip, sides, "folders", args.process_index == 0)
    if data_args.window_seconds:
        window = data_args.window_seconds, data_args.window_stride
        videos, validation = (table and cut_into_windows(table, *window) for table in (videos, validation))

    output_dir = Path(args.output_dir)
    settings = settings_of(model_args, data_args, alignment, args)
    compare_settings(output_dir / "settings.json", settings)
    unreadable = UnreadableFiles(output_dir / "unreadable_files.txt", data_args.strict)
    with args.main_process_first(desc="teacher and student"):
        clip = load_clip(alignment.teacher, torch.bfloat16 if args.bf16 else torch.float32)
        model = start_pretraining_model(model_args, alignment, clip.config.projection_dim)
        output_dir.mkdir(parents=True, exist_ok=True)
        if args.process_index == 0:
            hold(output_dir)
            unreadable.file.unlink(missing_ok=True)
    config = model.config
    teacher = ClipTeacher.for_student(clip, config, alignment.teacher_layer_interval, alignment.teacher_normalization)
    require_readable(videos, "training", unreadable)

    processor = processor_for(config)
    transform = pretraining_transform(config.image_size, processor.image_mean, processor.image_std, alignment.horizontal_flip)
    sampling = FRAME_SAMPLINGS[data_args.frame_sampling]
    reading = sampling, config.num_frames
    clips = TrainingClips(videos, None, *reading, transform, 1, args.seed, unreadable)
    if validation is None:
        args.eval_strategy = "no"
    else:  # with the frames and masks of epoch 0, always
        validation = TrainingClips(validation, None, *reading, EvaluationTransform(processor), 1, args.seed, unreadable)
    args.label_names, args.prediction_loss_only = ["mask_noise"], True
    trainer = MaskedPretrainingTrainer(
        model=model,
        args=args,
        train_dataset=clips,
        eval_dataset=validation,
        data_collator=MaskingCollator(config.num_temporal_positions, *config.grid_size),
        processing_class=processor,
        teacher=teacher,
        mask_type=alignment.mask_type,
        mask_ratio=alignment.mask_ratio,
    )
    train(trainer, settings)
    metrics = save_and_validate(trainer, unreadable)
    write_pretraining_card(trainer, model_args, data_args, alignment, metrics)
    finish(trainer)
