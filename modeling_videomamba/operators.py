"""The custom operators of the scan and of the convolutions, registered once for each version of the code.

PyTorch knows an operator by its name alone, and a process can hold many copies of this code: transformers imports it anew for
every checkpoint that it loads as remote code, perhaps beside the installed package. So each version registers under names of
its own:

- The installed package, `modeling_videomamba`, has the namespace of that name: programs of `torch.export` that were saved
  name its operators.
- Any other copy has `modeling_videomamba_<digest of its sources>`, the same in every process. A copy whose sources are equal
  to those of an earlier one takes the operators of that one.
- The namespace `videomamba` is left to versions from before this rule, which register there whatever is there already.

No name changes hands.
"""

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor
from torch._ops import OpOverload


NO_FORWARD_MODE = (
    "The selective scan has no derivatives in forward mode: use `backward`, `torch.autograd` or `torch.func.grad`."
)
STABLE_NAMESPACE = ITS_PACKAGE = "modeling_videomamba"

# What the operators are made of: those that register them, and all that these import from here.
SOURCES = (
    "causal_conv1d_numba.py",
    "causal_conv1d_torch.py",
    "causal_conv1d_triton.py",
    "numba_common.py",
    "numba_vectors.py",
    "operators.py",
    "precision.py",
    "scan_backends.py",
    "scan_contract.py",
    "scan_operators.py",
    "selective_scan_mamba_ssm.py",
    "selective_scan_numba.py",
    "selective_scan_numba_kernels.py",
    "selective_scan_torch.py",
    "selective_scan_triton.py",
    "selective_scan_triton_kernels.py",
    "tensor_layout.py",
    "triton_common.py",
)

# Shared by all copies, of all versions: it must stay as it is. `owners`: from a qualified name to digest, operator, and more.
_PROCESS = torch.library.__dict__.setdefault("_videomamba_operators", SimpleNamespace(lock=threading.RLock(), owners={}))


class Operator:
    """A custom operator that the transforms of `torch.func` can take, too: of forward mode and of second order, none can.

    Compiled and exported programs find its derivative where `torch.library` registers it. That way costs 0.2 ms a call in
    eager mode, so there the derivative is an autograd function around the operator, which costs a tenth of it.
    """

    def __init__(self, overload: OpOverload, backward: Callable, setup_context: Callable | None):
        self.overload, self.backward, self.setup_context = overload, backward, setup_context
        self.returns_list = len(overload._schema.returns) == 1

    def __call__(self, *args) -> list[Tensor] | tuple[Tensor, ...]:
        if torch.compiler.is_compiling():
            return self.overload(*args)
        leaves = [leaf for x in args for leaf in (x if isinstance(x, list) else [x])]
        is_differentiated = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in leaves)
        transformed = is_transformed()
        if is_differentiated or transformed:
            structure = tuple(len(x) if isinstance(x, list) else None for x in args)
            outputs = (_Transformed if transformed else _Differentiated).apply(self, structure, *leaves)
            return list(outputs) if self.returns_list else outputs
        return self.without_autograd(*args)

    def without_autograd(self, *args) -> list[Tensor] | tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return self.overload(*args)


