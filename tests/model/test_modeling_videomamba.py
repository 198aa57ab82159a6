"""The model behaves as transformers expects of any model, and says clearly what it cannot take."""

import copy
import json
import logging
import re
import shutil
from functools import partial

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
)
from transformers.utils import output_capturing

from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextRetrieval,
    VideoMambaModel,
    VideoMambaVideoTextConfig,
)
from modeling_videomamba.configuration_videomamba import NAMES_ELSEWHERE
from modeling_videomamba.modeling_videomamba import VideoMambaLayer, select_hidden_states
from tests.conftest import assert_same, small_config, small_video_text_config
from tests.rows import all_rows


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VideoMambaForVideoClassification(small_config()).eval()


def reload(model, directory, **kwargs):
    loaded, info = type(model).from_pretrained(directory, output_loading_info=True, **kwargs)
    assert not any(info.values()), info
    return loaded.eval()


class TestConfig:
    @pytest.mark.parametrize(
        ("size", "width", "depth", "millions"),
        [("tiny", 192, 24, 7.0), ("small", 384, 24, 25.6), ("middle", 576, 32, 73.9), ("base", 768, 24, 97.1)],
    )
    def test_reference_sizes(self, size, width, depth, millions):
        config = getattr(VideoMambaConfig, size)(num_labels=400)
        assert (config.hidden_size, config.num_hidden_layers) == (width, depth)
        with torch.device("meta"):
            parameters = VideoMambaForVideoClassification(config).num_parameters()
        assert round(parameters / 1e6, 1) == millions

    def test_round_trip(self, tmp_path):
        config = small_config(patch_stride=8, scan_order="alternating", rms_norm=False, num_frames=None)
        config.save_pretrained(tmp_path)
        assert VideoMambaConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("scan_order", "zigzag"),
            ("num_frames", 0),
            ("hidden_size", 0),
            ("state_size", -1),
            ("drop_path_rate", 1.0),
            ("image_size", 8),
            ("image_size", [32, 32, 32]),
            ("hidden_size", "wide"),
            ("patch_stride", 0),
            ("initializer_range", 0.0),
            ("initializer_range", -1.0),
            ("initializer_range", float("nan")),
            ("aligned_layer_interval", float("-inf")),
            ("aligned_layer_interval", -1.0),
            ("num_aligned_layers", 10**30),
        ],
    )
    def test_a_bad_value_is_named(self, field, value):
        with pytest.raises(Exception, match=field) as error:
            small_config(**{field: value})
        assert str(value) in str(error.value)

    def test_frames_must_fill_tubelets(self):
        with pytest.raises(Exception, match="`num_frames` must be a positive multiple of `tubelet_size`"):
            small_config(num_frames=5, tubelet_size=2)

    def test_the_rank_of_the_time_step_is_rounded_up(self):
        assert small_config(hidden_size=40).time_step_rank == 3

    def test_weights_are_as_large_as_the_configuration_says(self):
        torch.manual_seed(0)
        model = VideoMambaModel(small_config(initializer_range=0.3))
        for weight in (model.layers[0].mixer.in_proj.weight, model.embeddings.position_embeddings):
            assert weight.std().item() == pytest.approx(0.3, rel=0.2)

    def test_unknown_scan_implementation(self):
        with pytest.raises(Exception, match="'scan_implementation' expected one of .* got cudnn"):
            small_config(scan_implementation="cudnn")


