"""The public operator: the signature, layouts and errors of `selective_scan_fn`, and the reference's own tensors."""

import pytest
import torch
from torch.autograd import forward_ad

from modeling_videomamba import VideoMambaModel, selective_scan
from modeling_videomamba.selective_scan import selective_scan_reference
from tests.conftest import assert_same, golden, small_config
from tests.scan.inputs import DEVICE, on_backends


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


@on_backends("torch", "numba", "triton", "mamba_ssm")
class TestLayouts:
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("delta_softplus", [False, True])
    def test_channels_come_before_time(self, backend, reverse, delta_softplus):
        inputs = scan_inputs(batch=1, dim=4, state=2, length=9, dtype=torch.float32)
        inputs = {name: x.to(DEVICE if backend in ("triton", "mamba_ssm") else "cpu") for name, x in inputs.items()}
        inputs |= {name: inputs[name].abs() for name in ("delta", "delta_bias")}
        settings = {"return_last_state": True, "reverse": reverse, "delta_softplus": delta_softplus}
        out, state = selective_scan(**inputs, **settings, implementation=backend)
        expected, expected_state = selective_scan_reference(**inputs, **settings)
        assert_same(out, expected, 2e-6)
        assert_same(state, expected_state, 2e-6)


class TestWhatMayBeLeftOut:
    def test_D_gate_and_bias(self):
        inputs = scan_inputs() | {"D": None, "z": None, "delta_bias": None}
        inputs["delta"] = inputs["delta"].abs()
        assert_same(selective_scan(**inputs), selective_scan_reference(**inputs), 1e-12)

    def test_no_gradient_flows_from_the_last_state(self):
        inputs = {name: tensor.requires_grad_() for name, tensor in scan_inputs().items()}
        _, last_state = selective_scan(**inputs, return_last_state=True)
        assert not last_state.requires_grad


class TestForwardMode:
    """PyTorch would take the tangents of a custom operator for zero, without a word."""

    @pytest.mark.parametrize("name", NAMES)
    def test_of_the_operator_is_refused(self, name):
        inputs = scan_inputs()
        with pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
            torch.func.jvp(lambda x: selective_scan(**inputs | {name: x}), (inputs[name],), (inputs[name],))

    def test_dual_numbers_are_refused(self):
        inputs = scan_inputs()
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
            selective_scan(**inputs | {"u": forward_ad.make_dual(inputs["u"], inputs["u"])})

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
