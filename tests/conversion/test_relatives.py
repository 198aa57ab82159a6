"""Checkpoints of other models are called what they are, also those whose tensors have VideoMamba's names and shapes."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file

from modeling_videomamba.checkpoints.checkpoint_file import CheckpointError
from modeling_videomamba.checkpoints.converter import convert
from tests.conftest import FIXTURES, golden


IMAGE = load_file(golden("image_cls_base").checkpoint)
VIDEO = load_file(FIXTURES / "pth_checkpoints" / "checkpoint.safetensors")
VIM_MODEL = "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"


@pytest.fixture
def saved(tmp_path):
    """Saves a state dict, with the arguments of a training loop if any are given."""

    def save_as(name="checkpoint.pth", tensors=IMAGE, **arguments):
        torch.save({"model": tensors} | ({"args": Namespace(**arguments)} if arguments else {}), tmp_path / name)
        return tmp_path / name

    return save_as


def trained_positions(cls_row: int) -> torch.Tensor:
    """Position embeddings `(1, 1 + 4 * 4, 48)` as training leaves them: neighbours alike, the class token like none."""
    generator = torch.Generator().manual_seed(0)
    rows, columns, shared, cls = (torch.randn(n, 48, generator=generator) for n in (4, 4, 1, 1))
    patches = (shared + 0.3 * rows[:, None] + 0.3 * columns[None]).flatten(0, 1)
    return torch.cat((patches[:cls_row], cls, patches[cls_row:]))[None]


def vim_steps() -> dict[str, torch.Tensor]:
    """The image checkpoint with biases of the time steps as Vim's training starts."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict(IMAGE)
    for name, tensor in IMAGE.items():
        if name.endswith("dt_proj.bias"):
            steps = torch.empty_like(tensor).uniform_(-6.9, -2.3, generator=generator).exp()  # 0.001 to 0.1
            tensors[name] = steps + (-(-steps).expm1()).log()  # the inverse of softplus
        elif name.endswith("dt_proj_b.bias"):
            tensors[name] = torch.zeros_like(tensor)
    return tensors


class TestVim:
    """Same names, same shapes, the same 2-D patch kernel as VideoMamba's image models: only the rest of a file tells."""

    def refused(self, path, why):
        with pytest.raises(CheckpointError, match=rf"is a checkpoint of Vision Mamba \(Vim\), not of VideoMamba: .*{why}"):
            convert(path)
        assert convert(path, assume_videomamba=True)

    def test_by_the_model_that_was_trained(self, saved):
        self.refused(saved(model=VIM_MODEL), f"--model {VIM_MODEL}")

    def test_by_an_argument_that_only_its_training_has(self, saved):
        self.refused(saved(if_random_cls_token_position=False), "if_random_cls_token_position")

    @pytest.mark.parametrize("name", ["vim_t_midclstok_76p1acc.pth", "vim_s_midclstok_80p5acc.pth", "Vim-Base.pth"])
    def test_by_the_name_of_its_files(self, saved, name):
        self.refused(saved(name), "the name of the file")

    def test_by_how_its_time_steps_start(self, saved):
        self.refused(saved(tensors=vim_steps()), "forward time steps started small")

    def test_by_where_its_class_token_is(self, saved):
        self.refused(saved(tensors=IMAGE | {"pos_embed": trained_positions(cls_row=8)}), "the middle row of pos_embed")

    def test_by_names_of_its_variants(self, saved):
        for name in ("cls_token_head", "layers.0.mixer.gamma"):
            tensors = IMAGE | {name: torch.ones(1)}
            tensors.pop("cls_token") if name == "cls_token_head" else None
            with pytest.raises(CheckpointError, match=rf"Not a checkpoint of VideoMamba, but of Vision Mamba \(Vim\).*{name}"):
                convert(saved(tensors=tensors))


class TestVideoMambaPro:
    @pytest.mark.parametrize("tensors", [IMAGE, VIDEO], ids=["image", "video"])
    def test_by_the_name_of_its_files(self, saved, tensors):
        with pytest.raises(CheckpointError, match="is a checkpoint of VideoMambaPro, not of VideoMamba"):
            convert(saved("videomambapro_s16_in1k_res224.pth", tensors, model="videomamba_small"))

    def test_by_its_mask(self, saved):
        masked = {name: tensor.clone() for name, tensor in VIDEO.items()}
        for name in masked:
            if name.endswith("A_b_log"):
                masked[name].diagonal().zero_()
        with pytest.raises(CheckpointError, match="is a checkpoint of VideoMambaPro.*diagonals of all A_b_log are 0"):
            convert(saved(tensors=masked))

    def test_the_masks_of_some_layers_tell_nothing(self, saved):
        some = VIDEO | {"layers.0.mixer.A_b_log": VIDEO["layers.0.mixer.A_b_log"].clone()}
        some["layers.0.mixer.A_b_log"].diagonal().zero_()
        assert convert(saved(tensors=some))


class TestVideoMambaItself:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"name": "videomamba_t16_in1k_res224.pth"},  # a released file
            {"model": "videomamba_tiny"},
            {"model": "videomamba_tiny", "name": "vim_tiny_baseline.pth"},
            {"tensors": VIDEO},
        ],
        ids=["released", "trained", "trained, named like Vim", "video"],
    )
    def test_is_converted_without_a_remark(self, saved, arguments):
        _, remarks = convert(saved(**arguments))
        assert not any("Vim" in remark for remark in remarks)

    def test_trained_positions_with_the_class_token_in_front(self, saved):
        assert convert(saved(tensors=IMAGE | {"pos_embed": trained_positions(cls_row=0)}))

    def test_an_image_model_of_which_nothing_is_known_is_converted_with_a_warning(self, saved):
        _, remarks = convert(saved())
        assert any(remark.startswith("beware: nothing in the file says whose") for remark in remarks)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("Mamba, the language model", ["backbone.embedding.weight", "backbone.layers.0.mixer.A_log"]),
        ("Mamba-2", ["backbone.layers.0.mixer.dt_bias", "backbone.layers.0.mixer.A_log"]),
        ("VMamba", ["patch_embed.0.weight", "layers.0.blocks.0.op.A_logs"]),
        ("MambaVision", ["patch_embed.conv_down.0.weight", "levels.0.blocks.0.conv1.weight"]),
        ("TimeSformer", ["timesformer.embeddings.cls_token"]),
        ("TimeSformer", ["model.cls_token", "model.blocks.0.temporal_attn.qkv.weight"]),
        ("VideoMAE", ["videomae.encoder.layer.0.attention.attention.q_bias"]),
        ("VideoMAE", ["encoder.blocks.0.attn.q_bias", "encoder_to_decoder.weight"]),
        ("a vision transformer", ["cls_token", "pos_embed", "blocks.0.attn.qkv.weight"]),
        ("CLIP", ["visual.conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"]),
        ("BERT", ["bert.embeddings.word_embeddings.weight"]),
        ("weights that this package wrote", ["videomamba.embeddings.cls_token"]),
    ],
)
def test_another_model_is_named(saved, model, names):
    with pytest.raises(CheckpointError, match=rf"^Not .*{model}.* (it has|they have) \S+\."):
        convert(saved(tensors={name: torch.ones(2, 2) for name in names}))
