"""Sixteen fp32 numbers as one value in Numba functions, which LLVM turns into the widest registers that the processor has.

Left to itself, Numba's compiler does not vectorize a recurrence well. A `float32x16` knows `+ - * /`, and the functions below.
"""

import operator
from collections.abc import Callable
from functools import partial

import numpy as np


try:  # in a try block, since transformers would ask all users of a saved model to install what is imported outside of one
    from llvmlite import ir
    from llvmlite.binding import get_host_cpu_features
    from numba import njit, types
    from numba.core import cgutils
    from numba.core import config as numba_config
    from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
    from numba.extending import intrinsic, lower_builtin, models, register_model
except ImportError as error:
    raise ImportError(f"{error}; `pip install numba`") from error

if numba_config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")


WIDTH = 16
FLOATS, INTEGERS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)
SHORTS = ir.VectorType(ir.IntType(16), WIDTH)


class _VectorType(types.Type):
    def __init__(self):
        super().__init__(name="float32x16")


float32x16 = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, FLOATS)


def _define_operator(python_operator, instruction: str) -> None:
    infer_global(python_operator)(
        type(instruction, (ConcreteTemplate,), {"cases": [signature(float32x16, float32x16, float32x16)]})
    )

    @lower_builtin(python_operator, float32x16, float32x16)
    def lower(context, builder, sig, args) -> ir.Value:
        return getattr(builder, instruction)(*args, flags=("contract",))  # a product and a sum may become one instruction


for _operator, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_operator, _instruction)


def _constant(number: float, numbers: ir.VectorType = FLOATS) -> ir.Constant:
    return ir.Constant(numbers, [number] * WIDTH)


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    one = builder.insert_element(ir.Constant(ir.VectorType(scalar.type, WIDTH), ir.Undefined), scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, _constant(0, INTEGERS))


def _call(builder: ir.IRBuilder, name: str, arguments: list[ir.Value], result: ir.Type = FLOATS) -> ir.Value:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def compiled(function: Callable | None = None, **options: bool) -> Callable:
    """`numba.njit` without Python's lock, kept on disk if there is a place that can be written."""
    if function is None:
        return partial(compiled, **options)
    try:
        return njit(function, nogil=True, cache=True, **options)
    except RuntimeError:
        return njit(function, nogil=True, **options)


@intrinsic
def pointer(typing, array):
    """To the first number of a flat contiguous array, fp32, or bf16 as uint16. Keep the array alive while it is in use.

    Arrays themselves are counted whenever they are handed on, and a call of the counter clears all vector registers.
    """

    def code(context, builder, sig, args) -> ir.Value:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), code


def _vector_at(builder, first, index, vector: ir.VectorType) -> ir.Value:
    return builder.bitcast(builder.gep(first, [index]), vector.as_pointer())


@intrinsic
def splat(typing, number):
    def code(context, builder, sig, args) -> ir.Value:
        return _splat(builder, args[0])

    return float32x16(types.float32), code


@intrinsic
def broadcast(typing, first, index):
    """The fp32 number at an index, sixteen times."""

    def code(context, builder, sig, args) -> ir.Value:
        return _splat(builder, builder.load(builder.gep(args[0], [args[1]])))

    return float32x16(first, types.int64), code


@intrinsic
def load(typing, first, index):
    """Sixteen numbers from an index on."""

    def code(context, builder, sig, args) -> ir.Value:
        if sig.args[0].dtype == types.float32:
            return builder.load(_vector_at(builder, *args, FLOATS), align=4)
        bits = builder.load(_vector_at(builder, *args, SHORTS), align=2)
        return builder.bitcast(builder.shl(builder.zext(bits, INTEGERS), _constant(16, INTEGERS)), FLOATS)

    return float32x16(first, types.int64), code


