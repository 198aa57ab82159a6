"""The selective scan for CPUs in Numba, forward and backward: sixteen channels at a time, each state number one vector.

The exponentials bind, as on a GPU: some ten instructions for sixteen of them. So nothing else is done twice. Softplus, D, the
gate and the sum of both directions are part of the one walk through time. It goes row by row, all channels of some rows before
the next ones, so that memory is read as it lies and the states of all channels stay in cache.

All arrays are flat. Row r is step t of sample s, `r = s * length + t`; what belongs to it starts at r times a stride.
"""

import numpy as np

from .numba_vectors import (
    WIDTH,
    broadcast,
    compiled,
    decay,
    exp2_product,
    load,
    minimum,
    pointer,
    sigmoid,
    silu,
    softplus,
    splat,
    store,
    total,
)


STEPS_PER_CHUNK = 32  # steps; forward keeps the state before each chunk for backward
TILE = 4  # steps of a chunk that are taken at once, for their states stay in registers
GROUP = 36  # blocks of channels that backward takes together: rows are read in long pieces, dB and dC added as vectors first
LOG2_E = np.float32(1.4426950408889634)
LONGEST_STEP, FASTEST_DECAY = np.float32(2**40), -(2**25)  # bounds of delta and A in exponentials, whose argument has one, too


@compiled
def _time_step(delta, index, bias, delta_softplus):
    raw = load(delta, index) + bias
    return raw, softplus(raw) if delta_softplus else raw


@compiled(forceinline=True)
def _decays(delta, dt, a):
    """Of one state number in four steps."""
    return decay(delta, dt[0], a), decay(delta, dt[1], a), decay(delta, dt[2], a), decay(delta, dt[3], a)


@compiled(forceinline=True)
def _advance(hidden, own, decays, drive, sums, B, C, at):
    """Four steps of one state number, which is in `hidden`. Returns the four outputs with its part added."""
    h0 = decays[0] * load(hidden, own) + drive[0] * broadcast(B, at[0])
    h1 = decays[1] * h0 + drive[1] * broadcast(B, at[1])
    h2 = decays[2] * h1 + drive[2] * broadcast(B, at[2])
    h3 = decays[3] * h2 + drive[3] * broadcast(B, at[3])
    store(hidden, own, h3)
    return (
        sums[0] + h0 * broadcast(C, at[0]),
        sums[1] + h1 * broadcast(C, at[1]),
        sums[2] + h2 * broadcast(C, at[2]),
        sums[3] + h3 * broadcast(C, at[3]),
    )


