"""Equal to the official code: its checkpoints, converted, loaded with `from_pretrained`, give its outputs and gradients.

The tensors come from the official classes, run on CPU; see `tests/fixtures/*/meta.json` for how.
"""

import gzip
import json

import pytest
import torch

from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from modeling_videomamba.checkpoints.official_layout import check_against, infer_config, read_checkpoint, to_official, to_ours
from modeling_videomamba.modeling_videomamba import VideoMambaMixer
from tests.conftest import FIXTURES, as_video, golden, small_config


NON_SQUARE = {
    "video_cls_nonsquare_t6": {"image_size": [32, 48]},
    "image_cls_stride8": {"image_size": [32, 48], "patch_stride": 8},
}
MANIFESTS = json.loads(gzip.decompress((FIXTURES / "manifests.json.gz").read_bytes()))


def load(model_class, directory, **kwargs):
    """`from_pretrained`, asserting that no weight is missing, left over or of another shape."""
    model, info = model_class.from_pretrained(directory, output_loading_info=True, **kwargs)
    assert not any(info.values()), info
    return model.eval()


def our_name(official_name: str) -> str:
    [name] = to_ours({official_name: torch.empty(0)})[0]
    return name


class TestVideoClassifier:
    @pytest.mark.parametrize(
        "case",
        [
            "video_cls_base",
            "video_cls_layernorm",
            "video_cls_nonsquare_t6",
            "video_cls_t8_s64",
            "video_cls_tubelet2",
            "video_cls_unfused",
            "video_cls_unidirectional",
        ],
    )
    def test_every_stage(self, case, converted):
        reference = golden(case)
        model = load(VideoMambaForVideoClassification, converted(reference.checkpoint, overrides=NON_SQUARE.get(case)))
        with torch.no_grad():
            output = model(as_video(reference.inputs["pixels"]), output_hidden_states=True)
            tokens = model.videomamba(as_video(reference.inputs["pixels"]))
        stages = [reference.outputs["embed"]]
        for i in range(model.config.num_hidden_layers):
            block = (reference.outputs[f"block{i}.{part}"] for part in ("residual", "hidden_states"))
            stages.append(sum(block))  # the reference adds a block's output at the start of the next one
        assert len(output.hidden_states) == len(stages)
        for ours, theirs in zip(output.hidden_states, stages):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tokens.last_hidden_state, reference.outputs["final_norm"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tokens.pooler_output, reference.outputs["features"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.logits, reference.outputs["logits"], rtol=0, atol=2e-5)

    @pytest.mark.parametrize("case", ["video_cls_grad", "video_cls_grad_layernorm_tubelet2"])
    def test_loss_and_every_gradient(self, case, converted):
        reference = golden(case)
        model = load(VideoMambaForVideoClassification, converted(reference.checkpoint)).train()
        pixels = reference.inputs["pixels"].requires_grad_()
        output = model(as_video(pixels), labels=reference.inputs["labels"])
        output.loss.backward()
        torch.testing.assert_close(output.loss, reference.outputs["loss"][0], rtol=1e-5, atol=1e-5)
        parameters = dict(model.named_parameters())
        theirs = {name.removeprefix("grad."): x for name, x in reference.outputs.items() if name.startswith("grad.")}
        assert {our_name(name) for name in theirs} == parameters.keys()
        pairs = [(parameters[our_name(name)].grad, grad.view_as(parameters[our_name(name)])) for name, grad in theirs.items()]
        for ours, grad in [*pairs, (pixels.grad, reference.outputs["grad_input.pixels"])]:
            torch.testing.assert_close(ours, grad, rtol=0, atol=1e-4 * max(grad.abs().max().item(), 1e-6))

    @pytest.mark.parametrize("layout", ["raw_state_dict", "model_only", "module", "train_loop"])
    def test_every_layout_of_a_pth_file(self, layout, converted):
        reference = golden("pth_checkpoints")
        directory = converted(FIXTURES / "pth_checkpoints" / f"{layout}.pth")
        model = load(VideoMambaForVideoClassification, directory)
        logits = model(as_video(reference.inputs["pixels"])).logits
        torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)


