"""The scan in plain PyTorch, where it differs from other backends."""

import pytest
import torch

from modeling_videomamba import selective_scan_torch
from modeling_videomamba.scan_operators import scan
from tests.scan.inputs import check, inputs_of, run


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


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class TestThreads:
    """The small steps of a scan are not shared out among PyTorch's threads, which would wait for each other after each."""

    def test_the_caller_has_as_many_as_before(self, two_threads):
        inputs = inputs_of(40, batch=1).trained()
        output, _ = run("torch", inputs)
        torch.autograd.grad(output.sum(), inputs.leaves())
        assert torch.get_num_threads() == 2

    def test_also_after_an_error(self, two_threads, monkeypatch):
        monkeypatch.setattr(selective_scan_torch, "_recur", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("torch", inputs_of(5))
        assert torch.get_num_threads() == 2

    def test_a_scan_has_one(self, two_threads, monkeypatch):
        seen, recur = set(), selective_scan_torch._recur
        monkeypatch.setattr(selective_scan_torch, "_recur", lambda *args: seen.add(torch.get_num_threads()) or recur(*args))
        output, _ = run("torch", inputs := inputs_of(5).trained())
        torch.autograd.grad(output.sum(), inputs.leaves())
        assert seen == {1}
