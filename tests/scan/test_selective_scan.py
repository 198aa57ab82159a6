"""The operator: every implementation against the fp64 oracle and the reference's tensors, forward and backward."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from modeling_videomamba import SCAN_IMPLEMENTATIONS, VideoMambaModel, scan_implementations, scan_report, selective_scan
from modeling_videomamba.modeling_videomamba import VideoMambaMixer
from modeling_videomamba.scan_implementations import (
    ScanInputs,
    choose_scan_implementation,
    scan_directions,
    why_not_importable,
)
from modeling_videomamba.selective_scan import selective_scan_reference
from modeling_videomamba.selective_scan_torch import STEPS_PER_CHUNK, selective_scan_lanes
from tests.conftest import assert_same, golden, small_config


torch_scan = partial(selective_scan, implementation="torch")
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def scan_inputs(batch=2, dim=6, state=5, length=77, dtype=torch.float64, seed=0):
    """Random inputs of the public operator, by name."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "u": normal(batch, dim, length),
        "delta": normal(batch, dim, length),
        "A": -normal(dim, state).abs().to(torch.promote_types(dtype, torch.float32)) - 0.1,
        "B": normal(batch, state, length),
        "C": normal(batch, state, length),
        "D": normal(dim),
        "z": normal(batch, dim, length),
        "delta_bias": normal(dim),
    }


def gradients(scan, inputs, upstream, **kwargs):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    out = scan(**leaves, delta_softplus=True, **kwargs)
    return out, dict(zip(leaves, torch.autograd.grad(out, leaves.values(), upstream.to(out.dtype))))


class TestAgainstTheReference:
    @pytest.mark.parametrize("case", ["op_selective_scan_f64", "op_selective_scan_f64_noz"])
    @pytest.mark.parametrize("scan", [selective_scan, selective_scan_reference])
    def test_output_last_state_and_gradients(self, case, scan):
        reference = golden(case)
        inputs = {name: reference.inputs[name] for name in NAMES if name in reference.inputs}
        out, grads = gradients(scan, inputs, reference.inputs["dout"])
        torch.testing.assert_close(out, reference.outputs["out"], rtol=0, atol=1e-10)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, reference.outputs[f"grad.{name}"], rtol=0, atol=1e-10)
        _, last_state = scan(**inputs, delta_softplus=True, return_last_state=True)
        torch.testing.assert_close(last_state, reference.outputs["last_state"], rtol=0, atol=1e-10)


