"""One step of distillation and of masked pretraining, against the official training loops: losses, outputs, all gradients.

The students come through the converter. What it leaves out as of use in training only, the head of self-distillation, and the
teacher that is no VideoMamba, OpenAI's CLIP, are put in place by name.
"""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaModel,
    VideoMambaPreTrainedModel,
)
from modeling_videomamba.checkpoints.official_layout import to_official
from modeling_videomamba.data.masking import of_visible_tokens
from modeling_videomamba.training.distillation import DistillationLoss, Student
from modeling_videomamba.training.losses import ClassificationLoss
from modeling_videomamba.training.masked_pretraining import MaskedPretrainingTrainer
from modeling_videomamba.training.teachers import ClipTeacher, TokenTeacher
from tests.clip_checkpoints import load_official_clip, with_prefix
from tests.conftest import as_video, golden


def assert_gradients_are_the_references(model: VideoMambaPreTrainedModel, outputs: dict, others: dict | None = None) -> None:
    """All gradients of `model`, and `others` by the reference's names. Where it has zeros, there may be none here."""
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    ours = to_official(gradients, model.config) | (others or {})
    theirs = {name.removeprefix("grad."): x for name, x in outputs.items() if name.startswith("grad.")}
    assert theirs.keys() <= ours.keys()
    for name in ours:
        expected = theirs.get(name, torch.zeros_like(ours[name]))
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-4 * max(expected.abs().max().item(), 1e-6))


class TestSelfDistillation:
    def student(self, tensors: dict, converted, tmp_path) -> Student:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "student.safetensors")
        directory = converted(tmp_path / "student.safetensors")
        student = Student(VideoMambaForImageClassification.from_pretrained(directory), len(tensors["distill_head.1.weight"]))
        student.norm.load_state_dict({"weight": tensors["distill_head.0.weight"]})
        student.projection.load_state_dict(with_prefix(tensors, "distill_head.1."))
        return student.train()

    def test_the_teachers_tokens(self, converted):
        reference = golden("distill_teacher")
        teacher = TokenTeacher(VideoMambaModel.from_pretrained(converted(reference.checkpoint)), grid=(2, 2))
        tokens = teacher(reference.inputs["pixels"])
        torch.testing.assert_close(tokens, reference.outputs["distill_feats"], rtol=1e-4, atol=2e-5)

    def test_the_students_tokens(self, converted, tmp_path):
        """Its distance to the reference's own is 0, and to others' what their cosines say."""
        reference = golden("distill_student")
        student = self.student(load_file(reference.checkpoint), converted, tmp_path)
        tokens = reference.outputs["distill_feats"]
        same = student(reference.inputs["pixels"], tokens)
        torch.testing.assert_close(same.distances, torch.zeros(2), rtol=0, atol=2e-5)
        torch.testing.assert_close(same.logits, reference.outputs["logits"], rtol=0, atol=2e-5)
        mirrored = student(reference.inputs["pixels"], tokens.flip(1))
        expected = (2 - 2 * (tokens * tokens.flip(1)).sum(dim=-1)).mean(dim=1)
        torch.testing.assert_close(mirrored.distances, expected, rtol=1e-4, atol=2e-5)

    def test_a_step(self, converted, tmp_path):
        reference = golden("distill_step")
        tensors = load_file(reference.checkpoint)
        pixels, targets = reference.inputs["pixels"], reference.inputs["soft_targets"]
        student = self.student(with_prefix(tensors, "student."), converted, tmp_path)
        (tmp_path / "converted").rename(tmp_path / "the student's")
        save_file(with_prefix(tensors, "teacher."), tmp_path / "teacher.safetensors")
        teacher = VideoMambaModel.from_pretrained(converted(tmp_path / "teacher.safetensors"))

        tokens = TokenTeacher(teacher, grid=(2, 2))(pixels)
        torch.testing.assert_close(tokens, reference.outputs["teacher_feats"], rtol=1e-4, atol=2e-5)
        outputs = student(pixels, tokens)
        loss = DistillationLoss()(outputs, targets)
        loss.backward()
        torch.testing.assert_close(outputs.logits, reference.outputs["logits"], rtol=0, atol=2e-5)
        torch.testing.assert_close(outputs.distances.mean(), reference.outputs["loss_distill"][0])
        torch.testing.assert_close(ClassificationLoss()(outputs, targets), reference.outputs["loss_cls"][0])
        torch.testing.assert_close(loss, reference.outputs["loss"][0])
        head = {"distill_head.0.weight": student.norm.weight.grad}
        head |= {f"distill_head.1.{name}": p.grad for name, p in student.projection.named_parameters()}
        assert_gradients_are_the_references(student.classifier, reference.outputs, head)

    def test_without_a_teacher_it_is_the_classifier(self, converted, tmp_path):
        reference = golden("distill_student")
        student = self.student(load_file(reference.checkpoint), converted, tmp_path)
        outputs = student(reference.inputs["pixels"])
        assert outputs.distances is None
        torch.testing.assert_close(outputs.logits, reference.outputs["logits"], rtol=0, atol=2e-5)
        labels = torch.tensor([1, 4])
        assert DistillationLoss()(outputs, labels) == torch.nn.functional.cross_entropy(outputs.logits, labels)


