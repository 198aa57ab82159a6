"""What each Triton kernel asks of an NVIDIA GPU, from the compiled code: no GPU is needed.

    python -m benchmarks.kernel_resources

Registers of a thread and bytes that it spills; of the innermost loop, the instructions, those for an exponential of the
recurrence, and the shuffles. An SM of Ampere or Hopper can start instructions of 128 threads a cycle, but exponentials of 16
only: with up to 8 instructions for one exponential these bind, with more the instructions do.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.common import RESULTS, provenance
from modeling_videomamba import causal_conv1d_triton, selective_scan_triton_kernels
from modeling_videomamba import selective_scan_triton as launches


BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"
PAIR = ("*bf16", "*bf16")
POINTERS = {  # those not named are to fp32; pairs have one for each direction
    **dict.fromkeys(("u", "delta", "B", "C", "outputs", "grads"), PAIR),
    **dict.fromkeys(("A", "D", "bias", "weights", "biases"), ("*fp32", "*fp32")),
    **dict.fromkeys(("gate", "grad", "y", "output", "du", "ddelta", "dgate", "x", "dx", "before"), "*bf16"),
}
SIZES = ("batch", "length", "chunk_length", "chunks")
STRIDES = ("dim", "map_stride", "gate_stride", "stride")  # multiples of 16 in all released models
SCAN = {"DIRECTIONS": 2, "REVERSE": 2, "SOFTPLUS": True, "PACKED": True, "STATE": 16}
CONVOLUTION = {"DIRECTIONS": 2, "REVERSE": 2, "WIDTH": 4}
ALONE, UNGATED = {"starts": None}, {"gate": None, "y": None, "dgate": None}  # a single chunk; no gate
scan, convolution = selective_scan_triton_kernels, causal_conv1d_triton
TILE = {"ROWS": convolution.ROWS, "CHANNELS": convolution.CHANNELS}
KERNELS = {  # name: kernel, its tile, other constants, warps, states that its innermost loop takes
    "summaries": (scan.summaries_kernel, launches.SUMMARIES, SCAN | {"ADJOINT": 0}, 1, 16),
    "summaries of adjoints": (scan.summaries_kernel, launches.SUMMARIES, SCAN | {"ADJOINT": 1}, 1, 16),
    "summaries of adjoints without gate": (scan.summaries_kernel, launches.SUMMARIES, SCAN | UNGATED | {"ADJOINT": 1}, 1, 16),
    "join": (scan.join_kernel, launches.JOIN, SCAN, 1, 1),
    "outputs": (scan.outputs_kernel, launches.OUTPUTS, SCAN, 1, 16),
    "outputs of one chunk without gate": (scan.outputs_kernel, launches.OUTPUTS, SCAN | ALONE | UNGATED, 1, 16),
    "tile states": (scan.tile_states_kernel, launches.BACKWARD, SCAN, 1, 16),
    "tile states of one chunk": (scan.tile_states_kernel, launches.BACKWARD, SCAN | ALONE, 1, 16),
    "gradients": (scan.gradients_kernel, launches.BACKWARD, SCAN, 1, 1),
    "gradients without gate": (scan.gradients_kernel, launches.BACKWARD, SCAN | UNGATED, 1, 1),
    "convolutions": (convolution._forward_kernel, TILE, CONVOLUTION, 4, None),
    "convolutions backward to SiLU": (convolution._before_silu_kernel, TILE, CONVOLUTION, 4, None),
    "convolutions' gradients": (convolution._gradients_kernel, convolution.SUMMED, CONVOLUTION, 1, None),
}


def compile_kernel(kernel: triton.JITFunction, constants: dict[str, int | None], warps: int, architecture: int) -> bytes:
    """The binary of a kernel for bf16 tensors, aligned as PyTorch allocates them."""
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        signature[name] = (
            "constexpr" if name in constants else "i32" if name in SIZES + STRIDES else POINTERS.get(name, "*fp32")
        )
        if isinstance(signature[name], tuple):
            attributes |= {(i, j): [["tt.divisibility", 16]] for j in range(2)}
        elif name not in constants and name not in SIZES:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {k: v for k, v in constants.items() if k in kernel.arg_names}, attributes)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": True}).asm["cubin"]


def innermost_loop(listing: str) -> list[str]:
    """Instructions of the shortest piece of code that ends in a jump back to its start; of all, if there is none."""
    labels, instructions, loops = {}, [], []
    for line in listing.splitlines():
        if label := re.match(r"\s*\.(L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        if instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?(.*?);", line):
            instructions.append(instruction[1])
            jump = re.search(r"^BRA.*`\(\.(L_x_\d+)\)", instruction[1])
            if jump and labels.get(jump[1], len(instructions)) < len(instructions) - 1:
                loops.append(instructions[labels[jump[1]] :])
    return min(loops, key=len, default=instructions)


def resources(name: str, architecture: int) -> list[float]:
    kernel, tile, constants, warps, states = KERNELS[name]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compile_kernel(kernel, tile | constants, warps, architecture))
        file.flush()
        tools = {"usage": ("cuobjdump", "-res-usage"), "listing": ("nvdisasm", "-c")}
        text = {
            key: subprocess.run([BINARIES / tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for key, (tool, flag) in tools.items()
        }
    registers, spilled = map(int, re.search(r"REG:(\d+) STACK:(\d+)", text["usage"]).groups())
    loop = innermost_loop(text["listing"])
    kinds = Counter(instruction.split(".")[0].split()[0] for instruction in loop)
    per_exponential = len(loop) / (tile["STEPS"] * tile["CHANNELS"] // 32 * states) if states else float("nan")
    return [registers, spilled, len(loop), round(per_exponential, 1), kinds["SHFL"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", type=int, default=90, help="compute capability, 90 for 9.0")
    parser.add_argument("--csv", action="store_true", help="only print, as comma-separated values")
    parser.add_argument("--output", type=Path, default=RESULTS / "kernel_resources.md")
    args = parser.parse_args()
    header = ["kernel", "registers", "bytes spilled", "instructions", "instructions / exp", "shuffles"]
    rows = [[name, *resources(name, args.architecture)] for name in KERNELS]
    if args.csv:
        print(*(",".join(map(str, row)) for row in (header, *rows)), sep="\n")
        return
    lines = [" | ".join(str(x) for x in row).replace("nan", "–") for row in (header, ["---"] * len(header), *rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    measured_on = f"Compiled for compute capability {args.architecture / 10}, bf16, 16 states; Triton {triton.__version__}; "
    measured_on += provenance().split("; ")[-1]
    args.output.write_text(f"{__doc__.splitlines()[0]}\n\n{measured_on}\n\n{table}\n")
    print(measured_on, table, sep="\n")


if __name__ == "__main__":
    main()
