"""transformers' own Trainer, without a line of ours: one optimizer step moves the weights by what the definition says,
however the batch is divided over accumulation steps and processes, and evaluation gives a loss and predictions in order."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, Trainer, TrainingArguments

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
)
from modeling_videomamba.video_text_losses import contrastive_loss

from .conftest import WORDS, small_config, small_video_text_config


pytestmark = pytest.mark.usefixtures("one_thread")

LEARNING_RATE = 0.5
PROBLEMS = {
    "single_label": lambda n: torch.arange(n) % 5,
    "ignored": lambda n: torch.where(torch.arange(n) % 4 == 1, -100, torch.arange(n) % 5),
    "multi_label": lambda n: torch.rand(n, 5).round(),
    "regression": lambda n: torch.randn(n, 5),
    "one_value": lambda n: torch.randn(n),
}
PROBLEM_TYPES = {"ignored": "single_label", "one_value": "regression"}


class Task(NamedTuple):
    model: PreTrainedModel
    inputs: dict[str, Tensor]  # of eight items

    def items(self) -> list[dict[str, Tensor]]:
        return [{name: tensor[i] for name, tensor in self.inputs.items()} for i in range(8)]


def classification(model_class: type, problem: str) -> Task:
    images = model_class is VideoMambaForImageClassification
    problem_type = PROBLEM_TYPES.get(problem, problem)
    problem_type += "" if problem_type == "regression" else "_classification"
    config = small_config(problem_type=problem_type, num_labels=1 if problem == "one_value" else 5)
    config.num_frames = None if images else 4
    pixel_values = torch.randn((8, 3, 32, 32) if images else (8, 4, 3, 32, 32))
    return Task(model_class(config), {"pixel_values": pixel_values, "labels": PROBLEMS[problem](8)})


def masks() -> Tensor:
    masked = torch.arange(16).expand(8, -1)
    return (masked + torch.arange(8)[:, None]) % 4 != 0


def masked_pretraining() -> Task:
    config = small_config(num_hidden_layers=3, alignment_size=12, num_aligned_layers=2)
    inputs = {"pixel_values": torch.randn(8, 4, 3, 32, 32), "bool_masked_pos": masks()}
    return Task(VideoMambaForPreTraining(config), inputs | {"target_features": torch.randn(8, 2, 5, 12)})


def pairs() -> dict[str, Tensor]:
    """Pairs of two ids, one after the other: a negative is either one of two that are the same."""
    input_ids = torch.randint(5, len(WORDS), (2, 6)).repeat(4, 1)
    pixel_values = torch.randn(2, 4, 3, 32, 32).repeat(4, 1, 1, 1, 1)
    return {"input_ids": input_ids, "pixel_values": pixel_values, "pair_ids": torch.arange(8) % 2}


def without_dropout():
    config = small_video_text_config()
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    return config


def retrieval() -> Task:
    return Task(VideoMambaForVideoTextRetrieval(without_dropout()), pairs() | {"return_loss": torch.ones(8, dtype=torch.bool)})


def video_text_pretraining() -> Task:
    inputs = pairs()
    words = {"masked_input_ids": inputs["input_ids"], "masked_labels": inputs["input_ids"].clone()}
    alignment = {"bool_masked_pos": masks(), "target_features": torch.randn(8, 1, 5, 12)}
    return Task(VideoMambaForVideoTextPreTraining(without_dropout()), inputs | words | alignment)


TASKS: dict[str, Callable[[], Task]] = {
    "masked_pretraining": masked_pretraining,
    "retrieval": retrieval,
    "video_text_pretraining": video_text_pretraining,
}
for _name, _class in (("video", VideoMambaForVideoClassification), ("image", VideoMambaForImageClassification)):
    TASKS |= {f"{_name}_{problem}": lambda c=_class, p=problem: classification(c, p) for problem in PROBLEMS}
EVENLY = [name for name in TASKS if not name.endswith("_ignored")]  # whose mean is that of the means of equal parts


def make(name: str) -> Task:
    torch.manual_seed(0)
    return TASKS[name]()


class InOrder(IterableDataset):
    def __init__(self, items: list):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    if "return_loss" in batch:
        batch["return_loss"] = True
    return batch


def arguments(directory: Path, **overrides) -> TrainingArguments:
    options = {"optim": "sgd", "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    options |= {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    options |= {"disable_tqdm": True, "remove_unused_columns": False, "dataloader_pin_memory": False}
    return TrainingArguments(output_dir=str(directory), **(options | overrides))


def step(task: Task, directory: Path, model=None, **options) -> tuple[dict[str, Tensor], float]:
    """What one step of the Trainer subtracts from each parameter, over the learning rate, and the loss that it logs."""
    before = {name: parameter.detach().clone() for name, parameter in task.model.named_parameters()}
    args = arguments(directory, **options)
    model = task.model if model is None else model
    trainer = Trainer(model=model, args=args, train_dataset=InOrder(task.items()), data_collator=collate)
    trainer.train()
    update = {name: (before[name] - p.detach()) / LEARNING_RATE for name, p in task.model.named_parameters()}
    return update, trainer.state.log_history[0]["loss"]


def expected_step(task: Task, parts: int, loss_of: Callable[[dict[str, Tensor]], Tensor] | None = None):
    """Gradient and value of the mean of the losses of equal parts of the batch, by autograd."""
    loss_of = loss_of or (lambda batch: task.model(**batch).loss)
    items, size = task.items(), 8 // parts
    task.model.train()
    loss = sum(loss_of(collate(items[i : i + size])) for i in range(0, 8, size)) / parts
    loss.backward()
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in task.model.named_parameters()}
    return gradients, loss.item()


def assert_same_step(actual: tuple, expected: tuple) -> None:
    (update, logged), (gradients, loss) = actual, expected
    update, gradients = (torch.cat([x[name].flatten() for name in gradients]) for x in (update, gradients))
    assert (update @ gradients / (gradients @ gradients)).item() == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(update, gradients, rtol=1e-3, atol=1e-5 * gradients.abs().max().item())
    assert logged == pytest.approx(loss, rel=1e-3, abs=1e-4)  # Trainer rounds to four digits


def contrasts(task: Task) -> bool:
    return "pair_ids" in task.inputs


class TestOneStep:
    @pytest.mark.parametrize("size", [8, 2])
    @pytest.mark.parametrize("name", TASKS)
    def test_accumulation(self, name, size, tmp_path):
        """A batch in parts is the mean of its parts: what the whole batch gives, unless items are compared or left out."""
        steps = 8 // size
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        actual = step(make(name), tmp_path, **options)
        assert_same_step(actual, expected_step(make(name), steps))
        if name in EVENLY and not contrasts(make(name)):
            assert_same_step(actual, expected_step(make(name), 1))
