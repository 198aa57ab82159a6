"""What two processes train together is what one would: a model in shards, and pairs that are contrasted with all others.

Over gloo on the CPU. accelerate shards models on GPUs only: the command of the guide is read here, not run.
"""

import re
import shlex
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate.commands.launch import launch_command_parser
from torch.distributed.fsdp import fully_shard

from modeling_videomamba import VideoMambaForVideoClassification
from modeling_videomamba.modeling_videomamba import VideoMambaLayer
from modeling_videomamba.training.parameter_groups import parameter_groups, parameter_settings
from modeling_videomamba.video_text_losses import contrastive_loss
from tests.conftest import ROOT, small_config
from tests.training.processes import in_two_processes
from tests.training_runs import assert_equal


pytestmark = pytest.mark.usefixtures("one_thread")


def train(model: torch.nn.Module, settings: dict, pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), settings, learning_rate=1e-2))
    for _ in range(2):
        model(pixel_values=pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def model_and_batch() -> tuple:
    torch.manual_seed(0)
    model = VideoMambaForVideoClassification(small_config()).train()
    return model, parameter_settings(model, 0.05, 0.75, "true"), torch.randn(4, 4, 3, 32, 32), torch.arange(4)


def train_a_shard(rank: int, directory: Path) -> None:
    model, settings, pixel_values, labels = model_and_batch()
    mesh = dist.init_device_mesh("cpu", (2,))
    for module in model.modules():
        if isinstance(module, VideoMambaLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(model, settings, pixel_values[rank::2], labels[rank::2])
    weights = {name: parameter.full_tensor().detach() for name, parameter in model.named_parameters()}
    if rank == 0:
        torch.save(weights, directory / "weights.pt")


def test_two_shards_train_as_the_whole_model(tmp_path):
    in_two_processes(train_a_shard, tmp_path)
    sharded = torch.load(tmp_path / "weights.pt")
    model, *rest = model_and_batch()
    train(model, *rest)
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


def embeddings_and_ids() -> tuple:
    """Of eight pairs, of which two are of one video, from parameters that a gradient can go to."""
    random = torch.Generator().manual_seed(0)
    video = torch.randn(8, 4, 16, generator=random, requires_grad=True)
    text = torch.randn(8, 16, generator=random, requires_grad=True)
    return video, text, torch.tensor(0.1, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 1, 6, 7])


def loss_of(video: torch.Tensor, text: torch.Tensor, temperature: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return contrastive_loss(F.normalize(video, dim=-1), F.normalize(text, dim=-1), temperature, ids)


def contrast_a_half(rank: int, directory: Path) -> None:
    video, text, temperature, ids = embeddings_and_ids()
    half = slice(4 * rank, 4 * rank + 4)
    loss = loss_of(video[half], text[half], temperature, ids[half])
    loss.backward()
    results = {"loss": loss.detach(), "video": video.grad, "text": text.grad, "temperature": temperature.grad}
    for tensor in results.values():
        dist.all_reduce(tensor)
        tensor /= 2  # as DistributedDataParallel does
    if rank == 0:
        torch.save(results, directory / "results.pt")


def test_two_processes_contrast_as_one_with_the_joined_batch(tmp_path):
    in_two_processes(contrast_a_half, tmp_path)
    video, text, temperature, ids = embeddings_and_ids()
    loss = loss_of(video, text, temperature, ids)
    loss.backward()
    results = {"loss": loss.detach(), "video": video.grad, "text": text.grad, "temperature": temperature.grad}
    assert_equal(torch.load(tmp_path / "results.pt"), results, rtol=0, atol=1e-5)
