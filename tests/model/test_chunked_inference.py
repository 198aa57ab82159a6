"""A mixer in inference works through a long sequence in chunks, with the same results."""

import pytest
import torch

from modeling_videomamba import VideoMambaForVideoClassification, VideoMambaModel
from modeling_videomamba.scan_implementations import continue_scan, scan_directions, why_not_importable
from tests.conftest import assert_same, small_config
from tests.rows import all_rows
from tests.scan.test_numba import BOTH, scan_inputs


IMPLEMENTATIONS = [
    pytest.param(name, marks=pytest.mark.skipif(why_not_importable(name) is not None, reason=f"{why_not_importable(name)}"))
    for name in ("triton", "numba", "torch")
]


def make_model(**config):
    torch.manual_seed(0)
    model = VideoMambaForVideoClassification(small_config(initializer_range=0.1, **config)).eval()
    return model


def with_chunks(model, size):
    for layer in model.videomamba.layers:
        layer.mixer.chunk_size = size
    return model


def chunks_seen(model, call):
    """Lengths of the sequences that the first block's `in_proj` is called with."""
    lengths = []
    hook = model.videomamba.layers[0].mixer.in_proj.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    call()
    hook.remove()
    return lengths


class TestScan:
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_parts_one_after_the_other_are_the_whole(self, implementation):
        def check(cuts: tuple[int, ...], dtype: torch.dtype) -> None:
            lanes, gate = scan_inputs(21, dtype=dtype, **sizes)
            expected = scan_directions(lanes, BOTH, gate, implementation)
            bounds = list(zip((0, *cuts), (*cuts, 21)))
            outputs, states = [], None
            for start, end in bounds:
                lane = lanes[0]._make(part(lanes[0], start, end))
                y, states = continue_scan(lane, False, None, states, None, implementation)
                outputs.append(y)
            states = None
            for i, (start, end) in reversed(list(enumerate(bounds))):
                lane, (gate_part,) = lanes[1]._make(part(lanes[1], start, end)), part([gate], start, end)
                outputs[i], states = continue_scan(lane, True, gate_part, states, outputs[i], implementation)
            assert_same(torch.cat(outputs, dim=1), expected, 1e-6 if dtype == torch.float32 else 1e-2)

        def part(tensors, start, end):
            return [x[:, start:end] if x.ndim == 3 else x for x in tensors]

        sizes, rows = {}, [((7, 14), torch.float32), ((1, 20), torch.float32), ((16,), torch.float32)]
        if implementation == "triton":  # its interpreter is slow, and rounds bf16 in its own way
            sizes, rows = {"batch": 1, "dim": 12}, rows[1:2]
        else:
            rows += [(cuts, torch.bfloat16) for cuts, _ in rows]
        all_rows(check, rows)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_part_in_many_chunks_of_the_triton_kernels(self, reverse):
        if why_not_importable("triton") is not None:
            pytest.skip(f"{why_not_importable('triton')}")
        from modeling_videomamba import selective_scan_triton

        [lane, _], gate = scan_inputs(22, batch=1, dim=12)
        expected = scan_directions([lane], [reverse], gate, "torch")
        states, outputs = None, []
        for rows in [slice(13, 22), slice(13)] if reverse else [slice(13), slice(13, 22)]:
            tensors = [x[:, rows] if x.ndim == 3 else x for x in lane]
            y, states = selective_scan_triton.continue_scan(*tensors, gate[:, rows], reverse, states, None, chunk_length=4)
            outputs.append(y)
        assert_same(torch.cat(outputs[::-1] if reverse else outputs, dim=1), expected, 2e-6)


