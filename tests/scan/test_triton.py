"""The Triton kernels, where they differ from other backends. Without a CUDA device they run in Triton's interpreter."""

import subprocess
import sys

import pytest
import torch

from modeling_videomamba import VideoMambaModel
from modeling_videomamba.scan_backends import choose_backend, why_not_loadable
from tests.conftest import assert_same, small_config
from tests.scan.inputs import DEVICE, inputs_of, reference, run, with_gradients
from tests.training_runs import ROOT


pytestmark = pytest.mark.skipif(why_not_loadable("triton") is not None, reason=f"{why_not_loadable('triton')}")


@pytest.fixture(params=["eight steps", "the whole sequence"])
def chunks(request, monkeypatch):
    """Time in chunks, of which a GPU gets as many as it can take, or whole."""
    from modeling_videomamba import selective_scan_triton

    length = 8 if request.param == "eight steps" else 64
    monkeypatch.setattr(selective_scan_triton, "chunk_length", lambda *_: length)


class TestScan:
    def test_bf16_is_as_exact_as_mamba_ssms_arithmetic(self, chunks):
        """Which gates each direction in fp32, rounds it, and adds the rounded ones."""

        def rounded(x):
            if DEVICE == "cuda":
                return x.bfloat16()
            return (x.float().view(torch.int32) & -(2**16)).view(torch.float32)  # Triton's interpreter cuts bits off

        inputs = inputs_of(60, dim=8, state=2, batch=1, dtype=torch.bfloat16, device=DEVICE)
        exact, _ = reference(inputs)
        theirs = 0
        for i, flag in enumerate(inputs.reverse):
            one = inputs._replace(tensors=[[group[i]] for group in inputs.tensors], reverse=(flag,))
            theirs = rounded(theirs + rounded(reference(one)[0]))
        ours, _ = run("triton", inputs)
        errors = [(x.double() - exact).abs() for x in (ours, theirs)]
        assert errors[0].mean() <= errors[1].mean()
        assert errors[0].max() <= 1.5 * errors[1].max()

    def test_a_sequence_in_one_piece(self, chunks):
        """Forward and backward: the contract's cases are in chunks."""
        inputs = inputs_of(11, dim=3, state=2, batch=1, device=DEVICE)
        output, _, grads = with_gradients(lambda inputs: run("triton", inputs), inputs)
        expected, _, expected_grads = with_gradients(reference, inputs)
        assert_same(output, expected, 2e-6)
        for grad, right in zip(grads, expected_grads):
            assert_same(grad, right, 2e-6)

    def test_rows_further_away_than_32_bits_reach(self):
        inputs = inputs_of(12, batch=1, dtype=torch.bfloat16, device=DEVICE)
        memory = torch.empty(12 * 2**28, dtype=torch.int8, device=DEVICE).view(torch.bfloat16)
        far = memory.as_strided((1, 12, 5), (0, 2**27, 1))
        far.copy_(inputs.gate)
        expected, _ = reference(inputs)
        assert_same(run("triton", inputs._replace(gate=far))[0], expected, 1e-2)

    def test_more_states_than_registers_are_another_backends_work(self):
        with pytest.raises(RuntimeError, match="'triton' cannot run: it takes up to 32 state numbers, here are 40"):
            run("triton", inputs_of(4, state=40, device=DEVICE))


class TestModel:
    @pytest.fixture
    def model(self):
        """Few channels and states: the interpreter takes its time for each."""
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "state_size": 2, "num_hidden_layers": 1, "initializer_range": 0.3}
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

    @pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_compile_in_one_graph_forward_and_backward(self, model, pixel_values, backend):
        pixel_values = pixel_values[:1].to(DEVICE)
        expected = model(pixel_values).last_hidden_state
        upstream = torch.randn_like(expected)
        expected.backward(upstream)
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
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
        called = [str(node.target) for node in program.graph.nodes if "triton" in node.args]
        assert sorted(called) == [f"modeling_videomamba.{name}.default" for name in ("causal_conv1d", "selective_scan")]
        one = pixel_values[:1]
        with torch.no_grad():
            assert_same(program.module()(one).last_hidden_state, model(one).last_hidden_state, 1e-6)


class TestChoice:
    def test_is_never_chosen_for_cpu_tensors_but_can_be_forced_in_the_interpreter(self, monkeypatch):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert choose_backend("auto", "cpu") != "triton"
        assert choose_backend("triton", "cpu") == "triton"
        monkeypatch.delenv("TRITON_INTERPRET")
        with pytest.raises(RuntimeError, match="'triton' cannot run: it needs CUDA tensors, these are on cpu"):
            choose_backend("triton", "cpu")


class TestCompiled:
    """Triton compiles for a card that is not there: what the interpreter accepts, the compiler need not."""

    @pytest.mark.slow
    @pytest.mark.parametrize("architecture", [80, 90, 100])
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
        inputs = inputs_of(length, dim, 16, batch, dtype=dtype, device="cuda")
        expected, expected_states, expected_grads = with_gradients(lambda inputs: run("torch", inputs), inputs)
        output, states, grads = with_gradients(lambda inputs: run("triton", inputs), inputs)
        relative = 1e-4 if dtype == torch.float32 else 2e-2
        assert_same(output, expected, relative)
        assert_same(states, expected_states, relative)
        for grad, right in zip(grads, expected_grads):
            assert_same(grad, right, relative)

    def test_ten_runs_give_the_same_bits(self):
        inputs = inputs_of(3137, 1152, 16, 2, dtype=torch.bfloat16, device="cuda")
        first = with_gradients(lambda inputs: run("triton", inputs), inputs)
        for _ in range(10):
            again = with_gradients(lambda inputs: run("triton", inputs), inputs)
            assert torch.equal(first[0], again[0])
            assert all(map(torch.equal, first[2], again[2]))

    def test_the_longest_video(self, monkeypatch):
        """900 frames of 224 pixels through M: 176,401 tokens."""
        from modeling_videomamba import selective_scan_triton

        inputs = inputs_of(176401, 1152, 16, 1, dtype=torch.bfloat16, device="cuda")
        output, _ = run("triton", inputs)
        assert torch.isfinite(output).all()
        monkeypatch.setattr(selective_scan_triton, "chunk_length", lambda *_: 4096)
        assert_same(run("triton", inputs)[0], output, 1e-2)

    def test_a_cuda_graph_replays_a_model(self):
        model = VideoMambaModel(small_config(scan_implementation="triton")).cuda().eval()
        clip = torch.randn(1, 4, 3, 32, 32, device="cuda")
        with torch.inference_mode():
            compiled = torch.compile(model, mode="reduce-overhead")
            for _ in range(3):
                output = compiled(clip).last_hidden_state.clone()
            assert_same(output, model(clip).last_hidden_state, 1e-4)