@intrinsic
def store(typing, first, index, numbers):
    """The reverse of `load`. To bf16 it rounds to the nearest, to even in the middle."""

    def code(context, builder, sig, args) -> ir.Value:
        first, index, numbers = args
        if sig.args[0].dtype == types.float32:
            builder.store(numbers, _vector_at(builder, first, index, FLOATS), align=4)
            return context.get_dummy_value()
        bits = builder.bitcast(numbers, INTEGERS)
        odd = builder.and_(builder.lshr(bits, _constant(16, INTEGERS)), _constant(1, INTEGERS))
        bits = builder.lshr(builder.add(builder.add(bits, _constant(0x7FFF, INTEGERS)), odd), _constant(16, INTEGERS))
        bits = builder.select(builder.fcmp_unordered("uno", numbers, numbers), _constant(0x7FC0, INTEGERS), bits)  # NaN
        builder.store(builder.trunc(bits, SHORTS), _vector_at(builder, first, index, SHORTS), align=2)
        return context.get_dummy_value()

    return types.none(first, types.int64, float32x16), code


@intrinsic
def absolute(typing, numbers):
    def code(context, builder, sig, args) -> ir.Value:
        return _call(builder, "llvm.fabs.v16f32", [args[0]])

    return float32x16(float32x16), code


@intrinsic
def select_positive(typing, numbers, if_positive, otherwise):
    def code(context, builder, sig, args) -> ir.Value:
        return builder.select(builder.fcmp_unordered(">", args[0], _constant(0.0)), args[1], args[2])  # positive or NaN

    return float32x16(float32x16, float32x16, float32x16), code


@intrinsic
def minimum(typing, numbers, most):
    def code(context, builder, sig, args) -> ir.Value:
        return builder.select(builder.fcmp_unordered("<", *args), *args)  # NaN stays NaN

    return float32x16(float32x16, float32x16), code


@intrinsic
def maximum(typing, numbers, least):
    def code(context, builder, sig, args) -> ir.Value:
        return builder.select(builder.fcmp_unordered(">", *args), *args)  # NaN stays NaN

    return float32x16(float32x16, float32x16), code


@intrinsic
def total(typing, numbers):
    """The sum of the sixteen."""

    def code(context, builder, sig, args) -> ir.Value:
        name, zero = "llvm.vector.reduce.fadd.v16f32", ir.FloatType()(0.0)
        function_type = ir.FunctionType(ir.FloatType(), [ir.FloatType(), FLOATS])
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, [zero, args[0]], fastmath=("reassoc",))

    return types.float32(float32x16), code


@intrinsic
def exp2_product(typing, a, b):
    """2 to the power of each `a b`, for products between -2^66 and 126. Relative error below 3e-7."""

    def code(context, builder, sig, args) -> ir.Value:
        return (_exp2_with_table if HAS_AVX512 else _exp2)(builder, *args)

    return float32x16(float32x16, float32x16), code


@intrinsic
def decay(typing, like, step, rate):
    """`exp2_product` of a time step that is kept in memory like `like`.

    In bf16 it has been rounded by up to 2^-9 of itself, so there another 1e-4 of the exponent may be wrong.
    """

    def code(context, builder, sig, args) -> ir.Value:
        if HAS_AVX512:
            return _exp2_with_table(builder, *args[1:], _SHORT_Q if sig.args[0].dtype == types.float32 else _SHORTEST_Q)
        return _exp2(builder, *args[1:])

    return float32x16(like, float32x16, float32x16), code


def _has_avx512() -> bool:
    if numba_config.CPU_NAME or numba_config.CPU_FEATURES is not None:  # compiles for a processor that someone chose
        return "+avx512f" in (numba_config.CPU_FEATURES or "")
    return get_host_cpu_features().get("avx512f", False)


HAS_AVX512 = _has_avx512()

# 2^x = 2^k (1 + f q(f)), where k is x rounded and q a polynomial of (2^f - 1) / f for f in [-1/2, 1/2], relative error 4e-7.
_Q = (0.69314698, 0.24022242, 0.05550734, 0.00967151, 0.00132647)
_ROUNDER = 1.5 * 2**23  # added to a number below 2^22, it leaves it rounded to an integer in the lowest bits


