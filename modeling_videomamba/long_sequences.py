"""A mixer's way through a long sequence in inference: segment by segment, with the same results.

It goes through the segments once ahead with the forward scan, then back with the other, and hands the scan's states from each
to the next. Of the whole sequence only the projections and the sum of the scans are there at once.
"""

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from .linear_onednn import project
from .operators import is_transformed
from .scan_operators import continue_scan


SEGMENT_ON_CPU = 8192  # tokens, of 41 frames of 224 pixels


def number_of_segments(mixer: nn.Module, hidden_states: Tensor) -> int:
    """1 where the mixer has to see the whole sequence at once: in training, in programs, and in scans along time."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed():
        return 1
    if hidden_states.is_meta or isinstance(hidden_states, FakeTensor):
        return 1
    if "temporal" in mixer.forward_orders + mixer.backward_orders:
        return 1
    length = mixer.segment_length
    if length == "auto":
        length = SEGMENT_ON_CPU if hidden_states.device.type == "cpu" else None
    return 1 if length is None else -(-hidden_states.shape[1] // length)


def mix_in_segments(mixer: nn.Module, hidden_states: Tensor, number: int) -> Tensor:
    """`hidden_states (batch, length, hidden)` mixed in `number` segments of even lengths, sample by sample."""
    return torch.cat([_mix(mixer, sample, number) for sample in hidden_states.split(1)])


def _mix(mixer: nn.Module, hidden_states: Tensor, number: int) -> Tensor:
    """Convolutions see the tokens beside a segment, since it is projected with as many of them as they reach to."""
    reach = mixer.forward_scan.conv1d.kernel_size[0] - 1
    forward, backward, backend = mixer.forward_scan, mixer.backward_scan, mixer.scan_implementation
    segments, outputs, states, start = [], [], None, 0
    for segment in hidden_states.tensor_split(number, dim=1):
        stop = start + segment.shape[1]
        before, own = min(reach, start), slice(min(reach, start), min(reach, start) + segment.shape[1])
        tokens = hidden_states[:, start - before : stop + reach]
        x, gate = project(mixer.in_proj, tokens).chunk(2, dim=-1)  # 2 x (1, the same, intermediate)
        gate = gate[:, own]
        [u] = mixer.convolve(x[:, : own.stop], [forward])
        y, states = continue_scan(forward(u[:, before:]), False, gate if backward is None else None, states, None, backend)
        segments.append((x[:, before:], gate))
        outputs.append(y)
        start = stop
    states = None
    for i in reversed(range(number)):
        x, gate = segments.pop()
        if backward is not None:
            [u] = mixer.convolve(x, [backward])
            u = u[:, : gate.shape[1]]  # (1, segment, intermediate)
            outputs[i], states = continue_scan(backward(u), True, gate, states, outputs[i], backend)
        outputs[i] = project(mixer.out_proj, outputs[i].to(x.dtype))  # (1, segment, hidden)
    return torch.cat(outputs, dim=1)
