"""Fully sharded data parallelism, over gloo on the CPU. (accelerate offers it on GPUs only: the command in docs/fine-tune.md is
read, not run.)"""

import re
import shlex

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.commands.launch import launch_command_parser
from torch.distributed.fsdp import fully_shard

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.modeling_videomamba import VideoMambaLayer
from modeling_videomamba.training.optimization import parameter_groups, parameter_settings
from tests.conftest import ROOT, small_config


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


def test_accelerate_understands_the_command_of_the_guide():
    guide = (ROOT / "docs/fine-tune.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = re.findall(r"^accelerate launch (.* --use_fsdp .*)$", guide, re.MULTILINE)
    args = launch_command_parser().parse_args(shlex.split(command))
    assert args.use_fsdp
    assert args.fsdp_transformer_layer_cls_to_wrap == VideoMambaLayer.__name__
    assert args.module
    assert args.training_script == "modeling_videomamba"
    assert args.training_script_args[0] == "finetune"