class TestMaskedPretraining:
    @pytest.mark.parametrize(
        ("case", "grid", "layers"), [("align_step_attention", (2, 2), 1), ("align_step_random_k2_resize", (3, 3), 2)]
    )
    def test_a_step(self, case, grid, layers, converted, tmp_path):
        """The recorded mask is drawn from noise that is made so: the reference drew it with another generator."""
        reference = golden(case)
        tensors = load_file(reference.checkpoint)
        save_file(with_prefix(tensors, "student."), tmp_path / "student.safetensors")
        student = VideoMambaForPreTraining.from_pretrained(converted(tmp_path / "student.safetensors")).train()
        clip = load_official_clip(with_prefix(tensors, "teacher."), num_attention_heads=4)
        teacher = ClipTeacher(clip, grid, layers)

        clips, masked = as_video(reference.inputs["videos"]), reference.inputs["mask"][:, 1:]
        mask_type = reference.meta["mask_type"]
        first = ~masked if mask_type == "attention" else masked  # what the smallest numbers choose
        trainer = SimpleNamespace(teacher=teacher, mask_type=mask_type, mask_ratio=reference.meta["mask_ratio"])
        noise = torch.where(first, 1e-6, 1e6).view(2, 4, *grid)
        inputs = {"pixel_values": clips, "mask_noise": noise}
        loss, outputs = MaskedPretrainingTrainer.compute_loss(trainer, student, inputs, return_outputs=True)
        loss.backward()

        features, attention = teacher(clips, with_attention=mask_type == "attention")
        torch.testing.assert_close(features, reference.outputs["teacher_features"].transpose(0, 1), rtol=1e-4, atol=2e-5)
        if attention is not None:
            torch.testing.assert_close(attention.flatten(0, 1), reference.outputs["teacher_attn"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(outputs.features, reference.outputs["output"].transpose(0, 1), rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(loss, reference.outputs["loss"][0])
        assert_gradients_are_the_references(student, reference.outputs)
        without = {name for name, p in student.named_parameters() if p.grad is None or not p.grad.any()}
        last_block = {name for name, _ in student.named_parameters() if name.startswith("videomamba.layers.2.")}
        assert without == last_block | ({"videomamba.norm.weight"} if layers == 1 else set())

    @pytest.mark.parametrize("case", ["align_step_attention", "align_step_random_k2_resize"])
    def test_targets_are_the_teachers_visible_tokens(self, case):
        reference = golden(case)
        features, masked = reference.outputs["teacher_features"].transpose(0, 1), reference.inputs["mask"][:, 1:]
        targets = of_visible_tokens(features, masked)
        torch.testing.assert_close(targets, reference.outputs["targets_clip"].transpose(0, 1), rtol=1e-4, atol=2e-5)
