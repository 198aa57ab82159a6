"""The selective scan for CPUs in Numba, forward and backward: sixteen channels at a time, each state number one vector.

The exponentials bind, as on a GPU: some ten instructions for sixteen of them. So nothing else is done twice. Softplus, D, the
gate and the sum of both directions are part of the one walk through time. It goes row by row, all channels of some rows before
the next ones, so that memory is read as it lies and the states of all channels stay in cache.

All arrays are flat. Row r is step t of sample s, `r = s * length + t`; what belongs to it starts at r times a stride.
"""

import numpy as np

from .numba_vectors import WIDTH, broadcast, exp2, load, njit, pointer, sigmoid, softplus, splat, store, total


CHUNK = 4  # steps, a multiple of 4; in backward their states and decays stay in the first cache
GROUP = 36  # blocks of channels that backward takes together: rows are read in long pieces, dB and dC added as vectors first
LOG2_E = np.float32(1.4426950408889634)


@njit(nogil=True, cache=True)
def _time_step(delta, index, bias, delta_softplus):
    raw = load(delta, index) + bias
    return raw, softplus(raw) if delta_softplus else raw


@njit(nogil=True, cache=True)
def _output_gradient(grad, gate, row, dim, gate_stride, channel, gated):
    dy = load(grad, row * dim + channel)
    if gated:
        z = load(gate, row * gate_stride + channel)
        dy = dy * z * sigmoid(z)
    return dy


@njit(nogil=True, cache=True)
def _advance(h, dt, drive, sum_, a, b, c):
    """One step of one state number: the state after it, and the output with its part added."""
    h = exp2(dt * a) * h + drive * b
    return h, sum_ + h * c


@njit(nogil=True, cache=True)
def outputs(
    sample, first_block, last_block, scratch, u, delta, A, B, C, D, bias, gate, y, output, last_states,
    length, dim, state, strides, reverse, delta_softplus, gated, save,
):  # fmt: skip
    """Sum of the lanes' outputs, before the gate (`y`, if it is to be saved) and after it, and their last states.

    Four steps at once, so that a state number is loaded and stored once for the four. `scratch`: one state of these blocks.
    """
    gate_, y_, output_ = pointer(gate), pointer(y), pointer(output)
    sums = y_ if save and gated else output_
    for lane in range(len(u)):
        u_, delta_, A_, B_ = pointer(u[lane]), pointer(delta[lane]), pointer(A[lane]), pointer(B[lane])
        C_, D_, bias_ = pointer(C[lane]), pointer(D[lane]), pointer(bias[lane])
        gated_now, earlier = gated and lane == len(u) - 1, lane > 0
        scratch[:] = 0
        hidden = pointer(scratch)
        for step in range(0, length, 4):
            left = length - step
            way = -1 if reverse[lane] else 1
            row0 = sample * length + (length - 1 - step if reverse[lane] else step)
            row1, row2, row3 = row0 + way * min(1, left - 1), row0 + way * min(2, left - 1), row0 + way * min(3, left - 1)
            n0, n1, n2, n3 = row0 * state, row1 * state, row2 * state, row3 * state
            for block in range(first_block, last_block):
                channel, at, own = block * WIDTH, block * state * WIDTH, (block - first_block) * state * WIDTH
                b, d = load(bias_, channel), load(D_, channel)
                dt0, drive0, sum0 = _load_step(
                    u_, delta_, sums, row0, channel, dim, strides, b, d, delta_softplus, earlier, True
                )
                dt1, drive1, sum1 = _load_step(
                    u_, delta_, sums, row1, channel, dim, strides, b, d, delta_softplus, earlier, left > 1
                )
                dt2, drive2, sum2 = _load_step(
                    u_, delta_, sums, row2, channel, dim, strides, b, d, delta_softplus, earlier, left > 2
                )
                dt3, drive3, sum3 = _load_step(
                    u_, delta_, sums, row3, channel, dim, strides, b, d, delta_softplus, earlier, left > 3
                )
                for n in range(state):
                    a, h = load(A_, at + n * WIDTH), load(hidden, own + n * WIDTH)
                    h, sum0 = _advance(h, dt0, drive0, sum0, a, broadcast(B_, n0 + n), broadcast(C_, n0 + n))
                    h, sum1 = _advance(h, dt1, drive1, sum1, a, broadcast(B_, n1 + n), broadcast(C_, n1 + n))
                    h, sum2 = _advance(h, dt2, drive2, sum2, a, broadcast(B_, n2 + n), broadcast(C_, n2 + n))
                    h, sum3 = _advance(h, dt3, drive3, sum3, a, broadcast(B_, n3 + n), broadcast(C_, n3 + n))
                    store(hidden, own + n * WIDTH, h)
                if left > 3:
                    _store_step(gate_, y_, output_, row3, channel, dim, strides[2], sum3, gated_now, save and gated)
                if left > 2:
                    _store_step(gate_, y_, output_, row2, channel, dim, strides[2], sum2, gated_now, save and gated)
                if left > 1:
                    _store_step(gate_, y_, output_, row1, channel, dim, strides[2], sum1, gated_now, save and gated)
                _store_step(gate_, y_, output_, row0, channel, dim, strides[2], sum0, gated_now, save and gated)
        size = (last_block - first_block) * state * WIDTH
        start = sample * dim * state + first_block * state * WIDTH
        last_states[lane][start : start + size] = scratch