def custom_operator(
    name: str,
    forward: Callable,
    fake: Callable,
    backward: Callable | None = None,
    setup_context: Callable | None = None,
) -> Operator:
    """`forward` as a custom operator, or the operator that an equal copy of this code has made of it.

    Args:
        forward: annotated as [`torch.library.custom_op`] wants it; returns a list or a tuple of tensors, none of them an
            input or a view of one, and changes none.
        fake: see `register_fake` there.
        backward, setup_context: see `register_autograd` there; without them a derivative is an error.
    """
    backward = backward or _refuse_derivatives
    with _PROCESS.lock:
        for namespace in _namespaces():
            qualified_name = f"{namespace}::{name}"
            if qualified_name not in _PROCESS.owners:
                break
            digest, operator, _ = _PROCESS.owners[qualified_name]
            if digest == DIGEST:
                return operator
        # Not `torch.library.custom_op`, which lets names be taken away, and looks for views at every call.
        library = torch.library.Library(namespace, "FRAGMENT")
        library.define(name + torch.library.infer_schema(forward, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, forward, "CompositeExplicitAutograd")
        library.impl(name, _refuse_batches, "Batched")
        torch.library.register_fake(qualified_name, fake, lib=library)
        torch.library.register_autograd(qualified_name, backward, setup_context=setup_context, lib=library)
        overload = getattr(getattr(torch.ops, namespace), name).default
        operator = Operator(overload, backward, setup_context)
        _PROCESS.owners[qualified_name] = DIGEST, operator, library  # which goes if nobody keeps it
        return operator


def is_transformed() -> bool:
    """Whether this runs inside a transform of `torch.func` that looks into operators: `grad`, `vmap`, `jvp` and their kin.

    Not in what is compiled: there, PyTorch applies transforms to what is in a graph already.
    """
    if torch.compiler.is_compiling():
        return False
    interpreter = torch._C._functorch.peek_interpreter_stack()
    return interpreter is not None and interpreter.key() != torch._C._functorch.TransformType.Functionalize


def _refuse_derivatives(ctx, *grads) -> None:
    raise NotImplementedError("The selective scan and its convolutions have no second derivatives.")


def _refuse_batches(*args) -> None:
    raise NotImplementedError(
        "The selective scan takes no batches of gradients (`is_grads_batched`, `jacobian(vectorize=True)`) from "
        "`torch.autograd`: use `torch.func.jacrev`, or `torch.func.vmap` of `torch.func.vjp`."
    )


class _Differentiated(torch.autograd.Function):
    """An [`Operator`] with its lists spelt out. `structure`: for each argument the length of the list, `None` for no list."""

    @staticmethod
    def forward(ctx, operator, structure, *leaves):
        args = _arguments(structure, leaves)
        outputs = tuple(operator.without_autograd(*args))
        _keep(ctx, operator, structure, args, outputs)
        return outputs

    @staticmethod
    def backward(ctx, *grads):
        grads = ctx.operator.backward(ctx, *([list(grads)] if ctx.operator.returns_list else grads))
        flat = []
        for grad, length in zip(grads, ctx.structure):
            flat += [grad] if length is None else [None] * length if grad is None else grad
        return None, None, *flat


class _Transformed(_Differentiated):
    """As the transforms of `torch.func` want it, which takes longer."""

    @staticmethod
    def forward(operator, structure, *leaves):
        return tuple(operator.without_autograd(*_arguments(structure, leaves)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        operator, structure, *leaves = inputs
        _keep(ctx, operator, structure, _arguments(structure, leaves), output)

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError(NO_FORWARD_MODE)

    @staticmethod
    def vmap(info, in_dims, operator, structure, *leaves):
        """One after the other: parameters may be batched as well as inputs, and the operators share them among samples."""
        outputs = []
        for i in range(info.batch_size):
            own = [x if dim is None else x.select(dim, i) for x, dim in zip(leaves, in_dims[2:])]
            outputs.append(_Transformed.apply(operator, structure, *own))
        outputs = tuple(map(torch.stack, zip(*outputs)))
        return outputs, (0,) * len(outputs)


def _keep(ctx, operator: Operator, structure: tuple, args: list, outputs: tuple[Tensor, ...]) -> None:
    ctx.operator, ctx.structure = operator, structure
    if operator.setup_context is not None:
        operator.setup_context(ctx, args, outputs)


def _arguments(structure: Sequence[int | None], leaves: Iterable) -> list:
    leaves = iter(leaves)
    return [next(leaves) if length is None else list(islice(leaves, length)) for length in structure]


def _namespaces() -> Sequence[str]:
    """Where operators of this copy may be, in the order of preference."""
    own = f"{STABLE_NAMESPACE}_{DIGEST}"
    return (STABLE_NAMESPACE, own) if __package__ == ITS_PACKAGE else (own,)


def _digest() -> str:
    """Of the sources that are there. Where not even this file can be read, as in a frozen application, no copy is equal."""
    sources = {name: source for name in SOURCES if (source := _read_source(name)) is not None}
    if "operators.py" not in sources:
        return uuid.uuid4().hex[:16]
    digest = hashlib.sha256()
    for name, source in sources.items():
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()[:16]


def _read_source(name: str) -> bytes | None:
    try:
        return __loader__.get_data(os.path.join(os.path.dirname(__file__), name))  # from a zip file as well
    except (AttributeError, NameError, OSError):
        return None


DIGEST = _digest()
