"""Pretrains a video model without labels: its tokens of the few visible patches learn to be those of a CLIP model.

    python examples/masked_pretraining.py --recipe videomamba-m-k400-mask-pt --data kinetics
    python examples/masked_pretraining.py --data my_videos --teacher openai/clip-vit-base-patch16 --output_dir my-model \\
        --model_config '{"hidden_size": 192, "num_hidden_layers": 24, "num_frames": 8}' --mask_type frame_row

Only CLS and the visible patches, a fifth of all, go through the student; the teacher looks at every frame as a whole (section
3.3, Fig. 5 and Table 5 of the paper). `my_videos` is any folder of videos, or a list, or a `datasets` data set. The output
directory is what fine-tuning starts from: `finetune_video_classification.py --model my-model`. Source: the reference's
`video_sm/engines/engine_for_pretraining_videomamba.py`.
"""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a clone, installed or not

from examples.common.command import run_command


# isort: split
import torch
from torch import Tensor
from transformers import set_seed

from conversion.converter import processor_for
from examples.common.arguments import (
    AlignmentArguments,
    BackboneArguments,
    MaskedPretrainingArguments,
    PretrainingDataArguments,
    parse_arguments,
)
from examples.common.augmentation import EvaluationTransform, pretraining_transform
from examples.common.cards import write_pretraining_card
from examples.common.clips import MaskingCollator, TrainingClips, UnreadableFiles, require_readable
from examples.common.frame_sampling import FRAME_SAMPLINGS
from examples.common.masking import mask_patches, of_visible_tokens
from examples.common.media_lists import cut_into_windows, load_splits
from examples.common.models import start_pretraining_model
from examples.common.outputs import hold
from examples.common.run import finish, save_and_validate, train
from examples.common.settings import compare_settings, settings_of
from examples.common.teachers import ClipTeacher, load_clip
from examples.common.trainer import VideoMambaTrainer


class MaskedPretrainingTrainer(VideoMambaTrainer):
    def __init__(self, *args, teacher: ClipTeacher, mask_type: str, mask_ratio: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)
        self.mask_type, self.mask_ratio = mask_type, mask_ratio

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        clips, noise = inputs["pixel_values"], inputs["mask_noise"]
        features, attention = self.teacher(clips, with_attention=self.mask_type == "attention")
        masked = mask_patches(noise, self.mask_type, self.mask_ratio, attention)  # (clips, patches)
        targets = of_visible_tokens(features, masked)  # (clips, layers, 1 + visible patches, width)
        outputs = model(pixel_values=clips, bool_masked_pos=masked, target_features=targets)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def main(argv: list[str] | None = None) -> None:
    arguments = (BackboneArguments, PretrainingDataArguments, AlignmentArguments, MaskedPretrainingArguments)
    model_args, data_args, alignment, args = parse_arguments(*arguments, description=__doc__, argv=argv)
    set_seed(args.seed)
    source = data_args.data, data_args.media_root, data_args.data_config
    videos, validation, _ = load_splits(*source, args.validation_fraction, args.seed, labelled=False)
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
    if config.tubelet_size != 1:
        raise ValueError(
            f"A frame of the teacher is a position of the student: `tubelet_size` must be 1, got {config.tubelet_size}."
        )
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
        teacher=ClipTeacher(
            clip,
            config.grid_size,
            config.num_aligned_layers,
            alignment.teacher_layer_interval,
            config.normalize_alignment,
            alignment.teacher_normalization,
        ),
        mask_type=alignment.mask_type,
        mask_ratio=alignment.mask_ratio,
    )
    train(trainer, settings)
    metrics = save_and_validate(trainer, unreadable)
    write_pretraining_card(trainer, model_args, data_args, alignment, metrics)
    finish(trainer)


if __name__ == "__main__":
    run_command(main)
