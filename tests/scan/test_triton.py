"""The Triton kernels against the fp64 oracle. Without a CUDA device they run in Triton's interpreter, at small sizes."""

import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from modeling_videomamba import VideoMambaModel, scan_implementations
from modeling_videomamba.causal_conv1d_torch import causal_conv1d as causal_conv1d_torch
from modeling_videomamba.scan_implementations import why_not_importable
from modeling_videomamba.selective_scan import selective_scan, selective_scan_reference
from tests.conftest import assert_same, small_config
from tests.training_runs import ROOT


pytestmark = pytest.mark.skipif(why_not_importable("triton") is not None, reason=f"{why_not_importable('triton')}")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
BOTH = [False, True]


def kernels():
    """Imported when a test runs: the module needs Triton."""
    from modeling_videomamba import causal_conv1d_triton, selective_scan_triton

    return selective_scan_triton, causal_conv1d_triton.causal_conv1d


def scan_inputs(length, dim=5, state=3, batch=2, lanes=2, dtype=torch.float32):
    """Inputs of every lane by name, `(lanes, batch, length, ...)`, and a gate; the same numbers in any dtype."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).bfloat16()

    inputs = {
        "u": normal(lanes, batch, length, dim),
        "delta": normal(lanes, batch, length, dim),
        "A": -normal(lanes, dim, state).abs() - 0.1,
        "B": normal(lanes, batch, length, state),
        "C": normal(lanes, batch, length, state),
        "D": normal(lanes, dim),
        "delta_bias": normal(lanes, dim),
        "z": normal(batch, length, dim),
    }
    weights = ("A", "D", "delta_bias")
    return {name: x.to(DEVICE, torch.float32 if name in weights else dtype) for name, x in inputs.items()}


def oracle(inputs, reverse):
    """Gated sum of the lanes, and their last states."""
    y, states = 0, []
    for lane, flag in enumerate(reverse):
        tensors = {name: inputs[name][lane] for name in NAMES}
        tensors |= {name: tensors[name].mT for name in ("u", "delta", "B", "C")}
        y_lane, state = selective_scan_reference(**tensors, delta_softplus=True, return_last_state=True, reverse=flag)
        y, states = y + y_lane.mT, [*states, state.mT]
    gate = 1 if inputs["z"] is None else F.silu(inputs["z"].double())
    return y * gate, torch.stack(states)


def triton_scan(inputs, reverse, chunk_length=None):
    scan, _ = kernels()
    lanes = [list(inputs[name].unbind(0)) for name in NAMES]
    return scan.selective_scan_lanes(*lanes, inputs["z"], reverse, True, chunk_length)


def with_gradients(scan, inputs, *args):
    """Output, last states, and gradients by name for an upstream gradient that is the same at every call."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items() if x is not None}
    output, states = scan(inputs | leaves, *args)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    grads = torch.autograd.grad(output, leaves.values(), upstream.to(output))
    return output, states, dict(zip(leaves, grads))


def check(inputs, reverse, relative=2e-6, **kwargs):
    expected, expected_states, expected_grads = with_gradients(oracle, inputs, reverse)
    output, states, grads = with_gradients(triton_scan, inputs, reverse, *kwargs.values())
    assert output.dtype == inputs["u"].dtype
    assert states.dtype == torch.float32
    assert_same(output, expected, relative)
    assert_same(states, expected_states, relative)
    for name, grad in grads.items():
        assert grad.dtype == inputs[name].dtype
        assert_same(grad, expected_grads[name], relative)