class TestTorchAgainstTheOracle:
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("length", [1, 2, STEPS_PER_CHUNK, STEPS_PER_CHUNK + 1, 5 * STEPS_PER_CHUNK + 7])
    def test_forward_and_backward(self, length, reverse):
        inputs = scan_inputs(length=length)
        upstream = torch.randn(2, 6, length, dtype=torch.float64)
        expected, expected_grads = gradients(selective_scan_reference, inputs, upstream, reverse=reverse)
        out, grads = gradients(torch_scan, inputs, upstream, reverse=reverse)
        assert_same(out, expected, 1e-12)
        for name in NAMES:
            assert_same(grads[name], expected_grads[name], 1e-12)

    @pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)])
    def test_lower_precision_keeps_an_fp32_state(self, dtype, relative):
        inputs = scan_inputs(dtype=dtype, length=300)
        upstream = torch.randn(2, 6, 300, dtype=torch.float64)
        expected, expected_grads = gradients(selective_scan_reference, inputs, upstream)
        out, grads = gradients(torch_scan, inputs, upstream)
        assert out.dtype == dtype
        assert_same(out, expected, relative)
        for name in NAMES:
            assert grads[name].dtype == inputs[name].dtype
            assert_same(grads[name], expected_grads[name], relative)
        _, last_state = torch_scan(**inputs, delta_softplus=True, return_last_state=True)
        assert last_state.dtype == torch.float32

    def test_two_directions_at_once_are_the_sum_of_two_scans(self):
        lanes = []
        for seed in (0, 1):
            inputs = scan_inputs(seed=seed, length=100)
            lanes.append(ScanInputs(*(x.mT if x.ndim == 3 else x for name, x in inputs.items() if name != "z")))
        expected = sum(
            selective_scan_reference(**scan_inputs(seed=seed, length=100) | {"z": None}, delta_softplus=True, reverse=reverse)
            for seed, reverse in ((0, False), (1, True))
        )
        assert_same(scan_directions(lanes, [False, True]).mT, expected, 1e-12)

    def test_without_the_optional_inputs(self):
        inputs = scan_inputs() | {"D": None, "z": None, "delta_bias": None}
        inputs["delta"] = inputs["delta"].abs()
        assert_same(torch_scan(**inputs), selective_scan_reference(**inputs), 1e-12)

    @pytest.mark.parametrize("large", [30.0, 1e4])
    def test_large_delta_does_not_overflow(self, large):
        inputs = scan_inputs(dtype=torch.float32)
        inputs["delta"] = inputs["delta"] * large
        inputs["A"] = inputs["A"] * 100
        out, grads = gradients(torch_scan, inputs, torch.ones(2, 6, 77))
        assert_same(out, selective_scan_reference(**inputs, delta_softplus=True), 1e-5)
        assert all(torch.isfinite(grad).all() for grad in grads.values())

    def test_small_delta_keeps_its_relative_precision(self):
        inputs = scan_inputs(dtype=torch.float32)
        inputs["delta_bias"] = torch.full((6,), -12.0)  # softplus: 6e-6
        inputs |= {"D": None, "z": None}
        assert_same(torch_scan(**inputs, delta_softplus=True), selective_scan_reference(**inputs, delta_softplus=True), 1e-5)

    def test_autocast_leaves_the_recurrence_in_fp32(self):
        inputs = scan_inputs(dtype=torch.float32)
        plain = torch_scan(**inputs, delta_softplus=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(torch_scan(**inputs, delta_softplus=True), plain)

    def test_no_gradient_flows_from_the_last_state(self):
        inputs = {name: tensor.requires_grad_() for name, tensor in scan_inputs().items()}
        _, last_state = torch_scan(**inputs, return_last_state=True)
        assert not last_state.requires_grad

    @pytest.mark.parametrize("lanes", [1, 2])
    def test_is_a_well_formed_custom_operator(self, lanes):
        operator = torch.ops.modeling_videomamba.selective_scan.default
        inputs = scan_inputs(dtype=torch.float32, length=40)
        tensors = [[(x.mT if x.ndim == 3 else x).clone().requires_grad_()] * lanes for n, x in inputs.items() if n != "z"]
        torch.library.opcheck(operator, (*tensors, [False, True][:lanes], True, True))

    @pytest.mark.parametrize(("dim", "state"), [(6, 1), (1, 5), (1, 1)])
    def test_two_lanes_of_one_state_number_or_one_channel(self, dim, state):
        inputs = scan_inputs(dim=dim, state=state, dtype=torch.float32)
        lane = [(x.mT if x.ndim == 3 else x) for name, x in inputs.items() if name != "z"]
        both, one = ([[x.clone().requires_grad_() for _ in range(n)] for x in lane] for n in (2, 1))
        for lanes in (both, one):
            selective_scan_lanes(*lanes, None, [False] * len(lanes[0]), True)[0].sum().backward()
        for pair, [x] in zip(both, one):
            for leaf in pair:
                assert_same(leaf.grad, x.grad, 1e-6)

    def test_gradients_of_what_was_traced_without(self):
        """`torch.export` under `no_grad` writes into its graph that nothing is to be saved for the backward pass."""
        lane = [(x.mT if x.ndim == 3 else x).clone().requires_grad_() for name, x in scan_inputs().items() if name != "z"]
        saved, traced = (
            torch.ops.modeling_videomamba.selective_scan(*([x] for x in lane), [False], True, save)[0].square().sum()
            for save in (True, False)
        )
        for grad, expected in zip(torch.autograd.grad(traced, lane), torch.autograd.grad(saved, lane)):
            assert torch.equal(grad, expected)

    def test_memory_does_not_hold_the_states_of_the_whole_sequence(self):
        """What autograd keeps, and every output, is far below `(batch, dim, length, state)`."""
        batch, length, dim, state = 1, 2048, 64, 16
        inputs = scan_inputs(batch, dim, state, length, torch.float32)
        lane = [[(x.mT if x.ndim == 3 else x).requires_grad_()] for name, x in inputs.items() if name != "z"]
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            selective_scan_lanes(*lane, None, [False], True)
        assert max(saved) == batch * length * dim
        assert sum(saved) < 5 * batch * length * dim < batch * length * dim * state


class TestMambaSsm:
    @pytest.mark.skipif(why_not_importable("mamba_ssm") is not None, reason=f"{why_not_importable('mamba_ssm')}")
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
    def test_agrees_with_torch(self, dtype, relative, reverse):
        inputs = {name: x.cuda() for name, x in scan_inputs(dim=64, state=16, length=300, dtype=dtype).items()}
        inputs |= {name: inputs[name].float() for name in ("A", "D", "delta_bias")}
        upstream = torch.randn(2, 64, 300, device="cuda")
        kwargs = {"reverse": reverse}
        expected, expected_grads = gradients(selective_scan, inputs, upstream, implementation="torch", **kwargs)
        out, grads = gradients(selective_scan, inputs, upstream, implementation="mamba_ssm", **kwargs)
        assert_same(out, expected, relative)
        for name in NAMES:
            assert_same(grads[name], expected_grads[name], relative)

    @pytest.fixture
    def stand_ins(self, monkeypatch):
        """mamba_ssm and causal_conv1d as CPU functions that take keywords only, taken for usable."""

        def selective_scan_fn(**kwargs):
            y, last_state = selective_scan_reference(**kwargs)
            return y.to(kwargs["u"].dtype), last_state.float()

        def causal_conv1d_fn(*, x, weight, bias, activation):
            assert activation == "silu"
            x = torch.nn.functional.conv1d(x, weight[:, None], bias, padding=weight.shape[1] - 1, groups=len(weight))
            return torch.nn.functional.silu(x[..., : 1 - weight.shape[1]])

        for name, functions in {
            "selective_scan_cuda": {},
            "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
            "causal_conv1d": {"causal_conv1d_fn": causal_conv1d_fn},
        }.items():
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions))
        for package in ("mamba_ssm", "mamba_ssm.ops"):
            monkeypatch.setitem(sys.modules, package, SimpleNamespace())
        monkeypatch.delitem(sys.modules, "modeling_videomamba.selective_scan_mamba_ssm", raising=False)
        monkeypatch.setattr(scan_implementations, "_FOUND", {})
        monkeypatch.setattr(scan_implementations, "_why_not", lambda *_: None)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_the_operator_calls_public_functions_by_keyword(self, stand_ins, reverse):
        kwargs = {"delta_softplus": True, "return_last_state": True, "reverse": reverse}
        out, state = selective_scan(**scan_inputs(), **kwargs, implementation="mamba_ssm")
        expected, expected_state = selective_scan_reference(**scan_inputs(), **kwargs)
        assert_same(out, expected, 1e-6)
        assert_same(state, expected_state, 1e-6)

    def test_the_mixer_calls_public_functions_by_keyword(self, stand_ins):
        torch.manual_seed(0)
        mixer = VideoMambaMixer(small_config(scan_implementation="mamba_ssm"), layer_idx=0)
        for parameter in mixer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        hidden_states = torch.randn(2, 9, 32)
        out = mixer(hidden_states)
        mixer.scan_implementation = "torch"
        assert_same(out, mixer(hidden_states), 1e-5)


