"""A student's tokens are compared with those of its teacher, patch by patch."""

from types import SimpleNamespace

import torch
from torch.nn import functional as F

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.training.distillation import DistillationLoss, SelfDistillationTrainer, Student
from modeling_videomamba.training.losses import ClassificationLoss
from modeling_videomamba.training.trainer import VideoMambaTrainer
from tests.conftest import small_config


def student() -> Student:
    torch.manual_seed(0)
    return Student(VideoMambaForVideoClassification(small_config()), teacher_width=12).eval()


def tokens(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(2, count, 12, generator=torch.Generator().manual_seed(1)), dim=-1)


def test_a_teacher_without_cls_has_nothing_to_say_of_it(pixel_values):
    """Its tokens are those of the patches, after CLS."""
    model, of_all = student(), tokens(17)
    hidden = model.classifier.base_model(pixel_values).last_hidden_state
    ours = F.normalize(model.projection(model.norm(hidden)), dim=-1)  # (clips, 1 + patches, width)
    distances = 2 - 2 * (ours * of_all).sum(dim=-1)
    torch.testing.assert_close(model(pixel_values, of_all).distances, distances.mean(dim=1))
    torch.testing.assert_close(model(pixel_values, of_all[:, 1:]).distances, distances[:, 1:].mean(dim=1))


def test_a_step_in_parts_has_the_loss_of_the_whole(pixel_values):
    model, labels = student(), torch.tensor([[0.9, 0.1, 0, 0, 0], [0, 0, 0.5, 0.5, 0]])
    outputs = model(pixel_values, tokens(17))
    whole = DistillationLoss()(outputs, labels)
    torch.testing.assert_close(whole, ClassificationLoss()(outputs, labels) + outputs.distances.mean())
    parts = []
    for i in range(2):
        part = model(pixel_values[i : i + 1], tokens(17)[i : i + 1])
        parts.append(DistillationLoss()(part, labels[i : i + 1], labels.numel()))
    torch.testing.assert_close(sum(parts), whole)


def test_the_teacher_speaks_in_training_until_its_epochs_are_over(monkeypatch):
    seen = []
    monkeypatch.setattr(VideoMambaTrainer, "compute_loss", lambda self, model, inputs, *rest: seen.append(sorted(inputs)))
    trainer = object.__new__(SelfDistillationTrainer)
    trainer.teacher = lambda clips: clips
    with_teacher, without = ["pixel_values", "teacher_tokens"], ["pixel_values"]
    for is_training, epochs, epoch, expected in (
        (True, None, 99.0, with_teacher),
        (True, 2, 0.0, with_teacher),
        (True, 2, 1.99, with_teacher),
        (True, 2, 2.0, without),
        (True, 2, 2.5, without),
        (False, None, 0.0, without),
    ):
        trainer.distillation_epochs, trainer.state = epochs, SimpleNamespace(epoch=epoch)
        trainer.compute_loss(SimpleNamespace(training=is_training), {"pixel_values": torch.zeros(1)})
        assert seen.pop() == expected
