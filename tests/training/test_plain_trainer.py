"""transformers' own Trainer, without a line of ours: one optimizer step moves the weights by what the definition says,
however the batch is divided over accumulation steps and processes, and evaluation gives a loss and predictions in order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
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
from tests.conftest import WORDS, small_config, small_video_text_config
from tests.training.processes import in_two_processes


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
    """Four pairs, twice. In parts of two, each has one negative, so that none has to be drawn."""
    ids = torch.arange(8) % 4
    input_ids, pixel_values = torch.randint(5, len(WORDS), (4, 6)), torch.randn(4, 4, 3, 32, 32)
    return {"input_ids": input_ids[ids], "pixel_values": pixel_values[ids], "pair_ids": ids}


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
PAIRS = ("retrieval", "video_text_pretraining")  # whose loss compares the items of a batch
OF_TWO_PROCESSES = ["masked_pretraining", *PAIRS, "video_single_label", "image_multi_label", "video_one_value"]


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


def arguments(directory: Path | str, **overrides) -> TrainingArguments:
    options = {"optim": "sgd", "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    options |= {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    options |= {"disable_tqdm": True, "dataloader_pin_memory": False, "accelerator_config": {"dispatch_batches": False}}
    return TrainingArguments(output_dir=str(directory), **(options | overrides))


class Step(NamedTuple):
    update: dict[str, Tensor]  # what is subtracted from each parameter, over the learning rate
    loss: float


def trainer_step(task: Task, directory: Path | str, size: int, steps: int, model=None, items=None, **options) -> Step:
    before = {name: parameter.detach().clone() for name, parameter in task.model.named_parameters()}
    args = arguments(directory, per_device_train_batch_size=size, gradient_accumulation_steps=steps, **options)
    data = InOrder(items or task.items())
    trainer = Trainer(model=task.model if model is None else model, args=args, train_dataset=data, data_collator=collate)
    trainer.train()
    update = {name: (before[name] - p.detach()) / LEARNING_RATE for name, p in task.model.named_parameters()}
    return Step(update, trainer.state.log_history[0]["loss"])


def step_of(task: Task, loss: Tensor) -> Step:
    """By autograd."""
    loss.backward()
    update = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in task.model.named_parameters()}
    return Step(update, loss.item())


def mean_of_parts(task: Task, *sizes: int) -> Tensor:
    """The mean of the losses of a batch's parts."""
    parts = torch.arange(sum(sizes)).split(sizes)
    items = task.items()
    task.model.train()
    return sum(task.model(**collate([items[i] for i in part])).loss for part in parts) / len(parts)


def assert_same_step(actual: Step, expected: Step) -> None:
    update, gradient = (torch.cat([step.update[name].flatten() for name in expected.update]) for step in (actual, expected))
    assert (update @ gradient / (gradient @ gradient)).item() == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(update, gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())
    assert actual.loss == pytest.approx(expected.loss, rel=1e-3, abs=1e-4)  # the Trainer logs four digits


@pytest.mark.parametrize("name", TASKS)
def test_parts_of_a_batch_are_averaged(name, tmp_path):
    actual = trainer_step(make(name), tmp_path, size=2, steps=4)
    task = make(name)
    assert_same_step(actual, step_of(task, mean_of_parts(task, 2, 2, 2, 2)))
    if name not in PAIRS and not name.endswith("ignored"):
        task = make(name)
        assert_same_step(actual, step_of(task, mean_of_parts(task, 8)))


def test_the_last_part_may_be_smaller(tmp_path):
    """It counts as much as the others, as in PyTorch's DistributedDataParallel: the mean of means is not that of all clips."""
    items = make("video_single_label").items()[:7]
    actual = trainer_step(make("video_single_label"), tmp_path, size=4, steps=2, items=items)
    task = make("video_single_label")
    assert_same_step(actual, step_of(task, mean_of_parts(task, 4, 3)))


def step_in_one_of_two_processes(rank: int, directory: Path) -> None:
    for name in OF_TWO_PROCESSES:
        step = trainer_step(make(name), directory, size=2, steps=2, ddp_backend="gloo")
        if rank == 0:
            torch.save(step, directory / f"{name}.pt")


