"""The Numba kernels of the CPU against the fp64 oracle."""

import multiprocessing
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_videomamba import VideoMambaModel, scan_implementations
from modeling_videomamba.causal_conv1d_torch import causal_conv1d as causal_conv1d_torch
from modeling_videomamba.scan_implementations import ScanInputs, convolve_directions, scan_directions, why_not_importable
from modeling_videomamba.selective_scan import selective_scan, selective_scan_reference
from tests.conftest import assert_same, small_config


pytestmark = pytest.mark.skipif(why_not_importable("numba") is not None, reason=f"{why_not_importable('numba')}")
BOTH = [False, True]


def scan_inputs(length, dim=40, state=5, batch=2, lanes=2, dtype=torch.float32):
    """Two directions, or one, and a gate; numbers that bf16 has, in any dtype."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape, dtype=dtype):
        return torch.randn(*shape, generator=generator).bfloat16().to(dtype)

    def lane():
        u, delta = normal(batch, length, dim), normal(batch, length, dim)
        B, C = normal(batch, length, 2 * state).split(state, -1)
        A, D, bias = (normal(*shape, dtype=torch.float32) for shape in ((dim, state), (dim,), (dim,)))
        return ScanInputs(u, delta, -A.abs() - 0.1, B, C, D, bias)

    return [lane() for _ in range(lanes)], normal(batch, length, 2 * dim).chunk(2, -1)[1]


def oracle(lanes, reverse, gate):
    y = 0
    for lane, flag in zip(lanes, reverse):
        tensors = lane._asdict()
        tensors |= {name: tensors[name].mT for name in ("u", "delta", "B", "C")}
        y = y + selective_scan_reference(**tensors, delta_softplus=True, reverse=flag).mT
    return y if gate is None else y * F.silu(gate.double())


def numba_scan(lanes, reverse, gate):
    return scan_directions(lanes, reverse, gate, "numba")


def with_gradients(scan, lanes, reverse, gate):
    lanes = [ScanInputs(*(x.detach().requires_grad_() for x in lane)) for lane in lanes]
    gate = None if gate is None else gate.detach().requires_grad_()
    output = scan(lanes, reverse, gate)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    leaves = [x for lane in lanes for x in lane] + [gate] * (gate is not None)
    return output, torch.autograd.grad(output, leaves, upstream.to(output))


def check(lanes, gate, reverse=BOTH, relative=2e-6):
    output, grads = with_gradients(numba_scan, lanes, reverse, gate)
    expected, expected_grads = with_gradients(oracle, lanes, reverse, gate)
    inputs = [x for lane in lanes for x in lane] + [gate]
    assert output.dtype == lanes[0].u.dtype
    assert_same(output, expected, relative)
    for grad, right, x in zip(grads, expected_grads, inputs):
        assert grad.dtype == x.dtype
        assert_same(grad, right, relative)


class TestAgainstTheOracle:
    @pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 15, 16, 17, 33])
    def test_lengths(self, length):
        check(*scan_inputs(length))

    @pytest.mark.parametrize("dim", [1, 15, 16, 17, 300])
    @pytest.mark.parametrize("state", [1, 16, 20])
    def test_channels_and_states(self, dim, state):
        check(*scan_inputs(18, dim, state, batch=1))

    @pytest.mark.parametrize("reverse", [False, True])
    def test_one_direction_without_a_gate(self, reverse):
        lanes, _ = scan_inputs(21, lanes=1)
        check(lanes, None, [reverse])

    @pytest.mark.parametrize("threads", [1, 2, 3, 5])
    @pytest.mark.parametrize("batch", [1, 4])
    def test_threads(self, threads, batch):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            check(*scan_inputs(20, dim=80, batch=batch))
        finally:
            torch.set_num_threads(before)

    def test_in_threads_of_python_where_openmp_is_another(self, monkeypatch):
        from modeling_videomamba import numba_common

        monkeypatch.setattr(numba_common, "_of_this_process", lambda name: None)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            check(*scan_inputs(20))
        finally:
            torch.set_num_threads(before)

    def test_bf16(self):
        check(*scan_inputs(60, dtype=torch.bfloat16), relative=1e-2)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("length", [1, 21])
    def test_the_public_operator(self, length, reverse):
        """Channels before time, no softplus: a delta as it is."""
        [lane], gate = scan_inputs(length, lanes=1)
        inputs = {name: x.mT if x.ndim == 3 else x for name, x in (lane._asdict() | {"z": gate}).items()}
        inputs |= {name: inputs[name].abs() for name in ("delta", "delta_bias")}
        kwargs = {"return_last_state": True, "reverse": reverse}
        output, state = selective_scan(**inputs, **kwargs, implementation="numba")
        expected, expected_state = selective_scan_reference(**inputs, **kwargs)
        assert_same(output, expected, 2e-6)
        assert_same(state, expected_state, 2e-6)

    @pytest.mark.parametrize("large", [30.0, 1e4])
    def test_large_delta_does_not_overflow(self, large):
        lanes, gate = scan_inputs(21)
        check([lane._replace(delta=lane.delta * large, A=lane.A * 100) for lane in lanes], gate, relative=1e-5)

    def test_small_delta_keeps_its_relative_precision(self):
        lanes, gate = scan_inputs(21)
        lanes = [lane._replace(delta_bias=torch.full_like(lane.D, -12.0), D=torch.zeros_like(lane.D)) for lane in lanes]
        check(lanes, gate, relative=1e-5)

    def test_nothing_is_read_before_it_is_written(self):
        """All memory that is handed out uninitialised holds NaN."""
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.empty(1).isnan()
            check(*scan_inputs(21))
        finally:
            torch.use_deterministic_algorithms(False)

    @pytest.mark.parametrize("delta, A", [(1e30, -1.0), (1e8, -1e30), (80.0, -1e6)])
    def test_forgets_everything_where_a_step_is_endless(self, delta, A):
        lanes, gate = scan_inputs(9)
        lanes = [
            lane._replace(delta_bias=torch.full_like(lane.D, delta), A=torch.full_like(lane.A, A), u=lane.u / delta)
            for lane in lanes
        ]
        check(lanes, gate, relative=1e-5)

    def test_nan_stays_nan(self):
        lanes, gate = scan_inputs(9)
        lanes[0].delta[0, 4] = float("nan")
        assert numba_scan(lanes, BOTH, gate)[0, 4:].isnan().all()

    @pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], ids=hex)  # the first is what NVIDIA's cards write
    def test_nan_of_any_bits_stays_nan_in_bf16(self, bits):
        lanes, gate = scan_inputs(9, dtype=torch.bfloat16)
        lanes[0].D[3] = torch.from_numpy(np.array(bits, np.uint32).view(np.float32))
        output = numba_scan(lanes, BOTH, gate)
        assert output[..., 3].isnan().all() and output[..., 4:].isfinite().all()


class TestConvolution:
    @pytest.mark.parametrize(("reverse", "bias"), [(BOTH, True), (BOTH, False), ([True], True), ([False], True)])
    @pytest.mark.parametrize("length", [1, 2, 5, 50])
    @pytest.mark.parametrize("dim", [6, 32])
    def test_forward_and_backward(self, dim, length, reverse, bias):
        torch.manual_seed(0)
        x = torch.randn(2, length, 2 * dim)[..., :dim].requires_grad_()  # a view, as the model has it
        weights = [torch.randn(dim, 4, requires_grad=True) for _ in reverse]
        biases = [torch.randn(dim, requires_grad=True) for _ in reverse] if bias else []
        upstream = [torch.randn(2, length, dim) for _ in reverse]
        leaves = (x, *weights, *biases)
        outputs = convolve_directions(x, weights, biases, reverse, "numba")
        expected = causal_conv1d_torch(x.double(), [w.double() for w in weights], [b.double() for b in biases], reverse)
        grads = torch.autograd.grad(outputs, leaves, upstream)
        expected_grads = torch.autograd.grad(expected, leaves, [grad.double() for grad in upstream])
        for actual, right in zip((*outputs, *grads), (*expected, *expected_grads)):
            assert_same(actual, right, 2e-6)

    @pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
    def test_bf16(self, parameters):
        x, weight, bias = (torch.randn(*shape).bfloat16() for shape in ((2, 21, 32), (32, 4), (32,)))
        weight, bias = (tensor.to(parameters).requires_grad_() for tensor in (weight, bias))
        [output] = convolve_directions(x, [weight], [bias], [True], "numba")
        [expected] = causal_conv1d_torch(x.double(), [weight.double()], [bias.double()], [True])
        assert output.dtype == torch.bfloat16
        assert_same(output, expected, 1e-2)
        for grad, right in zip(*(torch.autograd.grad(y.sum(), (weight, bias)) for y in (output, expected))):
            assert grad.dtype == parameters
            assert_same(grad, right, 2e-2)

    def test_silu_from_end_to_end(self):
        """Nothing overflows; what is far below zero becomes nothing, and NaN stays."""
        ends = torch.tensor([-1e30, -1e5, -200, -87, 87, 200, 1e5, 1e30, torch.nan])
        x = torch.cat((torch.linspace(-86, 86, 1000), ends))[:, None, None].expand(-1, 1, 16)
        [output] = convolve_directions(x, [torch.tensor([[0.0, 0.0, 0.0, 1.0]]).repeat(16, 1)], [], [False], "numba")
        torch.testing.assert_close(output.double(), F.silu(x.double()), rtol=1e-6, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(output[:1000].double(), F.silu(x[:1000].double()), rtol=4e-6, atol=0)

    @pytest.mark.parametrize("dim", [3, 16])
    def test_is_a_well_formed_custom_operator(self, dim):
        x, *parameters = (torch.randn(*shape, requires_grad=True) for shape in ((2, 9, dim), (dim, 4), (dim,)))
        operator = torch.ops.modeling_videomamba.causal_conv1d_numba.default
        torch.library.opcheck(operator, (x, *([parameter] * 2 for parameter in parameters), BOTH))
        backward = torch.ops.modeling_videomamba.causal_conv1d_numba_backward.default
        x, *parameters = (tensor.detach() for tensor in (x, *parameters))
        torch.library.opcheck(backward, ([x, x], x, *([parameter] * 2 for parameter in parameters), BOTH))


FAR = [-torch.inf, -torch.finfo(torch.float32).max, -1e38, -1e20, -1e5, -1000.0, -110.0, -95.0, -88.0, -87.0, -1e-42, -0.0]
FAR = torch.tensor([*FAR, *(-x for x in FAR), torch.nan])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
class TestFarFromZero:
    """One such number a channel: infinite, as large as it can be, as small, or none. What is below 1e-36 may be zero."""

    def assert_close(self, actual, expected, dtype):
        expected = expected.to(dtype).float()  # what the dtype cannot hold is infinite
        rtol = 1e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(actual.float(), expected, rtol=rtol, atol=1e-36, equal_nan=True)
        there = expected.isfinite() & (expected.abs() > 1e-30)
        assert (actual.sign() == expected.sign())[there].all()

    @pytest.mark.parametrize("name", ["z", "delta"])
    def test_scan(self, name, dtype):
        torch.manual_seed(0)
        dim, length = len(FAR), 3
        tensors = {key: torch.randn(1, dim, length).to(dtype) for key in ("u", "delta", "z")}
        tensors |= {key: torch.randn(1, 4, length).to(dtype) for key in ("B", "C")}
        # Longer steps and larger gates have results that no number holds.
        most, far = 1e5 if name == "delta" else 1e20, FAR.to(dtype)
        far = far.where((far <= most) | (far.isinf() & (name == "z")) | far.isnan(), most)
        tensors[name] = far[None, :, None].repeat(1, 1, length)
        tensors = {key: x.requires_grad_() for key, x in tensors.items()} | {"A": -torch.rand(dim, 4) - 0.1}
        results = []
        for scan in (selective_scan_reference, lambda **kwargs: selective_scan(**kwargs, implementation="numba")):
            y = scan(**tensors, delta_softplus=True)
            results.append((y, *torch.autograd.grad(y.sum(), [tensors[key] for key in ("z", "delta", "u")])))
        for right, actual in zip(*results):
            self.assert_close(actual, right, dtype)

    @pytest.mark.parametrize("width", [1, 4])
    def test_convolution(self, width, dtype):
        """Of one step, so that nothing is added up."""
        x = FAR.to(dtype)[None, None, :].requires_grad_()
        weight = torch.ones(len(FAR), width, dtype=dtype)
        [output] = convolve_directions(x, [weight], [], [False], "numba")
        expected = F.silu(x.double())
        self.assert_close(output, expected, dtype)
        right, actual = (torch.autograd.grad(y.sum(), x)[0] for y in (expected, output))
        self.assert_close(actual, right, dtype)


class TestExponential:
    """Both ways to compute it, of which a processor takes one."""

    @pytest.mark.parametrize("name", ["_exp2", "_exp2_with_table"])
    def test_error(self, name):
        exp2 = self.compiled(name)
        x = np.concatenate((-np.geomspace(1e-9, 126, 100_000), np.linspace(-126, 126, 100_000), [0.0])).astype(np.float32)
        y, expected = exp2(x, np.float32(1)), np.exp2(x.astype(np.float64))
        assert (np.abs(y / expected - 1)).max() < 3e-7

    @pytest.mark.parametrize("name", ["_exp2", "_exp2_with_table"])
    def test_far_outside(self, name):
        exp2 = self.compiled(name)
        x = np.array([-127, -150, -1e4, -3e5, -1e7, -1e12], np.float32)
        assert (exp2(x, np.float32(1)) < 2e-38).all() and (exp2(x, np.float32(1)) >= 0).all()
        assert (exp2(x, np.float32(1e6)) < 2e-38).all()
        assert np.isnan(exp2(np.full(1, np.nan, np.float32), np.float32(1))).all()

    @pytest.mark.parametrize(("dtype", "most"), [(np.float32, 1e-5), (np.uint16, 1e-4)])
    def test_exponent_of_a_decay(self, dtype, most):
        """For bf16 it may be less exact, by much less than a time step is rounded: 2^-9."""
        from modeling_videomamba import numba_vectors as vectors

        @vectors.njit
        def decays(like, x, y):
            for i in range(0, len(x), vectors.WIDTH):
                rate = vectors.splat(np.float32(1))
                a = vectors.load(vectors.pointer(x), i)
                vectors.store(vectors.pointer(y), i, vectors.decay(vectors.pointer(like), a, rate))

        x = -np.geomspace(2e-2, 100, 4096, dtype=np.float32)
        y = np.empty_like(x)
        decays(np.empty(16, dtype), x, y)
        assert np.abs(np.log2(y.astype(np.float64)) / x - 1).max() < most

    def compiled(self, name):
        from numba.extending import intrinsic

        from modeling_videomamba import numba_vectors as vectors

        if name == "_exp2_with_table" and not vectors.HAS_AVX512:
            pytest.skip("needs AVX-512")

        @intrinsic
        def exp2_product(typing, a, b):
            return vectors.float32x16(a, b), lambda context, builder, sig, args: getattr(vectors, name)(builder, *args)

        @vectors.njit
        def loop(x, factor, y):
            for i in range(0, len(x), vectors.WIDTH):
                a = vectors.load(vectors.pointer(x), i)
                vectors.store(vectors.pointer(y), i, exp2_product(a, vectors.splat(factor)))

        def exp2(x, factor):
            padded = np.resize(x, -(-len(x) // vectors.WIDTH) * vectors.WIDTH)
            y = np.empty_like(padded)
            loop(padded, factor, y)
            return y[: len(x)]

        return exp2


class TestOperator:
    @pytest.mark.parametrize("gated", [True, False])
    def test_is_well_formed(self, gated):
        lanes, gate = scan_inputs(9, dim=20)
        inputs = [[x.clone().requires_grad_() for x in tensors] for tensors in zip(*lanes)]
        gate = gate.clone().requires_grad_() if gated else None
        operators = torch.ops.modeling_videomamba
        operator, backward = operators.selective_scan_numba, operators.selective_scan_numba_backward
        torch.library.opcheck(operator.default, (*inputs, gate, BOTH, True, True))
        inputs, gate = [[x.detach() for x in lane] for lane in inputs], None if gate is None else gate.detach()
        output, _, *saved = operator(*inputs, gate, BOTH, True, True)
        torch.library.opcheck(backward.default, (output, *saved, *inputs, gate, BOTH, True))

    @pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, torch.float16])
    def test_the_default_dtype_does_not_matter(self, default):
        torch.manual_seed(0)
        model = VideoMambaModel(small_config(scan_implementation="numba", mixer_chunk_size=8))
        clip = torch.randn(2, 4, 3, 32, 32)

        def run():
            output = model(clip).last_hidden_state
            grads = torch.autograd.grad(output.square().sum(), list(model.parameters()))
            with torch.no_grad():
                return output, model(clip).last_hidden_state, *grads

        expected = run()
        torch.set_default_dtype(default)
        try:
            assert all(map(torch.equal, run(), expected))
        finally:
            torch.set_default_dtype(torch.float32)

    def test_gradients_of_what_was_traced_without(self):
        """`torch.export` under `no_grad` writes into its graph that nothing is to be saved for the backward pass."""
        lanes, gate = scan_inputs(40)
        leaves = [[x.clone().requires_grad_() for x in tensors] for tensors in zip(*lanes)]
        every = [gate.clone().requires_grad_(), *(x for tensors in leaves for x in tensors)]
        saved, traced = (
            torch.ops.modeling_videomamba.selective_scan_numba(*leaves, every[0], BOTH, True, save)[0].square().sum()
            for save in (True, False)
        )
        for grad, expected in zip(torch.autograd.grad(traced, every), torch.autograd.grad(saved, every)):
            assert torch.equal(grad, expected)

    def test_an_empty_batch(self):
        lanes, gate = scan_inputs(5, batch=0)
        assert numba_scan(lanes, BOTH, gate).shape == (0, 5, 40)

    def test_model_compiles_in_one_graph(self, pixel_values):
        torch.manual_seed(0)
        model = VideoMambaModel(small_config(scan_implementation="numba"))
        expected = model(pixel_values).last_hidden_state
        upstream = torch.randn_like(expected)
        expected.backward(upstream)
        grads = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        output = torch.compile(model, fullgraph=True, backend="aot_eager")(pixel_values).last_hidden_state
        output.backward(upstream)
        assert_same(output, expected, 1e-6)
        for parameter, grad in zip(model.parameters(), grads):
            assert_same(parameter.grad, grad, 1e-5)

    def test_autocast_leaves_the_recurrence_in_fp32(self):
        lanes, gate = scan_inputs(9)
        plain = numba_scan(lanes, BOTH, gate)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(numba_scan(lanes, BOTH, gate), plain)

    def test_runs_in_a_forked_process(self):
        lanes, gate = scan_inputs(9)
        expected = numba_scan(lanes, BOTH, gate)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert torch.equal(pool.apply(_scan_alone, (lanes, gate)), expected)

    def test_compilation_is_announced_when_there_is_nothing_on_disk(self, monkeypatch, caplog, tmp_path):
        from modeling_videomamba import numba_common

        monkeypatch.setattr(numba_common.logger, "propagate", True)
        kernel = SimpleNamespace(py_func=numba_scan, stats=SimpleNamespace(cache_path=str(tmp_path)))
        numba_common.announce_compilation.__wrapped__(kernel)
        assert "Compiling the selective scan for this CPU" in caplog.text

    @pytest.mark.parametrize(
        ("contents", "written"),
        [(b"index", 0), (b"", 2**33)],
        ids=["older than the kernels' arithmetic, another file than theirs", "left empty by a crash"],
    )
    def test_an_index_that_numba_would_take_as_it_is_goes_if_it_cannot_be_right(self, tmp_path, contents, written):
        from modeling_videomamba import numba_common

        index, right = tmp_path / "test_numba.one-1.nbi", tmp_path / "test_numba.two-1.nbi"
        index.write_bytes(contents), right.write_bytes(b"index")
        os.utime(index, (written, written))
        kernel = SimpleNamespace(py_func=numba_scan, stats=SimpleNamespace(cache_path=str(tmp_path)))
        numba_common.announce_compilation.__wrapped__(kernel)
        assert right.exists() and not index.exists()

    def test_runs_where_there_is_no_place_to_keep_kernels(self):
        program = """