@njit(nogil=True, cache=True)
def _load_step(u, delta, sums, row, channel, dim, strides, bias, skip, delta_softplus, earlier, there):
    """Time step, its product with u, and the output without the state. Where there is no step, one that does nothing."""
    _, dt = _time_step(delta, row * strides[1] + channel, bias, delta_softplus)
    x = load(u, row * strides[0] + channel)
    sum_ = skip * x
    if earlier:
        sum_ = sum_ + load(sums, row * dim + channel)
    if not there:
        dt = splat(np.float32(0))
    return dt, dt * x, sum_


@njit(nogil=True, cache=True)
def _store_step(gate, y, output, row, channel, dim, gate_stride, sum_, gated, save):
    if save:
        store(y, row * dim + channel, sum_)
    if gated:
        z = load(gate, row * gate_stride + channel)
        sum_ = sum_ * z * sigmoid(z)
    store(output, row * dim + channel, sum_)


@njit(nogil=True, cache=True)
def gradients(
    sample, first_block, last_block, scratch, u, delta, A, B, C, D, bias, gate, y, grad,
    du, ddelta, dgate, dA, dB, dC, dD, dbias, length, dim, state, strides, reverse, delta_softplus, gated,
):  # fmt: skip
    """All gradients: `dA`, `dD` and `dbias` of every sample; `dB` and `dC`, zero before, from these blocks of channels.

    First the state before every chunk is computed again; then chunks are walked through from the last to the first: forward
    for their states, which stay in cache, and back for the gradients.
    """
    shared = pointer(gate), pointer(y), pointer(grad), pointer(dgate)
    sizes = sample, length, dim, state, strides
    for lane in range(len(u)):
        inputs = pointer(u[lane]), pointer(delta[lane]), pointer(A[lane]), pointer(B[lane]), pointer(bias[lane])
        maps_and_skip = pointer(C[lane]), pointer(D[lane])
        local, sums = (pointer(du[lane]), pointer(ddelta[lane])), (pointer(dA[lane]), pointer(dD[lane]), pointer(dbias[lane]))
        flags = reverse[lane], delta_softplus, gated, gated and lane == 0
        for group in range(first_block, last_block, GROUP):
            blocks = min(group + GROUP, last_block) - group
            _differentiate(
                inputs, maps_and_skip, shared, local, sums, dB[lane], dC[lane], sizes, flags, group, blocks, scratch
            )


def scratch_sizes(length: int, state: int) -> list[int]:
    """Of the six arrays that `gradients` works with: states before chunks, states and decays of a chunk, carries, sums."""
    chunks = (length + CHUNK - 1) // CHUNK
    return [steps * state * WIDTH for steps in (chunks * GROUP, CHUNK + 1, CHUNK, GROUP, CHUNK, CHUNK)]


@njit(nogil=True, cache=True)
def _row(sample, length, step, reverse):
    return sample * length + (length - 1 - step if reverse else step)


@njit(nogil=True, cache=True)
def _drive(u, delta, row, channel, strides, bias, delta_softplus):
    _, dt = _time_step(delta, row * strides[1] + channel, bias, delta_softplus)
    return dt, dt * load(u, row * strides[0] + channel)


