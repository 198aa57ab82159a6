"""What every backend of the scan has to compute: a table of cases, each against the fp64 reference, forward and backward."""

from typing import NamedTuple

import pytest
import torch

from modeling_videomamba.scan_backends import why_not_loadable
from modeling_videomamba.scan_operators import scan_operator
from tests.conftest import assert_same
from tests.rows import all_rows
from tests.scan.inputs import BOTH, DEVICE, Inputs, check, inputs_of, on_backends, reference, run, with_gradients


class Sizes(NamedTuple):
    """A backend's boundaries: the steps of a chunk and of a tile, and the channels of a tile."""

    chunk: int
    tile: int
    channels: int


SIZES = {"torch": Sizes(32, 1, 8), "numba": Sizes(32, 4, 16), "triton": Sizes(8, 4, 128), "mamba_ssm": Sizes(2048, 1, 1)}
SMALL = {"dim": 3, "state": 2, "batch": 1}  # Triton's interpreter takes its time for every channel, state and sample
every_backend = on_backends("torch", "numba", "triton", "mamba_ssm")
our_backends = on_backends("torch", "numba", "triton")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    """Triton cuts time into as many chunks as a GPU can take; here, so that there are some, into chunks of 8 steps."""
    if why_not_loadable("triton") is None:
        from modeling_videomamba import selective_scan_triton

        monkeypatch.setattr(selective_scan_triton, "chunk_length", lambda *_: SIZES["triton"].chunk)


def make(backend: str, length: int, *args: int, **options) -> Inputs:
    """Inputs on the device of a backend, as small as they have to be for it."""
    sizes = SMALL if backend == "triton" and DEVICE == "cpu" and not args else {}
    device = DEVICE if backend in ("triton", "mamba_ssm") else "cpu"
    return inputs_of(length, *args, **(sizes | options), device=device)


@every_backend
class TestEveryBackend:
    def test_lengths_around_its_boundaries(self, backend):
        chunk, tile, _ = SIZES[backend]
        lengths = {1, tile - 1, tile + 1, chunk, chunk + 1, 2 * chunk + tile + 1} - {0}
        all_rows(lambda length: check(backend, make(backend, length)), sorted(lengths))

    def test_one_direction(self, backend):
        length = SIZES[backend].chunk + 3
        all_rows(lambda reverse: check(backend, make(backend, length, reverse=(reverse,), batch=2)), [False, True])

    def test_two_directions_either_way(self, backend):
        rows = [(True, False), (True, True), (False, False)]
        all_rows(lambda *reverse: check(backend, make(backend, 9, reverse=reverse, batch=1)), rows)

    def test_without_a_gate(self, backend):
        check(backend, make(backend, SIZES[backend].chunk + 3, gated=False))

    def test_without_softplus(self, backend):
        """A time step as it is."""
        inputs = make(backend, 11)._replace(delta_softplus=False)
        check(backend, inputs.replace(delta=torch.abs, delta_bias=torch.abs))

    def test_the_logarithm_of_A(self, backend):
        """`A_log`, as Mamba parametrises it, and its gradient."""
        inputs = make(backend, 11)._replace(A_is_log=True)
        check(backend, inputs.replace(A=lambda A: torch.log(-A)))

    def test_channels_and_states_around_its_boundaries(self, backend):
        channels = SIZES[backend].channels
        rows = [(1, 1), (channels - 1, 2), (channels + 1, 1), (2 * channels, 1), (3, 20)]
        all_rows(
            lambda dim, state: check(backend, make(backend, 3, dim, state, batch=1)),
            [row for row in rows if row[0]],
        )

    def test_sixteen_bits_have_a_state_of_thirty_two(self, backend):
        """Each result is rounded once, in PyTorch; elsewhere the sum of the first direction is rounded, too."""
        length = 11 if backend == "triton" else 300
        dtypes = [torch.bfloat16] if backend == "numba" else [torch.bfloat16, torch.float16]

        def check_row(dtype):
            relative = torch.finfo(dtype).eps if backend == "torch" else 2e-2
            check(backend, make(backend, length, dtype=dtype, state=4), relative)

        all_rows(check_row, dtypes)

    def test_inference_gives_the_same(self, backend):
        """It saves nothing for gradients, and goes another way."""
        inputs = make(backend, SIZES[backend].chunk + 3)
        expected, expected_states = reference(inputs)
        with torch.no_grad():
            output, states = run(backend, inputs)
        assert_same(output, expected, 2e-6)
        assert_same(states, expected_states, 2e-6)

    def test_large_time_steps_do_not_overflow(self, backend):
        def check_row(large):
            inputs = make(backend, 11)
            check(backend, inputs.replace(delta=lambda x: x * large, A=lambda A: 100 * A), relative=1e-5)

        all_rows(check_row, [30.0, 1e4])

    def test_small_time_steps_keep_their_relative_precision(self, backend):
        inputs = make(backend, 11)
        check(backend, inputs.replace(delta_bias=lambda x: 0 * x - 12, D=torch.zeros_like), relative=1e-5)  # softplus: 6e-6

    def test_autocast_leaves_the_recurrence_in_fp32(self, backend):
        inputs = make(backend, 9)
        plain, _ = run(backend, inputs)
        with torch.autocast(make(backend, 1).gate.device.type, torch.bfloat16):
            assert torch.equal(run(backend, inputs)[0], plain)

    def test_channels_before_time(self, backend):
        """As in the public operator, whose tensors are `(batch, dim, length)`: their transposes are not contiguous."""
        inputs = make(backend, 9)
        check(backend, inputs.replace(u=lambda x: x.mT.contiguous().mT, B=lambda x: x.mT.contiguous().mT))

    def test_an_empty_batch(self, backend):
        output, states = run(backend, make(backend, 5, batch=0))
        assert (output.shape[:2], states.shape[:2]) == ((0, 5), (2, 0))