class TestScan:
    @pytest.mark.parametrize(
        "length", [1, 7, 8, 9, 17, *(pytest.param(n, marks=pytest.mark.slow) for n in (15, 16, 23, 24, 25))]
    )
    def test_chunks_of_eight_steps(self, length):
        check(scan_inputs(length), BOTH, chunk_length=8)

    @pytest.mark.parametrize("length", [1, 3, 4, 5, 33])
    def test_time_in_one_piece(self, length):
        check(scan_inputs(length), BOTH)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("chunk_length", [8, None])
    def test_one_direction(self, reverse, chunk_length):
        check(scan_inputs(19, lanes=1), [reverse], chunk_length=chunk_length)

    def test_without_a_gate(self):
        check(scan_inputs(11) | {"z": None}, BOTH, chunk_length=8)

    def test_several_blocks_of_channels(self):
        check(scan_inputs(3, dim=130, state=1, batch=1), BOTH)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_sixteen_bits(self, dtype):
        check(scan_inputs(21, dtype=dtype), BOTH, relative=1e-2, chunk_length=8)

    @pytest.mark.parametrize("chunk_length", [8, None])
    def test_bf16_is_as_exact_as_mamba_ssms_arithmetic(self, chunk_length):
        """Which gates each direction in fp32, rounds it, and adds the rounded ones."""

        def rounded(x):
            if DEVICE == "cuda":
                return x.bfloat16()
            return (x.float().view(torch.int32) & -(2**16)).view(torch.float32)  # Triton's interpreter cuts bits off

        inputs = scan_inputs(60, dim=8, state=2, dtype=torch.bfloat16)
        exact, _ = oracle(inputs, BOTH)
        theirs = 0
        for lane, reverse in enumerate(BOTH):
            one = {name: x if name == "z" else x[lane : lane + 1] for name, x in inputs.items()}
            theirs = rounded(theirs + rounded(oracle(one, [reverse])[0]))
        ours, _ = triton_scan(inputs, BOTH, chunk_length)
        errors = [(x.double() - exact).abs() for x in (ours, theirs)]
        assert errors[0].mean() <= errors[1].mean()
        assert errors[0].max() <= 1.5 * errors[1].max()

    def test_nothing_is_read_before_it_is_written(self):
        """All memory that is handed out uninitialised holds NaN."""
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.empty(1).isnan()
            check(scan_inputs(21), BOTH, chunk_length=8)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_views_of_larger_tensors(self):
        """As the model has them: B and C out of one projection, the gate out of another; and channels before time."""
        inputs = scan_inputs(13)
        inputs["B"], inputs["C"] = torch.cat((inputs["B"], inputs["C"], inputs["C"]), -1).split((3, 3, 3), -1)[:2]
        inputs["z"] = torch.cat((inputs["z"], inputs["z"]), -1).chunk(2, -1)[1]
        inputs["u"] = inputs["u"].mT.contiguous().mT
        expected, _ = oracle(inputs, BOTH)
        assert_same(triton_scan(inputs, BOTH, 8)[0], expected, 2e-6)

    def test_rows_further_away_than_32_bits_reach(self):
        inputs = scan_inputs(12, batch=1)
        memory = torch.empty(12 * 2**28, dtype=torch.int8, device=DEVICE).view(torch.bfloat16)
        far = memory.as_strided((1, 12, 5), (0, 2**27, 1))
        far.copy_(inputs["z"])
        inputs = {name: x.bfloat16() if x.ndim == 4 else x for name, x in inputs.items()}
        expected, _ = oracle(inputs, BOTH)
        assert_same(triton_scan(inputs | {"z": far}, BOTH)[0], expected, 1e-2)

    @pytest.mark.parametrize("large", [30.0, 1e4])
    def test_large_delta_does_not_overflow(self, large):
        inputs = scan_inputs(11)
        inputs |= {"delta": inputs["delta"] * large, "A": inputs["A"] * 100}
        check(inputs, BOTH, relative=1e-5, chunk_length=8)

    def test_small_delta_keeps_its_relative_precision(self):
        inputs = scan_inputs(11)
        inputs |= {"delta_bias": torch.full_like(inputs["delta_bias"], -12.0), "D": torch.zeros_like(inputs["D"])}
        check(inputs, BOTH, relative=1e-5, chunk_length=8)

    def test_the_same_input_gives_the_same_bits(self):
        inputs = scan_inputs(13, dtype=torch.bfloat16)
        first, again = (with_gradients(triton_scan, inputs, BOTH, 8) for _ in range(2))
        assert torch.equal(first[0], again[0])
        assert all(torch.equal(first[2][name], again[2][name]) for name in inputs)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("length", [1, 9])
    def test_the_public_operator(self, length, reverse):
        """Channels before time, no softplus: a delta as it is."""
        inputs = {name: x if name == "z" else x[0] for name, x in scan_inputs(length).items()}
        inputs |= {name: inputs[name].mT for name in ("u", "delta", "B", "C", "z")}
        inputs["delta"] = inputs["delta"].abs()
        kwargs = {"return_last_state": True, "reverse": reverse}
        output, state = selective_scan(**inputs, **kwargs, implementation="triton")
        expected, expected_state = selective_scan_reference(**inputs, **kwargs)
        assert_same(output, expected, 2e-6)
        assert_same(state, expected_state, 2e-6)

    def test_an_empty_batch(self):
        output, states = triton_scan(scan_inputs(5, batch=0), BOTH)
        assert (output.shape, states.shape) == ((0, 5, 5), (2, 0, 3, 5))

    def test_chunks_that_are_no_whole_number_of_tiles_are_refused(self):
        with pytest.raises(ValueError, match="a whole number of tiles, got 10 steps"):
            triton_scan(scan_inputs(20), BOTH, 10)

    def test_more_states_than_registers_are_another_implementations_work(self):
        inputs = scan_inputs(4, state=40, lanes=1)
        lane = scan_implementations.ScanInputs(*(inputs[name][0] for name in NAMES))
        with pytest.raises(RuntimeError, match="'triton' cannot run: it takes up to 32 state numbers, here are 40"):
            scan_implementations.scan_directions([lane], [False], implementation="triton")

    def test_gradients_of_the_last_states_alone_are_none(self):
        inputs = scan_inputs(4)
        u = inputs["u"].clone().requires_grad_()
        _, states = triton_scan(inputs | {"u": u}, BOTH)
        assert torch.autograd.grad(states.sum(), u, allow_unused=True) == (None,)

    @pytest.mark.parametrize("chunk_length", [8, None])
    def test_gradients_of_what_was_traced_without(self, chunk_length):
        """`torch.export` under `no_grad` writes into its graph that nothing is to be saved for the backward pass."""
        inputs = scan_inputs(20)
        lanes = [[x.clone().requires_grad_() for x in inputs[name]] for name in NAMES]
        every = [inputs["z"].clone().requires_grad_(), *(x for lane in lanes for x in lane)]
        scan = torch.ops.modeling_videomamba.selective_scan_triton
        saved, traced = (scan(*lanes, every[0], BOTH, True, chunk_length, save)[0].square().sum() for save in (True, False))
        for grad, expected in zip(torch.autograd.grad(traced, every), torch.autograd.grad(saved, every)):
            assert torch.equal(grad, expected)

    @pytest.mark.parametrize("gated", [True, False])
    @pytest.mark.parametrize("chunk_length", [8, None])
    def test_is_a_well_formed_custom_operator(self, gated, chunk_length):
        inputs = scan_inputs(9, dim=2, state=1, batch=1)
        lanes = [[x.clone().requires_grad_() for x in inputs[name]] for name in NAMES]
        z = inputs["z"].requires_grad_() if gated else None
        operator = torch.ops.modeling_videomamba.selective_scan_triton.default
        torch.library.opcheck(operator, (*lanes, z, BOTH, True, chunk_length, True))
        with torch.no_grad():
            output, _, y, starts = operator(*lanes, z, BOTH, True, chunk_length, True)
        backward = torch.ops.modeling_videomamba.selective_scan_triton_backward.default
        lanes = [[x.detach() for x in lane] for lane in lanes]
        z = None if z is None else z.detach()
        torch.library.opcheck(backward, (output, y, starts, *lanes, z, BOTH, True, chunk_length))


