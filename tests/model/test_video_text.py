"""Videos and texts: the model, its losses and its conversion against the reference."""

import contextlib
import gzip
import io
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining, BertTokenizer
from transformers.video_utils import VideoMetadata

from modeling_videomamba import (
    VideoMambaConfig,
    VideoMambaForPreTraining,
    VideoMambaForVideoTextPreTraining,
    VideoMambaForVideoTextRetrieval,
    VideoMambaVideoProcessor,
    VideoMambaVideoTextConfig,
)
from modeling_videomamba.checkpoints.converter import convert, save, save_official
from modeling_videomamba.checkpoints.default_processor import processor_for
from modeling_videomamba.checkpoints.official_layout import CheckpointError, check_against, read_checkpoint
from modeling_videomamba.checkpoints.video_text_layout import (
    infer_video_text_config,
    video_text_to_official,
    video_text_to_ours,
)
from modeling_videomamba.commands import convert as convert_command
from modeling_videomamba.modeling_videomamba_video_text import VideoMambaVideoPooler
from modeling_videomamba.video_processing_videomamba import interval_middles
from modeling_videomamba.video_text_losses import contrastive_loss, hard_negatives, similarities
from tests.conftest import FIXTURES, WORDS, as_video, assert_same, golden, small_video_text_config


MANIFESTS = json.loads(gzip.decompress((FIXTURES / "manifests_video_text.json.gz").read_bytes()))
HEADS = ["--set", "num_attention_heads=4", "--tokenizer", "none"]  # the golden BERT's heads are narrow, its words unknown


def run_converter(*args) -> str:
    """What the command prints, run in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        convert_command.main(list(map(str, args)))
    return printed.getvalue()


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def reference():
    return golden("umt_full")


@pytest.fixture(scope="module")
def directory(reference, tmp_path_factory) -> Path:
    """The reference's checkpoint, converted by the command line."""
    output = tmp_path_factory.mktemp("video_text") / "model"
    printed = run_converter(reference.checkpoint, output, "--verify", *HEADS)
    assert "VideoMambaForVideoTextPreTraining" in printed
    assert "32 tensors of the CLIP teacher" in printed
    assert float(printed.split("in fp64: ")[1]) < 1e-4  # of the video side
    return output


@pytest.fixture(scope="module")
def model(directory) -> VideoMambaForVideoTextPreTraining:
    model, info = VideoMambaForVideoTextPreTraining.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


def text_inputs(reference) -> tuple[torch.Tensor, torch.Tensor]:
    return reference.inputs["input_ids"], reference.inputs["attention_mask"]


