"""Linear layers of inference are oneDNN's on AMD's processors, which every processor is in these tests."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from modeling_videomamba import VideoMambaForVideoClassification, linear_onednn
from modeling_videomamba.linear_onednn import linear
from tests.conftest import small_config


pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _on_amd(monkeypatch):
    monkeypatch.setattr(linear_onednn, "onednn_is_faster", lambda: True)


def operators(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return [event.name for event in profile.events()]


def takes_onednn(call):
    return "mkldnn::_linear_pointwise" in operators(call)


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return torch.randn(2, 5, 24), torch.randn(40, 24), torch.randn(40)


class TestResults:
    @pytest.mark.parametrize(
        "shape_of_input", [(24,), (7, 24), (2, 5, 24), (2, 3, 4, 24), (0, 5, 24), (2, 0, 24)], ids=lambda shape: str(shape)
    )
    def test_are_those_of_pytorch(self, tensors, shape_of_input):
        _, weight, bias = tensors
        x = torch.randn(shape_of_input)
        with torch.no_grad():
            for bias_or_none in (bias, None):
                torch.testing.assert_close(linear(x, weight, bias_or_none), F.linear(x, weight, bias_or_none))

    def test_of_views(self):
        """A slice, as the time step is one; transposed, expanded, every other token; a bias with gaps."""
        torch.manual_seed(0)
        weight = torch.randn(40, 24)
        inputs = [
            torch.randn(2, 3, 50)[..., :24],
            torch.randn(2, 24, 7).mT,
            torch.randn(1, 1, 24).expand(3, 5, 24),
            torch.randn(2, 9, 24)[:, ::2],
        ]
        with torch.no_grad():
            for x in inputs:
                assert takes_onednn(lambda x=x: linear(x, weight))
                torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
            for w in (torch.randn(24, 40).T, torch.randn(40, 60)[:, :24]):
                torch.testing.assert_close(linear(inputs[0], w), F.linear(inputs[0], w))
            gaps = torch.randn(80)[::2]
            torch.testing.assert_close(linear(inputs[0], weight, gaps), F.linear(inputs[0], weight, gaps))


class TestFewRowsLeftOver:
    """Of the blocks of 64 rows in which oneDNN takes them: a product of their own."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("shape", [(65,), (79,), (1, 129), (3, 43), (2, 2, 33)], ids=lambda shape: str(shape))
    def test_results_are_those_of_pytorch(self, tensors, dtype, shape):
        _, weight, bias = (x.to(dtype) for x in tensors)
        x = torch.randn(*shape, 50).to(dtype)[..., :24]
        with torch.no_grad():
            torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
            rounded_once_more = {"rtol": 2**-7, "atol": 2**-6} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), **rounded_once_more)

    @pytest.mark.parametrize(
        ("dtype", "product"), [(torch.float32, "mkldnn::_linear_pointwise"), (torch.bfloat16, "aten::mm")]
    )
    @pytest.mark.parametrize(("rows", "products"), [(15, 1), (63, 1), (64, 1), (65, 2), (79, 2), (80, 1), (128, 1), (3137, 2)])
    def test_how_many_products(self, tensors, dtype, product, rows, products):
        weight = tensors[1].to(dtype)
        with torch.no_grad():
            assert operators(lambda: linear(torch.randn(1, rows, 24).to(dtype), weight)).count(product) == products


