"""A Trainer on clips that no file is read for."""

from pathlib import Path

import torch
from datasets import Dataset

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.data.clips import ClipCollator, TrainingClips
from modeling_videomamba.data.frame_sampling import FRAME_SAMPLINGS
from modeling_videomamba.training.arguments import VideoMambaTrainingArguments
from modeling_videomamba.training.losses import ClassificationLoss
from modeling_videomamba.training.trainer import VideoMambaTrainer
from tests.conftest import small_config


class MadeUpClips(TrainingClips):
    """Clips of noise, `repeats` of each video."""

    def __init__(self, labels: list, repeats: int = 1):
        videos = Dataset.from_dict({"video": ["-"] * len(labels)})
        super().__init__(videos, labels, FRAME_SAMPLINGS["segments"], 4, None, repeats, 0, None)

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        clips = torch.randn(self.repeats, 4, 3, 32, 32, generator=generator)
        return {"pixel_values": clips, "labels": torch.tensor([self.labels[index]] * self.repeats)}


def arguments(output_dir: Path, **changed) -> VideoMambaTrainingArguments:
    """On the CPU, without curves."""
    given = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "dataloader_num_workers": 0, "logging_steps": 1}
    given |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "num_train_epochs": 2, "warmup_epochs": 1}
    return VideoMambaTrainingArguments(output_dir=str(output_dir), **given | changed)


def trainer_of(output_dir: Path, labels: list, repeats: int = 1, eval_labels: list | None = None, **changed):
    """Of five classes, or of values to regress if the labels are."""
    problem_type = "regression" if isinstance(labels[0], float) else "single_label_classification"
    torch.manual_seed(0)
    config = small_config(hidden_size=16, problem_type=problem_type, num_labels=1 if problem_type == "regression" else 5)
    return VideoMambaTrainer(
        model=VideoMambaForVideoClassification(config),
        args=arguments(output_dir, **changed),
        train_dataset=MadeUpClips(labels, repeats),
        eval_dataset=MadeUpClips(labels if eval_labels is None else eval_labels),
        data_collator=ClipCollator(),
        compute_loss_func=ClassificationLoss(problem_type),
        processing_class=processor_for(config),
    )