def targets(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.normalize(outputs["masked.clip_output"], dim=-1).transpose(0, 1)


@pytest.mark.usefixtures("no_grad")
class TestReference:
    """`UMT_VIDEOMAMBA`, through the command line of the converter."""

    def test_videos_one_vector_a_frame(self, model, reference):
        features = model.get_video_features(reference.inputs["video"])
        assert_same(features.last_hidden_state, reference.outputs["vision_embeds"], 1e-5)
        assert_same(features.pooler_output, reference.outputs["vision_proj"], 1e-5)

    def test_masked_videos_one_vector(self, model, reference):
        mask = reference.inputs["mask"][:, 1:]
        outputs = model.vision_model(reference.inputs["video"], bool_masked_pos=mask)
        assert_same(outputs.last_hidden_state[:, 1:], reference.outputs["masked.vision_embeds"], 1e-5)
        pooled = model.video_pooler(outputs.last_hidden_state, 1)
        assert_same(pooled, reference.outputs["masked.pooled_vision_embeds"], 1e-5)
        features = model.get_video_features(reference.inputs["video"], mask)
        assert_same(features.pooler_output, model.video_projection(pooled), 1e-6)

    def test_images_have_no_place_in_time(self, model, reference):
        outputs = model.vision_model(reference.inputs["image"], images=True)
        assert_same(outputs.last_hidden_state[:, 1:], reference.outputs["image.vision_embeds"], 1e-5)
        pooled = model.video_pooler(outputs.last_hidden_state, 1)
        assert_same(pooled, reference.outputs["image.pooled_vision_embeds"], 1e-5)
        features = model.get_video_features(reference.inputs["image"])
        assert_same(features.last_hidden_state, reference.outputs["image.vision_embeds"], 1e-5)

    def test_texts(self, model, reference):
        features = model.get_text_features(*text_inputs(reference))
        assert_same(features.last_hidden_state, reference.outputs["text_embeds"], 1e-5)
        assert_same(features.last_hidden_state[:, 0], reference.outputs["pooled_text_embeds"], 1e-5)
        assert_same(features.pooler_output, reference.outputs["text_proj"], 1e-5)

    def test_similarities(self, model, reference):
        video = model.get_video_features(reference.inputs["video"]).pooler_output
        text = model.get_text_features(*text_inputs(reference)).pooler_output
        cosines = similarities(F.normalize(video, dim=-1), F.normalize(text, dim=-1))
        assert_same(cosines, reference.outputs["sim_v2t_eval"], 1e-5)
        assert_same(cosines.T, reference.outputs["sim_t2v_eval"], 1e-5)

    def test_matching_of_every_pair(self, model, reference):
        input_ids, mask = text_inputs(reference)
        video = model.get_video_features(reference.inputs["video"]).last_hidden_state
        text = model.get_text_features(input_ids, mask).last_hidden_state
        for j in range(len(input_ids)):
            same_text = [j] * len(video)
            logits = model.match(text[same_text], mask[same_text], video)
            assert_same(logits, reference.outputs["itm_logits"][:, j], 1e-5)
        fused = model.text_model.fuse(text, mask, video[[0] * len(text)])
        assert_same(fused, reference.outputs["fusion_hidden[video0]"], 1e-5)

    def test_contrastive_and_masked_language_losses(self, model, reference):
        input_ids, mask = text_inputs(reference)
        words = {"masked_input_ids": reference.inputs["mlm_input_ids"], "masked_labels": reference.inputs["mlm_labels"]}
        output = model(input_ids, reference.inputs["video"], mask, **words)
        assert_same(output.contrastive_loss, reference.outputs["loss_vtc"][0], 1e-6)
        assert_same(output.masked_language_loss, reference.outputs["loss_mlm"][0], 1e-6)
        assert output.alignment_loss is None
        parts = output.contrastive_loss + output.matching_loss + output.masked_language_loss
        torch.testing.assert_close(output.loss, parts)

    def test_masked_words(self, model, reference):
        video = model.get_video_features(reference.inputs["video"]).last_hidden_state
        mask = reference.inputs["attention_mask"]
        states = model.text_model(reference.inputs["mlm_input_ids"], mask).last_hidden_state
        words = model.masked_language_head(model.text_model.fuse(states, mask, video))
        assert_same(words, reference.outputs["mlm_logits"], 1e-5)

    def test_alignment_with_the_teacher(self, model, reference):
        input_ids, mask = text_inputs(reference)
        visible = reference.inputs["mask"][:, 1:]
        options = {"bool_masked_pos": visible, "target_features": targets(reference.outputs)}
        output = model(input_ids, reference.inputs["video"], mask, **options)
        assert_same(output.alignment_loss, reference.outputs["loss_uta"][0], 1e-6)
        outputs = model.vision_model(reference.inputs["video"], bool_masked_pos=visible, output_hidden_states=True)
        features = model.alignment_heads(outputs, model.vision_model.norm, visible)
        expected = F.normalize(reference.outputs["masked.student_output"], dim=-1).transpose(0, 1)
        assert_same(features, expected, 1e-5)


@pytest.fixture(scope="module", params=["mm_vision", "mm_vision_k2"])  # the second was made with one pooling only
def case(request):
    case = golden(request.param)
    case.default_pooling = case.meta["pool_types"].split("pool_type='")[1].split("'")[0]
    return case


@pytest.fixture(scope="module")
def vision(case, tmp_path_factory):
    directory = tmp_path_factory.mktemp("vision") / "model"
    printed = run_converter(case.checkpoint, directory, "--verify", "--set", "normalize_alignment=false")
    assert "left out, of use in training only: pool_norm.bias, pool_norm.weight" in printed
    assert float(printed.split("in fp64: ")[1]) < 1e-4
    model, info = VideoMambaForPreTraining.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


@pytest.mark.usefixtures("no_grad")
class TestVideoSide:
    """`PretrainVideoMamba`, whose tensors are those of masked pretraining and a norm after pooling."""

    def pooler(self, case, vision, pooling: str) -> VideoMambaVideoPooler:
        pooler = VideoMambaVideoPooler(VideoMambaVideoTextConfig(vision_config=vision.config, pooling=pooling))
        tensors = load_file(case.checkpoint)
        pooler.norm.load_state_dict({part: tensors[f"pool_norm.{part}"] for part in ("weight", "bias")})
        return pooler

    @pytest.mark.parametrize("medium", ["video", "image"])
    def test_masked(self, case, vision, medium):
        inputs, expected = case.inputs, case.outputs
        pixels, mask = as_video(inputs[medium]), inputs[f"{medium}_mask"][:, 1:]
        outputs = vision.videomamba(pixels, bool_masked_pos=mask, images=medium == "image", output_hidden_states=True)
        assert_same(outputs.last_hidden_state[:, 1:], expected[f"{medium}_masked.vision_embeds"], 1e-5)
        pooler = self.pooler(case, vision, case.default_pooling)
        assert_same(pooler(outputs.last_hidden_state, 1), expected[f"{medium}_masked.pooled"], 1e-5)
        features = vision.alignment_heads(outputs, vision.videomamba.norm, mask)
        assert_same(features, expected[f"{medium}_masked.clip"].transpose(0, 1), 1e-5)

    def test_without_masks(self, case, vision):
        inputs, expected = case.inputs, case.outputs
        video, image = as_video(inputs["video"]), as_video(inputs["image"])
        tokens = vision.videomamba(video).last_hidden_state
        assert_same(tokens[:, 1:], expected["video_unmasked.vision_embeds"], 1e-5)
        pooler = self.pooler(case, vision, case.default_pooling)
        assert_same(pooler(tokens, 1), expected["video_unmasked.pooled"], 1e-5)
        assert_same(pooler(tokens, video.shape[1]), expected["video_unmasked_keep_temporal.pooled"], 1e-5)
        tokens = vision.videomamba(image, images=True).last_hidden_state
        assert_same(tokens[:, 1:], expected["image_unmasked.vision_embeds"], 1e-5)
        assert_same(pooler(tokens, 1), expected["image_unmasked.pooled"], 1e-5)

    def test_other_poolings(self, case, vision):
        expected = case.outputs
        tokens = vision.videomamba(as_video(case.inputs["video"])).last_hidden_state
        for pooling in ("cls", "avg"):
            if pooling != case.default_pooling and f"video_unmasked[{pooling}].pooled" in expected:
                pooled = self.pooler(case, vision, pooling)(tokens, 1)
                assert_same(pooled, expected[f"video_unmasked[{pooling}].pooled"], 1e-5)


class TestConversion:
    @pytest.mark.parametrize("name", MANIFESTS)
    def test_the_released_models_map_key_by_key_and_back(self, name):
        manifest = MANIFESTS[name]
        with torch.device("meta"):
            tensors = {key: torch.empty(shape) for key, shape in manifest["keys"].items()}
            config = infer_video_text_config(tensors, {})
            renamed, left_out = video_text_to_ours(tensors)
            pretrained = "pretrain" in name
            model = (VideoMambaForVideoTextPreTraining if pretrained else VideoMambaForVideoTextRetrieval)(config)
        check_against(model.state_dict(), renamed)
        dropped = ("clip_teacher.", "vision_encoder.clip_decoder.")[not pretrained]
        assert all(key.startswith(dropped) or key.endswith("position_ids") for key in left_out)
        parameters = [key for key in left_out if not key.endswith("position_ids")]
        assert model.num_parameters() + sum(tensors[key].numel() for key in parameters) == manifest["num_parameters"]
        back = {key: list(tensor.shape) for key, tensor in video_text_to_official(renamed).items()}
        assert back == {key: shape for key, shape in manifest["keys"].items() if key not in left_out}
        assert (config.num_fusion_layers, config.projection_dim, config.text_config.num_attention_heads) == (3, 512, 12)
        assert (config.vision_config.num_frames, config.vision_config.image_size) == (8, 224)

    def test_there_and_back_bit_by_bit(self, directory, reference, tmp_path):
        save_official(directory, tmp_path / "back.pth")
        back, original = read_checkpoint(tmp_path / "back.pth"), read_checkpoint(reference.checkpoint)
        assert all(torch.equal(back[name], original[name]) for name in back)
        left_out = original.keys() - back.keys()
        assert all(name.startswith("clip_teacher.") or name.endswith("position_ids") for name in left_out)

    def test_longer_clips(self, reference):
        model, _ = convert(reference.checkpoint, {"num_attention_heads": 4}, num_frames=8)
        assert model.config.vision_config.num_frames == 8
        assert model.get_video_features(torch.zeros(1, 8, 3, 32, 32)).pooler_output.shape == (1, 8, 16)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("itm_head.bias"), "missing itm_head.bias"),
            (lambda t: t.update(extra=torch.ones(1)), "Unexpected keys in the checkpoint: extra"),
            (lambda t: t.update({"text_proj.bias": torch.ones(3)}), r"text_proj.bias has shape \(3,\)"),
            (lambda t: t.pop("text_encoder.bert.embeddings.word_embeddings.weight"), "it lacks text_encoder.bert.embeddings"),
            (lambda t: t["text_encoder.cls.predictions.decoder.weight"].add_(1), "one tensor in the model, but differ"),
        ],
    )
    def test_a_file_that_does_not_fit(self, reference, tmp_path, change, message):
        tensors = load_file(reference.checkpoint)
        change(tensors)
        save_file(tensors, tmp_path / "changed.safetensors")
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "changed.safetensors", {"num_attention_heads": 4})

    def test_a_tokenizer_of_another_vocabulary_is_refused(self, reference, tmp_path):
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
        BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
        arguments = ["--set", "num_attention_heads=4", "--tokenizer", tmp_path / "tokenizer"]
        with pytest.raises(ValueError, match=f"has {len(WORDS)} words, the model 40"):
            run_converter(reference.checkpoint, tmp_path / "model", *arguments)
        assert not (tmp_path / "model").exists()

    def test_labels_make_no_sense(self, reference):
        with pytest.raises(CheckpointError, match="not for a video-text checkpoint"):
            convert(reference.checkpoint, labels="kinetics-400")


