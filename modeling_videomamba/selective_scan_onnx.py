"""The selective scan in ONNX: what `torch.onnx.export` writes in the place of the operator.

    torch.onnx.export(model, (pixel_values,), "model.onnx", dynamo=True, custom_translation_table=ONNX_TRANSLATIONS)

The model has `scan_implementation="torch"`, whose convolutions ONNX knows. Each direction becomes one `Scan`, ONNX's loop,
which walks from either end: the graph is the same at any length.
"""

from collections.abc import Sequence

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from .scan_operators import scan_operator


@script(Opset("videomamba", 1), default_opset=op)
def scan_direction(
    u: FLOAT,
    time_step: FLOAT,
    A: FLOAT,
    B: FLOAT,
    C: FLOAT,
    D: FLOAT,
    directions: Sequence[int],
    output_directions: Sequence[int],
) -> FLOAT:
    """One direction in fp32: u, time_step (batch, length, dim); A (dim, state); B, C (batch, length, state); D (dim,)."""
    A = op.Transpose(A, perm=[1, 0])  # (state, dim): the long side last, which elementwise operators want
    row, column = op.Constant(value_ints=[2]), op.Constant(value_ints=[3])
    zero = op.Expand(op.Constant(value_float=0.0), op.Concat(op.Shape(u, end=1), op.Shape(A), axis=0))  # (batch, state, dim)

    @graph()
    def advance(h, time_step_t, drive_t, B_t, C_t):
        h = op.Exp(time_step_t * A) * h + B_t * drive_t
        return h, op.MatMul(C_t, h)

    _, y = op.Scan(
        zero,
        op.Unsqueeze(time_step, row),  # (batch, length, 1, dim)
        op.Unsqueeze(time_step * u, row),
        op.Unsqueeze(B, column),  # (batch, length, state, 1)
        op.Unsqueeze(C, row),  # (batch, length, 1, state)
        body=advance,
        num_scan_inputs=4,
        scan_input_axes=[1, 1, 1, 1],
        scan_input_directions=directions,
        scan_output_axes=[1],
        scan_output_directions=output_directions,
    )
    return op.Squeeze(y, row) + D * u


def selective_scan(backend, u, delta, A, B, C, D, delta_bias, gate, reverse, delta_softplus, A_is_log, save):
    """Adds the operator's first output to the graph: the others are not for inference.

    The arguments are those of the operator. They are not annotated: PyTorch would take that for types of ONNX.
    """
    y = None
    for i, flag in enumerate(reverse):
        time_step = op.Add(delta[i], delta_bias[i])
        if delta_softplus:
            time_step = op.Softplus(time_step)
        directions = {"directions": [int(flag)] * 4, "output_directions": [int(flag)]}
        decay = op.Neg(op.Exp(A[i])) if A_is_log else A[i]
        scanned = scan_direction(u[i], time_step, decay, B[i], C[i], D[i], **directions)
        y = scanned if y is None else op.Add(y, scanned)
    return [y if gate is None else op.Mul(y, op.Mul(gate, op.Sigmoid(gate)))]


ONNX_TRANSLATIONS = {scan_operator.overload: selective_scan}

__all__ = ["ONNX_TRANSLATIONS"]