class TestChoice:
    def test_cpu_tensors_take_numba_then_torch(self, monkeypatch):
        found = {name: scan_implementations._find("torch") for name in SCAN_IMPLEMENTATIONS}
        monkeypatch.setattr(scan_implementations, "_FOUND", found)
        assert choose_scan_implementation("auto", "cpu", torch.bfloat16) == "numba"
        assert choose_scan_implementation("auto", "cpu", torch.float64) == "torch"
        assert choose_scan_implementation("auto", "cpu", torch.float16) == "torch"
        found["numba"] = "ModuleNotFoundError: No module named 'numba'"
        assert choose_scan_implementation("auto", "cpu") == "torch"

    def test_cuda_tensors_take_triton_then_mamba_ssm(self, monkeypatch):
        found = {name: scan_implementations._find("torch") for name in SCAN_IMPLEMENTATIONS}
        monkeypatch.setattr(scan_implementations, "_FOUND", found)
        assert choose_scan_implementation("auto", "cuda", torch.bfloat16) == "triton"
        assert choose_scan_implementation("mamba_ssm", "cuda", torch.bfloat16) == "mamba_ssm"
        found["triton"] = "ImportError: No module named 'triton'"
        assert choose_scan_implementation("auto", "cuda", torch.bfloat16) == "mamba_ssm"
        found["mamba_ssm"] = "ImportError: No module named 'mamba_ssm'"
        assert choose_scan_implementation("auto", "cuda", torch.bfloat16) == "torch"
        assert scan_report("cuda") == (
            "selective scan on cuda: torch (not triton: ImportError: No module named 'triton'; "
            "mamba_ssm: ImportError: No module named 'mamba_ssm'; numba: it needs CPU tensors, these are on cuda)"
        )

    def test_fp64_takes_torch_on_cuda_too(self, monkeypatch):
        monkeypatch.setitem(scan_implementations._FOUND, "triton", scan_implementations._find("torch"))
        assert choose_scan_implementation("auto", "cuda", torch.float64) == "torch"

    def test_a_card_too_old_for_triton_is_a_reason(self, monkeypatch):
        monkeypatch.setattr(scan_implementations, "_FOUND", {})
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
        with pytest.raises(RuntimeError, match=r"'triton' cannot run: .*needs compute capability 8\.0, this device has 7\.0"):
            choose_scan_implementation("triton", "cuda")

    def test_implementations_are_looked_for_before_anything_is_compiled(self, monkeypatch):
        """torch.compile cannot trace a failing import."""
        monkeypatch.setattr(scan_implementations, "_FOUND", {})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        VideoMambaModel(small_config(num_hidden_layers=1))
        assert scan_implementations._FOUND.keys() == set(SCAN_IMPLEMENTATIONS)

    def test_report_says_what_runs_and_why_not_the_others(self):
        reason = "it needs CUDA tensors, these are on cpu"
        chosen = choose_scan_implementation("auto", "cpu")
        assert scan_report("cpu").startswith(f"selective scan on cpu: {chosen} (not triton: {reason}; mamba_ssm: {reason}")

    def test_from_pretrained_forces_one(self, tmp_path):
        VideoMambaModel(small_config()).save_pretrained(tmp_path)
        clip = torch.zeros(1, 4, 3, 32, 32)
        expected = VideoMambaModel.from_pretrained(tmp_path)(clip).pooler_output
        forced = VideoMambaModel.from_pretrained(tmp_path, scan_implementation="torch")
        assert_same(forced(clip).pooler_output, expected, 1e-5)
        with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run: it needs CUDA tensors"):
            VideoMambaModel.from_pretrained(tmp_path, scan_implementation="mamba_ssm")(clip)
        with pytest.raises(Exception, match="'scan_implementation' expected one of .* got cudnn"):
            VideoMambaModel.from_pretrained(tmp_path, scan_implementation="cudnn")

    def test_the_choice_is_logged_once_and_shown_in_repr(self, caplog):
        scan_implementations._report_once.cache_clear()
        model = VideoMambaModel(small_config())
        with caplog.at_level("INFO", logger=scan_implementations.logger.name):
            for _ in range(2):
                model(torch.zeros(1, 4, 3, 32, 32))
        assert caplog.messages.count(scan_report("cpu")) == 1
        assert "scan_implementation='auto'" in repr(model)

    def test_forced_implementation_that_cannot_run_says_why(self):
        with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run: it needs CUDA tensors, these are on cpu"):
            selective_scan(**scan_inputs(), implementation="mamba_ssm")

    def test_unknown_implementation_is_named_beside_the_known_ones(self):
        with pytest.raises(ValueError, match="'cudnn'.*auto, triton, mamba_ssm, numba, torch"):
            selective_scan(**scan_inputs(), implementation="cudnn")


