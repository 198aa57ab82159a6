"""The selective scan as Triton kernels, forward and backward, in one direction or both.

A step costs one exponential for every channel and state, and these bind: a Hopper SM computes 16 of them a cycle, beside 128
multiply-adds. So the kernels are made to do little else:

- A program is one warp with some channels of one sample. A thread keeps the states of its channels in registers and takes the
  steps of a tile one after the other; it needs no other thread's numbers, except to sum dB and dC over the channels.
- Tensors stay `(batch, length, dim)`. The second direction reads its rows from the end, nothing is flipped or copied. It runs
  in the program of the first, so that the sum of both leaves it once, with D and the gate.
- Where samples and channels alone do not fill the card, time is cut into chunks. A first pass finds what each chunk does to
  a state that enters it. The product of its decays needs no products, it is `exp(A * sum of delta)`.
- Backward keeps the inputs, the sum of the directions before the gate, and the state that enters each chunk. It computes the
  states before all tiles again, then goes from the last tile to the first. What channels, samples or chunks share is summed
  from partial sums in a fixed order, without atomics: the same input gives the same bits.

State, recurrence and sums over time are fp32, whatever the inputs; the sum of the first direction waits for the second one in
memory, in the dtype of u. Rows are addressed with 64 bits.

What the compiled code asks of a card is in benchmarks/results/kernel_resources.md: forward six to nine instructions for an
exponential, where eight leave the exponentials to bind, backward 28, of which ten are the sums of dB and dC over a warp. On an
H200 none came near the limit of the exponentials: so few warps fit beside each other that each waits for its own loads.
"""

from .triton_common import sigmoid, tl, triton


NOT_SPECIALIZED = ("batch", "length", "chunk_length", "chunks")  # or each new size would be compiled anew
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _then(decay, hidden, kept, next_decay, next_input, next_kept):
    """Steps `h -> decay h + input` one after the other; `kept` is what is left of the earlier state: `decay h`."""
    kept = next_decay * hidden + next_kept
    return decay * next_decay, next_decay * hidden + next_input, kept


@triton.jit
def _before(decay, carry, grad, between, next_decay, next_carry, next_grad, next_between):
    """Backwards in time: `g = w + c` and `c' = decay g`, where c comes from the later step and c' goes to the earlier one.

    `between` is the product of all decays but the earliest step's.
    """
    grad = next_between * carry + next_grad
    return decay * next_decay, next_decay * carry + next_carry, grad, decay * next_between


@triton.jit
def _second(first, second):
    return second


@triton.jit
def _load(first, hops, stride, channels, mask):
    """A tile `(STEPS, CHANNELS)` of fp32 numbers, zero outside of the mask. `first`: the tile's first row."""
    return tl.load(first + hops[:, None] * stride + channels[None, :], mask, other=0.0).to(tl.float32)


@triton.jit
def _store(first, hops, stride, channels, mask, values):
    tl.store(first + hops[:, None] * stride + channels[None, :], values.to(first.dtype.element_ty), mask)


@triton.jit
def _column(first, hops, stride, valid):
    """A column of B or C at the rows of a tile, `(STEPS, 1)`."""
    return tl.load(first + hops * stride, valid, other=0.0).to(tl.float32)[:, None]


