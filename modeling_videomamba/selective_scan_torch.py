"""The selective scan in plain PyTorch: any device, forward and backward, memory linear in the sequence length.

The state of shape `(state, dim)` is never kept for the whole sequence. Time is cut into chunks that fit the processor's
cache: one pair of reused buffers holds a chunk's decays `exp(delta A)` and its inputs `delta B u`, an in-place recurrence
turns the inputs into states, and one batched product with C reads the outputs. The backward pass keeps one state a chunk and
computes the others again.

A *lane* is one scan over the whole sequence, a forward or a reversed one. All lanes advance together, each from its own end,
so that two directions cost one recurrence and no flipped copy: `_steps` views the same step of both lanes, counted from either
end of the buffer, as one strided tensor.

The operations on a chunk take both lanes at once, the lane outermost: PyTorch cuts each into equal runs, one a thread, so
that with two threads on a CPU each keeps to its lane, whose numbers are in its core's cache. Cores of a virtual machine need
not share one, and what the other core wrote is then several times slower to read. Buffers are made once a scan, since memory
that has gone back to the system comes back page by page.

Every decay is at most 1 and nothing is ever divided by a product of decays, so no delta and no A overflow.
"""

import math

import torch
from torch import Tensor

from .operators import custom_operator


STEPS_PER_CHUNK = 32  # the buffers of a chunk, (lanes, batch, 32, state, dim) each, stay in cache
CHUNKS_PER_BLOCK = 2  # work without a state dimension (softplus of delta, D u) is done for two chunks at once
STATES_IN_CACHE = 1152 * 16  # of the samples that are scanned together on CPU: as many as one sample of VideoMamba-M has
LOG2_E = math.log2(math.e)


def _in_scan_order(tensor: Tensor, size: int, reverse: bool) -> tuple[Tensor, ...]:
    """Views of `size` steps each (the last may be shorter), in the order in which the scan meets them.

    `tensor`: `(batch, length, ...)`.
    """
    full, rest = divmod(tensor.shape[1], size)
    sizes = [size] * full + [rest] * (rest > 0)
    return tensor.split(sizes[::-1], dim=1)[::-1] if reverse else tensor.split(sizes, dim=1)


def _first_steps(buffer: Tensor, steps: int) -> Tensor:
    """A buffer `(lanes, batch, steps, ...)` for fewer steps, without gaps, in the same memory."""
    shape = (*buffer.shape[:2], steps, *buffer.shape[3:])
    return buffer.view(-1)[: math.prod(shape)].view(shape)


def _pieces(buffer: Tensor, size: int, reverse: list[bool]) -> list[Tensor]:
    """Views `(lanes, batch, size, ...)`: entry i is the i-th piece of `size` steps that each lane meets.

    `buffer`: `(lanes, batch, steps, ...)` with at most two lanes, steps in the order of time. The last piece may be shorter.
    """
    lanes, batch, steps, *rest = buffer.shape
    lane_stride, *strides = buffer.stride()
    views = []
    for start in range(0, steps, size):
        n = min(size, steps - start)
        offsets = [lane * lane_stride + (steps - start - n if reverse[lane] else start) * strides[1] for lane in range(lanes)]
        stride = (offsets[-1] - offsets[0], *strides)
        views.append(buffer.as_strided((lanes, batch, n, *rest), stride, buffer.storage_offset() + offsets[0]))
    return views


def _softplus_(x: Tensor, e: Tensor, series: Tensor, square: Tensor) -> Tensor:
    """`log(1 + exp(x))` in place, relative error below 2e-6; the other tensors are overwritten.

    `max(x, 0) + 2 atanh(e / (e + 2))` with `e = exp(-|x|)` as a series: unlike `log1p`, which some builds of PyTorch run ten
    times slower than `exp`, it needs fast operations only, and unlike `log(1 + e)` it keeps small values exact.
    """
    if x.dtype == torch.float64:
        return x.copy_(torch.nn.functional.softplus(x))
    torch.abs(x, out=e).mul_(-LOG2_E).exp2_()
    s = e.div_(torch.add(e, 2, out=square))
    torch.mul(s, s, out=square)
    torch.mul(square, 2 / 13, out=series).add_(2 / 11)
    for k in (9, 7, 5, 3, 1):
        series.mul_(square).add_(2 / k)
    return x.clamp_(min=0).addcmul_(series, s)


