"""Frozen teachers: CLIP as the reference uses it, and other models whose tokens are in our order."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_videomamba import VideoMambaModel
from modeling_videomamba.training.teachers import ClipTeacher, TokenTeacher, renormalize
from tests.clip_checkpoints import load_official_clip
from tests.conftest import as_video, golden, small_config


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32}


class TestClip:
    @pytest.fixture
    def reference(self):
        return golden("clip_teacher")

    @pytest.fixture
    def clip(self, reference) -> CLIPVisionModelWithProjection:
        return load_official_clip(load_file(reference.checkpoint), num_attention_heads=4)

    @pytest.mark.parametrize(("normalize", "expected"), [(True, "cls_l2.features"), (False, "cls_none.features")])
    def test_features_are_the_references(self, reference, clip, normalize, expected):
        teacher = ClipTeacher(clip, grid=(4, 4), num_layers=2, normalize=normalize)
        features, attention = teacher(as_video(reference.inputs["pixels"]))
        torch.testing.assert_close(features, reference.outputs[expected].transpose(0, 1), rtol=1e-4, atol=2e-5)
        assert attention is None

    def test_attention_is_the_references(self, reference, clip):
        _, attention = ClipTeacher(clip, grid=(4, 4))(as_video(reference.inputs["pixels"]), with_attention=True)
        torch.testing.assert_close(attention.flatten(0, 1), reference.outputs["attn"], rtol=1e-4, atol=1e-6)
        assert attention.shape == (2, 3, 16)  # clips, frames, patches
        assert (attention.sum(dim=-1) < 1).all()  # the rest is CLS's to itself

    def test_layers_are_counted_from_the_last(self, clip):
        assert ClipTeacher(clip, grid=(4, 4), num_layers=2).layers == [1, 2]
        assert ClipTeacher(clip, grid=(4, 4), num_layers=2, interval=2).layers == [0, 2]
        assert ClipTeacher(clip, grid=(4, 4), num_layers=3, interval=0.5).layers == [1, 2, 2]  # int(0.5) is 0, as there
        with pytest.raises(ValueError, match="2 layers every 3 reach below the first of the teacher's 3"):
            ClipTeacher(clip, grid=(4, 4), num_layers=2, interval=3)

    def test_frames_are_resized_to_the_students_patches(self, clip):
        frames = torch.randn(1, 2, 3, 48, 48)
        resized = F.interpolate(frames[0], size=(24, 24), mode="bicubic", align_corners=False)[None]
        teacher = ClipTeacher(clip, grid=(3, 3))
        features, _ = teacher(frames)
        assert features.shape == (1, 1, 1 + 2 * 9, 12)
        torch.testing.assert_close(features, teacher(resized)[0])

    def test_rows_and_columns_are_the_students(self, clip):
        """Of frames that are wider than high."""
        frames = torch.randn(1, 2, 3, 32, 64)
        features, attention = ClipTeacher(clip, grid=(2, 4))(frames, with_attention=True)
        assert features.shape == (1, 1, 1 + 2 * 8, 12)
        assert attention.shape == (1, 2, 8)
        resized = F.interpolate(frames[0], size=(16, 32), mode="bicubic", align_corners=False)[None]
        torch.testing.assert_close(features, ClipTeacher(clip, grid=(2, 4))(resized)[0])

    def test_clips_own_normalisation(self, clip):
        pixels = torch.rand(1, 2, 3, 32, 32)
        ours = (pixels - as_pixel(IMAGENET_DEFAULT_MEAN)) / as_pixel(IMAGENET_DEFAULT_STD)
        theirs = (pixels - as_pixel(OPENAI_CLIP_MEAN)) / as_pixel(OPENAI_CLIP_STD)
        features, _ = ClipTeacher(clip, grid=(4, 4), normalization="clip")(ours)
        torch.testing.assert_close(features, ClipTeacher(clip, grid=(4, 4))(theirs)[0])
        assert not torch.allclose(features, ClipTeacher(clip, grid=(4, 4))(ours)[0], atol=1e-2)

    def test_it_is_frozen_and_answers_in_fp32_whatever_its_dtype(self):
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**SMALL, patch_size=8, projection_dim=12)).train()
        teacher = ClipTeacher(clip, grid=(4, 4))
        assert not clip.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        exact, _ = teacher(pixels := torch.randn(1, 2, 3, 32, 32, requires_grad=True))
        assert not exact.requires_grad
        half, _ = ClipTeacher(clip.bfloat16(), grid=(4, 4))(pixels)
        assert half.dtype == torch.float32
        assert F.cosine_similarity(half, exact, dim=-1).min() > 0.99


def as_pixel(values: list[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


class TestTokens:
    CLIPS = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def test_a_videomamba_of_clips(self):
        model = VideoMambaModel(small_config())
        teacher = TokenTeacher(model, grid=(2, 2))
        tokens = model(self.CLIPS).last_hidden_state
        torch.testing.assert_close(teacher(self.CLIPS), F.normalize(tokens, dim=-1))
        assert teacher.width == 32

    def test_a_videomamba_of_images_looks_at_every_frame_by_itself(self):
        model = VideoMambaModel(small_config(num_frames=None))
        tokens = TokenTeacher(model, grid=(2, 2))(self.CLIPS)
        assert tokens.shape == (2, 1 + 4 * 4, 32)
        frames = [model(self.CLIPS[:, i : i + 1]).last_hidden_state for i in range(4)]  # (clips, 1 + patches, width)
        torch.testing.assert_close(tokens[:, 5:9], F.normalize(frames[1][:, 1:], dim=-1))
        torch.testing.assert_close(tokens[:, 0], F.normalize(sum(frame[:, 0] for frame in frames) / 4, dim=-1))

    def test_images(self):
        model = VideoMambaModel(small_config(num_frames=None))
        images = self.CLIPS[:, 0]
        tokens = TokenTeacher(model, grid=(2, 2))(images)
        torch.testing.assert_close(tokens, F.normalize(model(images[:, None]).last_hidden_state, dim=-1))

    def test_another_patch_size_is_met_by_resizing(self):
        model = ViTModel(ViTConfig(**SMALL, patch_size=8))  # 4 x 4 patches of these frames
        tokens = TokenTeacher(model, grid=(2, 2))(self.CLIPS[:, 0])
        small = F.interpolate(self.CLIPS[:, 0], size=(16, 16), mode="bicubic", align_corners=False)
        expected = model(small, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(tokens, F.normalize(expected, dim=-1))

    def test_rows_and_columns_are_the_students(self):
        """Of frames that are wider than high."""
        model = ViTModel(ViTConfig(**SMALL, patch_size=8))
        frames = torch.randn(2, 3, 32, 64)
        tokens = TokenTeacher(model, grid=(2, 4))(frames)
        small = F.interpolate(frames, size=(16, 32), mode="bicubic", align_corners=False)
        expected = model(small, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(tokens, F.normalize(expected, dim=-1))

    def test_it_is_frozen_and_drops_nothing(self):
        model = ViTModel(ViTConfig(**SMALL, patch_size=16, hidden_dropout_prob=0.5)).train()
        teacher = TokenTeacher(model, grid=(2, 2))
        assert not model.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        pixels = self.CLIPS[:, 0].clone().requires_grad_()
        assert torch.equal(teacher(pixels), teacher(pixels))
        assert not teacher(pixels).requires_grad

    def test_register_tokens_are_left_out(self):
        config = Dinov2WithRegistersConfig(
            **{name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size")},
            patch_size=16,
            num_register_tokens=3,
        )
        model = Dinov2WithRegistersModel(config)
        tokens = TokenTeacher(model, grid=(2, 2))(self.CLIPS[:, 0])
        expected = model(self.CLIPS[:, 0]).last_hidden_state[:, [0, 4, 5, 6, 7]]
        torch.testing.assert_close(tokens, F.normalize(expected, dim=-1))

    def test_a_teacher_without_cls(self):
        config = VideoMAEConfig(**SMALL, patch_size=16, num_frames=4, tubelet_size=2)
        model = VideoMAEModel(config)
        tokens = TokenTeacher(model, grid=(2, 2), tubelet_size=2)(self.CLIPS)
        assert tokens.shape == (2, 2 * 4, 32)

    def test_timesformer_goes_patch_by_patch_and_is_put_in_order(self):
        model = TimesformerModel(TimesformerConfig(**SMALL, patch_size=16, num_frames=4)).eval()
        tokens = TokenTeacher(model, grid=(2, 2))(self.CLIPS)
        theirs = F.normalize(model(self.CLIPS).last_hidden_state, dim=-1)
        torch.testing.assert_close(tokens[:, 0], theirs[:, 0])
        for frame in range(4):
            for patch in range(4):
                torch.testing.assert_close(tokens[:, 1 + 4 * frame + patch], theirs[:, 1 + 4 * patch + frame])

    def test_another_number_of_tokens_is_an_error(self):
        model = VideoMAEModel(VideoMAEConfig(**SMALL, patch_size=16, num_frames=4, tubelet_size=2))
        with pytest.raises(ValueError, match="The teacher has 8 tokens where the student has CLS and 4 x 4 patches"):
            TokenTeacher(model, grid=(2, 2))(self.CLIPS)


def test_renormalize():
    pixels = torch.rand(2, 3, 4, 4)
    black, white = ([0.0] * 3, [1.0] * 3), ([0.5, 0.4, 0.3], [0.2, 0.1, 0.5])
    there = renormalize(pixels, *black)
    torch.testing.assert_close(there, pixels * as_pixel(IMAGENET_DEFAULT_STD) + as_pixel(IMAGENET_DEFAULT_MEAN))
    torch.testing.assert_close(renormalize(pixels, *white), (there - as_pixel(white[0])) / as_pixel(white[1]))
    assert renormalize(pixels, tuple(IMAGENET_DEFAULT_MEAN), IMAGENET_DEFAULT_STD) is pixels