@compiled
def outputs(
    sample, first_block, last_block, u, delta, A, B, C, D, bias, gate, y, output, states, saved,
    length, dim, state, strides, reverse, delta_softplus, gated, save, add,
):  # fmt: skip
    """Sum of the directions' outputs, before the gate (`y`, if it is to be saved) and after it, in `output`.

    `states` are those before the first step and become those after the last one. `saved`: those before each chunk, if they are
    to be saved. `add`: whether the sum starts from what `output` holds.

    Four steps at once, so that a state number is loaded and stored once for the four. Their decays are computed one state
    number ahead: a processor looks only so far for instructions that need not wait, and those of the recurrence do.
    """
    gate_, y_, output_ = pointer(gate), pointer(y), pointer(output)
    summed = y_ if save and gated else output_
    chunks = (length + STEPS_PER_CHUNK - 1) // STEPS_PER_CHUNK
    for direction in range(len(u)):
        u_, delta_, A_, B_ = pointer(u[direction]), pointer(delta[direction]), pointer(A[direction]), pointer(B[direction])
        C_, D_, bias_ = pointer(C[direction]), pointer(D[direction]), pointer(bias[direction])
        gated_now, earlier = gated and direction == len(u) - 1, direction > 0 or add
        hidden, saved_ = pointer(states[direction]), pointer(saved[direction])
        for step in range(0, length, 4):
            left = length - step
            row0, row1, row2, row3 = _rows(sample, length, step, reverse[direction])
            n0, n1, n2, n3 = row0 * state, row1 * state, row2 * state, row3 * state
            for block in range(first_block, last_block):
                channel, at = block * WIDTH, block * state * WIDTH
                own = sample * dim * state + at
                b, d = load(bias_, channel), load(D_, channel)
                if save and step % STEPS_PER_CHUNK == 0:
                    _copy(hidden, own, saved_, (sample * chunks + step // STEPS_PER_CHUNK) * dim * state + at, state)
                dt0, drive0, sum0 = _load_step(
                    u_, delta_, summed, row0, channel, dim, strides, b, d, delta_softplus, earlier, True
                )
                dt1, drive1, sum1 = _load_step(
                    u_, delta_, summed, row1, channel, dim, strides, b, d, delta_softplus, earlier, left > 1
                )
                dt2, drive2, sum2 = _load_step(
                    u_, delta_, summed, row2, channel, dim, strides, b, d, delta_softplus, earlier, left > 2
                )
                dt3, drive3, sum3 = _load_step(
                    u_, delta_, summed, row3, channel, dim, strides, b, d, delta_softplus, earlier, left > 3
                )
                dt, drive, sums = (dt0, dt1, dt2, dt3), (drive0, drive1, drive2, drive3), (sum0, sum1, sum2, sum3)
                decays = _decays(delta_, dt, load(A_, at))
                for n in range(state - 1):
                    sums = _advance(hidden, own + n * WIDTH, decays, drive, sums, B_, C_, (n0 + n, n1 + n, n2 + n, n3 + n))
                    decays = _decays(delta_, dt, load(A_, at + (n + 1) * WIDTH))
                n = state - 1
                sums = _advance(hidden, own + n * WIDTH, decays, drive, sums, B_, C_, (n0 + n, n1 + n, n2 + n, n3 + n))
                sum0, sum1, sum2, sum3 = sums
                if left > 3:
                    _store_step(gate_, y_, output_, row3, channel, dim, strides[2], sum3, gated_now, save and gated)
                if left > 2:
                    _store_step(gate_, y_, output_, row2, channel, dim, strides[2], sum2, gated_now, save and gated)
                if left > 1:
                    _store_step(gate_, y_, output_, row1, channel, dim, strides[2], sum1, gated_now, save and gated)
                _store_step(gate_, y_, output_, row0, channel, dim, strides[2], sum0, gated_now, save and gated)


@compiled
def _copy(source, at, target, to, state):
    for n in range(state):
        store(target, to + n * WIDTH, load(source, at + n * WIDTH))


@compiled
def _load_step(u, delta, sums, row, channel, dim, strides, bias, skip, delta_softplus, earlier, there):
    """Time step, its product with u, and the output without the state."""
    dt, drive = _drive(u, delta, row, channel, strides, bias, delta_softplus, there)
    sum_ = skip * load(u, row * strides[0] + channel)
    if earlier:
        sum_ = sum_ + load(sums, row * dim + channel)
    return dt, drive, sum_


@compiled
def _store_step(gate, y, output, row, channel, dim, gate_stride, sum_, gated, save):
    if save:
        store(y, row * dim + channel, sum_)
    if gated:
        z = load(gate, row * gate_stride + channel)
        sum_ = sum_ * silu(z)
    store(output, row * dim + channel, sum_)


@compiled
def gradients(
    sample, first_block, last_block, scratch, u, delta, A, B, C, D, bias, gate, y, saved, grad,
    du, ddelta, dgate, dA, dB, dC, dD, dbias, length, dim, state, strides, reverse, delta_softplus, gated,
):  # fmt: skip
    """All gradients: `dA`, `dD` and `dbias` of every sample; `dB` and `dC`, zero before, from these blocks of channels.

    Chunks are taken from the last to the first. The states before a chunk's tiles are computed again from the `saved` one.
    Then its tiles are walked through, also from the last: forward for their states, and back for the gradients.
    """
    shared = pointer(gate), pointer(y), pointer(grad), pointer(dgate)
    sizes = sample, length, dim, state, strides
    for direction in range(len(u)):
        inputs = (
            pointer(u[direction]),
            pointer(delta[direction]),
            pointer(A[direction]),
            pointer(B[direction]),
            pointer(bias[direction]),
        )
        others = pointer(C[direction]), pointer(D[direction]), pointer(saved[direction])
        local, sums = (
            (pointer(du[direction]), pointer(ddelta[direction])),
            (pointer(dA[direction]), pointer(dD[direction]), pointer(dbias[direction])),
        )
        flags = reverse[direction], delta_softplus, gated, gated and direction == 0
        for group in range(first_block, last_block, GROUP):
            blocks = min(group + GROUP, last_block) - group
            _differentiate(
                inputs, others, shared, local, sums, dB[direction], dC[direction], sizes, flags, group, blocks, scratch
            )


def scratch_sizes(state: int) -> list[int]:
    """Of the arrays that `gradients` works with: states before a chunk's tiles, carries, sums of dB and of dC."""
    return [steps * state * WIDTH for steps in (STEPS_PER_CHUNK // TILE * GROUP, GROUP, TILE, TILE)]


@compiled
def _rows(sample, length, step, reverse):
    """Of four steps; in place of those that are not there, of the last one."""
    way, left = -1 if reverse else 1, length - step
    row = sample * length + (length - 1 - step if reverse else step)
    return row, row + way * min(1, left - 1), row + way * min(2, left - 1), row + way * min(3, left - 1)


@compiled
def _drive(u, delta, row, channel, strides, bias, delta_softplus, there):
    """Time step, as far as an exponential can tell, and its product with u. Where there is no step, one that does nothing."""
    _, dt = _time_step(delta, row * strides[1] + channel, bias, delta_softplus)
    if not there:
        dt = splat(np.float32(0))
    return minimum(dt, splat(LONGEST_STEP)), dt * load(u, row * strides[0] + channel)


@compiled
def _output_gradient(shared, row, channel, dim, strides, flags, there):
    """Gradient of the sum of the directions, before the gate. Where there is no step, zero."""
    gate, _, grad, _ = shared
    dy = load(grad, row * dim + channel)
    if flags[2]:
        z = load(gate, row * strides[2] + channel)
        dy = dy * silu(z)
    if not there:
        dy = splat(np.float32(0))
    return dy


@compiled
def _differentiate(inputs, others, shared, local, sums, dB, dC, sizes, flags, group, blocks, scratch):
    u, delta, A, B, bias = inputs
    _, _, saved = others
    sample, length, dim, state, strides = sizes
    reverse, delta_softplus, _, _ = flags
    dA, dD, dbias = sums
    size, chunks = state * WIDTH, (length + STEPS_PER_CHUNK - 1) // STEPS_PER_CHUNK
    starts, carry = pointer(scratch[0]), pointer(scratch[1])
    zero = splat(np.float32(0))
    for block in range(blocks):
        channel = (group + block) * WIDTH
        store(dD, sample * dim + channel, zero)
        store(dbias, sample * dim + channel, zero)
        for n in range(state):
            store(carry, block * size + n * WIDTH, zero)
            store(dA, sample * dim * state + (group + block) * size + n * WIDTH, zero)

    for chunk in range(chunks - 1, -1, -1):
        first = chunk * STEPS_PER_CHUNK
        tiles = (min(STEPS_PER_CHUNK, length - first) + TILE - 1) // TILE
        for block in range(blocks):
            channel, at = (group + block) * WIDTH, (group + block) * size
            b = load(bias, channel)
            _copy(saved, (sample * chunks + chunk) * dim * state + at, starts, block * size, state)
            for tile in range(tiles - 1):
                own, following = (tile * blocks + block) * size, ((tile + 1) * blocks + block) * size
                row0, row1, row2, row3 = _rows(sample, length, first + tile * TILE, reverse)
                dt0, drive0 = _drive(u, delta, row0, channel, strides, b, delta_softplus, True)
                dt1, drive1 = _drive(u, delta, row1, channel, strides, b, delta_softplus, True)
                dt2, drive2 = _drive(u, delta, row2, channel, strides, b, delta_softplus, True)
                dt3, drive3 = _drive(u, delta, row3, channel, strides, b, delta_softplus, True)
                for n in range(state):
                    a, h = load(A, at + n * WIDTH), load(starts, own + n * WIDTH)
                    h = exp2_product(dt0, a) * h + drive0 * broadcast(B, row0 * state + n)
                    h = exp2_product(dt1, a) * h + drive1 * broadcast(B, row1 * state + n)
                    h = exp2_product(dt2, a) * h + drive2 * broadcast(B, row2 * state + n)
                    h = exp2_product(dt3, a) * h + drive3 * broadcast(B, row3 * state + n)
                    store(starts, following + n * WIDTH, h)
        for tile in range(tiles - 1, -1, -1):
            _differentiate_tile(
                inputs, others, shared, local, sums, dB, dC, sizes, flags, group, blocks, scratch,
                first + tile * TILE, tile * blocks * size,
            )  # fmt: skip


@compiled
def _differentiate_tile(
    inputs, others, shared, local, sums, dB, dC, sizes, flags, group, blocks, scratch, first, start
):  # fmt: skip
    """The four steps from `first` on, or as many as there are, whose states before them are at `start` of the scratch."""
    u, delta, A, B, bias = inputs
    C, D, _ = others
    dA, dD, dbias = sums
    sample, length, dim, state, strides = sizes
    reverse, delta_softplus, _, _ = flags
    starts, carry = pointer(scratch[0]), pointer(scratch[1])
    dB_sums, dC_sums = pointer(scratch[2]), pointer(scratch[3])
    scratch[2][:], scratch[3][:] = 0, 0
    size, zero = state * WIDTH, splat(np.float32(0))
    left = length - first
    row0, row1, row2, row3 = _rows(sample, length, first, reverse)
    n0, n1, n2, n3 = row0 * state, row1 * state, row2 * state, row3 * state
    for block in range(blocks):
        channel, at = (group + block) * WIDTH, (group + block) * size
        own, to = block * size, sample * dim * state + at
        b = load(bias, channel)
        dt0, drive0 = _drive(u, delta, row0, channel, strides, b, delta_softplus, True)
        dt1, drive1 = _drive(u, delta, row1, channel, strides, b, delta_softplus, left > 1)
        dt2, drive2 = _drive(u, delta, row2, channel, strides, b, delta_softplus, left > 2)
        dt3, drive3 = _drive(u, delta, row3, channel, strides, b, delta_softplus, left > 3)
        dy0 = _output_gradient(shared, row0, channel, dim, strides, flags, True)
        dy1 = _output_gradient(shared, row1, channel, dim, strides, flags, left > 1)
        dy2 = _output_gradient(shared, row2, channel, dim, strides, flags, left > 2)
        dy3 = _output_gradient(shared, row3, channel, dim, strides, flags, left > 3)
        ddrive0, ddrive1, ddrive2, ddrive3 = zero, zero, zero, zero  # gradients of dt u
        dpower0, dpower1, dpower2, dpower3 = zero, zero, zero, zero  # gradients of dt A, times A
        for n in range(state):
            a, dA_n = load(A, at + n * WIDTH), load(dA, to + n * WIDTH)
            b0, b1, b2, b3 = broadcast(B, n0 + n), broadcast(B, n1 + n), broadcast(B, n2 + n), broadcast(B, n3 + n)
            decay0, decay1 = exp2_product(dt0, a), exp2_product(dt1, a)
            decay2, decay3 = exp2_product(dt2, a), exp2_product(dt3, a)
            h0 = load(starts, start + own + n * WIDTH)
            h1 = decay0 * h0 + drive0 * b0
            h2 = decay1 * h1 + drive1 * b1
            h3 = decay2 * h2 + drive2 * b2
            h4 = decay3 * h3 + drive3 * b3
            g = load(carry, own + n * WIDTH)
            i = n * WIDTH
            g, dA_n, ddrive3, dpower3 = _step_back(
                g, dA_n, ddrive3, dpower3, decay3, h3, h4, dt3, drive3, dy3, a, b3, C, n3 + n, dB_sums, dC_sums, i + 3 * size
            )
            g, dA_n, ddrive2, dpower2 = _step_back(
                g, dA_n, ddrive2, dpower2, decay2, h2, h3, dt2, drive2, dy2, a, b2, C, n2 + n, dB_sums, dC_sums, i + 2 * size
            )
            g, dA_n, ddrive1, dpower1 = _step_back(
                g, dA_n, ddrive1, dpower1, decay1, h1, h2, dt1, drive1, dy1, a, b1, C, n1 + n, dB_sums, dC_sums, i + size
            )
            g, dA_n, ddrive0, dpower0 = _step_back(
                g, dA_n, ddrive0, dpower0, decay0, h0, h1, dt0, drive0, dy0, a, b0, C, n0 + n, dB_sums, dC_sums, i
            )
            store(carry, own + n * WIDTH, g)
            store(dA, to + n * WIDTH, dA_n)
        totals = load(dD, sample * dim + channel), load(dbias, sample * dim + channel)
        if left > 3:
            totals = _store_gradients(
                inputs, D, shared, local, row3, channel, dim, strides, flags, dy3, ddrive3, dpower3, totals
            )
        if left > 2:
            totals = _store_gradients(
                inputs, D, shared, local, row2, channel, dim, strides, flags, dy2, ddrive2, dpower2, totals
            )
        if left > 1:
            totals = _store_gradients(
                inputs, D, shared, local, row1, channel, dim, strides, flags, dy1, ddrive1, dpower1, totals
            )
        totals = _store_gradients(inputs, D, shared, local, row0, channel, dim, strides, flags, dy0, ddrive0, dpower0, totals)
        store(dD, sample * dim + channel, totals[0])
        store(dbias, sample * dim + channel, totals[1])
    for i in range(min(TILE, left)):
        row = sample * length + (length - 1 - first - i if reverse else first + i)
        for n in range(state):
            dB[row * state + n] += total(load(dB_sums, i * size + n * WIDTH))
            dC[row * state + n] += total(load(dC_sums, i * size + n * WIDTH))


@compiled
def _step_back(g, dA, ddrive, dpower, decay, h, h_after, dt, drive, dy, a, b, C, at, dB_sums, dC_sums, i):
    """One step of one state number, `h_after = decay h + drive b`: from the gradient that later steps hand on to the one that
    is handed on to earlier ones."""
    g = g + dy * broadcast(C, at)
    store(dB_sums, i, load(dB_sums, i) + g * drive)
    store(dC_sums, i, load(dC_sums, i) + dy * h_after)
    handed_on = g * decay
    kept = handed_on * h
    return handed_on, dA + kept * dt, ddrive + g * b, dpower + kept * a


@compiled
def _store_gradients(inputs, D, shared, local, row, channel, dim, strides, flags, dy, ddrive, dpower, totals):
    """What belongs to one step alone; returns the sums of the gradients of D and of the bias, with its part added."""
    u, delta, _, _, bias = inputs
    gate, y, grad, dgate = shared
    du, ddelta = local
    _, delta_softplus, _, with_dgate = flags
    one, log_2 = splat(np.float32(1)), splat(np.float32(1) / LOG2_E)
    raw, dt = _time_step(delta, row * strides[1] + channel, load(bias, channel), delta_softplus)
    x = load(u, row * strides[0] + channel)
    dstep = ddrive * x + dpower * log_2
    if delta_softplus:
        dstep = dstep * sigmoid(raw)
    store(ddelta, row * dim + channel, dstep)
    store(du, row * dim + channel, ddrive * dt + dy * load(D, channel))
    if with_dgate:
        z = load(gate, row * strides[2] + channel)
        s = sigmoid(z)
        dz = load(grad, row * dim + channel) * load(y, row * dim + channel) * s * (one + z * (one - s))
        store(dgate, row * dim + channel, dz)
    return totals[0] + dy * x, totals[1] + dstep
