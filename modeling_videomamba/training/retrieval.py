"""Fine-tuning of a video-text model for retrieval, with the contrastive and the matching loss.

Source: the reference's `video_mm/tasks/retrieval.py`.
"""

from dataclasses import dataclass

from torch import Tensor

from .video_text_trainer import VideoTextTrainer, VideoTextTrainingArguments


@dataclass
class RetrievalTrainingArguments(VideoTextTrainingArguments):
    """For a small list; `--recipe retrieval` has the reference's smaller steps, for a large one."""

    num_train_epochs: float = 20.0
    learning_rate: float = 1e-4


class RetrievalTrainer(VideoTextTrainer):
    def model_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**inputs, "return_loss": True}
