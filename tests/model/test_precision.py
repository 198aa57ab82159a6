"""What stays in fp32 stays so in whatever way a model comes to another dtype; see `precision.py`."""

import copy

import pytest
import torch
from transformers import AutoModelForVideoClassification

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.precision import KEPT_IN_FP32, at_least_fp32
from tests.conftest import assert_same, small_config


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VideoMambaForVideoClassification(small_config(initializer_range=0.3)).eval()


def built(model, dtype, tmp_path):
    other = AutoModelForVideoClassification.from_config(model.config, dtype=dtype)
    other.load_state_dict(model.state_dict())
    return other.eval()


def loaded(model, dtype, tmp_path):
    model.save_pretrained(tmp_path)
    return AutoModelForVideoClassification.from_pretrained(tmp_path, dtype=dtype)


def converted(model, dtype, tmp_path):
    return copy.deepcopy(model).to(dtype)  # all parameters, as `.half()` and `.bfloat16()` do


def is_kept(name):
    return any(f".{name}".endswith(f".{end}") for end in KEPT_IN_FP32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", [built, loaded, converted])
def test_sixteen_bits(model, way, dtype, pixel_values, tmp_path):
    other = way(model, dtype, tmp_path)
    for name, parameter in other.named_parameters():
        assert parameter.dtype == (torch.float32 if is_kept(name) and way is not converted else dtype), name
    with torch.no_grad():
        expected = model(pixel_values, output_hidden_states=True)
        output = other(pixel_values.to(dtype), output_hidden_states=True)
    assert output.logits.dtype == dtype
    assert {x.dtype for x in output.hidden_states} == {torch.float32}  # the residual stream
    assert_same(output.logits, expected.logits, 3e-2)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_autocast(model, backend, pixel_values):
    other = copy.deepcopy(model)
    for layer in other.videomamba.layers:
        layer.mixer.scan_implementation = backend
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = other(pixel_values, output_hidden_states=True)
    assert {x.dtype for x in output.hidden_states} == {torch.float32}
    assert_same(output.logits, model(pixel_values).logits, 3e-2)


def test_fp64_is_fp64_throughout(model, pixel_values):
    """What comes out does not change with the last bits of fp32."""
    other = copy.deepcopy(model).double()
    with torch.no_grad():
        output = other(pixel_values.double(), output_hidden_states=True)
        assert {x.dtype for x in (output.logits, *output.hidden_states)} == {torch.float64}
        assert_same(output.logits, model(pixel_values).logits, 1e-4)
        nudged = other(pixel_values.double() * (1 + 1e-12)).logits
    assert 0 < (nudged - output.logits).abs().max() < 1e-9


def test_at_least_fp32():
    raised = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert at_least_fp32(dtype) == raised.get(dtype, dtype)
