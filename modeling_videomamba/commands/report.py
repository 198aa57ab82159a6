"""Tells versions, devices, and which scan runs on each and why. Paste it into a report of a problem.

videomamba report
"""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch
from huggingface_hub import constants

from .. import __version__, scan_report
from .parser import DataclassParser


PACKAGES = ("torch", "torchvision", "torchcodec", "av", "numpy", "transformers", "huggingface_hub", "accelerate", "datasets")
KERNELS = ("numba", "triton", "mamba-ssm", "causal-conv1d")


def main(argv: list[str] | None = None) -> None:
    DataclassParser(description=__doc__).parse_args(argv)
    print(f"modeling-videomamba  {__version__}, in {Path(__file__).parents[1]}")
    print(f"Python               {platform.python_version()}, {platform.platform()}")
    for package in (*PACKAGES, *KERNELS):
        print(f"{package:20} {version_of(package)}")
    vectors, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    print(f"\nprocessor            {processor()}, {vectors}, {threads} threads")
    for device in devices():
        print(f"{device:20} {describe(device)}")
    print(f"cache of the hub     {constants.HF_HUB_CACHE}")
    print()
    for device in ("cpu", *devices()):
        chosen, _, reasons = scan_report(device).partition(" (")
        print(chosen)
        for reason in filter(None, reasons.rstrip(")").removeprefix("not ").split("; ")):
            print(f"  not {reason}")


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The name that Linux has for it, or what Python knows."""
    if (file := Path("/proc/cpuinfo")).exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def devices() -> list[str]:
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def describe(device: str) -> str:
    if not device.startswith("cuda"):
        return "Apple's GPU"
    properties = torch.cuda.get_device_properties(device)
    capability = f"{properties.major}.{properties.minor}"
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {capability}"
