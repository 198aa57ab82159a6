"""`torch.func` over the model: what it computes is what plain autograd does, one by one; what it cannot is refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from modeling_videomamba import VideoMambaForVideoClassification, selective_scan
from modeling_videomamba.scan_backends import choose_backend, why_not_loadable
from tests.conftest import small_config


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(
    params=["torch", pytest.param("numba", marks=pytest.mark.skipif(bool(why_not_loadable("numba")), reason="no Numba"))]
)
def implementation(request):
    return request.param


def make_model(implementation, seed=0):
    torch.manual_seed(seed)
    config = small_config(
        hidden_size=16, num_hidden_layers=1, num_labels=3, initializer_range=0.3, scan_implementation=implementation
    )
    return VideoMambaForVideoClassification(config).eval()


@pytest.fixture
def model(implementation):
    return make_model(implementation)


LABELS = torch.tensor([1, 2])


def loss(model, parameters, clips, labels):
    return F.cross_entropy(functional_call(model, parameters, (clips,)).logits, labels)


def parameters_of(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def autograd(model, clips, labels):
    gradients = torch.autograd.grad(F.cross_entropy(model(clips).logits, labels), list(model.parameters()))
    return dict(zip(parameters_of(model), gradients))


def stacked(gradients):
    return {name: torch.stack([each[name] for each in gradients]) for name in gradients[0]}


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        torch.testing.assert_close(actual[name], x, rtol=1e-4, atol=1e-5 * x.abs().max().item(), msg=name)


class TestModel:
    def test_gradients(self, model, pixel_values):
        gradients = grad(lambda parameters: loss(model, parameters, pixel_values, LABELS))(parameters_of(model))
        assert_equal(gradients, autograd(model, pixel_values, LABELS))

    def test_gradients_of_each_sample(self, model, pixel_values):
        of_sample = grad(lambda parameters, clip, label: loss(model, parameters, clip[None], label[None]))
        gradients = vmap(of_sample, (None, 0, 0))(parameters_of(model), pixel_values, LABELS)
        assert_equal(gradients, stacked([autograd(model, pixel_values[[i]], LABELS[[i]]) for i in range(2)]))

    def test_gradients_through_a_map(self, model, pixel_values):
        def mean(parameters):
            return vmap(lambda clip, label: loss(model, parameters, clip[None], label[None]))(pixel_values, LABELS).mean()

        assert_equal(grad(mean)(parameters_of(model)), autograd(model, pixel_values, LABELS))

    @pytest.mark.parametrize("grad_enabled", [True, False])
    @pytest.mark.parametrize("chunk_size", ["auto", 8])
    def test_map_over_inputs(self, model, pixel_values, grad_enabled, chunk_size):
        model.videomamba.layers[0].mixer.segment_length = chunk_size
        with torch.set_grad_enabled(grad_enabled):
            logits = vmap(lambda clip: model(clip[None]).logits[0])(pixel_values)
            torch.testing.assert_close(logits, model(pixel_values).logits)

    def test_map_over_models(self, implementation, pixel_values):
        models = [make_model(implementation, seed) for seed in (0, 1)]
        parameters, _ = stack_module_state(models)
        call = lambda parameters: functional_call(models[0], parameters, (pixel_values,)).logits  # noqa: E731
        torch.testing.assert_close(vmap(call)(parameters), torch.stack([model(pixel_values).logits for model in models]))
        gradients = vmap(grad(lambda parameters: loss(models[0], parameters, pixel_values, LABELS)))(parameters)
        assert_equal(gradients, stacked([autograd(model, pixel_values, LABELS) for model in models]))

    def test_jacobian(self, model, pixel_values):
        clip = pixel_values[:1].requires_grad_()
        logits = model(clip).logits[0]
        expected = torch.stack([torch.autograd.grad(logit, clip, retain_graph=True)[0] for logit in logits])
        jacobian = jacrev(lambda clip: functional_call(model, parameters_of(model), (clip,)).logits[0])(clip.detach())
        torch.testing.assert_close(jacobian, expected, rtol=1e-4, atol=1e-6)

    def test_compiled(self, pixel_values):
        """Of one backend: in a graph, all are one operator."""
        model = make_model("torch")
        compiled = torch.compile(grad(lambda parameters: loss(model, parameters, pixel_values, LABELS)), backend="aot_eager")
        try:
            assert_equal(compiled(parameters_of(model)), autograd(model, pixel_values, LABELS))
        finally:
            torch.compiler.reset()  # it has given up functions of the model, which a model in one graph needs


class TestOperator:
    def test_one_gradient_batched_the_other_not(self, implementation):
        torch.manual_seed(0)
        u, delta, B, C = torch.randn(1, 4, 9), torch.randn(1, 4, 9), torch.randn(1, 3, 9), torch.randn(1, 3, 9)
        A = -torch.rand(2, 4, 3)
        of_A = jacrev(lambda A: selective_scan(u, delta, A, B, C, implementation=implementation).sum((0, 2)))
        for i, jacobian in enumerate(vmap(of_A)(A)):
            torch.testing.assert_close(jacobian, of_A(A[i]))

    def test_last_states_are_mapped_too(self, implementation):
        torch.manual_seed(0)
        u, A, B = torch.randn(2, 1, 4, 9), -torch.rand(4, 3), torch.randn(1, 3, 9)
        scan = lambda u: selective_scan(u, u, A, B, B, return_last_state=True, implementation=implementation)  # noqa: E731
        for mapped, one_by_one in zip(vmap(scan)(u), zip(*map(scan, u))):
            torch.testing.assert_close(mapped, torch.stack(one_by_one))


class TestRefused:
    @pytest.mark.parametrize(
        "transform", [lambda f: lambda x: jvp(f, (x,), (x,)), jacfwd, hessian], ids=["jvp", "jacfwd", "hessian"]
    )
    def test_forward_mode(self, model, pixel_values, transform):
        with pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
            transform(lambda scale: model(scale * pixel_values).logits.sum())(torch.ones(1))

    def test_second_derivatives(self, model, pixel_values):
        with pytest.raises(NotImplementedError, match="no second derivatives"):
            grad(lambda clip: grad(lambda clip: model(clip).logits.sum())(clip).sum())(pixel_values)
        clip = pixel_values.requires_grad_()
        [gradient] = torch.autograd.grad(model(clip).logits.sum(), clip, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivatives"):
            gradient.sum().backward()

    def test_batched_gradients_of_autograd(self, model, pixel_values):
        with pytest.raises(NotImplementedError, match=r"use `torch.func.jacrev`"):
            torch.autograd.functional.jacobian(lambda clip: model(clip).logits, pixel_values[:1], vectorize=True)

    def test_kernels_of_other_libraries(self):
        def call(x):
            choose_backend("mamba_ssm", "cuda")
            return x

        with pytest.raises(RuntimeError, match=r"'mamba_ssm' cannot run: .*torch.func"):
            vmap(call)(torch.zeros(2))
