# syntax=docker/dockerfile:1
# rmeeto-bench in containers. Choose one of the last stages with --target:
#
#   docker build --target cpu     -t rmeeto-bench:cpu     --build-arg TORCH_INDEX=<index of CPU wheels, pytorch.org says which> .
#   docker build --target cuda13  -t rmeeto-bench         .        # Ampere and newer (sm_80 and up)
#   docker build --target cuda126 -t rmeeto-bench:cuda126 .        # V100: CUDA 13 dropped sm_70
#   docker build --target cuda13-mamba  --build-arg ARCHS="80 90" -t rmeeto-bench:mamba .     # also mamba-ssm, causal-conv1d
#   docker build --target cuda126-mamba --build-arg ARCHS="70"    -t rmeeto-bench:volta-mamba .
#
#   docker run --gpus all --rm --hostname "$(hostname)" -v "$PWD/runs:/work/runs" rmeeto-bench --quick
#
# The torch wheels bring CUDA with them, so that only the driver comes from the host and the runtime images need no toolkit.
# Everything is pinned, with hashes, by locks/*.txt (made by locks/lock.sh). --build-arg VERSION names a build from a tree
# without tags.

ARG PYTHON=3.12-slim-bookworm

# ---------------------------------------------------------------- the wheel of this checkout
FROM python:${PYTHON} AS wheel
ARG VERSION=
# g++ compiles the CPU kernels into the wheel; its version is the base image's
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends -y g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY locks/build.txt locks/build.txt
RUN pip install --no-cache-dir --require-hashes -r locks/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY rmeeto_bench rmeeto_bench
COPY profiles profiles
COPY results/paper results/paper
RUN SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION:-0.1.0} python -m build --no-isolation --wheel --outdir /dist

# ---------------------------------------------------------------- what all images share
FROM python:${PYTHON} AS base
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="rmeeto-bench" \
      org.opencontainers.image.description="Speed and accuracy of token-merged Vision Mamba models" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
# g++: Triton compiles its launchers, and the mamba stages need it; its version is the base image's
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 bench \
    && install --directory --owner bench /work /work/runs
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
HEALTHCHECK NONE

# ---------------------------------------------------------------- CPU
FROM base AS cpu
ARG TORCH_INDEX=
COPY locks/cpu.txt locks/cpu-torch.txt /locks/
RUN pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} -r /locks/cpu-torch.txt \
    && pip install --require-hashes --no-deps -r /locks/cpu.txt
COPY --from=wheel /dist /dist
RUN pip install --no-deps --no-index /dist/*.whl && rmeeto-bench --version
USER 1000
ENTRYPOINT ["rmeeto-bench"]
CMD ["--gpus", "none", "--quick"]

# ---------------------------------------------------------------- CUDA 13: Ampere and newer
FROM base AS cuda13-env
COPY locks/cuda13.txt /locks/
RUN pip install --require-hashes --no-deps -r /locks/cuda13.txt

FROM cuda13-env AS cuda13
COPY --from=wheel /dist /dist
RUN pip install --no-deps --no-index /dist/*.whl && rmeeto-bench --version
USER 1000
ENTRYPOINT ["rmeeto-bench"]

# ---------------------------------------------------------------- CUDA 12.6: V100
FROM base AS cuda126-env
COPY locks/cuda126.txt /locks/
RUN pip install --require-hashes --no-deps -r /locks/cuda126.txt

FROM cuda126-env AS cuda126
COPY --from=wheel /dist /dist
RUN pip install --no-deps --no-index /dist/*.whl && rmeeto-bench --version
USER 1000
ENTRYPOINT ["rmeeto-bench"]

# ---------------------------------------------------------------- mamba-ssm and causal-conv1d for the architectures in ARCHS
# Their setup.py asks nvcc for a fixed list of architectures; the wrapper puts ours in its place. One architecture takes
# minutes on a large machine, each more of them as long again. What they need beside torch is in locks/mamba-*-needs.txt.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS nvcc13
FROM nvidia/cuda:12.6.3-devel-ubuntu24.04 AS nvcc126

FROM cuda13-env AS mamba13
ARG ARCHS="80 86 89 90"
ARG JOBS=4
COPY --from=nvcc13 /usr/local/cuda /usr/local/cuda
COPY locks/build.txt locks/mamba-cuda13.txt /locks/
COPY docker/nvcc_archs.py /usr/local/bin/nvcc-archs
RUN chmod 755 /usr/local/bin/nvcc-archs && pip install --require-hashes -r /locks/build.txt
RUN CUDA_HOME=/usr/local/cuda PYTORCH_NVCC=/usr/local/bin/nvcc-archs NVCC_ARCHS="${ARCHS}" MAX_JOBS="${JOBS}" \
    MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
    pip wheel --no-deps --no-build-isolation --require-hashes --wheel-dir /mamba -r /locks/mamba-cuda13.txt

FROM cuda13 AS cuda13-mamba
USER 0
COPY locks/mamba-cuda13-needs.txt /locks/
COPY --from=mamba13 /mamba /mamba
RUN pip install --require-hashes --no-deps -r /locks/mamba-cuda13-needs.txt \
    && pip install --no-deps --no-index /mamba/*.whl
USER 1000

FROM cuda126-env AS mamba126
ARG ARCHS="70"
ARG JOBS=4
COPY --from=nvcc126 /usr/local/cuda /usr/local/cuda
COPY locks/build.txt locks/mamba-cuda126.txt /locks/
COPY docker/nvcc_archs.py /usr/local/bin/nvcc-archs
RUN chmod 755 /usr/local/bin/nvcc-archs && pip install --require-hashes -r /locks/build.txt
RUN CUDA_HOME=/usr/local/cuda PYTORCH_NVCC=/usr/local/bin/nvcc-archs NVCC_ARCHS="${ARCHS}" MAX_JOBS="${JOBS}" \
    MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
    pip wheel --no-deps --no-build-isolation --require-hashes --wheel-dir /mamba -r /locks/mamba-cuda126.txt

FROM cuda126 AS cuda126-mamba
USER 0
COPY locks/mamba-cuda126-needs.txt /locks/
COPY --from=mamba126 /mamba /mamba
RUN pip install --require-hashes --no-deps -r /locks/mamba-cuda126-needs.txt \
    && pip install --no-deps --no-index /mamba/*.whl
USER 1000

# ---------------------------------------------------------------- the default: docker build . gives the CUDA 13 image
FROM cuda13 AS default
