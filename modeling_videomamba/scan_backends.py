"""The backends of the selective scan and of the convolutions before it, and the choice among them.

| backend     | runs on                | needs                                           | two directions             |
|-------------|------------------------|-------------------------------------------------|----------------------------|
| `triton`    | NVIDIA (ROCm: untried) | nothing: PyTorch for CUDA brings Triton         | in one kernel, no copies   |
| `mamba_ssm` | NVIDIA                 | mamba_ssm with its CUDA extension, or `kernels` | one by one, flipped copies |
| `numba`     | CPU                    | nothing: Numba is a dependency                  | in one walk, no copies     |
| `torch`     | any device             | nothing                                         | one recurrence, no copies  |

The backend is chosen at every call, by the device of the tensors: a model moved to the CPU goes on working on a machine that
has CUDA kernels installed.

A new backend is a file with the functions of [`Kernels`], and an entry in [`BACKENDS`]. `scan_operators.py` makes custom
operators of them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from transformers.utils import logging

from .operators import is_transformed
from .scan_contract import Kernels


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Backend:
    """One implementation of the scan, and what it can take.

    Attributes:
        load: imports its functions. Whatever this raises is why the backend cannot run.
        device_type: of the tensors; `None` for any.
        dtypes: of the tensors; `None` for any.
        largest_state: the most state numbers of a channel; `None` for any.
        is_opaque: whether the transforms of `torch.func` cannot look into it.
    """

    load: Callable[[], Kernels]
    device_type: str | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    largest_state: int | None = None
    is_opaque: bool = False

    def why_not(self, device_type: str, dtype: torch.dtype, state_size: int) -> str | None:
        """Why it cannot take such tensors, if it can be loaded; `None` if it can."""
        if self.is_opaque and is_transformed():
            return "transforms of torch.func cannot look into it"
        if self.device_type not in (None, device_type):
            return f"it needs {self.device_type.upper()} tensors, these are on {device_type}"
        if self.dtypes is not None and dtype not in self.dtypes:
            return f"it takes {', '.join(map(_short, self.dtypes))}, these are {_short(dtype)}"
        if self.largest_state is not None and state_size > self.largest_state:
            return f"it takes up to {self.largest_state} state numbers, here are {state_size}"
        return None


# The imports are spelt out in functions: transformers reads from them which files a saved model needs.


def _triton() -> Kernels:
    from .causal_conv1d_triton import convolve, convolve_backward
    from .selective_scan_triton import check_device, continue_scan, scan, scan_backward, starts_shape

    check_device()
    return Kernels(convolve, scan, convolve_backward, scan_backward, starts_shape, continue_scan)


def _mamba_ssm() -> Kernels:
    from .selective_scan_mamba_ssm import convolve, scan

    return Kernels(convolve, scan)


def _numba() -> Kernels:
    from .causal_conv1d_numba import convolve, convolve_backward
    from .selective_scan_numba import continue_scan, scan, scan_backward, starts_shape

    return Kernels(convolve, scan, convolve_backward, scan_backward, starts_shape, continue_scan)


def _torch() -> Kernels:
    from .causal_conv1d_torch import convolve
    from .selective_scan_torch import continue_scan, scan, scan_backward, starts_shape

    return Kernels(convolve, scan, None, scan_backward, starts_shape, continue_scan)


FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
BACKENDS = {  # in the order in which "auto" prefers them
    "triton": Backend(_triton, "cuda", (FP32, FP16, BF16), largest_state=32),
    "mamba_ssm": Backend(_mamba_ssm, "cuda", (FP32, FP16, BF16), is_opaque=True),
    "numba": Backend(_numba, "cpu", (FP32, BF16)),
    "torch": Backend(_torch),
}
SCAN_IMPLEMENTATIONS = tuple(BACKENDS)  # what `scan_implementation` in the configuration may be, besides "auto"


def choose_backend(
    implementation: str, device: torch.device | str, dtype: torch.dtype = torch.float32, state_size: int = 16
) -> str:
    """The backend that a scan of tensors of `dtype` on `device` runs.

    Raises:
        ValueError: if there is no backend of that name.
        RuntimeError: if that backend cannot run such tensors.
    """
    if implementation not in ("auto", *BACKENDS):
        raise ValueError(f"Unknown scan implementation {implementation!r}: choose one of {', '.join(('auto', *BACKENDS))}.")
    device_type = torch.device(device).type
    if implementation == "auto":
        if not torch.compiler.is_compiling():
            _report_once(device_type)
        return next(name for name in BACKENDS if _why_not(name, device_type, dtype, state_size) is None)
    if implementation == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        device_type = "cuda"  # Triton's interpreter takes tensors of any device
    if (reason := _why_not(implementation, device_type, dtype, state_size)) is not None:
        raise RuntimeError(f"The scan implementation {implementation!r} cannot run: {reason}.")
    return implementation


def scan_report(device: torch.device | str | None = None) -> str:
    """One line that says which backend `"auto"` takes on `device` (default: CUDA if present), and why not others."""
    device_type = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    reasons = {name: _why_not(name, device_type) for name in BACKENDS}
    chosen = next(name for name, reason in reasons.items() if reason is None)
    refused = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    return f"selective scan on {device_type}: {chosen}" + (f" (not {'; '.join(refused)})" if refused else "")


@cache
def _report_once(device_type: str) -> None:
    logger.info(scan_report(device_type))


def _why_not(name: str, device_type: str, dtype: torch.dtype = torch.float32, state_size: int = 16) -> str | None:
    """Why a backend cannot run on such tensors; `None` if it can."""
    return BACKENDS[name].why_not(device_type, dtype, state_size) or why_not_loadable(name)


_LOADED: dict[str, Kernels | str] = {}  # not functools.cache, which torch.compile cannot look into


def load(name: str) -> Kernels | str:
    """The functions of a backend, or why they cannot be imported."""
    if name not in _LOADED:
        try:
            _LOADED[name] = BACKENDS[name].load()
        except Exception as error:  # a broken build can raise anything: an undefined symbol, a missing library
            _LOADED[name] = f"{type(error).__name__}: {error}"
    return _LOADED[name]


def why_not_loadable(name: str) -> str | None:
    """Why a backend cannot be imported; `None` if it can."""
    loaded = load(name)
    return loaded if isinstance(loaded, str) else None


def load_all() -> None:
    """Imports what can run here, now: torch.compile cannot import it later."""
    for name, backend in BACKENDS.items():
        if backend.device_type != "cuda" or torch.cuda.is_available():
            load(name)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


__all__ = ["BACKENDS", "SCAN_IMPLEMENTATIONS", "choose_backend", "load", "load_all", "scan_report", "why_not_loadable"]