class TestUnknownFields:
    def test_a_name_leads_to_the_fields_that_may_be_meant(self):
        def check(name: str, expected: str | None) -> None:
            message = f"A VideoMambaConfig has no field {name}."
            message += f" Did you mean {expected}?" if expected else ""
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                VideoMambaConfig(**{name: 64})

        rows = [("depth", "num_hidden_layers"), ("embed_dim", "hidden_size"), ("num_frame", "num_frames"), ("foo", None)]
        rows += [("num_classes", "num_labels"), ("stride", "patch_stride"), ("push_to_hub", None)]
        all_rows(check, rows)
        assert NAMES_ELSEWHERE.keys().isdisjoint(VideoMambaConfig.names())
        assert set(NAMES_ELSEWHERE.values()) <= VideoMambaConfig.names() | {"num_labels"}
        with pytest.raises(ValueError, match=r"no field projection\. Did you mean projection_dim\?"):
            VideoMambaVideoTextConfig(projection=64)
        with pytest.raises(ValueError, match=r"A VideoMambaConfig has no field depth\."):
            VideoMambaVideoTextConfig(vision_config={"depth": 4})

    def test_what_transformers_passes_or_saves_is_taken(self):
        """Fields of every configuration, old and new, and of generation."""
        names = """architectures attn_implementation auto_map bos_token_id custom_pipelines dtype
        finetuning_task is_decoder max_length num_beams output_hidden_states pad_token_id
        quantization_config return_dict task_specific_params tokenizer_class torch_dtype torchscript
        transformers_version use_cache _commit_hash _name_or_path _anything_private"""
        for config_class in (VideoMambaConfig, VideoMambaVideoTextConfig):
            config_class(**dict.fromkeys(names.split()), id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, num_labels=2)
            config = config_class(problem_type="regression", num_labels=1, model_type=config_class.model_type)
            assert config_class(**config.to_dict()).to_dict() == config.to_dict()
            assert config_class(**config.to_diff_dict()).to_dict() == config.to_dict()

    def test_of_a_file_they_are_a_warning(self, tmp_path, caplog, monkeypatch):
        """A newer version may have written it. Fields that are unknown stay with the configuration."""
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        fields = small_video_text_config().to_dict()
        fields["vision_config"]["kernel_size"] = 3
        (tmp_path / "config.json").write_text(json.dumps(fields | {"written_later": 4}))
        for load in (VideoMambaVideoTextConfig.from_pretrained, AutoConfig.from_pretrained):
            config = load(tmp_path)
            assert (config.vision_config.kernel_size, config.written_later) == (3, 4)
            assert (config.vision_config.tubelet_size, config.vision_config.hidden_size) == (1, 32)
        assert VideoMambaVideoTextConfig.from_json_file(tmp_path / "config.json").written_later == 4
        assert [record.message for record in caplog.records] == [
            "A VideoMambaConfig has no field kernel_size. Did you mean tubelet_size? What the configuration says there has no "
            "effect.",
            "A VideoMambaVideoTextConfig has no field written_later. What the configuration says there has no effect.",
        ]

    def test_what_a_caller_of_from_pretrained_passes(self, tmp_path):
        VideoMambaModel(small_config()).save_pretrained(tmp_path)
        assert VideoMambaConfig.from_pretrained(tmp_path, drop_path_rate=0.5, revision="main").drop_path_rate == 0.5
        assert VideoMambaConfig.from_pretrained(tmp_path, depth=4, return_unused_kwargs=True)[1] == {"depth": 4}
        for load in (AutoConfig.from_pretrained, partial(VideoMambaConfig.from_pretrained, _from_auto=True)):
            assert load(tmp_path, model_max_length=4).hidden_size == 32  # of a tokenizer; the second is of remote code
        with pytest.raises(ValueError, match=r"no field depth\. Did you mean num_hidden_layers\?"):
            VideoMambaConfig.from_pretrained(tmp_path, depth=4)
        with pytest.raises(TypeError, match="depth"):
            VideoMambaModel.from_pretrained(tmp_path, depth=4)

    def test_a_subclass_has_fields_of_its_own(self):
        class Annotated(VideoMambaConfig):
            temperature_of_mine: float = 1.0

        class Written(VideoMambaConfig):
            def __init__(self, of_mine=1, **kwargs):
                self.of_mine = of_mine
                super().__init__(**kwargs)

        assert Annotated(temperature_of_mine=2.0).temperature_of_mine == 2.0
        assert Written.from_dict({"of_mine": 3, "hidden_size": 64}).of_mine == 3
        with pytest.raises(ValueError, match="A Written has no field depth"):
            Written(depth=3)