class TestModel:
    @pytest.fixture
    def inputs(self):
        torch.manual_seed(0)
        mask = torch.ones(3, 7, dtype=torch.long)
        mask[1, 4:] = 0
        input_ids = torch.randint(5, len(WORDS), (3, 7)) * mask
        return {"input_ids": input_ids, "attention_mask": mask, "pixel_values": torch.randn(3, 4, 3, 32, 32)}

    def test_a_pretrained_model_is_one_for_retrieval(self, directory):
        for auto, expected in (
            (AutoModel, VideoMambaForVideoTextRetrieval),
            (AutoModelForPreTraining, VideoMambaForVideoTextPreTraining),
        ):
            model, info = auto.from_pretrained(directory, output_loading_info=True)
            assert type(model) is expected
            assert not any(info.values())

    def test_padding_changes_nothing(self, inputs):
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).eval()
        short = {"input_ids": inputs["input_ids"][1:2, :4], "attention_mask": inputs["attention_mask"][1:2, :4]}
        with torch.no_grad():
            padded = model.get_text_features(inputs["input_ids"][1:2], inputs["attention_mask"][1:2]).pooler_output
            torch.testing.assert_close(model.get_text_features(**short).pooler_output, padded)

    def test_hidden_states_and_tuples_on_request(self, inputs):
        """As of CLIP: of each side by itself, and in the output of both, by argument or by the configuration of either."""
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).eval()
        texts, clips = (inputs["input_ids"], inputs["attention_mask"]), (inputs["pixel_values"],)
        for features, arguments, side, layers in (
            (model.get_text_features, texts, model.config.text_config, 2),  # the third looks at videos
            (model.get_video_features, clips, model.config.vision_config, 2),
        ):
            output = features(*arguments)
            assert output.hidden_states is None
            assert all(torch.equal(x, y) for x, y in zip(features(*arguments, return_dict=False), output.to_tuple()))
            states = features(*arguments, output_hidden_states=True).hidden_states
            assert len(states) == 1 + layers
            first, middle, last = features(*arguments, output_hidden_states=[0, -1]).hidden_states
            assert torch.equal(first, states[0])
            assert middle is None
            assert torch.equal(last, states[-1])
            for config in (side, model.config):
                config.output_hidden_states, config.return_dict = True, False
                assert len(features(*arguments)[-1] if config is model.config else features(*arguments).hidden_states) == 3
                assert features(*arguments, output_hidden_states=False, return_dict=True).hidden_states is None
                config.output_hidden_states, config.return_dict = False, True
        output = model(**inputs, output_hidden_states=True)
        assert len(output.text_model_output.hidden_states) == len(output.vision_model_output.hidden_states) == 3
        assert len(model(**inputs, return_dict=False)) == 6

    def test_hidden_states_of_pretraining_are_those_asked_for(self, inputs):
        model = VideoMambaForVideoTextPreTraining(small_video_text_config()).eval()
        mask = (torch.arange(16) % 4 != 0).expand(3, -1)
        alignment = {"bool_masked_pos": mask, "target_features": torch.ones(3, 1, 5, 12)}  # which needs all of the video side
        assert model(**inputs, **alignment).vision_model_output.hidden_states is None
        states = model(**inputs, **alignment, output_hidden_states=[-1]).vision_model_output.hidden_states
        assert [state is None for state in states] == [True, True, False]

    def test_two_forward_passes_before_a_backward_pass(self, inputs):
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).train()
        sum(model(**inputs, return_loss=True).loss for _ in range(2)).backward()

    def test_the_matching_loss_by_hand(self, inputs):
        """Of two pairs, each text and each video has one wrong partner."""
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).eval()
        output = model(**{name: x[:2] for name, x in inputs.items()}, return_loss=True)
        texts, videos = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([0, 1, 1, 0, 0, 1])
        text, video = output.text_model_output.last_hidden_state, output.vision_model_output.last_hidden_state
        logits = model.match(text[texts], inputs["attention_mask"][texts], video[videos])
        torch.testing.assert_close(output.matching_loss, F.cross_entropy(logits, torch.tensor([1, 1, 0, 0, 0, 0])))

    def test_words_after_a_word_count(self, inputs):
        """Without padding there is no mask, and attention must not turn causal."""
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).eval()
        changed = inputs["input_ids"][:1].clone()
        changed[0, -1] = 5 + (changed[0, -1] - 4) % (len(WORDS) - 5)
        with torch.no_grad():
            first = model.get_text_features(inputs["input_ids"][:1], inputs["attention_mask"][:1]).pooler_output
            assert (model.get_text_features(changed, inputs["attention_mask"][:1]).pooler_output - first).abs().max() > 1e-6

    def test_every_parameter_learns(self, inputs):
        model = VideoMambaForVideoTextPreTraining(small_video_text_config()).train()
        mask = torch.zeros(3, 16, dtype=torch.bool)
        mask[:, 4:] = True
        words = {"masked_input_ids": inputs["input_ids"], "masked_labels": inputs["input_ids"]}
        features = F.normalize(torch.randn(3, 1, 5, 12), dim=-1)
        model(**inputs, bool_masked_pos=mask, target_features=features, **words).loss.backward()
        without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert without == set()

    def test_no_word_to_guess_is_no_loss(self, inputs):
        model = VideoMambaForVideoTextPreTraining(small_video_text_config())
        nothing = torch.full_like(inputs["input_ids"], -100)
        assert model(**inputs, masked_input_ids=inputs["input_ids"], masked_labels=nothing).masked_language_loss == 0

    def test_gradient_checkpointing_changes_no_gradient(self, inputs):
        gradients = []
        for checkpointing in (False, True):
            torch.manual_seed(0)
            config = small_video_text_config()
            config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
            model = VideoMambaForVideoTextRetrieval(config).train()
            if checkpointing:
                model.gradient_checkpointing_enable()
            torch.manual_seed(1)
            model(**inputs, return_loss=True).loss.backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient)

    def test_bf16_weights(self, directory, reference):
        model = VideoMambaForVideoTextRetrieval.from_pretrained(directory, dtype=torch.bfloat16)
        assert model.temperature.dtype == torch.float32
        assert model.text_projection.weight.dtype == torch.bfloat16
        input_ids, mask = text_inputs(reference)
        output = model.eval()(input_ids, reference.inputs["video"], mask, return_loss=True)
        assert output.contrastive_loss.dtype == torch.float32
        expected = reference.outputs["sim_v2t_eval"] / 0.07
        torch.testing.assert_close(output.logits_per_video, expected, rtol=0, atol=0.02 / 0.07)

    @pytest.mark.parametrize(("start", "kept"), [(0.9, 0.5), (1e-5, 1e-3)])
    def test_the_temperature_is_clamped_in_training(self, inputs, start, kept):
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).train()
        model.temperature.data.fill_(start)
        model(**inputs)
        assert model.temperature.item() == pytest.approx(kept)

    def test_another_number_of_texts_than_videos(self, inputs):
        model = VideoMambaForVideoTextRetrieval(small_video_text_config()).eval()
        inputs["pixel_values"] = inputs["pixel_values"][:2]
        assert model(**inputs).logits_per_text.shape == (3, 2)
        with pytest.raises(ValueError, match="a text for each video, got 3 and 2"):
            model(**inputs, return_loss=True)

    def test_targets_without_a_mask(self, inputs):
        model = VideoMambaForVideoTextPreTraining(small_video_text_config())
        with pytest.raises(ValueError, match="`bool_masked_pos` is missing"):
            model(**inputs, target_features=torch.ones(3, 1, 17, 12))

    @pytest.mark.parametrize("name", ["masked_input_ids", "masked_labels"])
    def test_masked_words_without_the_words_or_these_without_a_text(self, inputs, name):
        model = VideoMambaForVideoTextPreTraining(small_video_text_config())
        with pytest.raises(ValueError, match="`masked_input_ids` and `masked_labels` come together"):
            model(**inputs, **{name: inputs["input_ids"]})

    @pytest.mark.parametrize("model_class", [VideoMambaForVideoTextRetrieval, VideoMambaForVideoTextPreTraining])
    def test_frames_of_another_size(self, inputs, model_class):
        model = model_class(small_video_text_config()).eval()
        inputs["pixel_values"] = torch.randn(3, 4, 3, 48, 64)
        with pytest.raises(ValueError, match="Pass `interpolate_pos_encoding=True`"):
            model(**inputs)
        interpolated = model(**inputs, interpolate_pos_encoding=True).logits_per_video
        model.resize_position_embeddings(image_size=(48, 64))
        assert model.config.vision_config.image_size == (48, 64)
        assert_same(model(**inputs).logits_per_video, interpolated, 1e-6)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"num_fusion_layers": 4}, "`num_fusion_layers` must be between 1 and the 3 layers"),
            ({"initial_temperature": 1.0}, r"`initial_temperature` must be in \[0.001, 0.5\], got 1.0"),
            ({"initializer_range": float("nan")}, "`initializer_range` must be a finite number above 0, got nan"),
            ({"vision_config": VideoMambaConfig(num_frames=None)}, "must be a video model"),
        ],
    )
    def test_a_configuration_that_makes_no_sense(self, fields, message):
        with pytest.raises(Exception, match=message):
            small_video_text_config(**fields)

    def test_the_processor_squeezes_whole_frames(self, tmp_path):
        model = VideoMambaForVideoTextRetrieval(small_video_text_config())
        save(model, tmp_path / "model", card="")
        processor = type(processor_for(model.config)).from_pretrained(tmp_path / "model")
        frames = torch.zeros(9, 3, 20, 64, dtype=torch.uint8)
        frames[..., :32] = 255  # a centre crop would hide how much of it is white
        pixels = processor(frames, return_tensors="pt").pixel_values
        assert pixels.shape == (1, 4, 3, 32, 32)
        assert (pixels[0, 0, 0, :, :14] > 2).all()
        assert (pixels[0, 0, 0, :, 18:] < -2).all()


