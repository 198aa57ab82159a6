"""Trains an image classifier whose tokens learn from those of a smaller one: section 3.2 and Fig. 6 of the paper.

    pip install "modeling-videomamba[train]"
    python examples/self_distillation.py imagenet my-model --teacher videomamba-ti-in1k --size small

Large VideoMambas overfit on images; aligned with a small one that was trained before, they do not.

1. Teacher and student see the same augmented and mixed images, `(batch, 3, 224, 224)`.
2. The student's final tokens, `(batch, 1 + 196, width)`, go through a norm and a linear layer to the teacher's width.
3. The loss is that of the labels plus the mean of `2 - 2 cos(student, teacher)` over all tokens, CLS included.
4. The norm and the linear layer are thrown away in the end: what remains is an ordinary classifier.

`videomamba distill` does this with the paper's recipes, on images and on videos. Source: the reference's
`image_sm/engine_distill.py`.
"""

import argparse

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments, set_seed

from modeling_videomamba import VideoMambaConfig, VideoMambaForImageClassification
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.clips import ClipCollator, EpochOfClips, EvaluationViews, TrainingClips
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.data.images import ImageTrainingTransform
from modeling_videomamba.data.media_lists import label_ids, label_names, load_splits
from modeling_videomamba.data.mixing import ClipMixing
from modeling_videomamba.data.sides import names_with_sides
from modeling_videomamba.training.distillation import Student, load_teacher
from modeling_videomamba.training.losses import ClassificationLoss
from modeling_videomamba.training.metrics import as_compute_metrics
from modeling_videomamba.training.teachers import TokenTeacher


class DistillationTrainer(Trainer):
    """Adds the distance to the teacher's tokens to the loss of the labels."""

    def __init__(self, *args, teacher: TokenTeacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)
        self.loss_of_labels = ClassificationLoss()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        images, labels = inputs["pixel_values"], inputs["labels"]  # (batch, 3, size, size), (batch, classes)
        teacher_tokens = None
        if model.training:
            teacher_tokens = self.teacher(images)  # (batch, 1 + patches, teacher's width), of unit length
        outputs = model(images, teacher_tokens)  # logits (batch, classes), distances (batch,)
        loss = self.loss_of_labels(outputs, labels)
        if outputs.distances is not None:
            loss = loss + outputs.distances.mean()
        return (loss, outputs) if return_outputs else loss


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with a folder of images for each class, or a list, or a `datasets` data set")
    parser.add_argument("output_dir")
    parser.add_argument("--teacher", default="videomamba-ti-in1k", help="released id, directory or hub repository")
    parser.add_argument("--size", default="small", choices=["tiny", "small", "middle", "base"], help="of the student")
    parser.add_argument("--image-size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--epochs", type=float, default=50, help="the paper has 300 on ImageNet")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    options = parser.parse_args(argv)
    set_seed(0)

    # Data: as in pretrain_image_classification.py
    train, validation, _ = load_splits(options.data, media="image", validation_fraction=0.1)
    names = label_names(train)
    config = getattr(VideoMambaConfig, options.size)(
        num_frames=None,
        image_size=options.image_size,
        drop_path_rate=0.1,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    transform = ImageTrainingTransform(
        options.image_size, auto_augment=None, min_area=0.5, horizontal_flip=not names_with_sides(names), random_erasing=0.0
    )
    sampling, processor = FRAME_SAMPLINGS["segments"], processor_for(config)
    train_images = TrainingClips(train, label_ids(train, config.id2label, "train"), sampling, 1, transform)
    validation_images = EvaluationViews(validation, label_ids(validation, config.id2label, "validation"), sampling, processor)
    mixing = ClipMixing(len(names), mixup_alpha=0.2, cutmix_alpha=0.2, label_smoothing=0.1)

    # Teacher, frozen, and student: a classifier with a norm and a linear layer beside it
    teacher = load_teacher(options.teacher, config, torch.float32)
    student = Student(VideoMambaForImageClassification(config), teacher.width)

    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=TrainingArguments(
            output_dir=options.output_dir,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,  # of all steps
            weight_decay=0.05,
            bf16=torch.cuda.is_available(),
            eval_strategy="epoch",
            save_strategy="no",
            logging_steps=10,
            label_names=["labels"],  # `Student.forward` does not take them
            dataloader_num_workers=options.num_workers,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
            report_to="none",
        ),
        train_dataset=train_images,
        eval_dataset=validation_images,
        data_collator=ClipCollator(mixing),
        compute_metrics=as_compute_metrics("single_label_classification"),
        callbacks=[EpochOfClips(train_images)],
    )
    trainer.train()
    metrics = trainer.evaluate()
    student.classifier.save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    print(f"top-1 on {len(validation)} held-out images: {metrics['eval_accuracy']:.1%}, with {len(names)} classes")
    print(f"the model is in {options.output_dir}: --model of videomamba pretrain-masked or videomamba finetune")
    return metrics


if __name__ == "__main__":
    main()
