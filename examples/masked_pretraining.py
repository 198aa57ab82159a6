"""Pretrains a video model without labels, from a CLIP teacher: section 3.3, Fig. 5 and Table 5 of the paper.

    pip install "modeling-videomamba[train]"
    python examples/masked_pretraining.py my_videos my-pretrained-model --size tiny
    python examples/finetune_video_classification.py my_labelled_videos my-model --model my-pretrained-model

1. The teacher looks at every frame by itself, as a whole: features `(clips, layers, 1 + frames * patches, teacher's width)`,
   and the attention of its CLS token to the patches of each frame, `(clips, frames, patches)`.
2. A mask hides four fifths of the patches: at random, in whole rows, or so that what the teacher attends to stays visible.
   Rows suit a model that scans row by row, as patches that are neighbours stay neighbours.
3. Only CLS and the visible patches go through the student. A linear layer takes its tokens to the teacher's width.
4. The loss is the mean of `2 - 2 cos(student, teacher)` over the visible tokens. There is no decoder: nothing is filled in.

`videomamba pretrain-masked` does this with the paper's recipes. `examples/draw_masks.py` draws the masks. Source: the
reference's `video_sm/engines/engine_for_pretraining_videomamba.py`.
"""

import argparse

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments, set_seed

from modeling_videomamba import VideoMambaConfig, VideoMambaForPreTraining
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.augmentation import EvaluationTransform, pretraining_transform
from modeling_videomamba.data.clips import EpochOfClips, MaskingCollator, TrainingClips
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.masking import MASK_TYPES, mask_patches, of_visible_tokens
from modeling_videomamba.data.media_lists import load_splits
from modeling_videomamba.training.teachers import ClipTeacher, load_clip


class MaskedPretrainingTrainer(Trainer):
    """Asks the teacher for features, draws a mask, and aligns the student with the features of what is visible."""

    def __init__(self, *args, teacher: ClipTeacher, mask_type: str, mask_ratio: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)
        self.mask_type, self.mask_ratio = mask_type, mask_ratio

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        clips, noise = inputs["pixel_values"], inputs["mask_noise"]  # (clips, frames, 3, size, size), (clips, frames, h, w)
        features, attention = self.teacher(clips, with_attention=self.mask_type == "attention")
        masked = mask_patches(noise, self.mask_type, self.mask_ratio, attention)  # (clips, frames * h * w), True: hidden
        targets = of_visible_tokens(features, masked)  # (clips, layers, 1 + visible patches, teacher's width)
        outputs = model(pixel_values=clips, bool_masked_pos=masked, target_features=targets)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of videos, at whatever depth, or a list, or a `datasets` data set")
    parser.add_argument("output_dir")
    parser.add_argument("--teacher", default="openai/clip-vit-base-patch16", help="a CLIP: directory or hub repository")
    parser.add_argument("--model", help="what to start from: released id, directory or hub repository; else from scratch")
    parser.add_argument("--size", default="tiny", choices=["tiny", "small", "middle", "base"], help="from scratch")
    parser.add_argument("--num-frames", type=int, default=8, help="from scratch")
    parser.add_argument("--image-size", type=int, default=224, help="from scratch")
    parser.add_argument("--mask", default="attention", choices=MASK_TYPES)
    parser.add_argument("--mask-ratio", type=float, default=0.8)
    parser.add_argument("--mirror", action="store_true", help="half of the clips: not where labels will tell left from right")
    parser.add_argument("--epochs", type=float, default=100, help="the paper has 800 on Kinetics-400")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode videos")
    options = parser.parse_args(argv)
    set_seed(0)

    # Teacher and student, whose heads give features as wide as the teacher's
    clip = load_clip(options.teacher)
    width = clip.config.projection_dim
    if options.model is None:
        sizes = {"num_frames": options.num_frames, "image_size": options.image_size}
        config = getattr(VideoMambaConfig, options.size)(alignment_size=width, **sizes)
        model = VideoMambaForPreTraining(config)
    else:
        options_of_heads = {"alignment_size": width, "ignore_mismatched_sizes": True}
        model = VideoMambaForPreTraining.from_pretrained(options.model, dtype=torch.float32, **options_of_heads)
        config = model.config
    teacher = ClipTeacher.for_student(clip, config)

    # Clips: {"pixel_values": (1, frames, 3, size, size), "key": what its mask is drawn from}. Labels are not read.
    train, validation, _ = load_splits(options.data, validation_fraction=0.1, labelled=False)
    sampling, processor = FRAME_SAMPLINGS["segments"], processor_for(config)
    augment = pretraining_transform(config.image_size, processor.image_mean, processor.image_std, options.mirror)
    train_clips = TrainingClips(train, None, sampling, config.num_frames, augment)
    validation_clips = TrainingClips(validation, None, sampling, config.num_frames, EvaluationTransform(processor))

    trainer = MaskedPretrainingTrainer(
        model=model,
        teacher=teacher,
        mask_type=options.mask,
        mask_ratio=options.mask_ratio,
        args=TrainingArguments(
            output_dir=options.output_dir,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,  # of all steps
            weight_decay=0.05,
            adam_beta2=0.95,
            bf16=torch.cuda.is_available(),
            eval_strategy="epoch",
            save_strategy="no",
            logging_steps=10,
            label_names=["mask_noise"],  # what an evaluation of the loss needs
            prediction_loss_only=True,
            ddp_find_unused_parameters=True,  # the last block learns nothing, as in the reference: `alignment_tap`
            dataloader_num_workers=options.num_workers,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
            report_to="none",
        ),
        train_dataset=train_clips,
        eval_dataset=validation_clips,
        data_collator=MaskingCollator(config.num_temporal_positions, *config.grid_size),
        processing_class=processor,  # saved beside the model
        callbacks=[EpochOfClips(train_clips)],
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()
    print(f"loss on {len(validation)} held-out videos: {metrics['eval_loss']:.3f}; that of a student that knows nothing is 2")
    print(f"the model is in {options.output_dir}: --model of examples/finetune_video_classification.py")
    return metrics


if __name__ == "__main__":
    main()