class _Chunks:
    """What forward and backward share: the lanes' inputs cut into blocks of chunks, and the buffers of one chunk.

    The inputs are lists with one tensor a lane: u, delta `(batch, length, dim)`; A `(dim, state)`; B, C
    `(batch, length, state)`; D, delta_bias `(dim,)`.
    """

    def __init__(self, u, delta, A, B, C, delta_bias, reverse, delta_softplus):
        self.lanes, self.reverse, self.delta_softplus = len(u), reverse, delta_softplus
        self.batch, self.length, self.dim = u[0].shape
        self.state = A[0].shape[1]
        self.dtype = torch.promote_types(u[0].dtype, torch.float32)
        self.num_chunks = -(-self.length // STEPS_PER_CHUNK)
        self.u, self.delta = u, delta
        self.A = torch.stack([a.to(self.dtype).t() for a in A])[:, None, None]  # (lanes, 1, 1, state, dim)
        self.A_log2 = self.A * LOG2_E
        self.B, self.C = (_pieces(torch.stack(x).to(self.dtype), STEPS_PER_CHUNK, reverse) for x in (B, C))  # one a chunk
        self.scratch = [self.block_buffer() for _ in range(3)] if delta_softplus else []
        self.delta_bias = [bias.to(self.dtype) for bias in delta_bias]

    def new(self, *shape: int) -> Tensor:
        return self.u[0].new_empty(shape, dtype=self.dtype)

    def chunk_buffer(self) -> Tensor:
        return self.new(self.lanes, self.batch, STEPS_PER_CHUNK, self.state, self.dim)

    def block_buffer(self) -> Tensor:
        steps = min(STEPS_PER_CHUNK * CHUNKS_PER_BLOCK, self.length)
        return self.new(self.lanes, self.batch, steps, self.dim)

    def carry(self) -> Tensor:
        return self.new(self.lanes, self.batch, self.state, self.dim).zero_()

    def blocks(self, tensors: list[Tensor]) -> list[tuple[Tensor, ...]]:
        """One tuple a block, in scan order, of that block's view for every lane."""
        size = STEPS_PER_CHUNK * CHUNKS_PER_BLOCK
        return list(zip(*(_in_scan_order(t, size, reverse) for t, reverse in zip(tensors, self.reverse))))

    def chunks(self, tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """One tuple a chunk of a block, in scan order, of that chunk's view for every lane."""
        return list(zip(*(_in_scan_order(t, STEPS_PER_CHUNK, reverse) for t, reverse in zip(tensors, self.reverse))))

    def pieces(self, block: Tensor) -> list[Tensor]:
        """A view a chunk, for all lanes, of a block's buffer."""
        return _pieces(block, STEPS_PER_CHUNK, self.reverse)

    def steps(self, chunk: Tensor) -> list[Tensor]:
        """Views `(lanes, batch, state, dim)` of a chunk's steps: entry i is the i-th step that each lane takes."""
        return [step.squeeze(2) for step in _pieces(chunk, 1, self.reverse)]

    def time_step(self, raw: Tensor, step: Tensor, delta: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A block's `delta + bias`, in `raw`, and the time step: its softplus, in `step` (it may be `raw`), or that itself."""
        for lane in range(self.lanes):
            torch.add(delta[lane], self.delta_bias[lane], out=raw[lane])
        if not self.delta_softplus:
            return raw, raw
        return raw, _softplus_(step.copy_(raw), *(_first_steps(x, raw.shape[2]) for x in self.scratch))

    def fill(self, decay: Tensor, hidden: Tensor, time_step: Tensor, drive: Tensor, B: Tensor) -> None:
        """Writes a chunk's decays `exp(delta A)` and inputs `delta u B` for every lane."""
        torch.mul(time_step.unsqueeze(3), self.A_log2, out=decay)  # (lanes, batch, steps, state, dim)
        torch.mul(drive.unsqueeze(3), B.unsqueeze(4), out=hidden)
        decay.exp2_()


def _recur(decay_steps: list[Tensor], hidden_steps: list[Tensor], previous: Tensor) -> Tensor:
    """In place `hidden[i] += decay[i] * hidden[i - 1]`, from `previous` on; returns the last state."""
    for decay, hidden in zip(decay_steps, hidden_steps):
        previous = hidden.addcmul_(decay, previous)
    return previous


def _contract(rows: Tensor, matrices: Tensor) -> Tensor:
    """`rows (lanes, batch, steps, k)` times `matrices (lanes, batch, steps, k, m)`, step by step, as one batched product."""
    *shape, k, m = matrices.shape
    return torch.bmm(rows.reshape(-1, 1, k), matrices.reshape(-1, k, m)).view(*shape, m)


def _sample_groups(u: Tensor, A: Tensor) -> list[slice]:
    """Samples to scan together: elsewhere all, to launch less; on CPU as many as keep the buffers of a chunk in cache."""
    batch = u.shape[0]
    size = max(1, STATES_IN_CACHE // A.numel() if u.device.type == "cpu" else batch)
    return [slice(start, start + size) for start in range(0, batch, size)]


def _of_samples(group: slice, *inputs: list[Tensor]) -> list[list[Tensor]]:
    return [[tensor[group] for tensor in lanes] for lanes in inputs]


def scan_forward(
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    reverse: list[bool],
    delta_softplus: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over the lanes of `C h + D u`, the lanes' last states, and (for the backward pass) the states at chunk starts.

    Shapes of the inputs: see [`_Chunks`]. Returns `(batch, length, dim)`, `(lanes, batch, state, dim)` and
    `(chunks, lanes, batch, state, dim)` (empty unless `save_states`), in fp32, or in fp64 for fp64 inputs.
    """
    y, last_states, states = _empty_outputs(u, A, save_states)
    y.zero_(), last_states.zero_()
    for group in _sample_groups(u[0], A[0]):
        u_, delta_, B_, C_ = _of_samples(group, u, delta, B, C)
        p = _Chunks(u_, delta_, A, B_, C_, delta_bias, reverse, delta_softplus)
        _scan_samples(p, D, y[group], last_states[:, group], states[:, :, group] if save_states else None)
    return y, last_states, states


def _empty_outputs(u: list[Tensor], A: list[Tensor], save_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    lanes, (batch, length, dim), state = len(u), u[0].shape, A[0].shape[1]
    num_chunks = (length + STEPS_PER_CHUNK - 1) // STEPS_PER_CHUNK if save_states else 0
    shapes = (batch, length, dim), (lanes, batch, state, dim), (num_chunks, lanes, batch, state, dim)
    dtype = torch.promote_types(u[0].dtype, torch.float32)
    return tuple(u[0].new_empty(shape, dtype=dtype) for shape in shapes)


def _scan_samples(p: _Chunks, D: list[Tensor], y: Tensor, carry: Tensor, states: Tensor | None) -> None:
    """Adds the outputs to `y`, takes `carry` from zero to the last states, and fills `states`, unless `None`."""
    decay, hidden = p.chunk_buffer(), p.chunk_buffer()
    buffers = [p.block_buffer() for _ in range(2)]
    D = [d.to(p.dtype) for d in D]
    views = {}  # steps in the chunk -> the buffers' views
    index = 0
    for u_, delta_, y_ in zip(*map(p.blocks, (p.u, p.delta, [y] * p.lanes))):
        step, drive = (_first_steps(x, y_[0].shape[1]) for x in buffers)
        _, time_step = p.time_step(step, step, delta_)
        for lane in range(p.lanes):
            torch.mul(time_step[lane], u_[lane], out=drive[lane])
            y_[lane].addcmul_(u_[lane].to(p.dtype), D[lane])
        for step_, drive_, y__ in zip(p.pieces(time_step), p.pieces(drive), p.chunks(y_)):
            n = step_.shape[2]
            if n not in views:
                a, h = _first_steps(decay, n), _first_steps(hidden, n)
                views[n] = a, h, p.steps(a), p.steps(h)
            a, h, a_steps, h_steps = views[n]
            p.fill(a, h, step_, drive_, p.B[index])
            if states is not None:
                states[index].copy_(carry)
            carry.copy_(_recur(a_steps, h_steps, carry))
            output = _contract(p.C[index], h)
            for lane in range(p.lanes):
                y__[lane].add_(output[lane])
            index += 1


def scan_backward(
    dy: Tensor,
    states: Tensor,
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    reverse: list[bool],
    delta_softplus: bool,
) -> tuple[list[Tensor], ...]:
    """Gradients of u, delta, A, B, C, D and delta_bias: a list each, one tensor a lane, in its input's dtype, contiguous.

    `dy`: gradient of the output, `(batch, length, dim)`; `states`: as saved by [`scan_forward`].
    """
    dtype = states.dtype
    du, ddelta = [x.new_empty(x.shape) for x in u], [x.new_empty(x.shape) for x in delta]
    dB, dC = [x.new_empty(x.shape, dtype=dtype) for x in B], [x.new_empty(x.shape, dtype=dtype) for x in C]
    dA = states.new_zeros(len(A), *A[0].shape[::-1])  # (lanes, state, dim)
    dD, dbias = ([x.new_zeros(x.shape, dtype=dtype) for x in lanes] for lanes in (D, delta_bias))
    for group in _sample_groups(dy, A[0]):
        u_, delta_, B_, C_ = _of_samples(group, u, delta, B, C)
        p = _Chunks(u_, delta_, A, B_, C_, delta_bias, reverse, delta_softplus)
        local = _of_samples(group, du, ddelta, dB, dC)
        _differentiate_samples(p, D, dy[group].to(dtype), states[:, :, group], *local, dA, dD, dbias)
    dA = [x.t().clone(memory_format=torch.contiguous_format) for x in dA]  # (dim, state), copies: they may share nothing
    return tuple(
        [grad.to(x.dtype) for grad, x in zip(grads, inputs)]
        for grads, inputs in zip((du, ddelta, dA, dB, dC, dD, dbias), (u, delta, A, B, C, D, delta_bias))
    )


def _differentiate_samples(
    p: _Chunks,
    D: list[Tensor],
    dy: Tensor,
    states: Tensor,
    du: list[Tensor],
    ddelta: list[Tensor],
    dB: list[Tensor],
    dC: list[Tensor],
    dA: Tensor,
    dD: list[Tensor],
    dbias: list[Tensor],
) -> None:
    """Writes the gradients of what each sample has of its own, and adds to those of what all share: dA, dD, dbias."""
    D = [d.to(p.dtype) for d in D]
    carry, decay, hidden, grad = p.carry(), p.chunk_buffer(), p.chunk_buffer(), p.chunk_buffer()
    buffers = [p.block_buffer() for _ in range(6)]
    views = {}
    index = p.num_chunks
    for u_, delta_, dy_, du_, ddelta_, dB_, dC_ in reversed(
        list(zip(*map(p.blocks, (p.u, p.delta, [dy] * p.lanes, du, ddelta, dB, dC))))
    ):
        raw, step, drive, upstream, ddrive, dstep = (_first_steps(x, dy_[0].shape[1]) for x in buffers)
        raw, time_step = p.time_step(raw, step, delta_)
        for lane in range(p.lanes):
            torch.mul(time_step[lane], u_[lane], out=drive[lane])
            upstream[lane].copy_(dy_[lane])
        pieces = map(p.pieces, (time_step, drive, upstream, ddrive, dstep))
        for step_, drive_, dy__, ddrive_, dstep_, dB__, dC__ in reversed(list(zip(*pieces, p.chunks(dB_), p.chunks(dC_)))):
            index -= 1
            n = step_.shape[2]
            if n not in views:
                a, h, g = (_first_steps(x, n) for x in (decay, hidden, grad))
                views[n] = a, h, g, p.steps(a), p.steps(h), p.steps(g)
            a, h, g, a_steps, h_steps, g_steps = views[n]
            p.fill(a, h, step_, drive_, p.B[index])
            _recur(a_steps, h_steps, states[index])
            dC_of_chunk = _contract(dy__, h.transpose(-1, -2))
            torch.mul(dy__.unsqueeze(3), p.C[index].unsqueeze(4), out=g)
            # g[i] = dy[i] C[i] + decay[i + 1] g[i + 1], from the chunk's last step to its first
            g_steps[-1].add_(carry)
            _recur(a_steps[:0:-1], g_steps[-2::-1], g_steps[-1])
            torch.mul(a_steps[0], g_steps[0], out=carry)
            dB_of_chunk = _contract(drive_, g.transpose(-1, -2))
            for lane in range(p.lanes):
                dB__[lane].copy_(dB_of_chunk[lane])
                dC__[lane].copy_(dC_of_chunk[lane])
            ddrive_.copy_(_contract(p.B[index], g))
            # the gradient of delta A is g[i] decay[i] h[i - 1]
            a.mul_(g)
            a_steps[0].mul_(states[index])
            for a_i, previous in zip(a_steps[1:], h_steps):
                a_i.mul_(previous)
            torch.mul(a, p.A, out=g)
            torch.sum(g, dim=3, out=dstep_)
            dA.add_(a.mul_(step_.unsqueeze(3)).sum((1, 2)))
        for lane in range(p.lanes):
            dstep[lane].addcmul_(ddrive[lane], u_[lane].to(p.dtype))
            if p.delta_softplus:
                dstep[lane].mul_(raw[lane].sigmoid_())
            ddelta_[lane].copy_(dstep[lane])
            dbias[lane].add_(dstep[lane].sum((0, 1)))
            dD[lane].add_((dy_[lane] * u_[lane]).sum((0, 1)))
            du_[lane].copy_(ddrive[lane].mul_(time_step[lane]).addcmul_(dy_[lane], D[lane]))


# As custom operators the loops above are one node each to torch.compile and torch.export, whatever the length.


def _run(
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    reverse: list[bool],
    delta_softplus: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(u[0].device.type, enabled=False):
        return scan_forward(u, delta, A, B, C, D, delta_bias, reverse, delta_softplus, save_states)


def _fake(u, delta, A, B, C, D, delta_bias, reverse, delta_softplus, save_states):
    return _empty_outputs(u, A, save_states)


def _run_backward(
    dy: Tensor,
    states: Tensor,
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    reverse: list[bool],
    delta_softplus: bool,
) -> list[Tensor]:
    with torch.autocast(dy.device.type, enabled=False):
        grads = scan_backward(dy, states, u, delta, A, B, C, D, delta_bias, reverse, delta_softplus)
    return [grad for lanes in grads for grad in lanes]


def _fake_backward(dy, states, u, delta, A, B, C, D, delta_bias, reverse, delta_softplus):
    return [x.new_empty(x.shape) for lanes in (u, delta, A, B, C, D, delta_bias) for x in lanes]


def _save_for_backward(ctx, inputs, output):
    *tensors, ctx.reverse, ctx.delta_softplus, ctx.saved = inputs
    ctx.lanes = len(ctx.reverse)
    ctx.save_for_backward(output[2], *(x for lanes in tensors for x in lanes))


def _differentiate(ctx, dy, *_):
    states, *flat = ctx.saved_tensors
    n = ctx.lanes
    inputs = [flat[i : i + n] for i in range(0, len(flat), n)]
    if not ctx.saved:  # it was traced without gradients, by torch.export, and is differentiated after all
        *_, states = scan_operator(*inputs, ctx.reverse, ctx.delta_softplus, True)
    grads = _scan_backward(dy, states, *inputs, ctx.reverse, ctx.delta_softplus)
    return *(grads[i : i + n] for i in range(0, len(grads), n)), None, None, None


scan_operator = custom_operator("selective_scan", _run, _fake, _differentiate, _save_for_backward)
_scan_backward = custom_operator("selective_scan_backward", _run_backward, _fake_backward)


def selective_scan_lanes(
    u: list[Tensor],
    delta: list[Tensor],
    A: list[Tensor],
    B: list[Tensor],
    C: list[Tensor],
    D: list[Tensor],
    delta_bias: list[Tensor],
    z: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Differentiable sum of the scans of one or two lanes, times `silu(z)` if there is a z, and the lanes' last states.

    Inputs are lists with one tensor a lane: u, delta `(batch, length, dim)`; A `(dim, state)`; B, C `(batch, length, state)`;
    D, delta_bias `(dim,)`. `z`: `(batch, length, dim)`. Returns `(batch, length, dim)` and `(lanes, batch, state, dim)` in
    fp32, or in fp64 for fp64 inputs.
    """
    tensors = (u, delta, A, B, C, D, delta_bias)
    save_states = (
        torch.is_grad_enabled()
        and not torch.compiler.is_exporting()
        and any(x.requires_grad for lanes in tensors for x in lanes)
    )
    y, last_states, _ = scan_operator(*tensors, reverse, delta_softplus, save_states)
    return y if z is None else y * torch.nn.functional.silu(z.to(y.dtype)), last_states


@torch.no_grad()
def continue_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None,
    reverse: bool,
    states: Tensor | None = None,
    output: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One lane of a part of a sequence, delta through its softplus: what a long sequence in parts needs, in inference.

    Shapes as in [`selective_scan_lanes`]. `states`: what the scan of the part before has returned. `output`: what the scan of
    the other direction has returned for this part, to which this one's is added before z gates it. Returns the output and the
    states, and may write them in place of those.
    """
    if states is None:
        states = u.new_zeros(1, u.shape[0], *A.shape[::-1], dtype=torch.promote_types(u.dtype, torch.float32))
    y = torch.zeros_like(u, dtype=states.dtype) if output is None else output
    with torch.autocast(u.device.type, enabled=False):
        for group in _sample_groups(u, A):
            p = _Chunks([u[group]], [delta[group]], [A], [B[group]], [C[group]], [delta_bias], [reverse], True)
            _scan_samples(p, [D], y[group], states[:, group], None)
    return y if z is None else y.mul_(torch.nn.functional.silu(z.to(y.dtype))), states