class TestWhoTakesIt:
    def test_fp32_inference(self, tensors):
        with torch.no_grad():
            assert takes_onednn(lambda: linear(*tensors))
        with torch.inference_mode():
            assert takes_onednn(lambda: linear(*tensors))

    def test_not_where_gradients_may_be_wanted(self, tensors):
        assert not takes_onednn(lambda: linear(*tensors))

    def test_not_other_dtypes(self, tensors):
        """PyTorch itself asks oneDNN for products of bf16."""
        with torch.no_grad():
            for dtype in (torch.bfloat16, torch.float64):
                assert not takes_onednn(lambda dtype=dtype: linear(*(x.to(dtype) for x in tensors)))
            with torch.autocast("cpu", torch.bfloat16):
                assert linear(*tensors).dtype == torch.bfloat16

    def test_not_two_dtypes_which_are_an_error(self, tensors):
        with torch.no_grad(), pytest.raises(RuntimeError, match="same dtype"):
            linear(tensors[0], tensors[1].bfloat16())

    def test_not_where_it_is_turned_off(self, tensors):
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            assert not takes_onednn(lambda: linear(*tensors))

    def test_not_other_processors(self, tensors, monkeypatch):
        monkeypatch.setattr(linear_onednn, "onednn_is_faster", lambda: False)
        with torch.no_grad():
            assert not takes_onednn(lambda: linear(*tensors))

    def test_counters_of_flops_see_a_product(self, tensors):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            linear(*tensors)
        assert counter.get_total_flops() == 2 * 2 * 5 * 24 * 40

    def test_transformations_of_functions(self, tensors):
        x, weight, bias = tensors
        with torch.no_grad():
            _, tangent = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (torch.ones_like(x),))
            batched = torch.func.vmap(lambda x: linear(x, weight, bias))(x)
        torch.testing.assert_close(tangent, weight.sum(1).expand(2, 5, 40))
        torch.testing.assert_close(batched, F.linear(x, weight, bias))

    def test_derivatives_in_forward_mode(self, tensors):
        x, weight, bias = tensors
        with torch.no_grad(), forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(linear(forward_ad.make_dual(x, torch.ones_like(x)), weight, bias)).tangent
        torch.testing.assert_close(tangent, weight.sum(1).expand(2, 5, 40))

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
    def test_sparse_weights(self, tensors):
        x, weight, bias = tensors
        with torch.no_grad():
            torch.testing.assert_close(linear(x, weight.to_sparse_csr(), bias), F.linear(x, weight, bias))


class TestProcessor:
    @pytest.fixture(autouse=True)
    def _as_it_is(self, monkeypatch):
        monkeypatch.undo()

    @pytest.mark.parametrize(
        ("vendor", "capability", "faster"),
        [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
    )
    def test_amd_with_avx512(self, monkeypatch, vendor, capability, faster):
        monkeypatch.setattr(linear_onednn.Path, "exists", lambda path: False)  # no /proc/cpuinfo, as on Windows
        monkeypatch.setattr(linear_onednn.platform, "processor", lambda: f"AMD64 Family 26 Model 2 Stepping 1, {vendor}")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
        assert linear_onednn.onednn_is_faster.__wrapped__() is faster


class TestModel:
    def test_all_projections_of_the_mixers_take_it_with_the_same_results(self, pixel_values):
        torch.manual_seed(0)
        model = VideoMambaForVideoClassification(small_config(initializer_range=0.1)).eval()
        expected = model(pixel_values).logits  # with gradients: PyTorch's products
        with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            logits = model(pixel_values).logits
        torch.testing.assert_close(logits, expected)
        taken = [event for event in profile.events() if event.name == "mkldnn::_linear_pointwise"]
        assert len(taken) == model.config.num_hidden_layers * 6  # in_proj, out_proj, two times x_proj and dt_proj

    def test_exported_and_traced_models_hold_pytorchs_own(self, pixel_values):
        model = VideoMambaForVideoClassification(small_config(scan_implementation="torch")).eval()
        with torch.no_grad():
            program = torch.export.export(model, (pixel_values,))
            traced = torch.jit.trace(linear, (torch.randn(3, 24), torch.randn(40, 24)))
        assert not [node for node in program.graph.nodes if "mkldnn" in str(node.target)]
        assert "mkldnn" not in str(traced.inlined_graph)

    def test_a_quantised_weight(self):
        """A weight that is a tensor of another class goes to PyTorch, which knows what it means."""

        class Quantised(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None) -> object:
                if function is F.linear:
                    return "its own product"
                return super().__torch_function__(function, types, args, kwargs)

        with torch.no_grad():
            assert linear(torch.randn(3, 24), torch.randn(40, 24).as_subclass(Quantised)) == "its own product"