class TestModel:
    @pytest.mark.parametrize("implementation", ["numba", "torch"])
    @pytest.mark.parametrize("size", [8, 9, 16, 64, 1000])
    def test_any_chunk_gives_the_same(self, pixel_values, implementation, size):
        model = make_model(scan_implementation=implementation, num_frames=16)  # 65 tokens
        clips = pixel_values.repeat(1, 4, 1, 1, 1) + torch.linspace(0, 1, 16)[:, None, None, None]
        with torch.inference_mode():
            expected = with_chunks(model, None)(clips, output_hidden_states=True)
            actual = with_chunks(model, size)(clips, output_hidden_states=True)
        assert_same(actual.logits, expected.logits, 1e-5)
        for state, right in zip(actual.hidden_states, expected.hidden_states):
            assert_same(state, right, 1e-5)

    @pytest.mark.parametrize(
        "config", [{"bidirectional": False}, {"use_conv_bias": False}, {"conv_kernel": 1}, {"conv_kernel": 3}]
    )
    def test_other_mixers(self, pixel_values, config):
        model = make_model(**config)
        with torch.no_grad():  # of a single direction, CLS sees nothing but itself: all tokens are compared
            expected = with_chunks(model, None).videomamba(pixel_values).last_hidden_state
            assert_same(with_chunks(model, 8).videomamba(pixel_values).last_hidden_state, expected, 1e-5)

    def test_fp64(self, pixel_values):
        model = make_model(scan_implementation="torch", residual_in_fp32=False).double()
        mixer, tokens = model.videomamba.layers[0].mixer, torch.randn(2, 17, 32, dtype=torch.float64)
        with torch.no_grad():
            expected = mixer(tokens)
            assert_same(with_chunks(model, 8).videomamba.layers[0].mixer(tokens), expected, 1e-12)

    def test_bf16(self, pixel_values):
        model = make_model().bfloat16()
        with torch.no_grad():
            expected = with_chunks(model, None).videomamba(pixel_values).last_hidden_state
            actual = with_chunks(model, 8).videomamba(pixel_values).last_hidden_state
        assert actual.dtype == torch.bfloat16
        assert_same(actual, expected, 2e-2)

    def test_autocast(self, pixel_values):
        model = make_model()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = with_chunks(model, None).videomamba(pixel_values).last_hidden_state
            assert_same(with_chunks(model, 8).videomamba(pixel_values).last_hidden_state, expected, 2e-2)

    def test_chunks_are_even_and_not_longer_than_asked_for(self, pixel_values):
        model = make_model(mixer_chunk_size=8)  # 17 tokens
        with torch.no_grad():
            ahead = chunks_seen(model, lambda: model(pixel_values[:1]))
        assert ahead == [6, 6, 5]

    def test_a_sample_at_a_time(self, pixel_values):
        model = make_model(mixer_chunk_size=16)
        with torch.no_grad():
            assert chunks_seen(model, lambda: model(pixel_values)) == [9, 8, 9, 8]

    def test_shapes_without_numbers(self, pixel_values):
        from torch._subclasses import FakeTensorMode

        model = make_model(mixer_chunk_size=8)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            assert model(mode.from_tensor(pixel_values)).logits.shape == (2, 5)
            assert model(mode.from_tensor(pixel_values)).logits.shape == (2, 5)
        with torch.no_grad():
            assert model.to("meta")(pixel_values.to("meta")).logits.shape == (2, 5)

    @pytest.mark.parametrize("implementation", ["numba", "torch"])
    def test_the_default_device_does_not_matter(self, pixel_values, implementation):
        model = make_model(mixer_chunk_size=8, scan_implementation=implementation)
        with torch.no_grad():
            expected = model(pixel_values).logits
            with torch.device("meta"):
                assert torch.equal(model(pixel_values).logits, expected)

    def test_training_takes_all_at_once(self, pixel_values):
        model = make_model(mixer_chunk_size=8)
        assert chunks_seen(model, lambda: model(pixel_values)) == [17]

    def test_auto_takes_short_sequences_at_once(self, pixel_values):
        with torch.no_grad():
            model = make_model()
            assert chunks_seen(model, lambda: model(pixel_values)) == [17]

    def test_auto_cuts_long_sequences_on_a_cpu(self):
        model = make_model()
        with torch.no_grad():
            clip = torch.zeros(1, 3, 3, 16 * 64, 16 * 64)
            lengths = chunks_seen(model, lambda: model(clip, interpolate_pos_encoding=True))
        assert lengths == [6145, 6144]  # of 12289

    def test_scans_along_time_take_all_at_once(self, pixel_values):
        model = make_model(mixer_chunk_size=8, scan_order="temporal_first")
        with torch.no_grad():
            assert chunks_seen(model, lambda: model(pixel_values)) == [17]

    def test_the_setting_is_saved(self, tmp_path):
        make_model(mixer_chunk_size=32).save_pretrained(tmp_path)
        assert VideoMambaModel.from_pretrained(tmp_path).layers[0].mixer.chunk_size == 32
        assert VideoMambaModel.from_pretrained(tmp_path, mixer_chunk_size=None).layers[0].mixer.chunk_size is None

    def test_a_chunk_too_short_for_the_convolution(self):
        with pytest.raises(Exception, match="`mixer_chunk_size` must be at least 8, got 7"):
            small_config(mixer_chunk_size=7)
