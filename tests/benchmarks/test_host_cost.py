"""How many operators and launches a layer takes is fixed here: on a GPU, each costs its host microseconds."""

import pytest

from modeling_videomamba.scan_backends import why_not_loadable


pytestmark = pytest.mark.skipif(why_not_loadable("triton") is not None, reason=f"{why_not_loadable('triton')}")


@pytest.mark.parametrize(("dtype", "operators", "operators_in_training"), [("float32", 10, 57), ("bfloat16", 12, 70)])
def test_operators_and_launches_of_a_layer(dtype, operators, operators_in_training):
    import torch

    from benchmarks import host_cost

    rows = {row["layer"]: row for row in host_cost.rows(getattr(torch, dtype), repeats=4)}
    ours = rows["VideoMamba, triton"]
    assert (ours["inference, operators"], ours["inference, launches"]) == (operators, 2)
    assert (ours["training step, operators"], ours["training step, launches"]) == (operators_in_training, 6)
    assert all(row["inference, us, min"] > 0 for row in rows.values())