class TestOutputs:
    def test_shapes_and_order(self, model, pixel_values):
        output = model.videomamba(pixel_values, output_hidden_states=True)
        assert output.last_hidden_state.shape == (2, 1 + 4 * 2 * 2, 32)
        assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])
        assert [h.shape for h in output.hidden_states] == [output.last_hidden_state.shape] * 3
        assert model(pixel_values).logits.shape == (2, 5)

    def test_patches_come_frame_by_frame_row_by_row(self, pixel_values):
        embeddings = VideoMambaModel(small_config()).embeddings
        changed = pixel_values.clone()
        changed[0, 2, :, 16:, :16] += 1  # frame 2, second row, first column
        tokens, (positions, patches) = embeddings(pixel_values)
        difference = (embeddings(changed)[0] - tokens).abs().sum(-1)[0]
        assert (positions, patches) == (4, 4)
        assert difference.nonzero().flatten().tolist() == [1 + 2 * 4 + 2]

    def test_tuple_equals_dataclass(self, model, pixel_values):
        output = model(pixel_values, output_hidden_states=True)
        logits, hidden_states = model(pixel_values, output_hidden_states=True, return_dict=False)
        assert torch.equal(logits, output.logits)
        assert torch.equal(hidden_states[-1], output.hidden_states[-1])

    @pytest.mark.parametrize(
        "model_class", [VideoMambaModel, VideoMambaForVideoClassification, VideoMambaForPreTraining], ids=lambda c: c.__name__
    )
    def test_what_the_configuration_and_the_caller_ask_for(self, model_class, pixel_values):
        model = model_class(small_config()).eval()
        masks = {"bool_masked_pos": torch.arange(32).view(2, 16) % 4 != 0} if model_class is VideoMambaForPreTraining else {}
        assert model(pixel_values, **masks).get("hidden_states") is None
        states = model(pixel_values, output_hidden_states=True, **masks).hidden_states
        if model_class is VideoMambaForPreTraining or hasattr(output_capturing, "selected_hidden_states"):  # transformers' own
            first, middle, last = model(pixel_values, output_hidden_states=[0, -1], **masks).hidden_states
            assert middle is None
            assert torch.equal(first, states[0])
            assert torch.equal(last, states[2])
        model.config.output_hidden_states, model.config.return_dict = True, False
        output = model(pixel_values, **masks)
        assert isinstance(output, tuple)
        assert all(torch.equal(x, y) for x, y in zip(output[-1], states))
        assert len(model(pixel_values, output_hidden_states=False, **masks)) == len(output) - 1

    def test_hidden_states_counted_from_the_end(self):
        states = tuple(torch.arange(3.0))
        assert select_hidden_states(states, [0, -1]) == (states[0], None, states[2])
        assert select_hidden_states(states, -2) == (None, states[1], None)
        assert select_hidden_states(states, [5]) == (None, None, None)
        assert select_hidden_states(states, True) == states
        assert select_hidden_states(states, False) is None

    def test_features_of_masked_pretraining_have_the_batch_first(self, pixel_values):
        model = VideoMambaForPreTraining(small_config(alignment_size=12, num_aligned_layers=2))
        masks = torch.arange(32).view(2, 16) % 4 != 0
        features = model(pixel_values, masks).features
        assert features.shape == (2, 2, 1 + 4, 12)  # (batch, aligned layers, CLS and visible patches, alignment_size)
        torch.testing.assert_close(model(pixel_values[:1], masks[:1]).features, features[:1])
        one_layer = VideoMambaForPreTraining(small_config(alignment_size=12))
        with pytest.raises(
            ValueError, match=r"must have shape \(batch, aligned layers, .* = \(2, 1, 5, 12\), got \(1, 2, 5, 12\)"
        ):
            one_layer(pixel_values, masks, target_features=torch.ones(1, 2, 5, 12))  # would broadcast to (2, 2, 5, 12)

    def test_deterministic_and_independent_of_the_batch(self, model, pixel_values):
        logits = model(pixel_values).logits
        assert torch.equal(model(pixel_values).logits, logits)
        odd = model(torch.cat((pixel_values, pixel_values[:1]))).logits
        torch.testing.assert_close(odd, torch.cat((logits, logits[:1])), rtol=0, atol=1e-6)

    def test_an_empty_batch(self, model):
        assert model(torch.zeros(0, 4, 3, 32, 32)).logits.shape == (0, 5)

    def test_a_sequence_shorter_than_the_convolution(self):
        model = VideoMambaModel(small_config(image_size=16, num_frames=1, conv_kernel=7))
        assert model(torch.randn(1, 1, 3, 16, 16)).last_hidden_state.shape == (1, 2, 32)

    def test_no_labels_makes_a_feature_extractor(self, pixel_values):
        model = VideoMambaForVideoClassification(small_config(num_labels=0)).eval()
        assert torch.equal(model(pixel_values).logits, model.videomamba(pixel_values).pooler_output)

    def test_image_model(self):
        model = VideoMambaForImageClassification(small_config(num_frames=None))
        assert model(torch.randn(2, 3, 32, 32)).logits.shape == (2, 5)
        assert "temporal" not in " ".join(model.state_dict())

    def test_bare_image_model(self):
        """It takes images, as other image models do, and clips of one frame."""
        model = VideoMambaModel(small_config(num_frames=None))
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(model(images).last_hidden_state, model(images[:, None]).last_hidden_state)
        with pytest.raises(ValueError, match=r"must have shape \(batch, 3, height, width\), got \(2, 1, 32, 32\)"):
            model(images[:, :1])