class TestConvolution:
    @pytest.mark.parametrize(("reverse", "bias"), [(BOTH, True), (BOTH, False), ([True], True), ([False], True)])
    @pytest.mark.parametrize("length", [1, 2, 16, 17, 50])
    def test_forward_and_backward(self, length, reverse, bias):
        _, causal_conv1d = kernels()
        torch.manual_seed(0)
        x = torch.randn(2, length, 12, device=DEVICE)[..., :6].requires_grad_()  # a view, as the model has it
        weights = [torch.randn(6, 4, device=DEVICE, requires_grad=True) for _ in reverse]
        biases = [torch.randn(6, device=DEVICE, requires_grad=True) for _ in reverse] if bias else []
        upstream = [torch.randn(2, length, 6, device=DEVICE) for _ in reverse]
        leaves = (x, *weights, *biases)
        outputs = causal_conv1d(x, weights, biases, reverse)
        expected = causal_conv1d_torch(x.double(), [w.double() for w in weights], [b.double() for b in biases], reverse)
        grads = torch.autograd.grad(outputs, leaves, upstream)
        expected_grads = torch.autograd.grad(expected, leaves, [grad.double() for grad in upstream])
        for actual, right in zip((*outputs, *grads), (*expected, *expected_grads)):
            assert_same(actual, right, 2e-6)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_sixteen_bits(self, dtype):
        _, causal_conv1d = kernels()
        x, weight, bias = (torch.randn(*shape, device=DEVICE).to(dtype) for shape in ((2, 21, 6), (6, 4), (6,)))
        [output] = causal_conv1d(x, [weight], [bias], [True])
        [expected] = causal_conv1d_torch(x.double(), [weight.double()], [bias.double()], [True])
        assert output.dtype == dtype
        assert_same(output, expected, 1e-2)

    def test_is_a_well_formed_custom_operator(self):
        x, *parameters = (torch.randn(*shape, device=DEVICE, requires_grad=True) for shape in ((2, 9, 3), (3, 4), (3,)))
        operator = torch.ops.modeling_videomamba.causal_conv1d_triton.default
        torch.library.opcheck(operator, (x, *([parameter] * 2 for parameter in parameters), BOTH))
        backward = torch.ops.modeling_videomamba.causal_conv1d_triton_backward.default
        x, *parameters = (tensor.detach() for tensor in (x, *parameters))
        torch.library.opcheck(backward, ([x, x], x, *([parameter] * 2 for parameter in parameters), BOTH))

    def test_a_bias_that_is_a_view(self):
        _, causal_conv1d = kernels()
        x, weight = torch.randn(1, 5, 6, device=DEVICE), torch.randn(6, 4, device=DEVICE)
        for bias in (torch.randn(12, device=DEVICE)[::2], torch.randn(1, device=DEVICE).expand(6)):
            [expected] = causal_conv1d_torch(x, [weight], [bias], [False])
            assert_same(causal_conv1d(x, [weight], [bias], [False])[0], expected, 2e-6)