@njit(nogil=True, cache=True)
def _differentiate(inputs, maps_and_skip, shared, local, sums, dB, dC, sizes, flags, group, blocks, scratch):
    u, delta, A, B, bias = inputs
    C, D = maps_and_skip
    gate, y, grad, dgate = shared
    du, ddelta = local
    dA, dD, dbias = sums
    sample, length, dim, state, strides = sizes
    u_stride, delta_stride, gate_stride = strides
    reverse, delta_softplus, gated, with_dgate = flags
    size = state * WIDTH
    chunks, way = (length + CHUNK - 1) // CHUNK, -1 if reverse else 1
    zero, one, log_2 = splat(np.float32(0)), splat(np.float32(1)), splat(np.float32(1) / LOG2_E)

    starts, hidden, decay, carry = pointer(scratch[0]), pointer(scratch[1]), pointer(scratch[2]), pointer(scratch[3])
    dB_sums, dC_sums = pointer(scratch[4]), pointer(scratch[5])
    for block in range(blocks):
        channel = (group + block) * WIDTH
        store(dD, sample * dim + channel, zero)
        store(dbias, sample * dim + channel, zero)
        for n in range(state):
            store(starts, block * size + n * WIDTH, zero)
            store(carry, block * size + n * WIDTH, zero)
            store(dA, sample * dim * state + (group + block) * size + n * WIDTH, zero)

    for chunk in range(chunks - 1):
        for block in range(blocks):
            channel, at = (group + block) * WIDTH, (group + block) * size
            b = load(bias, channel)
            own, following = (chunk * blocks + block) * size, ((chunk + 1) * blocks + block) * size
            for n in range(state):
                store(starts, following + n * WIDTH, load(starts, own + n * WIDTH))
            for step in range(chunk * CHUNK, (chunk + 1) * CHUNK, 4):
                row = _row(sample, length, step, reverse)
                row1, row2, row3 = row + way, row + 2 * way, row + 3 * way
                dt, drive = _drive(u, delta, row, channel, strides, b, delta_softplus)
                dt1, drive1 = _drive(u, delta, row1, channel, strides, b, delta_softplus)
                dt2, drive2 = _drive(u, delta, row2, channel, strides, b, delta_softplus)
                dt3, drive3 = _drive(u, delta, row3, channel, strides, b, delta_softplus)
                for n in range(state):
                    a, h = load(A, at + n * WIDTH), load(starts, following + n * WIDTH)
                    h = exp2(dt * a) * h + drive * broadcast(B, row * state + n)
                    h = exp2(dt1 * a) * h + drive1 * broadcast(B, row1 * state + n)
                    h = exp2(dt2 * a) * h + drive2 * broadcast(B, row2 * state + n)
                    h = exp2(dt3 * a) * h + drive3 * broadcast(B, row3 * state + n)
                    store(starts, following + n * WIDTH, h)

    for chunk in range(chunks - 1, -1, -1):
        scratch[4][:], scratch[5][:] = 0, 0
        steps = min(CHUNK, length - chunk * CHUNK)
        for block in range(blocks):
            channel, at = (group + block) * WIDTH, (group + block) * size
            b, skip = load(bias, channel), load(D, channel)
            for n in range(state):
                store(hidden, n * WIDTH, load(starts, (chunk * blocks + block) * size + n * WIDTH))
            for i in range(steps):
                row = _row(sample, length, chunk * CHUNK + i, reverse)
                _, dt = _time_step(delta, row * delta_stride + channel, b, delta_softplus)
                drive = dt * load(u, row * u_stride + channel)
                for n in range(state):
                    a = exp2(dt * load(A, at + n * WIDTH))
                    store(decay, i * size + n * WIDTH, a)
                    h = a * load(hidden, i * size + n * WIDTH) + drive * broadcast(B, row * state + n)
                    store(hidden, (i + 1) * size + n * WIDTH, h)
            dD_sum, dbias_sum = load(dD, sample * dim + channel), load(dbias, sample * dim + channel)
            for i in range(steps - 1, -1, -1):
                row = _row(sample, length, chunk * CHUNK + i, reverse)
                raw, dt = _time_step(delta, row * delta_stride + channel, b, delta_softplus)
                x = load(u, row * u_stride + channel)
                dy = _output_gradient(grad, gate, row, dim, gate_stride, channel, gated)
                drive, ddrive, dexponent = dt * x, zero, zero  # gradients of dt u; of dt A, times A
                for n in range(state):
                    now = i * size + n * WIDTH
                    g = load(carry, block * size + n * WIDTH) + dy * broadcast(C, row * state + n)
                    store(dB_sums, now, load(dB_sums, now) + g * drive)
                    store(dC_sums, now, load(dC_sums, now) + dy * load(hidden, now + size))
                    ddrive = ddrive + g * broadcast(B, row * state + n)
                    handed_on = g * load(decay, now)
                    store(carry, block * size + n * WIDTH, handed_on)
                    kept = handed_on * load(hidden, now)
                    dexponent = dexponent + kept * load(A, at + n * WIDTH)
                    to = sample * dim * state + at + n * WIDTH
                    store(dA, to, load(dA, to) + kept * dt)
                dstep = ddrive * x + dexponent * log_2
                if delta_softplus:
                    dstep = dstep * sigmoid(raw)
                dbias_sum, dD_sum = dbias_sum + dstep, dD_sum + dy * x
                store(ddelta, row * dim + channel, dstep)
                store(du, row * dim + channel, ddrive * dt + dy * skip)
                if with_dgate:
                    z = load(gate, row * gate_stride + channel)
                    s = sigmoid(z)
                    dz = load(grad, row * dim + channel) * load(y, row * dim + channel) * s * (one + z * (one - s))
                    store(dgate, row * dim + channel, dz)
            store(dD, sample * dim + channel, dD_sum)
            store(dbias, sample * dim + channel, dbias_sum)
        for i in range(steps):
            row = _row(sample, length, chunk * CHUNK + i, reverse)
            for n in range(state):
                dB[row * state + n] += total(load(dB_sums, i * size + n * WIDTH))
                dC[row * state + n] += total(load(dC_sums, i * size + n * WIDTH))