class TestLosses:
    def test_single_label(self, model, pixel_values):
        labels = torch.tensor([1, 4])
        output = model(pixel_values, labels=labels)
        torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))

    def test_multi_label(self, model, pixel_values):
        model.config.problem_type = "multi_label_classification"
        labels = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 1, 1, 1]])
        output = model(pixel_values, labels=labels)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
        torch.testing.assert_close(output.loss, expected)

    @pytest.mark.parametrize("num_labels", [1, 3])
    def test_regression(self, pixel_values, num_labels):
        model = VideoMambaForVideoClassification(small_config(num_labels=num_labels, problem_type="regression"))
        labels = torch.randn(2, num_labels)
        output = model(pixel_values, labels=labels)
        torch.testing.assert_close(output.loss, (output.logits - labels).pow(2).mean())


class TestSaving:
    @pytest.mark.parametrize("max_shard_size", ["1GB", "30KB"])
    def test_round_trip(self, model, pixel_values, tmp_path, max_shard_size):
        model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
        assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "30KB")
        assert torch.equal(reload(model, tmp_path)(pixel_values).logits, model(pixel_values).logits)

    def test_bf16_round_trip_keeps_the_sensitive_parameters_in_fp32(self, model, pixel_values, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = reload(model, tmp_path, dtype=torch.bfloat16)
        kept = {name for name, parameter in loaded.named_parameters() if parameter.dtype == torch.float32}
        assert kept == {n for n in model.state_dict() if n.endswith(("A_log", ".D", "dt_proj.bias"))}
        loaded.save_pretrained(tmp_path / "bf16")
        again = reload(model, tmp_path / "bf16", dtype="auto")
        assert torch.equal(again(pixel_values).logits, loaded(pixel_values).logits)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForPreTraining], ids=lambda c: c.__name__)
    @pytest.mark.parametrize("make_config", [small_config, small_video_text_config])
    def test_built_in_half_precision_as_loaded_in_half_precision(self, make_config, auto_class, dtype, tmp_path):
        auto_class.from_config(make_config(initializer_range=0.01)).save_pretrained(tmp_path)
        loaded = auto_class.from_pretrained(tmp_path, dtype=dtype)
        dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
        assert set(dtypes.values()) == {dtype, torch.float32}
        built = auto_class.from_config(make_config(), dtype=dtype)
        assert {name: parameter.dtype for name, parameter in built.named_parameters()} == dtypes
        for name, parameter in built.named_parameters():
            if name.endswith(("A_log", "temperature")):  # and not rounded before
                assert torch.equal(parameter, loaded.get_parameter(name))
        with torch.device("meta"):
            built = auto_class.from_config(make_config(), dtype=dtype)
        assert {name: parameter.dtype for name, parameter in built.named_parameters()} == dtypes

    def test_half_precision_as_the_default(self, pixel_values):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = VideoMambaForVideoClassification(small_config())
        finally:
            torch.set_default_dtype(torch.float32)
        assert model.videomamba.layers[0].mixer.forward_scan.A_log.dtype == torch.float32
        assert model(pixel_values).logits.dtype == torch.bfloat16

    def test_auto_classes_load_any_head(self, model, tmp_path, pixel_values):
        model.save_pretrained(tmp_path)
        classifier = AutoModelForVideoClassification.from_pretrained(tmp_path)
        assert type(classifier) is VideoMambaForVideoClassification
        backbone, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert torch.equal(backbone(pixel_values).pooler_output, model.videomamba(pixel_values).pooler_output)
        image_model = VideoMambaForImageClassification(small_config(num_frames=None))
        image_model.save_pretrained(tmp_path / "image")
        assert type(AutoModelForImageClassification.from_pretrained(tmp_path / "image")) is VideoMambaForImageClassification

    def test_device_map_auto_and_offload_to_disk(self, model, tmp_path, pixel_values):
        model.save_pretrained(tmp_path)
        expected = model(pixel_values).logits
        torch.testing.assert_close(reload(model, tmp_path, device_map="auto")(pixel_values).logits, expected)
        device_map = {"videomamba.embeddings": "cpu", "videomamba.layers.0": "cpu", "videomamba.layers.1": "disk"}
        device_map |= {"videomamba.norm": "cpu", "classifier": "cpu", "dropout": "cpu"}
        offloaded = type(model).from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offload")
        torch.testing.assert_close(offloaded(pixel_values).logits, expected)

    def test_arguments_of_save_pretrained_by_position(self, model, tmp_path):
        is_main_process = False
        model.save_pretrained(tmp_path, is_main_process)
        assert not (tmp_path / "config.json").exists()  # as in transformers: only the main process writes it

    def test_constructing_on_meta_reads_no_value(self):
        with torch.device("meta"):
            model = VideoMambaForVideoClassification(small_config(drop_path_rate=0.2))
        assert all(parameter.is_meta for parameter in model.parameters())
        assert not list(model.buffers())