@triton.jit
def _columns(first, hops, stride, valid, STATE: tl.constexpr, PACKED: tl.constexpr):
    """All columns of B or C. Packed: bf16 numbers, of which a load takes four, so that the next ones are there in time."""
    columns = ()
    if PACKED:
        for quad in tl.static_range(STATE // 4):
            numbers = tl.load((first + hops * stride).to(tl.pointer_type(tl.int64)) + quad, valid, other=0)
            for i in tl.static_range(2):
                two = (numbers >> (32 * i)).to(tl.int32)  # bf16 is the upper half of fp32
                columns += ((two << 16).to(tl.float32, bitcast=True)[:, None],)
                columns += ((two & -65536).to(tl.float32, bitcast=True)[:, None],)
    else:
        for n in tl.static_range(STATE):
            columns += (_column(first + n, hops, stride, valid),)
    return columns


@triton.jit
def _time_step(delta, bias, mask, SOFTPLUS: tl.constexpr):
    """`delta + bias`, and the time step: its softplus as `max(x, 0) + log(1 + e)`, e = exp(-|x|), the logarithm as e times a
    polynomial, within 3e-7 of itself however small it is. Zero outside of the mask, where a step then changes nothing.
    """
    raw = delta + bias[None, :]
    step = raw
    if SOFTPLUS:
        e = tl.exp2(-tl.abs(raw) * LOG2_E)
        p = ((0.0051261 * e - 0.02907406) * e + 0.07751609) * e - 0.13602248
        p = (((p * e + 0.19076881) * e - 0.24835399) * e + 0.33318122) * e - 0.49999445
        step = tl.maximum(raw, 0.0) + (p * e + 0.99999997) * e
    return raw, tl.where(mask, step, 0.0)


@triton.jit
def _own_channels(dim, CHANNELS: tl.constexpr):
    channels = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    # So wide are a thread's loads; were they wider, the compiler would share out the steps of a tile among threads.
    return tl.max_contiguous(channels, (CHANNELS + 31) // 32), channels < dim


@triton.jit
def _own_rows(sample, length, chunk, chunk_length, reverse):
    """Row of a chunk's first step in `(batch * length, ...)`, the way from step to step, and how many steps there are.

    Chunks are counted by position, so that both directions of a program cover the same rows.
    """
    start = chunk.to(tl.int64) * chunk_length
    count = tl.minimum(length - start, chunk_length).to(tl.int32)
    return sample.to(tl.int64) * length + start + reverse * (count - 1), 1 - 2 * reverse, count


@triton.jit
def _of_direction(pointers, direction):
    return tl.where(direction == 0, pointers[0], pointers[1])


@triton.jit
def _load_A(A, channels, inside, STATE: tl.constexpr):
    """Columns of `A (dim, state)`, for exp2."""
    columns = ()
    for n in tl.static_range(STATE):
        columns += (tl.load(A + channels * STATE + n, inside, other=0.0) * LOG2_E,)
    return columns


@triton.jit
def _load_states(states, place, dim, channels, inside, STATE: tl.constexpr):
    """Those at one place of `(..., state, dim)`; zeros where there are none."""
    rows = ()
    for n in tl.static_range(STATE):
        if states is None:
            rows += (tl.zeros_like(channels).to(tl.float32),)
        else:
            rows += (tl.load(states + (place * STATE + n) * dim + channels, inside, other=0.0),)
    return rows


@triton.jit
def _store_states(states, dim, channels, inside, rows, STATE: tl.constexpr):
    for n in tl.static_range(STATE):
        tl.store(states + n * dim + channels, rows[n], inside)


@triton.jit
def _hidden(state, decay, inputs, step):
    """States `(STEPS, CHANNELS)` of a tile, from the state before it, and what is left in each of the one before."""
    kept = tl.where((step == 0)[:, None], decay * state[None, :], 0.0)
    _, hidden, kept = tl.associative_scan((decay, inputs + kept, kept), 0, _then)
    return hidden, kept


@triton.jit
def _hidden_gradients(carry, decay, grad, step):
    """Gradients `(STEPS, CHANNELS)` of a tile's states, backwards in time as all tiles here, and what they hand on.

    `grad`: what comes from each step's own output; `carry`: what comes from the step after the tile.
    """
    grad = tl.where((step == 0)[:, None], grad + carry[None, :], grad)
    one = tl.full(grad.shape, 1.0, tl.float32)
    _, carried, grad, _ = tl.associative_scan((decay, decay * grad, grad, one), 0, _before)
    return grad, tl.reduce(carried, 0, _second)


@triton.jit
def _output_gradient(grad, gate, row, hops, dim, gate_stride, channels, mask):
    """Gradient of the scan's ungated output. `row`: the tile's first one."""
    dy = _load(grad + row * dim, hops, dim, channels, mask)
    if gate is not None:
        z = _load(gate + row * gate_stride, hops, gate_stride, channels, mask)
        dy *= z * sigmoid(z)
    return dy


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def summaries_kernel(
    u, delta, A, B, C, bias, grad, gate, gains, time_steps, batch, length, chunk_length, dim, map_stride, gate_stride,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr, PACKED: tl.constexpr, STATE: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What each chunk adds to a state that enters it, and the sum of its time steps, by which it decays that state.

    Adjoint: the same for the gradient of a state that enters the chunk at its end and leaves it at its start.
    Grid: channels, chunks, directions * batch.
    """
    direction, sample = tl.program_id(2) // batch, tl.program_id(2) % batch
    channels, inside = _own_channels(dim, CHANNELS)
    row, way, count = _own_rows(sample, length, tl.program_id(1), chunk_length, ((REVERSE >> direction) & 1) ^ ADJOINT)
    u, delta, maps = (
        _of_direction(u, direction),
        _of_direction(delta, direction),
        _of_direction(C if ADJOINT else B, direction),
    )
    A = _load_A(_of_direction(A, direction), channels, inside, STATE)
    bias = tl.load(_of_direction(bias, direction) + channels, inside, other=0.0)
    state = _load_states(None, 0, dim, channels, inside, STATE)
    total = tl.zeros_like(bias)
    step = tl.arange(0, STEPS)
    for tile in range(0, count, STEPS):
        valid = tile + step < count
        mask = valid[:, None] & inside[None, :]
        _, dt = _time_step(_load(delta + row * dim, way * step, dim, channels, mask), bias, mask, SOFTPLUS)
        if ADJOINT:
            drive = _output_gradient(grad, gate, row, way * step, dim, gate_stride, channels, mask)
        else:
            drive = dt * _load(u + row * dim, way * step, dim, channels, mask)
        total += tl.sum(dt, 0)
        columns = _columns(maps + row * map_stride, way * step, map_stride, valid, STATE, PACKED)
        new = ()
        for n in tl.static_range(STATE):
            decay = tl.exp2(dt * A[n][None, :])
            inputs = drive * columns[n]
            if ADJOINT:
                inputs *= decay
            hidden, _ = _hidden(state[n], decay, inputs, step)
            new += (tl.reduce(hidden, 0, _second),)
        state = new
        row += way * STEPS
    chunk = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    _store_states(gains + chunk * STATE * dim, dim, channels, inside, state, STATE)
    tl.store(time_steps + chunk * dim + channels, total, inside)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def join_kernel(
    A, gains, time_steps, starts, batch, chunks, dim,
    REVERSE: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The state that enters each chunk: `starts`, shaped as `gains`. A step is a chunk here.

    Grid: channels, state, directions * batch.
    """
    direction, n = tl.program_id(2) // batch, tl.program_id(1)
    channels, inside = _own_channels(dim, CHANNELS)
    reverse = (REVERSE >> direction) & 1
    way = 1 - 2 * reverse
    chunk = tl.program_id(2).to(tl.int64) * chunks + reverse * (chunks - 1)
    A = tl.load(_of_direction(A, direction) + channels * STATE + n, inside, other=0.0) * LOG2_E
    state = tl.zeros_like(A)
    tl.store(starts + (chunk * STATE + n) * dim + channels, state, inside)
    step = tl.arange(0, STEPS)
    for tile in range(0, chunks - 1, STEPS):
        mask = (tile + step < chunks - 1)[:, None] & inside[None, :]
        gain = _load(gains + (chunk * STATE + n) * dim, way * step, STATE * dim, channels, mask)
        decay = tl.exp2(A[None, :] * _load(time_steps + chunk * dim, way * step, dim, channels, mask))
        hidden, _ = _hidden(state, decay, gain, step)
        _store(starts + ((chunk + way) * STATE + n) * dim, way * step, STATE * dim, channels, mask, hidden)
        state = tl.reduce(hidden, 0, _second)
        chunk += way * STEPS


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def outputs_kernel(
    u, delta, A, B, C, D, bias, gate, starts, y, output, last_states,
    batch, length, chunk_length, dim, map_stride, gate_stride,
    DIRECTIONS: tl.constexpr, REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, PACKED: tl.constexpr, STATE: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum of the directions' outputs, before the gate (`y`, if it is there) and after it. Grid: channels, chunks, batch.

    A second direction adds to what the first one has stored.
    """
    chunk, sample = tl.program_id(1), tl.program_id(2)
    channels, inside = _own_channels(dim, CHANNELS)
    step = tl.arange(0, STEPS)
    sums = output if y is None else y
    for direction in range(DIRECTIONS):
        reverse = (REVERSE >> direction) & 1
        row, way, count = _own_rows(sample, length, chunk, chunk_length, reverse)
        u_, delta_ = _of_direction(u, direction), _of_direction(delta, direction)
        B_, C_ = _of_direction(B, direction), _of_direction(C, direction)
        A_ = _load_A(_of_direction(A, direction), channels, inside, STATE)
        bias_ = tl.load(_of_direction(bias, direction) + channels, inside, other=0.0)
        D_ = tl.load(_of_direction(D, direction) + channels, inside, other=0.0)
        own = (direction * batch + sample).to(tl.int64)
        state = _load_states(starts, own * tl.num_programs(1) + chunk, dim, channels, inside, STATE)
        for tile in range(0, count, STEPS):
            valid = tile + step < count
            mask = valid[:, None] & inside[None, :]
            _, dt = _time_step(_load(delta_ + row * dim, way * step, dim, channels, mask), bias_, mask, SOFTPLUS)
            x = _load(u_ + row * dim, way * step, dim, channels, mask)
            drive = dt * x
            total = D_[None, :] * x
            total += _load(sums + row * dim, way * step, dim, channels, mask & (direction > 0))
            B_columns = _columns(B_ + row * map_stride, way * step, map_stride, valid, STATE, PACKED)
            C_columns = _columns(C_ + row * map_stride, way * step, map_stride, valid, STATE, PACKED)
            new = ()
            for n in tl.static_range(STATE):
                hidden, _ = _hidden(state[n], tl.exp2(dt * A_[n][None, :]), drive * B_columns[n], step)
                total += hidden * C_columns[n]
                new += (tl.reduce(hidden, 0, _second),)
            state = new
            if y is not None:
                _store(y + row * dim, way * step, dim, channels, mask, total)
            if gate is not None:
                z = _load(gate + row * gate_stride, way * step, gate_stride, channels, mask & (direction == DIRECTIONS - 1))
                total *= tl.where(direction == DIRECTIONS - 1, z * sigmoid(z), 1.0)
            if y is not None:
                mask &= direction == DIRECTIONS - 1
            _store(output + row * dim, way * step, dim, channels, mask, total)
            row += way * STEPS
        if chunk == (1 - reverse) * (tl.num_programs(1) - 1):
            _store_states(last_states + own * STATE * dim, dim, channels, inside, state, STATE)
        tl.debug_barrier()  # the second direction reads what the first one stored


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def tile_states_kernel(
    u, delta, A, B, bias, starts, states, batch, length, chunk_length, dim, map_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, PACKED: tl.constexpr, STATE: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The state before every tile: `(directions, batch, chunks, tiles of a chunk, state, dim)`.

    Grid: channels, chunks, directions * batch.
    """
    direction, sample = tl.program_id(2) // batch, tl.program_id(2) % batch
    channels, inside = _own_channels(dim, CHANNELS)
    row, way, count = _own_rows(sample, length, tl.program_id(1), chunk_length, (REVERSE >> direction) & 1)
    u, delta, B = _of_direction(u, direction), _of_direction(delta, direction), _of_direction(B, direction)
    A = _load_A(_of_direction(A, direction), channels, inside, STATE)
    bias = tl.load(_of_direction(bias, direction) + channels, inside, other=0.0)
    chunk = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    state = _load_states(starts, chunk, dim, channels, inside, STATE)
    states += chunk * (chunk_length // STEPS) * STATE * dim
    step = tl.arange(0, STEPS)
    for tile in range(0, count, STEPS):
        _store_states(states, dim, channels, inside, state, STATE)
        states += STATE * dim
        valid = tile + step < count
        mask = valid[:, None] & inside[None, :]
        _, dt = _time_step(_load(delta + row * dim, way * step, dim, channels, mask), bias, mask, SOFTPLUS)
        drive = dt * _load(u + row * dim, way * step, dim, channels, mask)
        columns = _columns(B + row * map_stride, way * step, map_stride, valid, STATE, PACKED)
        new = ()
        for n in tl.static_range(STATE):
            hidden, _ = _hidden(state[n], tl.exp2(dt * A[n][None, :]), drive * columns[n], step)
            new += (tl.reduce(hidden, 0, _second),)
        state = new
        row += way * STEPS


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def gradients_kernel(
    u, delta, A, B, C, D, bias, gate, y, grad, states, carries,
    du, ddelta, dgate, dA, dB, dC, dD, dbias, batch, length, chunk_length, dim, map_stride, gate_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, STATE: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All gradients: of A, D and the bias for each chunk, of B and C for each block of channels. Grid: channels, chunks,
    directions * batch.

    `du`, `ddelta`: `(directions, batch, length, dim)`; `dB`, `dC`: `(blocks, directions, batch, length, state)`; `dA`, zero
    before, and `carries`, the gradients of the states that leave the chunks: `(directions, batch, chunks, state, dim)`; `dD`,
    `dbias`: `(directions, batch, chunks, dim)`. What a state needs from tile to tile is kept in memory, not in registers: 16
    states would take more of these than a thread has.
    """
    direction, sample = tl.program_id(2) // batch, tl.program_id(2) % batch
    channels, inside = _own_channels(dim, CHANNELS)
    row, way, count = _own_rows(sample, length, tl.program_id(1), chunk_length, (REVERSE >> direction) & 1)
    direction_rows = direction.to(tl.int64) * batch * length
    block_rows = tl.program_id(0).to(tl.int64) * (tl.num_programs(2) * length) + direction_rows
    chunk = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    u, delta, B, C = (
        _of_direction(u, direction),
        _of_direction(delta, direction),
        _of_direction(B, direction),
        _of_direction(C, direction),
    )
    A = _of_direction(A, direction) + channels * STATE
    bias = tl.load(_of_direction(bias, direction) + channels, inside, other=0.0)
    D = tl.load(_of_direction(D, direction) + channels, inside, other=0.0)
    carries += chunk * STATE * dim + channels
    dA += chunk * STATE * dim + channels
    dD_sum, dbias_sum = tl.zeros_like(bias), tl.zeros_like(bias)
    step = tl.arange(0, STEPS)
    tiles = tl.cdiv(count, STEPS)
    states += (chunk * (chunk_length // STEPS) + tiles) * STATE * dim + channels
    row += way * tiles * STEPS
    for i in range(tiles):
        states -= STATE * dim
        row -= way * STEPS
        left = count - (tiles - 1 - i) * STEPS
        valid, valid_back = step < left, STEPS - 1 - step < left
        mask = valid[:, None] & inside[None, :]
        hops, hops_back = way * step, way * (STEPS - 1 - step)
        raw, dt = _time_step(_load(delta + row * dim, hops, dim, channels, mask), bias, mask, SOFTPLUS)
        x = _load(u + row * dim, hops, dim, channels, mask)
        dy = _output_gradient(grad, gate, row, hops, dim, gate_stride, channels, mask)
        drive = dt * x
        # The states' gradients go backwards in time. Flipped inside of a thread, a tile is a renaming of its registers.
        dt_back, dy_back = tl.flip(dt, 0), tl.flip(dy, 0)
        ddrive, dexponent = tl.zeros_like(drive), tl.zeros_like(drive)  # of dt u; of dt A, times A
        for n in range(STATE):
            A_n = tl.load(A + n, inside, other=0.0)[None, :] * LOG2_E
            b = _column(B + row * map_stride + n, hops, map_stride, valid)
            hidden, kept = _hidden(tl.load(states + n * dim, inside, other=0.0), tl.exp2(dt * A_n), drive * b, step)
            own = dy_back * _column(C + row * map_stride + n, hops_back, map_stride, valid_back)
            g, carry = _hidden_gradients(tl.load(carries + n * dim, inside, other=0.0), tl.exp2(dt_back * A_n), own, step)
            tl.store(carries + n * dim, carry, inside)
            g = tl.flip(g, 0)
            tl.store(dB + (block_rows + row) * STATE + n + hops * STATE, tl.sum(g * drive, 1), valid)
            tl.store(dC + (block_rows + row) * STATE + n + hops * STATE, tl.sum(dy * hidden, 1), valid)
            ddrive += g * b
            g *= kept
            dexponent += g * A_n
            tl.store(dA + n * dim, tl.load(dA + n * dim, inside, other=0.0) + tl.sum(g * dt, 0), inside)
        tl.debug_barrier()  # the next tile reads the carries
        dstep = ddrive * x + dexponent / LOG2_E
        if SOFTPLUS:
            dstep *= sigmoid(raw)
        dstep = tl.where(mask, dstep, 0.0)
        dbias_sum += tl.sum(dstep, 0)
        dD_sum += tl.sum(dy * x, 0)
        _store(ddelta + (direction_rows + row) * dim, hops, dim, channels, mask, dstep)
        _store(du + (direction_rows + row) * dim, hops, dim, channels, mask, ddrive * dt + dy * D[None, :])
        if gate is not None:  # noqa: SIM102 (known when compiled, the other when run)
            if direction == 0:
                z = _load(gate + row * gate_stride, hops, gate_stride, channels, mask)
                s = sigmoid(z)
                dz = _load(y + row * dim, hops, dim, channels, mask) * s * (1 + z * (1 - s))
                dz *= _load(grad + row * dim, hops, dim, channels, mask)
                _store(dgate + row * dim, hops, dim, channels, mask, dz)
    tl.store(dD + chunk * dim + channels, dD_sum, inside)
    tl.store(dbias + chunk * dim + channels, dbias_sum, inside)
