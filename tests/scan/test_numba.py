"""The Numba kernels, where they differ from other backends: threads, rare numbers, compilation."""

import multiprocessing
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_videomamba import VideoMambaModel
from modeling_videomamba.scan_backends import choose_backend, why_not_loadable
from modeling_videomamba.scan_operators import convolve_directions
from modeling_videomamba.selective_scan import selective_scan, selective_scan_reference
from tests.conftest import assert_same, small_config
from tests.scan.inputs import check, inputs_of, run


pytestmark = pytest.mark.skipif(why_not_loadable("numba") is not None, reason=f"{why_not_loadable('numba')}")


def numba_scan(inputs):
    return run("numba", inputs)[0]


class TestScan:
    @pytest.mark.parametrize("threads", [1, 2, 3, 5])
    @pytest.mark.parametrize("batch", [1, 4])
    def test_threads(self, threads, batch):
        """Samples, or groups of channels of a sample, are shared out."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            check("numba", inputs_of(20, dim=80, batch=batch))
        finally:
            torch.set_num_threads(before)

    def test_in_threads_of_python_where_openmp_is_another(self, monkeypatch):
        from modeling_videomamba import numba_common

        monkeypatch.setattr(numba_common, "_of_this_process", lambda name: None)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            check("numba", inputs_of(20, dim=40))
        finally:
            torch.set_num_threads(before)

    def test_more_channels_than_are_differentiated_at_once(self, one_thread):
        """Gradients go through groups of 576 channels, and add up dB and dC over them. M has 1,152 channels."""
        check("numba", inputs_of(9, dim=600, state=2, batch=1))

    @pytest.mark.parametrize("delta, A", [(1e30, -1.0), (1e8, -1e30), (80.0, -1e6)])
    def test_forgets_everything_where_a_step_is_endless(self, delta, A):
        inputs = inputs_of(9).replace(
            delta_bias=lambda x: torch.full_like(x, delta), A=lambda x: torch.full_like(x, A), u=lambda x: x / delta
        )
        check("numba", inputs, relative=1e-5)

    def test_nan_stays_nan(self):
        inputs = inputs_of(9)
        inputs.tensors[1][0][0, 4] = float("nan")
        assert numba_scan(inputs)[0, 4:].isnan().all()

    @pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], ids=hex)  # the first is what NVIDIA's GPUs write
    def test_nan_of_any_bits_stays_nan_in_bf16(self, bits):
        inputs = inputs_of(9, dtype=torch.bfloat16)
        inputs.tensors[5][0][3] = torch.from_numpy(np.array(bits, np.uint32).view(np.float32))
        output = numba_scan(inputs)
        assert output[..., 3].isnan().all() and output[..., 4:].isfinite().all()


class TestConvolution:
    def test_silu_from_end_to_end(self):
        """Nothing overflows; what is far below zero becomes nothing, and NaN stays."""
        ends = torch.tensor([-1e30, -1e5, -200, -87, 87, 200, 1e5, 1e30, torch.nan])
        x = torch.cat((torch.linspace(-86, 86, 1000), ends))[:, None, None].expand(-1, 1, 16)
        [output] = convolve_directions(x, [torch.tensor([[0.0, 0.0, 0.0, 1.0]]).repeat(16, 1)], [], [False], "numba")
        torch.testing.assert_close(output.double(), F.silu(x.double()), rtol=1e-6, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(output[:1000].double(), F.silu(x[:1000].double()), rtol=4e-6, atol=0)


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
    @pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, torch.float16])
    def test_the_default_dtype_does_not_matter(self, default):
        torch.manual_seed(0)
        model = VideoMambaModel(small_config(scan_implementation="numba", segment_length=8))
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

    def test_runs_in_a_forked_process(self):
        inputs = inputs_of(9)
        expected = numba_scan(inputs)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert torch.equal(pool.apply(_scan_alone, (inputs,)), expected)

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
from modeling_videomamba.scan_operators import convolve_directions
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
        assert choose_backend("auto", "cpu", torch.bfloat16) == "numba"


def _scan_alone(inputs):
    torch.set_num_threads(1)
    return numba_scan(inputs)
