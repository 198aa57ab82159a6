"""Fine-tuning of a video-text model for retrieval, with the contrastive and the matching loss.

Source: the reference's `video_mm/tasks/retrieval.py`.
"""

from dataclasses import dataclass

from torch import Tensor

from .video_text_trainer import VideoTextTrainer, VideoTextTrainingArguments


@dataclass
class RetrievalTrainingArguments(VideoTextTrainingArguments):
    """A pretrained model needs small steps."""

    num_train_epochs: float = 10.0
    learning_rate: float = 2e-5


class RetrievalTrainer(VideoTextTrainer):
    def model_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**inputs, "return_loss": True}