import torch
from modeling_videomamba.scan_implementations import convolve_directions
convolve_directions(torch.ones(1, 3, 16), [torch.ones(16, 4)], [torch.ones(16)], [False], "numba")
"""
        environment = os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}  # which takes files of archives only
        process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        assert "Set NUMBA_CACHE_DIR to a directory that can be written." in process.stderr

    def test_without_its_compiler_pytorch_scans(self):
        program = "from modeling_videomamba import *; print(scan_report('cpu'))"
        environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
        process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert "selective scan on cpu: torch" in process.stdout and "NUMBA_DISABLE_JIT is set" in process.stdout

    @pytest.mark.parametrize("setting", [{}, {"MALLOC_ARENA_MAX": "4"}])
    def test_freed_memory_is_kept_unless_someone_has_decided_otherwise(self, setting):
        """Counted in pages that the system has to map, in a process of its own."""
        program = """
import resource, torch
from modeling_videomamba.numba_common import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*[faults() for _ in range(30)][-5:])  # after some the C library has pieces that fit
"""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment | setting)
        mapped = list(map(int, process.stdout.split()))
        assert (max(mapped) < 1000) if not setting else (min(mapped) > 10_000)

    def test_is_what_auto_takes_on_a_cpu(self):
        assert scan_implementations.choose_scan_implementation("auto", "cpu", torch.bfloat16) == "numba"


def _scan_alone(lanes, gate):
    torch.set_num_threads(1)
    return numba_scan(lanes, BOTH, gate)