class TestImageClassifier:
    @pytest.mark.parametrize("case", ["image_cls_base", "image_cls_stride8"])
    def test_logits(self, case, converted):
        reference = golden(case)
        model = load(VideoMambaForImageClassification, converted(reference.checkpoint, overrides=NON_SQUARE.get(case)))
        output = model(reference.inputs["pixels"], output_hidden_states=True)
        torch.testing.assert_close(output.hidden_states[0], reference.outputs["embed"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.logits, reference.outputs["logits"], rtol=0, atol=2e-5)


class TestSelfDistillation:
    @pytest.mark.parametrize("case", ["distill_student", "distill_teacher"])
    def test_both_sides_are_image_classifiers(self, case, converted):
        reference = golden(case)
        model = load(VideoMambaForImageClassification, converted(reference.checkpoint))
        logits = model(reference.inputs["pixels"]).logits
        torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)

    @pytest.mark.parametrize(("side", "width"), [("student", 32), ("teacher", 24)])
    def test_both_sides_of_a_training_step(self, side, width, tmp_path, converted):
        """The golden keeps both in one file, under prefixes that no file of the reference has."""
        tensors = read_checkpoint(golden("distill_step").checkpoint)
        prefix = f"{side}."
        tensors = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        torch.save(tensors, tmp_path / "side.pth")
        model = load(VideoMambaForImageClassification, converted(tmp_path / "side.pth"))
        assert model.config.hidden_size == width
        reference = golden("distill_step")
        if side == "student":
            logits = model(reference.inputs["pixels"]).logits
            torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)


class TestMaskedPretraining:
    CASES = {
        "pretrain_k1": {},
        "pretrain_k2_interval_nonorm_grad": {"aligned_layer_interval": 2, "normalize_alignment": False},
        "pretrain_k3_random": {},
        "pretrain_unfused_k1": {"alignment_tap": "after_last_block"},
    }

    def forward(self, reference, model):
        mask = reference.inputs["mask"][:, 1:]  # the reference's mask has an entry for CLS, which is always visible
        clips, targets = as_video(reference.inputs["pixels"]), reference.inputs.get("targets_clip")
        return model(
            clips,
            bool_masked_pos=mask,
            target_features=None if targets is None else targets.transpose(0, 1),
            output_hidden_states=True,
        )

    @pytest.mark.parametrize("case", CASES)
    def test_visible_tokens_and_aligned_features(self, case, converted):
        reference = golden(case)
        model = load(VideoMambaForPreTraining, converted(reference.checkpoint, overrides=self.CASES[case]))
        output = self.forward(reference, model)
        torch.testing.assert_close(output.hidden_states[0], reference.outputs["embed"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.features, reference.outputs["output"].transpose(0, 1), rtol=1e-4, atol=2e-5)
        if output.loss is not None:
            torch.testing.assert_close(output.loss, reference.outputs["loss"][0])

    def test_every_gradient(self, converted):
        case = "pretrain_k2_interval_nonorm_grad"
        reference = golden(case)
        model = load(VideoMambaForPreTraining, converted(reference.checkpoint, overrides=self.CASES[case])).train()
        self.forward(reference, model).loss.backward()
        official = to_official({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model.config)
        theirs = {name.removeprefix("grad."): x for name, x in reference.outputs.items() if name.startswith("grad.")}
        for name in theirs.keys() & official.keys():
            grad = theirs[name]
            torch.testing.assert_close(official[name], grad, rtol=0, atol=1e-4 * max(grad.abs().max().item(), 1e-6))
        for name in theirs.keys() ^ official.keys():  # the last block gets none: zero there, no gradient here
            assert name.startswith("layers.3.")
            assert name not in theirs or not theirs[name].any()

    def test_a_classifier_starts_from_it_with_a_new_head_only(self, converted):
        directory = converted(golden("pretrain_k1").checkpoint)
        model, info = VideoMambaForVideoClassification.from_pretrained(directory, num_labels=9, output_loading_info=True)
        assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}
        assert not any(value for key, value in info.items() if key != "missing_keys")
        assert model.config.num_labels == 9

    def test_masks_that_do_not_fit(self):
        model = VideoMambaForPreTraining(small_config())
        clips = torch.zeros(2, 4, 3, 32, 32)
        mask = torch.zeros(2, 16, dtype=torch.bool)
        mask[0, 0] = True
        with pytest.raises(ValueError, match=r"as many visible patches, got \[15, 16\]"):
            model(clips, bool_masked_pos=mask)
        with pytest.raises(ValueError, match=r"must have shape \(2, 16\), got \(2, 17\)"):
            model(clips, bool_masked_pos=torch.zeros(2, 17, dtype=torch.bool))
        with pytest.raises(ValueError, match="Masked clips need `scan_order='spatial_first'`"):
            VideoMambaForPreTraining(small_config(scan_order="alternating"))(clips, bool_masked_pos=mask)


class TestMixer:
    @pytest.mark.parametrize("case", ["mixer_bidirectional", "mixer_bidirectional_bias", "mixer_unidirectional"])
    def test_output_and_gradients(self, case):
        reference = golden(case)
        tensors = read_checkpoint(reference.checkpoint)
        args = reference.meta["constructor_args"]
        config = VideoMambaConfig(
            hidden_size=args["d_model"],
            num_hidden_layers=1,
            state_size=args.get("d_state", 16),
            bidirectional=args["bimamba"],
            use_bias=args.get("bias", False),
        )
        mixer = VideoMambaMixer(config, layer_idx=0)

        def name_in_mixer(official):
            return our_name(f"layers.0.mixer.{official}").removeprefix("videomamba.layers.0.mixer.")

        mixer.load_state_dict({name_in_mixer(name): tensor for name, tensor in tensors.items()})
        x = reference.inputs["x"].requires_grad_()
        y = mixer(x)
        torch.testing.assert_close(y, reference.outputs["y"], rtol=1e-4, atol=1e-4)
        y.backward(reference.inputs["dy"])
        for name, parameter in [*((n, dict(mixer.named_parameters())[name_in_mixer(n)]) for n in tensors), ("x", x)]:
            grad = reference.outputs["grad_input.x" if name == "x" else f"grad.{name}"]
            torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-4 * grad.abs().max().item())