class TestForwardMode:
    """PyTorch would take the tangents of a custom operator for zero, without a word."""

    @pytest.mark.parametrize("name", NAMES)
    def test_of_the_operator_is_refused(self, name):
        inputs = scan_inputs()
        with pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
            torch.func.jvp(lambda x: selective_scan(**inputs | {name: x}), (inputs[name],), (inputs[name],))

    @pytest.mark.parametrize("parameter", ["forward_scan.conv1d.weight", "backward_scan.conv1d.bias", "in_proj.weight"])
    def test_of_a_model_is_refused(self, parameter, pixel_values):
        model = VideoMambaModel(small_config())
        name = f"layers.0.mixer.{parameter}"
        weight = model.get_parameter(name).detach()
        with torch.no_grad(), pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
            torch.func.jvp(
                lambda x: torch.func.functional_call(model, {name: x}, (pixel_values,)).last_hidden_state, (weight,), (weight,)
            )


class TestBadInput:
    @pytest.mark.parametrize("name", ["delta", "A", "B", "C", "D", "z", "delta_bias"])
    def test_wrong_shape_is_named(self, name):
        inputs = scan_inputs()
        inputs[name] = inputs[name][..., :-1] if name != "A" else inputs[name][:-1]
        with pytest.raises(ValueError, match=f"`{name}` must have shape"):
            selective_scan(**inputs)

    def test_wrong_dtype(self):
        with pytest.raises(ValueError, match=r"`u` must be floating point and `A` real, got torch\.int64"):
            selective_scan(**scan_inputs() | {"u": torch.zeros(2, 6, 77, dtype=torch.long)})
        with pytest.raises(ValueError, match=r"got torch\.float64 and torch\.complex64"):
            selective_scan(**scan_inputs() | {"A": torch.zeros(6, 5, dtype=torch.complex64)})

    def test_no_state(self):
        with pytest.raises(ValueError, match="at least one state number for each channel"):
            selective_scan(**scan_inputs(state=0))

    def test_wrong_rank(self):
        with pytest.raises(ValueError, match=r"`u` must be \(batch, dim, length\)"):
            selective_scan(**scan_inputs() | {"u": torch.zeros(3, 4)})
