"""Fully sharded data parallelism, over gloo on the CPU. (accelerate offers it on GPUs only: the configuration file is read,
not run.)"""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.commands.config import load_config_from_file
from torch.distributed.fsdp import fully_shard

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.modeling_videomamba import VideoMambaLayer
from modeling_videomamba.training.optimization import parameter_groups, parameter_settings
from tests.conftest import small_config


ACCELERATE = Path(__file__).parents[2] / "examples/accelerate"


def train(model: torch.nn.Module, settings: dict, pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), settings, learning_rate=1e-2))
    for _ in range(2):
        model(pixel_values=pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def model_and_batch() -> tuple:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = VideoMambaForVideoClassification(small_config()).train()
    return model, parameter_settings(model, 0.05, 0.75, "true"), torch.randn(4, 4, 3, 32, 32), torch.arange(4)


def train_a_shard(rank: int, directory: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)
    model, settings, pixel_values, labels = model_and_batch()
    mesh = dist.init_device_mesh("cpu", (2,))
    for module in model.modules():
        if isinstance(module, VideoMambaLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model, settings, pixel_values[rank::2], labels[rank::2])
    weights = {name: parameter.full_tensor().detach() for name, parameter in model.named_parameters()}
    if rank == 0:
        torch.save(weights, f"{directory}/weights.pt")
    dist.destroy_process_group()


def test_two_shards_train_as_the_whole_model(tmp_path):
    mp.spawn(train_a_shard, args=(str(tmp_path),), nprocs=2)
    sharded = torch.load(tmp_path / "weights.pt")
    threads = torch.get_num_threads()
    model, *rest = model_and_batch()
    train(model, *rest)
    torch.set_num_threads(threads)
    whole = dict(model.named_parameters())
    assert sharded.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(sharded[name], whole[name].detach(), rtol=0, atol=1e-4)  # a step moves a weight by 1e-2


def test_accelerate_reads_the_configurations():
    ddp, fsdp = (load_config_from_file(str(ACCELERATE / f"{name}.yaml")) for name in ("ddp", "fsdp"))
    assert ddp.distributed_type == "MULTI_GPU"
    assert fsdp.distributed_type == "FSDP"
    assert fsdp.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == VideoMambaLayer.__name__
