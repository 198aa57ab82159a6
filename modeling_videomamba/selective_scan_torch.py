"""The selective scan in plain PyTorch: any device, forward and backward, memory linear in the sequence length.

The state of shape `(state, dim)` is never kept for the whole sequence. Time is cut into chunks that fit the processor's
cache: one pair of reused buffers holds a chunk's decays `exp(delta A)` and its inputs `delta B u`, an in-place recurrence
turns the inputs into states, and one batched product with C reads the outputs. The backward pass keeps one state a chunk and
computes the others again.

All directions advance together, each from its own end, so that two cost one recurrence and no flipped copy: `_steps` views
the same step of both directions, counted from either end of the buffer, as one strided tensor.

On a CPU, all of it runs in the thread that calls. A step is a few microseconds of work, and PyTorch's threads wait for each
other after each: beside other work on the same cores, two threads took 28 times as long as one (medians, on an AMD EPYC).
Buffers are made once a scan, since memory that has gone back to the system comes back page by page.

Every decay is at most 1 and nothing is ever divided by a product of decays, so no delta and no A overflow.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_fp32
from .scan_contract import Directions


STEPS_PER_CHUNK = 32  # the buffers of a chunk, (directions, batch, 32, state, dim) each, stay in cache
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
    """A buffer `(directions, batch, steps, ...)` for fewer steps, without gaps, in the same memory."""
    shape = (*buffer.shape[:2], steps, *buffer.shape[3:])
    return buffer.view(-1)[: math.prod(shape)].view(shape)


def _pieces(buffer: Tensor, size: int, reverse: list[bool]) -> list[Tensor]:
    """Views `(directions, batch, size, ...)`: entry i is the i-th piece of `size` steps that each direction meets.

    `buffer`: `(directions, batch, steps, ...)` of one direction or two, steps in the order of time. The last piece may be
    shorter.
    """
    directions, batch, steps, *rest = buffer.shape
    direction_stride, *strides = buffer.stride()
    views = []
    for start in range(0, steps, size):
        n = min(size, steps - start)
        offsets = [i * direction_stride + (steps - start - n if reverse[i] else start) * strides[1] for i in range(directions)]
        stride = (offsets[-1] - offsets[0], *strides)
        views.append(buffer.as_strided((directions, batch, n, *rest), stride, buffer.storage_offset() + offsets[0]))
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
    """What forward and backward share: the directions' inputs cut into blocks of chunks, and the buffers of one chunk.

    The inputs are lists with one tensor for each direction: u, delta `(batch, length, dim)`; A `(dim, state)`; B, C
    `(batch, length, state)`; D, delta_bias `(dim,)`.
    """

    def __init__(self, u, delta, A, B, C, delta_bias, reverse, delta_softplus):
        self.directions, self.reverse, self.delta_softplus = len(u), reverse, delta_softplus
        self.batch, self.length, self.dim = u[0].shape
        self.state = A[0].shape[1]
        self.dtype = at_least_fp32(u[0].dtype)
        self.num_chunks = -(-self.length // STEPS_PER_CHUNK)
        self.u, self.delta = u, delta
        self.A = torch.stack([a.to(self.dtype).t() for a in A])[:, None, None]  # (directions, 1, 1, state, dim)
        self.A_log2 = self.A * LOG2_E
        self.B, self.C = (_pieces(torch.stack(x).to(self.dtype), STEPS_PER_CHUNK, reverse) for x in (B, C))  # one a chunk
        self.scratch = [self.block_buffer() for _ in range(3)] if delta_softplus else []
        self.delta_bias = [bias.to(self.dtype) for bias in delta_bias]

    def new(self, *shape: int) -> Tensor:
        return self.u[0].new_empty(shape, dtype=self.dtype)

    def chunk_buffer(self) -> Tensor:
        return self.new(self.directions, self.batch, STEPS_PER_CHUNK, self.state, self.dim)

    def block_buffer(self) -> Tensor:
        steps = min(STEPS_PER_CHUNK * CHUNKS_PER_BLOCK, self.length)
        return self.new(self.directions, self.batch, steps, self.dim)

    def carry(self) -> Tensor:
        return self.new(self.directions, self.batch, self.state, self.dim).zero_()

    def blocks(self, tensors: list[Tensor]) -> list[tuple[Tensor, ...]]:
        """One tuple a block, in scan order, of that block's view for every direction."""
        size = STEPS_PER_CHUNK * CHUNKS_PER_BLOCK
        return list(zip(*(_in_scan_order(t, size, reverse) for t, reverse in zip(tensors, self.reverse))))

    def chunks(self, tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """One tuple a chunk of a block, in scan order, of that chunk's view for every direction."""
        return list(zip(*(_in_scan_order(t, STEPS_PER_CHUNK, reverse) for t, reverse in zip(tensors, self.reverse))))

    def pieces(self, block: Tensor) -> list[Tensor]:
        """A view a chunk, for all directions, of a block's buffer."""
        return _pieces(block, STEPS_PER_CHUNK, self.reverse)

    def steps(self, chunk: Tensor) -> list[Tensor]:
        """Views `(directions, batch, state, dim)` of a chunk's steps: entry i is the i-th step that each direction takes."""
        return [step.squeeze(2) for step in _pieces(chunk, 1, self.reverse)]

    def time_step(self, raw: Tensor, step: Tensor, delta: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A block's `delta + bias`, in `raw`, and the time step: its softplus, in `step` (it may be `raw`), or that itself."""
        for i in range(self.directions):
            torch.add(delta[i], self.delta_bias[i], out=raw[i])
        if not self.delta_softplus:
            return raw, raw
        return raw, _softplus_(step.copy_(raw), *(_first_steps(x, raw.shape[2]) for x in self.scratch))

    def fill(self, decay: Tensor, hidden: Tensor, time_step: Tensor, drive: Tensor, B: Tensor) -> None:
        """Writes a chunk's decays `exp(delta A)` and inputs `delta u B` for every direction."""
        torch.mul(time_step.unsqueeze(3), self.A_log2, out=decay)  # (directions, batch, steps, state, dim)
        torch.mul(drive.unsqueeze(3), B.unsqueeze(4), out=hidden)
        decay.exp2_()


def _recur(decay_steps: list[Tensor], hidden_steps: list[Tensor], previous: Tensor) -> Tensor:
    """In place `hidden[i] += decay[i] * hidden[i - 1]`, from `previous` on; returns the last state."""
    for decay, hidden in zip(decay_steps, hidden_steps):
        previous = hidden.addcmul_(decay, previous)
    return previous


def _contract(rows: Tensor, matrices: Tensor) -> Tensor:
    """`rows (directions, batch, steps, k)` times `matrices (directions, batch, steps, k, m)`, as one batched product."""
    *shape, k, m = matrices.shape
    return torch.bmm(rows.reshape(-1, 1, k), matrices.reshape(-1, k, m)).view(*shape, m)


def _sample_groups(u: Tensor, A: Tensor) -> list[slice]:
    """Samples to scan together: elsewhere all, to launch less; on CPU as many as keep the buffers of a chunk in cache."""
    batch = u.shape[0]
    size = max(1, STATES_IN_CACHE // A.numel() if u.device.type == "cpu" else batch)
    return [slice(start, start + size) for start in range(0, batch, size)]


def _of_samples(group: slice, *inputs: list[Tensor]) -> list[list[Tensor]]:
    return [[tensor[group] for tensor in tensors] for tensors in inputs]


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, PyTorch's operators run in the thread that calls, meanwhile."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def scan(directions: Directions, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See [`scan_contract.Kernels`]. Takes any dtype."""
    u, delta, A, B, C, D, delta_bias, gate, reverse, delta_softplus = directions
    y, last_states, starts = _outputs(u, A, save)
    with _one_thread(u[0].device):
        for group in _sample_groups(u[0], A[0]):
            u_, delta_, B_, C_ = _of_samples(group, u, delta, B, C)
            p = _Chunks(u_, delta_, A, B_, C_, delta_bias, reverse, delta_softplus)
            _scan_samples(p, D, y[group], last_states[:, group], starts[:, :, group] if save else None)
    if gate is None:
        return y.to(u[0].dtype), last_states, u[0].new_empty(0), starts
    output = F.silu(gate.to(y.dtype)).mul_(y).to(u[0].dtype)
    return output, last_states, y.to(u[0].dtype) if save else u[0].new_empty(0), starts


def starts_shape(u: list[Tensor], A: list[Tensor]) -> tuple[int, ...]:
    (batch, length, dim), state = u[0].shape, A[0].shape[1]
    return (length + STEPS_PER_CHUNK - 1) // STEPS_PER_CHUNK, len(u), batch, state, dim


def _outputs(u: list[Tensor], A: list[Tensor], save: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, _, dim), state = u[0].shape, A[0].shape[1]
    options = {"dtype": at_least_fp32(u[0].dtype)}
    y, last_states = u[0].new_zeros(u[0].shape, **options), u[0].new_zeros(len(u), batch, state, dim, **options)
    return y, last_states, u[0].new_empty(starts_shape(u, A) if save else 0, **options)


def _scan_samples(p: _Chunks, D: list[Tensor], y: Tensor, carry: Tensor, states: Tensor | None) -> None:
    """Adds the outputs to `y`, takes `carry` from zero to the last states, and fills `states`, unless `None`."""
    decay, hidden = p.chunk_buffer(), p.chunk_buffer()
    buffers = [p.block_buffer() for _ in range(2)]
    D = [d.to(p.dtype) for d in D]
    views = {}  # steps in the chunk -> the buffers' views
    index = 0
    for u_, delta_, y_ in zip(*map(p.blocks, (p.u, p.delta, [y] * p.directions))):
        step, drive = (_first_steps(x, y_[0].shape[1]) for x in buffers)
        _, time_step = p.time_step(step, step, delta_)
        for i in range(p.directions):
            torch.mul(time_step[i], u_[i], out=drive[i])
            y_[i].addcmul_(u_[i].to(p.dtype), D[i])
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
            for i in range(p.directions):
                y__[i].add_(output[i])
            index += 1


def scan_backward(grad: Tensor, y: Tensor, starts: Tensor, directions: Directions) -> list[Tensor | None]:
    u, delta, A, B, C, D, delta_bias, gate, reverse, delta_softplus = directions
    dtype, n = starts.dtype, len(u)
    dgate, dy = (None, grad.to(dtype)) if gate is None else _differentiate_gate(grad.to(dtype), y.to(dtype), gate)
    du, ddelta = (x[0].new_empty(n, *x[0].shape) for x in (u, delta))
    dB, dC = (starts.new_empty(n, *x[0].shape) for x in (B, C))
    dA, dD, dbias = (starts.new_zeros(n, *shape) for shape in (A[0].shape[::-1], D[0].shape, D[0].shape))
    with _one_thread(dy.device):
        for group in _sample_groups(dy, A[0]):
            u_, delta_, B_, C_ = _of_samples(group, u, delta, B, C)
            p = _Chunks(u_, delta_, A, B_, C_, delta_bias, reverse, delta_softplus)
            local = _of_samples(group, du, ddelta, dB, dC)
            _differentiate_samples(p, D, dy[group], starts[:, :, group], *local, dA, dD, dbias)
    return [dgate, du, ddelta, dA.transpose(1, 2).contiguous(), dB, dC, dD, dbias]


def _differentiate_gate(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the gate and of y, where the output is `y silu(gate)`."""
    z = gate.to(y.dtype)
    s = torch.sigmoid(z)
    silu = z * s
    slope = s.addcmul_(silu, 1 - s)  # s + z s (1 - s)
    return slope.mul_(y).mul_(grad).to(gate.dtype), silu.mul_(grad)


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
        list(zip(*map(p.blocks, (p.u, p.delta, [dy] * p.directions, du, ddelta, dB, dC))))
    ):
        raw, step, drive, upstream, ddrive, dstep = (_first_steps(x, dy_[0].shape[1]) for x in buffers)
        raw, time_step = p.time_step(raw, step, delta_)
        for i in range(p.directions):
            torch.mul(time_step[i], u_[i], out=drive[i])
            upstream[i].copy_(dy_[i])
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
            for i in range(p.directions):
                dB__[i].copy_(dB_of_chunk[i])
                dC__[i].copy_(dC_of_chunk[i])
            ddrive_.copy_(_contract(p.B[index], g))
            # the gradient of delta A is g[i] decay[i] h[i - 1]
            a.mul_(g)
            a_steps[0].mul_(states[index])
            for a_i, previous in zip(a_steps[1:], h_steps):
                a_i.mul_(previous)
            torch.mul(a, p.A, out=g)
            torch.sum(g, dim=3, out=dstep_)
            dA.add_(a.mul_(step_.unsqueeze(3)).sum((1, 2)))
        for i in range(p.directions):
            dstep[i].addcmul_(ddrive[i], u_[i].to(p.dtype))
            if p.delta_softplus:
                dstep[i].mul_(raw[i].sigmoid_())
            ddelta_[i].copy_(dstep[i])
            dbias[i].add_(dstep[i].sum((0, 1)))
            dD[i].add_((dy_[i] * u_[i]).sum((0, 1)))
            du_[i].copy_(ddrive[i].mul_(time_step[i]).addcmul_(dy_[i], D[i]))


def continue_scan(directions: Directions, states: Tensor | None, output: Tensor | None) -> tuple[Tensor, Tensor]:
    u, delta, A, B, C, D, delta_bias, gate, reverse, delta_softplus = directions
    dtype = at_least_fp32(u[0].dtype)
    states = u[0].new_zeros(1, len(u[0]), *A[0].shape[::-1], dtype=dtype) if states is None else states
    y = torch.zeros_like(u[0], dtype=dtype) if output is None else output
    with _one_thread(u[0].device):
        for group in _sample_groups(u[0], A[0]):
            u_, delta_, B_, C_ = _of_samples(group, u, delta, B, C)
            p = _Chunks(u_, delta_, A, B_, C_, delta_bias, reverse, delta_softplus)
            _scan_samples(p, D, y[group], states[:, group], None)
    return y if gate is None else y.mul_(F.silu(gate.to(y.dtype))), states