class TestFrames:
    def test_middles_of_intervals_with_whole_bounds(self):
        assert interval_middles(40, 8).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
        assert interval_middles(21, 4).tolist() == [2, 7, 12, 17]  # bounds 0, 5, 10, 15, 21

    def test_a_short_video_repeats_its_last_frame(self):
        assert interval_middles(3, 8).tolist() == [0, 1, 2, 2, 2, 2, 2, 2]

    def test_only_one_clip_and_no_other_sampling(self):
        metadata = VideoMetadata(total_num_frames=21)
        processor = VideoMambaVideoProcessor(num_frames=4, frame_sampling="intervals")
        assert processor.sample_frames(metadata).tolist() == [2, 7, 12, 17]
        with pytest.raises(ValueError, match="`num_clips` must be 1 .*, got 3"):
            processor.sample_frames(metadata, num_clips=3)
        with pytest.raises(ValueError, match="must be 'segments' or 'intervals', got 'random'"):
            VideoMambaVideoProcessor(frame_sampling="random").sample_frames(metadata)


class TestContrastiveLoss:
    def test_captions_of_one_video_share_their_target(self):
        torch.manual_seed(0)
        videos, texts = F.normalize(torch.randn(3, 2, 4), dim=-1), F.normalize(torch.randn(3, 4), dim=-1)
        targets = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        logits = similarities(videos, texts) / 0.1
        expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        loss = contrastive_loss(videos, texts, torch.tensor(0.1), torch.tensor([7, 7, 4]))
        torch.testing.assert_close(loss, expected)


class TestHardNegatives:
    def test_they_are_never_pairs_of_the_same_id(self):
        ids = torch.tensor([0, 0, 1, 2])
        for seed in range(50):
            torch.manual_seed(seed)
            rows, columns = hard_negatives(torch.randn(4, 4), ids)
            assert rows.tolist() == [0, 1, 2, 3]
            assert (ids[rows] != ids[columns]).all()

    def test_the_harder_the_likelier(self):
        torch.manual_seed(0)
        logits = torch.tensor([[50.0, 2.0, 0.0]]).repeat(3000, 1)
        ids = torch.arange(3)
        counts = torch.stack([hard_negatives(logits[:3], ids)[1][0] for _ in range(3000)]).bincount(minlength=3)
        assert counts[0] == 0
        assert counts[1] / 3000 == pytest.approx(1 / (1 + torch.tensor(-2.0).exp().item()), abs=0.03)

    def test_a_vanishing_probability_is_no_error(self):
        rows, columns = hard_negatives(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.arange(2))
        assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])

    def test_one_pair_alone_has_none(self):
        rows, columns = hard_negatives(torch.zeros(1, 1), torch.zeros(1))
        assert len(rows) == len(columns) == 0