class TestModel:
    @pytest.fixture
    def model(self):
        """Few channels and states: the interpreter takes its time for each."""
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "state_size": 2, "num_hidden_layers": 2, "initializer_range": 0.3}
        return VideoMambaModel(small_config(**sizes, scan_implementation="triton")).to(DEVICE)

    @staticmethod
    def in_pytorch(model):
        for module in model.modules():
            if hasattr(module, "scan_implementation"):
                module.scan_implementation = "torch"
        return model

    def test_outputs_and_gradients_are_those_in_pytorch(self, model, pixel_values):
        pixel_values = pixel_values[:1].to(DEVICE)
        output = model(pixel_values).last_hidden_state
        upstream = torch.randn_like(output)
        grads = torch.autograd.grad(output, model.parameters(), upstream)
        expected = self.in_pytorch(model)(pixel_values).last_hidden_state
        expected_grads = torch.autograd.grad(expected, model.parameters(), upstream)
        assert_same(output, expected, 1e-5)
        for grad, right in zip(grads, expected_grads):
            assert_same(grad, right, 1e-4)

    @pytest.mark.parametrize("scan_order", ["spatiotemporal_v1", "spatiotemporal_v2"])
    def test_other_orders(self, scan_order, pixel_values):
        config = small_config(hidden_size=8, state_size=1, scan_order=scan_order, scan_implementation="triton")
        model = VideoMambaModel(config).to(DEVICE)
        output = model(pixel_values[:1].to(DEVICE)).last_hidden_state
        assert_same(output, self.in_pytorch(model)(pixel_values[:1].to(DEVICE)).last_hidden_state, 1e-5)

    def test_bf16(self, model, pixel_values):
        model = model.bfloat16()
        output = model(pixel_values[:1].to(DEVICE)).last_hidden_state
        assert_same(output, self.in_pytorch(model)(pixel_values[:1].to(DEVICE)).last_hidden_state, 3e-2)

    def test_compile_in_one_graph_forward_and_backward(self, model, pixel_values):
        pixel_values = pixel_values[:1].to(DEVICE)
        expected = model(pixel_values).last_hidden_state
        upstream = torch.randn_like(expected)
        expected.backward(upstream)
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        backend = "inductor" if shutil.which("g++") else "aot_eager"
        output = torch.compile(model, fullgraph=True, backend=backend)(pixel_values).last_hidden_state
        output.backward(upstream)
        assert_same(output, expected, 1e-5)
        for parameter, grad in zip(model.parameters(), grads):
            assert_same(parameter.grad, grad, 1e-4)

    def test_autocast(self, model, pixel_values):
        pixel_values = pixel_values[:1].to(DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            output = model(pixel_values).last_hidden_state
            expected = self.in_pytorch(model)(pixel_values).last_hidden_state
        assert_same(output, expected, 3e-2)

    def test_export_holds_the_kernels_as_operators_for_any_batch(self, model, pixel_values):
        pixel_values = pixel_values.to(DEVICE)
        with torch.no_grad():  # how many states are kept for a backward pass depends on the batch
            program = torch.export.export(model, (pixel_values,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        called = [str(node.target) for node in program.graph.nodes if "triton" in str(node.target)]
        assert [
            called.count(f"modeling_videomamba.{name}_triton.default") for name in ("selective_scan", "causal_conv1d")
        ] == [2, 2]
        one = pixel_values[:1]
        with torch.no_grad():
            assert_same(program.module()(one).last_hidden_state, model(one).last_hidden_state, 1e-6)


class TestChoice:
    def test_is_never_chosen_for_cpu_tensors_but_can_be_forced_in_the_interpreter(self, monkeypatch):
        choose = scan_implementations.choose_scan_implementation
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert choose("auto", "cpu") != "triton"
        assert choose("triton", "cpu") == "triton"
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(RuntimeError, match="'triton' cannot run: it needs CUDA tensors, these are on cpu"):
            choose("triton", "cpu")


class TestCompiled:
    """Triton compiles for a card that is not there: what the interpreter accepts, the compiler need not."""

    @pytest.mark.parametrize("architecture", [90, *(pytest.param(other, marks=pytest.mark.slow) for other in (80, 100))])
    def test_every_kernel_and_what_it_costs(self, architecture, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        command = [sys.executable, ROOT / "benchmarks/kernel_resources.py", "--architecture", str(architecture), "--csv"]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        rows = [line.split(",") for line in run.stdout.splitlines()]
        table = {row[0]: dict(zip(rows[0][1:], map(float, row[1:]))) for row in rows[1:]}
        for kernel in ("outputs", "summaries", "summaries of adjoints", "tile states"):
            assert table[kernel]["shuffles"] == 0  # a thread has all steps of its channels
            assert table[kernel]["instructions / exp"] < 10
        assert table["join"]["shuffles"] == 0
        assert table["gradients"]["shuffles"] == 2 * 5 * 4  # sums of dB and dC over a warp, for each of the 4 steps of a tile
        if architecture >= 90:  # for 8.0 the gradients spill some
            assert all(row["bytes spilled"] == 0 for row in table.values())


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
class TestOnTheCard:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(("length", "dim", "batch"), [(197, 384, 1), (3137, 1152, 1), (12545, 1152, 1), (1569, 768, 64)])
    def test_real_sizes_agree_with_pytorch(self, length, dim, batch, dtype):
        inputs = scan_inputs(length, dim, 16, batch, dtype=dtype)

        def torch_scan(inputs, reverse):
            lanes = [list(inputs[name].unbind(0)) for name in NAMES]
            return scan_implementations._find("torch").selective_scan_lanes(*lanes, inputs["z"], reverse, True)

        expected, expected_states, expected_grads = with_gradients(torch_scan, inputs, BOTH)
        output, states, grads = with_gradients(triton_scan, inputs, BOTH)
        relative = 1e-4 if dtype == torch.float32 else 2e-2
        assert_same(output, expected, relative)
        assert_same(states, expected_states, relative)
        for name, grad in grads.items():
            assert_same(grad, expected_grads[name], relative)

    def test_ten_runs_give_the_same_bits(self):
        inputs = scan_inputs(3137, 1152, 16, 2, dtype=torch.bfloat16)
        first = with_gradients(triton_scan, inputs, BOTH)
        for _ in range(10):
            again = with_gradients(triton_scan, inputs, BOTH)
            assert torch.equal(first[0], again[0])
            assert all(torch.equal(first[2][name], again[2][name]) for name in inputs)

    def test_the_longest_video(self):
        """900 frames of 224 pixels through M: 176,401 tokens."""
        inputs = scan_inputs(176401, 1152, 16, 1, dtype=torch.bfloat16)
        output, _ = triton_scan(inputs, BOTH)
        assert torch.isfinite(output).all()
        chunked, _ = triton_scan(inputs, BOTH, 4096)
        assert_same(output, chunked, 1e-2)

    def test_a_cuda_graph_replays_a_model(self):
        model = VideoMambaModel(small_config(scan_implementation="triton")).cuda().eval()
        clip = torch.randn(1, 4, 3, 32, 32, device="cuda")
        with torch.inference_mode():
            compiled = torch.compile(model, mode="reduce-overhead")
            for _ in range(3):
                output = compiled(clip).last_hidden_state.clone()
            assert_same(output, model(clip).last_hidden_state, 1e-4)
