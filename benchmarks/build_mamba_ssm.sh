#!/usr/bin/env bash
# Builds mamba-ssm and causal-conv1d from their source packages for one architecture, for the comparison in gpu.py.
# Needs nvcc of the CUDA version that PyTorch was built with, ninja and einops, and some minutes on many cores.
#
#     benchmarks/build_mamba_ssm.sh [ARCHITECTURE, default 9.0] [FOLDER WITH THE TWO *.tar.gz, default: they are downloaded]
set -euo pipefail
architecture=${1:-9.0}
sources=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$sources" ]; then
    sources=$work
    pip install --quiet einops ninja packaging
    pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest "$work" causal-conv1d mamba-ssm
fi
export TORCH_CUDA_ARCH_LIST=$architecture CAUSAL_CONV1D_FORCE_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE MAX_JOBS=${MAX_JOBS:-$(nproc)}
for package in causal_conv1d mamba_ssm; do
    mkdir "$work/$package"
    tar -xzf "$sources"/$package-*.tar.gz -C "$work/$package" --strip-components 1
    # Their setup.py adds six architectures to the one that is asked for.
    sed -i -E 's/cc_flag\.append\("(-gencode|arch=[^"]*)"\)/pass/' "$work/$package/setup.py"
    pip install --no-deps --no-build-isolation "$work/$package"
done
python -c "import torch, selective_scan_cuda, causal_conv1d; from mamba_ssm.ops.selective_scan_interface import selective_scan_fn"