def _exp2(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    x = builder.fmul(a, b)
    x = builder.select(builder.fcmp_unordered(">", x, _constant(-127.0)), x, _constant(-127.0))  # keeps NaN; 2^-127 gives 0
    rounded = builder.fadd(x, _constant(_ROUNDER))
    f = builder.fsub(x, builder.fsub(rounded, _constant(_ROUNDER)))
    power = _polynomial(builder, f, (1.0, *_Q))
    exponent = builder.shl(builder.bitcast(rounded, INTEGERS), _constant(23, INTEGERS))
    return builder.bitcast(builder.add(builder.bitcast(power, INTEGERS), exponent), FLOATS)


# With AVX-512 in three instructions less, which count: 2^x = 2^floor(k) T (1 + f q(f)), where k is x rounded to sixteenths,
# T = 2^(k - floor(k)) from a table in one register, and q for f in [-1/32, 1/32]. Its relative error is 1e-7, and so is that
# of the exponent, hence of how long a state is remembered.
_SHORT_Q = (0.69314718, 0.24023355, 0.05550411)
_SHORTEST_Q = (0.69314718, 0.24022651)  # for bf16; the exponent is off by 8e-5
_ROUNDER_TO_SIXTEENTHS = 1.5 * 2**19
_TABLE = ir.Constant(FLOATS, [float(np.float32(2 ** (j / 16))) for j in range(16)])


def _exp2_with_table(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, q: tuple[float, ...] = _SHORT_Q) -> ir.Value:
    rounded = _call(builder, "llvm.fma.v16f32", [a, b, _constant(_ROUNDER_TO_SIXTEENTHS)])
    k = builder.fsub(rounded, _constant(_ROUNDER_TO_SIXTEENTHS))
    f = _call(builder, "llvm.fma.v16f32", [a, b, builder.fneg(k)])
    # The lowest four bits of `rounded` count sixteenths; the instruction looks at no others.
    entry = _call(builder, "llvm.x86.avx512.permvar.sf.512", [_TABLE, builder.bitcast(rounded, INTEGERS)])
    every_lane, current_rounding = ir.IntType(16)(-1), ir.IntType(32)(4)
    scale = _call(builder, "llvm.x86.avx512.mask.scalef.ps.512", [entry, k, entry, every_lane, current_rounding])
    f_q = builder.fmul(f, _polynomial(builder, f, q))
    return _call(builder, "llvm.fma.v16f32", [scale, f_q, scale])


def _polynomial(builder: ir.IRBuilder, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    value = _constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = _call(builder, "llvm.fma.v16f32", [value, x, _constant(coefficient)])
    return value


@intrinsic
def reciprocal(typing, numbers):
    """Relative error below 2e-7, of numbers near one."""

    def code(context, builder, sig, args) -> ir.Value:
        [x] = args
        if not HAS_AVX512:
            return builder.fdiv(_constant(1.0), x)
        # A step of Newton's from 14 exact bits takes a fraction of a division's time.
        estimate = _call(builder, "llvm.x86.avx512.rcp14.ps.512", [x, x, ir.IntType(16)(-1)])
        error = _call(builder, "llvm.fma.v16f32", [builder.fneg(x), estimate, _constant(1.0)])
        return _call(builder, "llvm.fma.v16f32", [estimate, error, estimate])

    return float32x16(float32x16), code


@njit
def _exp_minus(x):
    """`exp(-|x|)`"""
    return exp2_product(minimum(absolute(x), splat(np.float32(1e6))), splat(np.float32(-1.4426950408889634)))


@njit
def sigmoid(x):
    e = _exp_minus(x)
    return select_positive(x, splat(np.float32(1)), e) * reciprocal(splat(np.float32(1)) + e)


@njit
def silu(x):
    """`x / (1 + exp(-x))`: relative error below 4e-6, or 1e-36 where x is below -87; NaN at minus infinity, as in PyTorch."""
    return x * sigmoid(x)


# Minimax polynomial of log(1 + e) / e for e in [0, 1], relative error 3e-8
_LOG1P = (0.99999997, -0.49999493, 0.33319097, -0.24842982, 0.19106006, -0.13663244, 0.078225934, -0.029505227, 0.0052326911)


@njit
def softplus(x):
    """`max(x, 0) + log(1 + exp(-|x|))`, relative error below 3e-7, of small values too."""
    e = _exp_minus(x)
    quotient = splat(np.float32(_LOG1P[8]))
    for k in range(7, -1, -1):
        quotient = quotient * e + splat(np.float32(_LOG1P[k]))
    return select_positive(x, x, splat(np.float32(0))) + quotient * e