@pytest.fixture(scope="module")
def steps_of_two_processes(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("processes")
    in_two_processes(step_in_one_of_two_processes, directory)
    return directory


def mean_over_two_processes(task: Task) -> Tensor:
    """Of two steps of 2 x 2 items. Videos and texts are compared with those of both processes, all else is of each."""
    if not hasattr(task.model, "temperature"):
        return mean_of_parts(task, 2, 2, 2, 2)
    items, total = task.items(), 0
    task.model.train()
    for i in (0, 4):
        outputs = [task.model(**collate(items[j : j + 2])) for j in (i, i + 2)]
        video, text = (torch.cat([output[f"{side}_embeds"] for output in outputs]) for side in ("video", "text"))
        others = sum(output.loss - output.contrastive_loss for output in outputs) / 2
        ids = torch.tensor([item["pair_ids"] for item in items[i : i + 4]])
        total = total + others + contrastive_loss(video, text, task.model.temperature.clone(), ids)
    return total / 2


@pytest.mark.parametrize("name", OF_TWO_PROCESSES)
def test_two_processes(name, steps_of_two_processes):
    task = make(name)
    actual = torch.load(steps_of_two_processes / f"{name}.pt", weights_only=False)
    assert_same_step(actual, step_of(task, mean_over_two_processes(task)))


class TestOtherWrappings:
    def test_lora(self, tmp_path):
        peft = pytest.importorskip("peft")
        task = make("video_single_label")
        model = peft.get_peft_model(task.model, peft.LoraConfig(target_modules=["in_proj"], init_lora_weights="gaussian"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        actual = trainer_step(task, tmp_path, size=2, steps=4, model=model)
        model.load_state_dict(state)
        assert_same_step(actual, step_of(task, mean_of_parts(task, 8)))

    def test_compiled(self, tmp_path):
        model = torch.compile(make("video_single_label").model)  # when it is called, which it is not
        assert Trainer(model=model, args=arguments(tmp_path)).model_accepts_loss_kwargs is False

    def test_label_smoothing(self, tmp_path):
        actual = trainer_step(make("video_single_label"), tmp_path, size=2, steps=4, label_smoothing_factor=0.1)
        task = make("video_single_label")
        logits = task.model.train()(task.inputs["pixel_values"]).logits
        assert_same_step(actual, step_of(task, F.cross_entropy(logits, task.inputs["labels"], label_smoothing=0.1)))


def evaluated(task: Task, directory: Path, label_names: list[str] | None = None) -> tuple[dict, Any]:
    """What `predict` gives for seven items in batches of four and three: metrics and predictions."""
    options = {"per_device_eval_batch_size": 4, "label_names": label_names}
    trainer = Trainer(model=task.model, args=arguments(directory, **options), data_collator=collate)
    output = trainer.predict(task.items()[:7], metric_key_prefix="eval")
    return output.metrics, output.predictions


class TestEvaluation:
    """Means of batches are weighted with their sizes."""

    @pytest.mark.parametrize("name", [name for name in TASKS if name.startswith(("video_", "image_")) and name not in PAIRS])
    def test_classification(self, name, tmp_path):
        task = make(name)
        metrics, logits = evaluated(task, tmp_path)
        inputs = collate(task.items()[:7])
        with torch.no_grad():
            expected = task.model.eval()(**inputs)
        torch.testing.assert_close(torch.from_numpy(logits), expected.logits, rtol=1e-4, atol=1e-5)
        if not name.endswith("ignored"):
            assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-4)

    def test_masked_pretraining_with_the_targets_as_labels(self, tmp_path):
        task = make("masked_pretraining")
        metrics, features = evaluated(task, tmp_path, label_names=["target_features"])
        with torch.no_grad():
            expected = task.model.eval()(**collate(task.items()[:7]))
        assert features.shape == (7, 2, 1 + 4, 12)  # (clips, aligned layers, CLS and visible patches, alignment_size)
        torch.testing.assert_close(torch.from_numpy(features), expected.features, rtol=1e-4, atol=1e-5)
        assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-4)

    @pytest.mark.parametrize(("name", "label_names"), [("retrieval", None), ("video_text_pretraining", ["masked_labels"])])
    def test_videos_and_texts(self, name, label_names, tmp_path):
        """What belongs to a batch and not to its items is no prediction."""
        task = make(name)
        metrics, (videos, texts) = evaluated(task, tmp_path, label_names)
        with torch.no_grad():
            expected = task.model.eval()(**collate(task.items()[:7]))
        torch.testing.assert_close(torch.from_numpy(videos), expected.video_embeds, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(texts), expected.text_embeds, rtol=1e-4, atol=1e-5)
        assert metrics["eval_loss"] > 0