class TestTraining:
    def test_gradient_checkpointing_changes_nothing(self, model, pixel_values):
        model.train()
        plain = copy.deepcopy(model)
        model.gradient_checkpointing_enable()
        assert all(layer.gradient_checkpointing for layer in model.modules() if isinstance(layer, VideoMambaLayer))
        for m in (model, plain):
            m(pixel_values, labels=torch.tensor([0, 1])).loss.backward()
        for ours, expected in zip(model.parameters(), plain.parameters()):
            assert torch.equal(ours.grad, expected.grad)

    def test_gradient_checkpointing_runs_every_block_again(self, model, pixel_values):
        calls = []
        for layer in model.videomamba.layers:
            layer.mixer.register_forward_pre_hook(lambda *_: calls.append(None))
        model.train().gradient_checkpointing_enable()
        model(pixel_values, labels=torch.tensor([0, 1])).loss.backward()
        assert len(calls) == 2 * len(model.videomamba.layers)

    def test_dropouts_are_of_training_only(self, pixel_values):
        torch.manual_seed(0)
        model = VideoMambaForVideoClassification(small_config(hidden_dropout_prob=0.5, classifier_dropout=0.5))
        seen = {}
        model.videomamba.layers[0].register_forward_pre_hook(lambda _, args: seen.update(tokens=args[0]))
        model.classifier.register_forward_pre_hook(lambda _, args: seen.update(pooled=args[0]))
        model.train()(pixel_values)
        assert 0.4 < (seen["tokens"] == 0).float().mean() < 0.6
        assert 0.2 < (seen["pooled"] == 0).float().mean() < 0.8
        model.eval()(pixel_values)
        assert seen["tokens"].all()
        assert seen["pooled"].all()

    def test_drop_path_follows_the_reference_schedule(self):
        config = small_config(num_hidden_layers=5, drop_path_rate=0.4)
        rates = [layer.drop_path.p for layer in VideoMambaModel(config).layers]
        assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    def test_drop_path_drops_whole_samples_and_rescales(self):
        layer = VideoMambaModel(small_config(drop_path_rate=0.5)).layers[-1]
        hidden_states = torch.randn(64, 3, 32)
        branch = layer.eval()(hidden_states) - hidden_states
        torch.manual_seed(0)
        dropped = layer.train()(hidden_states) - hidden_states
        kept = dropped.abs().sum((1, 2)) > 0
        assert 16 < kept.sum() < 48
        torch.testing.assert_close(dropped[kept], 2 * branch[kept], rtol=1e-4, atol=1e-5)

    def test_lora_on_the_projections(self, model, pixel_values):
        peft = pytest.importorskip("peft")
        expected = model(pixel_values).logits
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["in_proj", "out_proj"]))
        torch.testing.assert_close(adapted(pixel_values).logits, expected)
        adapted(pixel_values, labels=torch.tensor([0, 1])).loss.backward()
        trained = [name for name, p in adapted.named_parameters() if p.grad is not None]
        assert len(trained) == 2 * 2 * 2
        assert all("lora" in name for name in trained)

    def test_lora_on_all_linear_layers(self, model, pixel_values):
        """The time step's projection is no linear layer: its bias goes on to the scan."""
        peft = pytest.importorskip("peft")
        expected = model(pixel_values).logits
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
        torch.testing.assert_close(adapted(pixel_values).logits, expected)
        assert not any("dt_proj" in name for name, p in adapted.named_parameters() if p.requires_grad)

    def test_last_block_forward_decay_has_no_gradient(self, model, pixel_values):
        """CLS comes first, so the last forward scan reaches it through one step only, from a state of zero."""
        model(pixel_values, labels=torch.tensor([0, 1])).loss.backward()
        mixer = model.videomamba.layers[-1].mixer
        assert not mixer.forward_scan.A_log.grad.any()
        assert mixer.backward_scan.A_log.grad.any()


