"""The Trainer of videos and texts, and what it leaves beside the trained model."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ..modeling_videomamba_video_text import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    VideoMambaVideoTextOutput,
)
from .arguments import VideoMambaTrainingArguments
from .cards import without_place
from .parameter_groups import video_text_settings
from .trainer import VideoMambaTrainer
from .video_text import OneMediumSampler


LOSSES = ("contrastive_loss", "matching_loss", "masked_language_loss", "alignment_loss")


@dataclass
class VideoTextTrainingArguments(VideoMambaTrainingArguments):
    """Nothing is held out, and the last model is kept."""

    validation_fraction: float = 0.0
    dataloader_drop_last: bool = True  # the losses compare the pairs of a step, and would have few to compare in the last
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = "loss"
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "steps of images use no temporal positions, whole clips no alignment heads"}
    )


class TemperatureInRange(TrainerCallback):
    """After the last step, too: what is saved would otherwise not be what the next forward pass takes."""

    def on_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        with torch.no_grad():
            model.temperature.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)


class VideoTextTrainer(VideoMambaTrainer):
    """A Trainer over [`CaptionedClips`], whose curves show each loss by itself."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(TemperatureInRange())
        self.sums: dict[str, Tensor] = {}  # of the losses since the last point of the curves
        self.counts: dict[str, int] = {}

    def parameter_settings(self) -> dict[str, tuple[float, float]]:
        """
        Raises:
            ValueError: if layers are to learn at different rates: which of the two stacks would count?
        """
        if self.args.layer_decay != 1:
            raise ValueError(f"--layer_decay must be 1 for a video-text model, got {self.args.layer_decay:g}.")
        return video_text_settings(self.model, self.args.weight_decay)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return OneMediumSampler(self.train_dataset, self.args.train_batch_size * self.args.world_size)

    def model_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the model is called with, from a batch of the collator."""
        raise NotImplementedError

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor | tuple:
        outputs = model(**self.model_inputs(inputs))
        if model.training:
            self._note(outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _note(self, outputs: VideoMambaVideoTextOutput) -> None:
        for name in LOSSES:
            if (loss := outputs.get(name)) is not None:
                self.sums[name] = self.sums.get(name, 0) + loss.detach().float()
                self.counts[name] = self.counts.get(name, 0) + 1

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            means = {name: total / self.counts[name] for name, total in self.sums.items()}
            logs |= {name: self.accelerator.gather(mean).mean().item() for name, mean in means.items()}
            logs["temperature"] = self.model.temperature.item()
            self.sums, self.counts = {}, {}
        super().log(logs, *args, **kwargs)


CARD = """---
library_name: transformers
tags: [video-text, videomamba]
---

# {name}

A [VideoMamba](https://arxiv.org/abs/2403.06977) beside a BERT: videos, images and texts in one space.

```python
from transformers import AutoTokenizer
from modeling_videomamba import VideoMambaForVideoTextRetrieval, VideoMambaVideoProcessor

model = VideoMambaForVideoTextRetrieval.from_pretrained("{name}").eval()
processor, tokenizer = VideoMambaVideoProcessor.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
```

Trained on {data} with

| | |
|---|---|
{rows}
"""


def save_companions(trainer: VideoTextTrainer, tokenizer: PreTrainedTokenizerBase, settings: dict) -> None:
    """Writes what belongs to the saved model: the tokenizer, and a card that tells the settings."""
    if trainer.is_world_process_zero():
        output_dir, media = Path(trainer.args.output_dir), trainer.train_dataset.media
        tokenizer.save_pretrained(output_dir)
        name = trainer.args.hub_model_id or output_dir.name
        data = " and ".join(f"{len(places):,} {medium}" for medium, places in media.items() if places)
        shown = {option: without_place(value) if isinstance(value, str) else value for option, value in settings.items()}
        rows = "\n".join(f"| {option} | {value} |" for option, value in shown.items() if value is not None)
        (output_dir / "README.md").write_text(CARD.format(name=name, data=data, rows=rows), encoding="utf-8")