@our_backends
class TestOurs:
    def test_nothing_is_read_before_it_is_written(self, backend):
        """All memory that is handed out uninitialised holds NaN."""
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.empty(1).isnan()
            check(backend, make(backend, SIZES[backend].chunk + 5))
        finally:
            torch.use_deterministic_algorithms(False)

    def test_the_same_input_gives_the_same_bits(self, backend):
        inputs = make(backend, 13, dtype=torch.bfloat16, batch=1)
        first, again = (with_gradients(lambda inputs: run(backend, inputs), inputs) for _ in range(2))
        assert torch.equal(first[0], again[0])
        assert all(map(torch.equal, first[2], again[2]))

    def test_the_last_states_have_no_gradients(self, backend):
        inputs = make(backend, 4, batch=1).trained()
        _, states = run(backend, inputs)
        assert torch.autograd.grad(states.sum(), inputs.tensors[0][0], allow_unused=True) == (None,)

    def test_gradients_of_the_gate_alone(self, backend):
        inputs = make(backend, 5)
        gate = inputs.gate.clone().requires_grad_()
        output, _ = run(backend, inputs._replace(gate=gate))
        expected_gate = inputs.gate.clone().requires_grad_()
        expected, _ = reference(inputs._replace(gate=expected_gate))
        assert_same(torch.autograd.grad(output.sum(), gate)[0], torch.autograd.grad(expected.sum(), expected_gate)[0], 2e-6)

    def test_what_was_traced_without_gradients_has_the_same(self, backend):
        """`torch.export` under `no_grad` writes into its graph that nothing is to be saved for the backward pass."""
        tensors, gate, reverse, softplus, A_is_log = inputs = make(backend, 20, batch=1).trained()
        results = []
        for save in (True, False):
            y, *_ = scan_operator.overload(backend, *tensors, gate, list(reverse), softplus, A_is_log, save)
            results.append(torch.autograd.grad(y.square().sum(), inputs.leaves()))
        assert all(map(torch.equal, *results))

    @pytest.mark.parametrize("gated", [True, False])
    def test_the_operators_are_well_formed(self, backend, gated):
        tensors, gate, reverse, *settings = make(backend, 9, 2, 1, batch=1, gated=gated).trained()
        operators = torch.ops.modeling_videomamba
        torch.library.opcheck(operators.selective_scan.default, (backend, *tensors, gate, list(reverse), *settings, True))
        with torch.no_grad():
            output, _, y, starts = scan_operator(backend, *tensors, gate, list(reverse), *settings, True)
        tensors = [[x.detach() for x in group] for group in tensors]
        gate = None if gate is None else gate.detach()
        torch.library.opcheck(
            operators.selective_scan_backward.default, (backend, output, y, starts, *tensors, gate, list(reverse), *settings)
        )


def test_torch_takes_fp64():
    check("torch", inputs_of(71, dtype=torch.float64), relative=1e-12)


def test_the_reference_of_two_directions_is_the_sum_of_two():
    inputs = inputs_of(9, gated=False)
    each = [
        reference(inputs._replace(tensors=[[group[i]] for group in inputs.tensors], reverse=(flag,)))[0]
        for i, flag in enumerate(BOTH)
    ]
    assert_same(reference(inputs)[0], sum(each), 1e-12)
