"""Libraries that quantise, adapt or watch linear layers find them, and what they put there is called."""

import io
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import BitsAndBytesConfig

from modeling_videomamba import VideoMambaForVideoClassification, linear_onednn
from tests.conftest import small_config


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated"),
]
PROJECTIONS_OF_A_LAYER = {"in_proj": 1, "x_proj": 2, "out_proj": 1}


@pytest.fixture(params=[False, True], ids=["other_processors", "amd"])
def on_amd(request, monkeypatch):
    """Where the projections of plain layers are oneDNN's."""
    monkeypatch.setattr(linear_onednn, "onednn_is_faster", lambda: request.param)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = small_config(hidden_size=64, initializer_range=0.1, scan_implementation="torch")
    return VideoMambaForVideoClassification(config).eval()


def kinds(model):
    """How many modules of each name and type the mixers have."""
    names = [name for name, _ in model.named_modules() if name.endswith("_proj")]
    return Counter((name.split(".")[-1], type(model.get_submodule(name)).__name__) for name in names)


def assert_projections_are(model, kind):
    expected = {(name, kind): 2 * number for name, number in PROJECTIONS_OF_A_LAYER.items()}
    assert kinds(model) == expected | {("dt_proj", "VideoMambaTimeStepProjection"): 4}


def relative_error(logits, expected):
    return ((logits - expected).abs().max() / expected.abs().max()).item()


def test_projections_are_plain_linear_layers_and_the_time_step_is_not(model):
    """Its bias is added in fp32, inside the scan."""
    assert_projections_are(model, "Linear")
    assert all(type(layer.mixer.in_proj) is nn.Linear for layer in model.videomamba.layers)


@pytest.mark.skipif(not torch.backends.quantized.supported_engines[1:], reason="no quantised products on this processor")
@torch.no_grad()
def test_torch_ao(model, pixel_values, on_amd):
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert quantised.videomamba.layers[0].mixer.in_proj._get_name() == "DynamicQuantizedLinear"
    assert_projections_are(quantised, "Linear")  # torch.ao calls its classes so, too
    assert 0 < relative_error(quantised(pixel_values).logits, model(pixel_values).logits) < 0.1

    def size(module):
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        return buffer.tell()

    assert size(quantised.videomamba.layers) < size(model.videomamba.layers) / 2


@pytest.mark.parametrize(
    ("options", "kind", "error"),
    [({"load_in_8bit": True}, "Linear8bitLt", 0.1), ({"load_in_4bit": True}, "Linear4bit", 0.5)],
    ids=["8bit", "4bit"],
)
@torch.no_grad()
def test_bitsandbytes(model, pixel_values, tmp_path, options, kind, error):
    pytest.importorskip("bitsandbytes")
    model.save_pretrained(tmp_path / "model")
    config = BitsAndBytesConfig(**options)
    quantised = VideoMambaForVideoClassification.from_pretrained(
        tmp_path / "model", quantization_config=config, device_map="cpu"
    )
    assert_projections_are(quantised, kind)
    scan = quantised.videomamba.layers[0].mixer.forward_scan
    assert {scan.A_log.dtype, scan.D.dtype, scan.dt_proj.bias.dtype} == {torch.float32}
    logits = quantised(pixel_values).logits
    assert 0 < relative_error(logits, model(pixel_values).logits) < error
    quantised.save_pretrained(tmp_path / "quantised")
    again = VideoMambaForVideoClassification.from_pretrained(tmp_path / "quantised", device_map="cpu")
    torch.testing.assert_close(again(pixel_values).logits, logits)


# Each doubles what a layer returns.


def add_hook(layer):
    layer.register_forward_hook(lambda module, args, output: 2 * output)


def add_pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def replace_forward(layer):
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def add_parametrization(layer):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(layer, "weight", Double())


def replace_class(layer):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.__class__ = Doubled


class TestWhatIsAttachedToALayer:
    @pytest.fixture(autouse=True)
    def _inference(self):
        with torch.no_grad():
            yield

    @pytest.mark.parametrize(
        "attach",
        [add_hook, add_pre_hook, replace_forward, add_parametrization, replace_class],
        ids=lambda function: function.__name__,
    )
    @pytest.mark.parametrize("chunk_size", [None, 8])
    def test_is_called(self, model, pixel_values, on_amd, attach, chunk_size):
        for layer in model.videomamba.layers:
            layer.mixer.segment_length = chunk_size
        plain, layer = model(pixel_values).logits, model.videomamba.layers[0].mixer.in_proj
        layer.weight.mul_(2)
        expected = model(pixel_values).logits
        layer.weight.div_(2)
        assert relative_error(plain, expected) > 0.01
        attach(layer)
        torch.testing.assert_close(model(pixel_values).logits, expected)

    def test_hooks_of_all_modules_see_every_projection(self, model, pixel_values, on_amd):
        seen = Counter()
        hook = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.update([type(module)]))
        try:
            model(pixel_values)
        finally:
            hook.remove()
        assert seen[nn.Linear] == 2 * sum(PROJECTIONS_OF_A_LAYER.values()) + 1  # the classifier

    def test_weights_that_are_loaded_layer_by_layer(self, model, pixel_values, on_amd):
        """accelerate's offloading: there are none before a layer's `forward`."""
        accelerate = pytest.importorskip("accelerate")
        expected = model(pixel_values).logits
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert model.videomamba.layers[0].mixer.in_proj.weight.is_meta
        torch.testing.assert_close(model(pixel_values).logits, expected)


def test_output_projections_start_smaller_in_deeper_models():
    for layers in (1, 16):
        model = VideoMambaForVideoClassification(small_config(num_hidden_layers=layers, initializer_range=0.5))
        bound = 1 / (64 * layers) ** 0.5
        for layer in model.videomamba.layers:
            assert 0.9 * bound < layer.mixer.out_proj.weight.abs().max() <= bound
            assert layer.mixer.in_proj.weight.abs().max() > 0.5