class TestLowPrecision:
    @pytest.mark.parametrize("scale", [1.0, 50.0])
    def test_bf16_weights_and_autocast_stay_near_fp32(self, model, pixel_values, scale):
        """Also with a large delta, where the decay underflows to zero."""
        with torch.no_grad():
            for layer in model.videomamba.layers:
                layer.mixer.forward_scan.dt_proj.bias += scale - 1
        labels = torch.tensor([0, 1])
        expected = model(pixel_values, labels=labels).logits
        half = copy.deepcopy(model).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(pixel_values, labels=labels)
        for m, output in ((model, autocast), (half, half(pixel_values.bfloat16(), labels=labels))):
            torch.testing.assert_close(output.logits.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())
            output.loss.backward()
            assert all(torch.isfinite(p.grad).all() for p in m.parameters())

    @pytest.mark.parametrize("residual_in_fp32", [True, False])
    def test_residual_stream_of_bf16_weights(self, pixel_values, residual_in_fp32):
        model = VideoMambaModel(small_config(residual_in_fp32=residual_in_fp32)).bfloat16()
        output = model(pixel_values.bfloat16(), output_hidden_states=True)
        assert output.hidden_states[-1].dtype == (torch.float32 if residual_in_fp32 else torch.bfloat16)
        assert output.last_hidden_state.dtype == torch.bfloat16

    @pytest.mark.parametrize("rms_norm", [True, False])
    def test_norms_of_bf16_weights_compute_in_fp32(self, rms_norm):
        norm = VideoMambaModel(small_config(rms_norm=rms_norm)).norm
        stream = 3 + torch.randn(9, 32, generator=torch.Generator().manual_seed(0))  # its rounding would show
        assert torch.equal(copy.deepcopy(norm).bfloat16()(stream), norm(stream).bfloat16())


