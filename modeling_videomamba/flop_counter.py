"""The cost of a forward pass, counted from the configuration alone."""

from .configuration_videomamba import VideoMambaConfig


# What the paper's figures count: the tool that made them does not look inside the fused scan.
PAPER_PARTS = ("patch_embedding", "in_proj", "out_proj", "norms", "head")


def count_flops(
    config: VideoMambaConfig,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    paper: bool = False,
) -> int:
    """FLOPs of one forward pass of one clip through the classifier, as the papers of this field count them.

    That is, one multiply-add counts as one FLOP. See [`count_flops_by_part`] for what is counted.

    Args:
        config: the architecture.
        num_frames (`int`, *optional*): frames of the clip, if not those of the configuration.
        image_size (`int` or `(height, width)`, *optional*): frame size in pixels, if not that of the configuration.
        paper (`bool`): whether to leave out what the paper leaves out, convolution, x_proj, dt_proj, scan and gate. That gives
            its printed figures; the full count is higher by 49 % (tiny), 29 % (small), 22 % (middle), 19 % (base).
    """
    parts = count_flops_by_part(config, num_frames, image_size)
    return sum(flops for name, flops in parts.items() if name in PAPER_PARTS or not paper)


def count_flops_by_part(
    config: VideoMambaConfig, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
) -> dict[str, int]:
    """FLOPs of one forward pass of one clip, by part of the model, all blocks together. Arguments: see [`count_flops`].

    A multiply-add counts as one, and so does a product, a sum, an exponential or another function of one number that stands
    alone. With d = `hidden_size`, E = `intermediate_size`, N = `state_size`, R = `time_step_rank`, a token costs

    | part              | FLOPs                        | how often                     |
    |-------------------|------------------------------|-------------------------------|
    | `patch_embedding` | numbers in a patch times d   | once, but not for CLS         |
    | `in_proj`         | 2 d E                        | every block                   |
    | `convolution`     | `conv_kernel` E, E for SiLU  | every scan of every block     |
    | `x_proj`          | (R + 2 N) E                  | every scan of every block     |
    | `dt_proj`         | R E                          | every scan of every block     |
    | `scan`            | (5 N + 3) E                  | every scan of every block     |
    | `gate`            | E for SiLU, E                | every block                   |
    | `out_proj`        | d E                          | every block                   |
    | `norms`           | 5 d                          | every block, once at the end  |
    | `head`            | d `num_labels`               | once, for CLS only            |

    A block makes one scan a direction; with `scan_order="spatiotemporal_v2"` one a direction and order.

    The scan's 5 N + 3 for one token of one channel: for each of the N numbers of the state the product delta A, its
    exponential, the product of delta u and B, the multiply-add with the previous state, and the multiply-add of the output
    with C; once the softplus of delta, the product delta u, and the multiply-add of D u.

    Biases and the sum of the directions cost nothing, since an addend can be where a sum of products starts. A norm's 5 are
    what the usual counters take for a LayerNorm, RMSNorm or not. Left out, less than a thousandth at the released sizes:
    position embeddings, residual additions, A from its logarithm.
    """
    changes = {"num_frames": num_frames, "image_size": image_size}
    config = type(config).from_dict(config.to_dict() | {name: x for name, x in changes.items() if x is not None})
    rows, columns = config.grid_size
    patches = config.num_temporal_positions * rows * columns
    tokens = 1 + patches
    layers, width, channels = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    rank, state = config.time_step_rank, config.state_size
    scans = (2 if config.bidirectional else 1) * (2 if config.scan_order == "spatiotemporal_v2" else 1)
    patch = config.num_channels * config.tubelet_size * config.patch_size**2
    return {
        "patch_embedding": patches * patch * width,
        "in_proj": layers * tokens * 2 * width * channels,
        "convolution": layers * scans * tokens * (config.conv_kernel + 1) * channels,
        "x_proj": layers * scans * tokens * channels * (rank + 2 * state),
        "dt_proj": layers * scans * tokens * rank * channels,
        "scan": layers * scans * tokens * (5 * state + 3) * channels,
        "gate": layers * tokens * 2 * channels,
        "out_proj": layers * tokens * channels * width,
        "norms": (layers + 1) * tokens * 5 * width,
        "head": width * config.num_labels,
    }


__all__ = ["count_flops", "count_flops_by_part"]
