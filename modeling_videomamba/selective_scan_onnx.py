"""The selective scan in ONNX: what `torch.onnx.export` writes in the place of the operator of `selective_scan_torch.py`.

    torch.onnx.export(model, (pixel_values,), "model.onnx", dynamo=True, custom_translation_table=ONNX_TRANSLATIONS)

The model has `scan_implementation="torch"`: other implementations are other operators. Each lane becomes one `Scan`, ONNX's
loop, which walks from either end: the graph is the same at any length.
"""

from collections.abc import Sequence

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from .selective_scan_torch import scan_operator


@script(Opset("videomamba", 1), default_opset=op)
def scan_lane(
    u: FLOAT,
    time_step: FLOAT,
    A: FLOAT,
    B: FLOAT,
    C: FLOAT,
    D: FLOAT,
    directions: Sequence[int],
    output_directions: Sequence[int],
) -> FLOAT:
    """One lane in fp32: u, time_step (batch, length, dim); A (dim, state); B, C (batch, length, state); D (dim,)."""
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


def selective_scan_lanes(u, delta, A, B, C, D, delta_bias, reverse, delta_softplus, save_states):
    """Adds the operator's first output, the sum of the lanes, to the graph: the others are not for inference.

    The arguments are those of the operator. They are not annotated: PyTorch would take that for types of ONNX.
    """
    y = None
    for i, flag in enumerate(reverse):
        time_step = op.Add(delta[i], delta_bias[i])
        if delta_softplus:
            time_step = op.Softplus(time_step)
        directions = {"directions": [int(flag)] * 4, "output_directions": [int(flag)]}
        scanned = scan_lane(u[i], time_step, A[i], B[i], C[i], D[i], **directions)
        y = scanned if y is None else op.Add(y, scanned)
    return [y]


ONNX_TRANSLATIONS = {scan_operator.overload: selective_scan_lanes}

__all__ = ["ONNX_TRANSLATIONS"]
