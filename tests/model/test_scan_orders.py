"""The seven scan orders of Fig. 7a, each against an order made by hand."""

from typing import get_args

import pytest
import torch

from modeling_videomamba import VideoMambaModel
from modeling_videomamba.configuration_videomamba import ScanOrder
from modeling_videomamba.modeling_videomamba import VideoMambaMixer, scan_orders, temporal_first_permutation
from tests.conftest import small_config


S, T = ("spatial",), ("temporal",)


@pytest.mark.parametrize(
    ("scan_order", "blocks"),
    [
        ("spatial_first", [(S, S)] * 4),
        ("temporal_first", [(T, T)] * 4),
        ("spatiotemporal_v1", [(S, T)] * 4),
        ("spatiotemporal_v2", [(S + T, S + T)] * 4),
        ("half_spatial_half_temporal", [(S, S), (S, S), (T, T), (T, T)]),
        ("half_temporal_half_spatial", [(T, T), (T, T), (S, S), (S, S)]),
        ("alternating", [(S, S), (T, T), (S, S), (T, T)]),
    ],
)
def test_orders_of_the_blocks(scan_order, blocks):
    config = small_config(num_hidden_layers=4, scan_order=scan_order)
    assert [scan_orders(config, i) for i in range(4)] == blocks


def test_every_order_has_a_case_and_runs(pixel_values):
    outputs = []
    for scan_order in get_args(ScanOrder):
        torch.manual_seed(0)
        outputs.append(VideoMambaModel(small_config(num_hidden_layers=4, scan_order=scan_order))(pixel_values).pooler_output)
    assert len(outputs) == 7
    different = [not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i]]
    assert all(different)


def test_all_orders_share_one_set_of_weights():
    names = [VideoMambaModel(small_config(scan_order=order)).state_dict().keys() for order in get_args(ScanOrder)]
    assert all(keys == names[0] for keys in names)


def test_temporal_first_permutation_and_its_inverse():
    order = temporal_first_permutation(3, 2, torch.device("cpu"))  # tokens: CLS, then frames (0, 1), (2, 3), (4, 5)
    assert order.tolist() == [0, 1, 3, 5, 2, 4, 6]
    inverse = temporal_first_permutation(2, 3, torch.device("cpu"))
    assert torch.equal(order[inverse], torch.arange(7))


@pytest.fixture
def hidden_states():
    return torch.randn(2, 13, 32)


def mixers(*scan_orders):
    """Mixers of several orders with the same weights, and the permutations for 3 positions of 4 patches."""
    made = [VideoMambaMixer(small_config(scan_order=order), layer_idx=0) for order in scan_orders]
    for parameter in made[0].parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for mixer in made:
        mixer.load_state_dict(made[0].state_dict())
    device = torch.device("cpu")
    return *made, (temporal_first_permutation(3, 4, device), temporal_first_permutation(4, 3, device))


def test_temporal_first_is_spatial_first_on_permuted_tokens(hidden_states):
    temporal, spatial, order = mixers("temporal_first", "spatial_first")
    expected = spatial(hidden_states[:, order[0]])[:, order[1]]
    torch.testing.assert_close(temporal(hidden_states, order), expected)


def test_both_orders_in_both_directions_are_the_sum(hidden_states):
    both, spatial, temporal, order = mixers("spatiotemporal_v2", "spatial_first", "temporal_first")
    torch.testing.assert_close(both(hidden_states, order), spatial(hidden_states) + temporal(hidden_states, order))


def test_one_order_a_direction_is_half_of_each(hidden_states):
    """Forward spatial-first + backward temporal-first, and its mirror, add up to all four scans."""
    both, one, order = mixers("spatiotemporal_v2", "spatiotemporal_v1")
    mirror = VideoMambaMixer(small_config(scan_order="spatiotemporal_v1"), layer_idx=0)
    mirror.load_state_dict(one.state_dict())
    mirror.forward_orders, mirror.backward_orders = one.backward_orders, one.forward_orders
    torch.testing.assert_close(both(hidden_states, order), one(hidden_states, order) + mirror(hidden_states, order))


def test_unidirectional_models_take_every_order_but_one(pixel_values):
    VideoMambaModel(small_config(scan_order="temporal_first", bidirectional=False))(pixel_values)
    with pytest.raises(Exception, match="spatiotemporal_v1"):
        small_config(scan_order="spatiotemporal_v1", bidirectional=False)