class TestOtherSizes:
    """The reference's fine-tuning loader interpolates position embeddings; ours does so at conversion, or in forward."""

    @pytest.mark.parametrize(
        ("case", "num_frames", "image_size"), [("ckpt_resize_space_time", 8, 96), ("ckpt_resize_down_time", 2, 48)]
    )
    def test_interpolation(self, case, num_frames, image_size, converted):
        reference = golden(case)
        directory = converted(reference.checkpoint)
        clip = as_video(reference.inputs["pixels"])
        model = load(VideoMambaForVideoClassification, directory)
        logits = model(clip, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)

        model.resize_position_embeddings(image_size=image_size, num_frames=num_frames)
        space, time = model.get_position_embeddings()
        torch.testing.assert_close(space.data, reference.outputs["pos_embed"], rtol=0, atol=1e-5)
        torch.testing.assert_close(time.data, reference.outputs["temporal_pos_embedding"], rtol=0, atol=1e-5)
        torch.testing.assert_close(model(clip).logits, reference.outputs["logits"], rtol=0, atol=2e-5)

    def test_interpolation_at_conversion(self, converted):
        reference = golden("ckpt_resize_space_time")
        model = load(VideoMambaForVideoClassification, converted(reference.checkpoint, num_frames=8, image_size=96))
        logits = model(as_video(reference.inputs["pixels"])).logits
        torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)

    def test_masked_pretraining_checkpoint_starts_a_classifier(self, converted):
        reference = golden("ckpt_from_pretrain")
        directory = converted(reference.checkpoint, num_frames=8, image_size=48)
        model = VideoMambaForVideoClassification.from_pretrained(directory, num_labels=9).eval()
        # the reference's loader does not know the final norm's other name and so leaves it at ones, like the head at random
        model.videomamba.norm.weight.data = reference.inputs["target_init.norm_f.weight"]
        model.classifier.weight.data = reference.inputs["target_init.head.weight"]
        model.classifier.bias.data = reference.inputs["target_init.head.bias"]
        logits = model(as_video(reference.inputs["pixels"])).logits
        torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)

    def test_head_of_400_labels(self, converted):
        reference = golden("ckpt_head_710_slice")
        model = load(VideoMambaForVideoClassification, converted(reference.checkpoint))
        logits = model(as_video(reference.inputs["pixels"])).logits
        torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)

    def test_prefixed_checkpoint_with_a_new_head(self, converted):
        reference = golden("ckpt_head_710_slice_prefix")
        directory = converted(reference.checkpoint, num_frames=6)
        model = VideoMambaForVideoClassification.from_pretrained(
            directory, num_labels=400, ignore_mismatched_sizes=True
        ).eval()
        model.classifier.weight.data = reference.inputs["target_init.head.weight"]
        model.classifier.bias.data = reference.inputs["target_init.head.bias"]
        logits = model(as_video(reference.inputs["pixels"])).logits
        torch.testing.assert_close(logits, reference.outputs["logits"], rtol=0, atol=2e-5)


