"""A version of the code from before operators had an owner, beside the package: it registers under `videomamba` whatever is
there already, and goes wrong if the package has a name there."""

import importlib

import pytest
import torch

from modeling_videomamba import operators


@pytest.fixture
def earlier():
    """An operator as those versions register it."""

    @torch.library.custom_op("videomamba::selective_scan", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    double.register_autograd(lambda ctx, grad: 2 * grad)
    return double


@pytest.fixture
def scan():
    """Outputs and gradients of the package's scan."""
    operators = importlib.import_module("modeling_videomamba.scan_operators")

    def run() -> list[torch.Tensor]:
        torch.manual_seed(0)
        shapes = (2, 9, 4), (2, 9, 4), (4, 3), (2, 9, 3), (2, 9, 3), (4,), (4,)
        direction = [(-torch.rand(shape)).requires_grad_() for shape in shapes]
        y, _ = operators.scan([[x] for x in direction], None, [False], True, False, "auto")
        return [y.detach(), *torch.autograd.grad(y.sum(), direction)]

    return run


def test_neither_takes_the_others_operators(scan, earlier):
    before = scan()
    x = torch.randn(3, requires_grad=True)
    earlier(x).sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    torch.testing.assert_close(scan(), before, rtol=0, atol=0)


def test_the_package_leaves_their_namespace_alone():
    assert not [name for name in operators._PROCESS.owners if name.startswith("videomamba::")]