class TestCompilers:
    @pytest.mark.parametrize("scan_order", ["spatial_first", "spatiotemporal_v1"])
    def test_one_graph_forward_and_backward(self, pixel_values, scan_order):
        """Of the whole model, without the minutes that generating its code would take."""
        torch.manual_seed(0)
        model = VideoMambaForVideoClassification(small_config(scan_order=scan_order))
        labels = torch.tensor([0, 1])
        output = model(pixel_values, labels=labels)
        output.loss.backward()
        expected = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(pixel_values, labels=labels)
        compiled.loss.backward()
        torch.testing.assert_close(compiled.logits, output.logits)
        for parameter, grad in zip(model.parameters(), expected):
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)

    @pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
    def test_generated_code_of_the_mixer(self):
        """Around the custom operators, whose layouts it must have been told."""
        torch.manual_seed(0)
        mixer = VideoMambaModel(small_config(initializer_range=0.2)).layers[0].mixer
        hidden_states = torch.randn(2, 17, 32, requires_grad=True)
        leaves = [hidden_states, *mixer.parameters()]
        expected = mixer(hidden_states)
        gradients = torch.autograd.grad(expected.square().sum(), leaves)
        compiled = torch.compile(mixer, fullgraph=True)(hidden_states)
        assert_same(compiled, expected, 1e-5)
        for gradient, right in zip(torch.autograd.grad(compiled.square().sum(), leaves), gradients):
            assert_same(gradient, right, 1e-4)

    def test_export_with_any_batch(self, model, pixel_values, tmp_path):
        with torch.no_grad():
            program = torch.export.export(model, (pixel_values,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, tmp_path / "model.pt2")
        exported = torch.export.load(tmp_path / "model.pt2").module()
        clips = torch.cat((pixel_values, pixel_values[:1]))
        torch.testing.assert_close(exported(clips).logits, model(clips).logits)
        scans = [node for node in program.graph.nodes if "selective_scan" in str(node.target)]
        assert all(node.args[-1] is False for node in scans)  # no states are saved for a backward pass
        assert len(scans) == model.config.num_hidden_layers  # one node a block: no loop over the length


class TestInterpolation:
    def test_same_size_is_left_alone(self, model, pixel_values):
        expected = model(pixel_values).logits
        assert torch.equal(model(pixel_values, interpolate_pos_encoding=True).logits, expected)

    def test_other_frames_and_sizes(self, model):
        clip = torch.randn(1, 7, 3, 48, 80)
        output = model.videomamba(clip, interpolate_pos_encoding=True)
        assert output.last_hidden_state.shape == (1, 1 + 7 * 3 * 5, 32)

    def test_time_is_interpolated_without_being_asked(self, model, pixel_values):
        clip = pixel_values.repeat(1, 2, 1, 1, 1)  # 8 frames for a model of 4
        logits = model(clip).logits
        model.resize_position_embeddings(num_frames=8)
        assert torch.equal(model(clip).logits, logits)

    @pytest.mark.parametrize("num_frames", [None, 1])
    def test_images_of_another_size(self, num_frames):
        torch.manual_seed(0)
        model, images = VideoMambaForImageClassification(small_config(num_frames=num_frames)).eval(), torch.randn(2, 3, 48, 64)
        with pytest.raises(ValueError, match="Pass `interpolate_pos_encoding=True`"):
            model(images)
        logits = model(images, interpolate_pos_encoding=True).logits
        model.resize_position_embeddings(image_size=(48, 64))
        torch.testing.assert_close(model(images).logits, logits)

    def test_resized_model_saves_and_loads(self, model, tmp_path):
        model.resize_position_embeddings(image_size=(48, 80), num_frames=7)
        model.save_pretrained(tmp_path)
        clip = torch.randn(1, 7, 3, 48, 80)
        torch.testing.assert_close(reload(model, tmp_path)(clip).logits, model(clip).logits)

    def test_resize_replaces_only_what_changes(self, model):
        space, time = model.get_position_embeddings()
        time.requires_grad_(False)
        model.resize_position_embeddings(num_frames=8)
        assert model.get_position_embeddings()[0] is space
        assert model.get_position_embeddings()[1].shape[1] == 8
        assert not model.get_position_embeddings()[1].requires_grad

    def test_resize_refuses_before_it_changes_anything(self):
        model = VideoMambaModel(small_config(tubelet_size=2))
        with pytest.raises(Exception, match="num_frames"):
            model.resize_position_embeddings(image_size=64, num_frames=5)
        assert model.get_position_embeddings()[0].shape[1] == 1 + 2 * 2
        with pytest.raises(ValueError, match="An image model has no temporal position embeddings"):
            VideoMambaModel(small_config(num_frames=None)).resize_position_embeddings(num_frames=8)


class TestBadInput:
    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((4, 3, 32, 32), r"must have shape \(batch, num_frames, 3, height, width\), got \(4, 3, 32, 32\)"),
            ((1, 3, 4, 32, 32), r"must have shape \(batch, num_frames, 3, height, width\), got \(1, 3, 4, 32, 32\)"),
            ((1, 4, 3, 32, 48), "cover frames of 32 x 32 pixels, got 32 x 48. Pass `interpolate_pos_encoding=True`"),
        ],
    )
    def test_wrong_clip(self, model, shape, message):
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(shape))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
    def test_pixels_that_are_not_normalised(self, model, dtype):
        clip, image = torch.ones(1, 4, 3, 32, 32, dtype=dtype), torch.ones(1, 3, 32, 32, dtype=dtype)
        videos = f"must be floating point, got {dtype}: `VideoMambaVideoProcessor` scales and normalises"
        text = torch.tensor([[2, 7, 9, 3]])
        retrieval = VideoMambaForVideoTextRetrieval(small_video_text_config())
        pretraining, mask = VideoMambaForPreTraining(small_config()), torch.zeros(1, 16, dtype=torch.bool)
        for call in (
            lambda: model(clip),
            lambda: model.videomamba(clip),
            lambda: pretraining(clip, mask),
            lambda: retrieval(text, clip),
            lambda: retrieval.get_video_features(clip),
        ):
            with pytest.raises(ValueError, match=videos):
                call()
        for model_class in (VideoMambaModel, VideoMambaForImageClassification):
            with pytest.raises(ValueError, match=f"got {dtype}: the model's image processor scales and normalises"):
                model_class(small_config(num_frames=None))(image)

    def test_interpolation_never_drops_pixels(self, model):
        with pytest.raises(ValueError, match="33 x 32 pixels cannot be cut into patches of 16"):
            model(torch.zeros(1, 4, 3, 33, 32), interpolate_pos_encoding=True)

    @pytest.mark.parametrize("frames", [0, 5])
    def test_frames_that_do_not_fill_tubelets(self, frames):
        model = VideoMambaModel(small_config(tubelet_size=2))
        with pytest.raises(ValueError, match=f"must be a multiple of 2 .*got {frames}"):
            model(torch.zeros(1, frames, 3, 32, 32), interpolate_pos_encoding=True)

    def test_image_model_given_a_clip(self):
        model = VideoMambaModel(small_config(num_frames=None))
        with pytest.raises(ValueError, match=r"image model: it takes 1 frame, got 4.*from_pretrained\(..., num_frames=4\)"):
            model(torch.zeros(1, 4, 3, 32, 32))
        with pytest.raises(ValueError, match=r"\(batch, num_channels, height, width\), got \(1, 1, 3, 32, 32\)"):
            VideoMambaForImageClassification(small_config(num_frames=None))(torch.zeros(1, 1, 3, 32, 32))
