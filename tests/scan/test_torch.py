"""The scan in plain PyTorch, where it differs from other backends."""

import torch

from modeling_videomamba.scan_operators import scan
from tests.scan.inputs import check, inputs_of


def test_the_last_group_of_samples_is_smaller():
    """On a CPU, samples are scanned in groups whose states fit the cache: here of 4, so that the last one has 1."""
    check("torch", inputs_of(5, dim=288, state=16, batch=5))


def test_memory_does_not_hold_the_states_of_the_whole_sequence():
    """What autograd keeps is far below `(batch, length, dim, state)`."""
    batch, length, dim, state = 1, 2048, 64, 16
    tensors, gate, reverse, softplus, A_is_log = inputs_of(length, dim, state, batch, reverse=(False,)).trained()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        scan(tensors, gate, list(reverse), softplus, A_is_log, "torch")
    assert max(saved) == batch * length * dim
    assert sum(saved) < 6 * batch * length * dim < batch * length * dim * state
