"""What every backend of the convolutions has to compute: PyTorch's convolution and SiLU, in either direction."""

import pytest
import torch
import torch.nn.functional as F

from modeling_videomamba.scan_operators import convolve_directions
from tests.conftest import assert_same
from tests.rows import all_rows
from tests.scan.inputs import BOTH, DEVICE, on_backends


pytestmark = pytest.mark.usefixtures("one_thread")


def device_of(backend):
    return DEVICE if backend in ("triton", "mamba_ssm") else "cpu"


def reference(x, weights, biases, reverse):
    """In fp64, padded at the start, and flipped for the reversed direction."""
    outputs = []
    for i, flag in enumerate(reverse):
        weight, sequence = weights[i].double(), x.double().mT  # (dim, width), (batch, dim, length)
        sequence = F.pad(sequence.flip(-1) if flag else sequence, (weight.shape[1] - 1, 0))
        y = F.conv1d(sequence, weight[:, None], biases[i].double() if biases else None, groups=len(weight))
        outputs.append(F.silu(y.flip(-1) if flag else y).mT)
    return outputs


def inputs_of(length, dim=6, width=4, reverse=BOTH, bias=True, dtype=torch.float32, parameters=None, device="cpu"):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape, dtype=parameters or dtype):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    x = normal(2, length, 2 * dim, dtype=dtype)[..., :dim].requires_grad_()  # a view, as the model has it
    weights = [normal(dim, width).requires_grad_() for _ in reverse]
    return x, weights, [normal(dim).requires_grad_() for _ in reverse] if bias else [], list(reverse)


def check(backend, x, weights, biases, reverse, relative=2e-6):
    leaves = (x, *weights, *biases)
    outputs, expected = convolve_directions(x, weights, biases, reverse, backend), reference(x, weights, biases, reverse)
    upstream = [torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(x) for y in outputs]
    grads = torch.autograd.grad(outputs, leaves, upstream)
    expected_grads = torch.autograd.grad(expected, leaves, [grad.double() for grad in upstream])
    for output, right in zip(outputs, expected):
        assert output.dtype == x.dtype
        assert_same(output, right, relative)
    for grad, right, leaf in zip(grads, expected_grads, leaves):
        assert grad.dtype == leaf.dtype
        assert_same(grad, right, relative)


@on_backends("torch", "numba", "triton", "mamba_ssm")
class TestEveryBackend:
    @pytest.mark.parametrize(("reverse", "bias"), [(BOTH, True), (BOTH, False), ((True,), True), ((False,), True)])
    def test_lengths(self, backend, reverse, bias):
        device = device_of(backend)
        few = backend == "triton" and (reverse, bias) != (BOTH, True)  # its interpreter takes its time
        all_rows(
            lambda length: check(backend, *inputs_of(length, reverse=reverse, bias=bias, device=device)),
            [1, 17] if few else [1, 2, 16, 17, 70],
        )

    def test_channels_and_widths(self, backend):
        rows = [(1, 4), (15, 4), (32, 4), (6, 1), (6, 3)]
        all_rows(lambda dim, width: check(backend, *inputs_of(9, dim, width, device=device_of(backend))), rows)

    def test_bf16_with_parameters_of_either_precision(self, backend):
        if backend == "torch":
            pytest.skip("as PyTorch's convolution, it takes one dtype only")

        def check_row(parameters):
            inputs = inputs_of(21, 32, dtype=torch.bfloat16, parameters=parameters, device=device_of(backend))
            check(backend, *inputs, relative=2e-2)

        all_rows(check_row, [torch.float32, torch.bfloat16])

    def test_parameters_that_are_views(self, backend):
        x, weights, _, reverse = inputs_of(5, device=device_of(backend))
        for bias in (torch.randn(12, device=x.device)[::2], torch.randn(1, device=x.device).expand(6)):
            outputs = convolve_directions(x, weights, [bias, bias], reverse, backend)
            for output, right in zip(outputs, reference(x, weights, [bias, bias], reverse)):
                assert_same(output, right, 2e-6)


@on_backends("numba", "triton")
@pytest.mark.parametrize("dim", [3, 16])
def test_the_operators_are_well_formed(backend, dim):
    x, weights, biases, reverse = inputs_of(9, dim, device=device_of(backend))
    operators = torch.ops.modeling_videomamba
    torch.library.opcheck(operators.causal_conv1d.default, (backend, x, weights, biases, reverse))
    x, weights, biases = x.detach(), [w.detach() for w in weights], [b.detach() for b in biases]
    grads = [torch.randn(x.shape, device=x.device) for _ in reverse]
    torch.library.opcheck(operators.causal_conv1d_backward.default, (backend, grads, x, weights, biases, reverse))
