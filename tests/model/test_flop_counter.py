"""The FLOP counter: against the paper's printed figures, against PyTorch's own counter, and by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_videomamba import VideoMambaConfig, VideoMambaForVideoClassification
from modeling_videomamba.checkpoints.released import expected_config, load_released
from modeling_videomamba.flop_counter import count_flops, count_flops_by_part
from tests.conftest import small_config


PRINTED = [row for row in load_released().values() if row.gflops is not None]

# Printed figures that the count behind all the others does not give: id -> (printed, ours), in GFLOPs.
MISPRINTS = {
    "videomamba-s-k400-f64-res384": (395, 795),
    "videomamba-m-in1k-res576": (83.1, 83.3),  # even without norms and head it is 83.2
}


class TestPaper:
    @pytest.mark.parametrize("row", PRINTED, ids=lambda row: row.id)
    def test_every_printed_figure(self, row):
        digits = 1 if row.task == "image-classification" else 0  # as printed
        ours = round(count_flops(expected_config(row), paper=True) / 1e9, digits)
        assert (row.gflops, ours) == MISPRINTS.get(row.id, (ours, ours))

    def test_there_are_figures_of_every_size_for_images_and_videos(self):
        assert len(PRINTED) == 10 + 20 + 12
        assert MISPRINTS.keys() <= {row.id for row in PRINTED}

    @pytest.mark.parametrize(("size", "percent"), [("tiny", 49), ("small", 29), ("middle", 22), ("base", 19)])
    def test_how_much_the_paper_leaves_out(self, size, percent):
        config = getattr(VideoMambaConfig, size)(num_labels=400)
        assert round(100 * (count_flops(config) / count_flops(config, paper=True) - 1)) == percent


CONFIGS = {
    "tiny": VideoMambaConfig.tiny(num_frames=8, num_labels=400),
    "image": small_config(num_frames=None),
    "tubelets_that_overlap": small_config(tubelet_size=2, patch_stride=8, image_size=[32, 48]),
    "grayscale": small_config(num_channels=1),
    "unidirectional": small_config(bidirectional=False),
    "two_orders": small_config(scan_order="spatiotemporal_v2"),
    "one_order_a_direction": small_config(scan_order="spatiotemporal_v1"),
    "two_orders_of_one_direction": small_config(scan_order="spatiotemporal_v2", bidirectional=False),
    "other_inner_sizes": small_config(expand=3, state_size=5, time_step_rank=7, conv_kernel=2),
    "no_biases_layer_norm": small_config(use_conv_bias=False, rms_norm=False),
    "no_head": small_config(num_labels=0),
}

# part -> the modules of that name
MODULES = {
    "patch_embedding": "projection",
    "in_proj": "in_proj",
    "x_proj": "x_proj",
    "dt_proj": "dt_proj",
    "out_proj": "out_proj",
    "head": "classifier",
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_matrix_product_and_convolution_is_what_pytorch_counts(config):
    """Patch embedding, in_proj, convolution, x_proj, dt_proj, out_proj and head of a forward pass, each by itself.

    PyTorch's counter sees these, and counts a multiply-add as two. It sees no scan, gate, norm or SiLU. The convolution, as
    our model runs it, computes `conv_kernel - 1` outputs beyond the last token and drops them.
    """
    frames = config.num_frames or 1
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    with torch.device("meta"):
        model = VideoMambaForVideoClassification(config).eval()
        pixel_values = torch.empty(1, frames, config.num_channels, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens = model(pixel_values, output_hidden_states=True).hidden_states[-1].shape[1]
    flops = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    seen = {part: sum(flops[name] for name in flops if name.split(".")[-1] == module) for part, module in MODULES.items()}
    mixers = sum(flops[name] for name in flops if name.endswith(".mixer"))
    seen["convolution"] = mixers - sum(seen[part] for part in ("in_proj", "x_proj", "dt_proj", "out_proj"))
    assert sum(seen.values()) == counter.get_total_flops()  # it saw nothing else

    ours = count_flops_by_part(config)
    taps = config.conv_kernel
    ours["convolution"] = ours["convolution"] * taps // (taps + 1) * (tokens + taps - 1) // tokens  # no SiLU, more outputs
    assert seen == {part: 2 * ours[part] for part in seen}


class TestByHand:
    def test_what_pytorch_does_not_see(self):
        config = small_config(hidden_size=32, expand=2, state_size=16, num_frames=4, image_size=32)
        tokens, blocks, channels, directions = 1 + 4 * 2 * 2, 2, 64, 2
        parts = count_flops_by_part(config)
        state = 1 + 1 + 1 + 1 + 1  # delta A, exp, delta u B, recurrence, C h
        assert parts["scan"] == tokens * blocks * directions * channels * (16 * state + 3)  # softplus, delta u, D u
        assert parts["gate"] == tokens * blocks * channels * 2  # SiLU, product
        assert parts["norms"] == tokens * (blocks + 1) * 32 * 5
        assert parts["convolution"] == tokens * blocks * directions * channels * (4 + 1)  # taps, SiLU

    def test_the_parts_add_up(self):
        parts = count_flops_by_part(small_config())
        assert count_flops(small_config()) == sum(parts.values())
        left_out = ("convolution", "x_proj", "dt_proj", "scan", "gate")
        assert count_flops(small_config(), paper=True) == sum(parts.values()) - sum(parts[name] for name in left_out)

    @pytest.mark.parametrize("paper", [False, True])
    def test_linear_in_the_number_of_frames(self, paper):
        flops = [count_flops(VideoMambaConfig.tiny(), num_frames=frames, paper=paper) for frames in (8, 16, 24, 64)]
        assert flops[1] - flops[0] == flops[2] - flops[1] == (flops[3] - flops[0]) // 7
        assert (flops[3] - flops[0]) % 7 == 0

    def test_linear_in_the_number_of_pixels(self):
        flops = [count_flops(VideoMambaConfig.tiny(), image_size=side) for side in (160, 320, 480)]
        assert 5 * (flops[1] - flops[0]) == 3 * (flops[2] - flops[1])  # 4 - 1 to 9 - 4

    def test_a_second_direction_or_order_costs_its_scans_only(self):
        both, forward = small_config(), small_config(bidirectional=False)
        twice = small_config(scan_order="spatiotemporal_v2")
        assert count_flops(forward) < count_flops(both) < count_flops(twice)
        per_scan = ("convolution", "x_proj", "dt_proj", "scan")
        parts = [count_flops_by_part(config) for config in (forward, both, twice)]
        for name, flops in parts[0].items():
            factors = (2, 4) if name in per_scan else (1, 1)
            assert (parts[1][name], parts[2][name]) == tuple(flops * factor for factor in factors)
        assert len({count_flops(config, paper=True) for config in (forward, both, twice)}) == 1

    @pytest.mark.parametrize(
        "scan_order", ["temporal_first", "spatiotemporal_v1", "half_temporal_half_spatial", "alternating"]
    )
    def test_the_other_orders_cost_the_same(self, scan_order):
        assert count_flops(small_config(scan_order=scan_order)) == count_flops(small_config())


class TestAnotherClip:
    @pytest.mark.parametrize("size", [{"num_frames": 64}, {"image_size": 384}, {"num_frames": 2, "image_size": (96, 64)}])
    def test_as_if_the_configuration_said_so(self, size):
        assert count_flops(small_config(), **size) == count_flops(small_config(**size))

    def test_the_configuration_stays_as_it_is(self):
        config = small_config()
        count_flops(config, num_frames=64, image_size=384)
        assert config.to_dict() == small_config().to_dict()

    def test_a_clip_that_does_not_fit_is_an_error(self):
        with pytest.raises(Exception, match="multiple of `tubelet_size`"):
            count_flops(small_config(tubelet_size=2), num_frames=3)
        with pytest.raises(Exception, match="does not hold one patch"):
            count_flops(small_config(), image_size=8)