class TestImageToVideo:
    @pytest.mark.parametrize(
        ("case", "num_frames", "tubelet_size"), [("inflate_2d_to_3d", 4, 1), ("inflate_2d_to_3d_tubelet4", 8, 4)]
    )
    @pytest.mark.parametrize("inflation", ["center", "mean"])
    def test_inflated_checkpoint(self, case, num_frames, tubelet_size, inflation, converted):
        reference = golden(case)
        directory = converted(reference.checkpoint, num_frames=num_frames, tubelet_size=tubelet_size, inflation=inflation)
        model = VideoMambaForVideoClassification.from_pretrained(directory, num_labels=6).eval()
        model.classifier.weight.data = reference.inputs["target_init.head.weight"]
        model.classifier.bias.data = reference.inputs["target_init.head.bias"]
        model.videomamba.embeddings.temporal_position_embeddings.data = reference.inputs["target_init.temporal_pos_embedding"]
        logits = model(as_video(reference.inputs["pixels"])).logits
        # logits decide: the fixture's kernel under center=True is a copy of the one under center=False
        expected = reference.outputs[f"logits[center={inflation == 'center'}]"]
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)

    def test_from_pretrained_of_an_image_model_with_num_frames(self, converted):
        """Without any conversion: the temporal embeddings are new, and zero as in the paper."""
        directory = converted(golden("inflate_2d_to_3d").checkpoint)
        model, info = VideoMambaForVideoClassification.from_pretrained(directory, num_frames=4, output_loading_info=True)
        assert info["missing_keys"] == {"videomamba.embeddings.temporal_position_embeddings"}
        assert not model.get_position_embeddings()[1].any()


class TestReleasedShapes:
    @pytest.mark.parametrize("name", MANIFESTS)
    def test_every_released_model_maps_key_by_key(self, name):
        """All but the video-text ones, of which the video side is here."""
        manifest = MANIFESTS[name]
        with torch.device("meta"):
            tensors = {key: torch.empty(shape) for key, shape in manifest["keys"].items()}
            config = infer_config(tensors, {})
            renamed, left_out = to_ours(tensors)
            if "mask_pretrain" in name or "vision_encoder" in name:
                model = VideoMambaForPreTraining(config)
            else:
                model = (VideoMambaForVideoClassification if config.num_frames else VideoMambaForImageClassification)(config)
        check_against(model.state_dict(), renamed)
        assert left_out == [key for key in tensors if key.startswith(("distill_head.", "pool_norm."))]
        assert len(renamed) + len(left_out) == len(tensors)
        assert model.num_parameters() + sum(tensors[key].numel() for key in left_out) == manifest["num_parameters"]
        args = manifest["constructor_args"]
        assert (config.image_size, config.num_frames) == (args.get("img_size", 224), args.get("num_frames"))

    @pytest.mark.parametrize("name", MANIFESTS)
    def test_and_back(self, name):
        with torch.device("meta"):
            tensors = {key: torch.empty(shape) for key, shape in MANIFESTS[name]["keys"].items()}
        renamed, left_out = to_ours(tensors)
        official = to_official(renamed, infer_config(tensors, {}))
        expected = {key: shape for key, shape in MANIFESTS[name]["keys"].items() if key not in left_out}
        assert {key: list(tensor.shape) for key, tensor in official.items()} == expected


class TestInitialisation:
    def test_statistics_of_the_reference(self):
        statistics = json.loads((FIXTURES / "init_statistics.json").read_text())
        theirs = statistics["video_sm VisionMamba(depth=4, embed_dim=192, num_classes=50)"]
        torch.manual_seed(0)
        config = VideoMambaConfig(hidden_size=192, num_hidden_layers=4, num_frames=4, image_size=64, num_labels=50)
        parameters = dict(VideoMambaForVideoClassification(config).named_parameters())
        compared = 0
        for name, expected in theirs.items():
            if not isinstance(expected, dict) or "std" not in expected:
                continue
            parameter = parameters[our_name(name)]
            assert list(parameter.shape) == expected["shape"], name
            spread = expected["std"]
            noise = 6 * spread / parameter.numel() ** 0.5
            assert abs(parameter.mean().item() - expected["mean"]) <= 2 * noise + 1e-7, name
            assert abs(parameter.std().item() - spread) <= noise + 1e-6, name
            compared += 1
        assert compared >= 2 * 17

    def test_a_new_model_equals_one_made_on_meta_and_initialised(self, tmp_path):
        """`from_pretrained` with no weights for a part initialises that part as the constructor would."""
        config = VideoMambaConfig(hidden_size=32, num_hidden_layers=2, num_frames=4, image_size=32)
        VideoMambaModel(config).save_pretrained(tmp_path)
        model = VideoMambaForVideoClassification.from_pretrained(tmp_path, num_labels=2000)
        assert abs(model.classifier.weight.std().item() - 0.02) < 1e-3
        assert not model.classifier.bias.any()
