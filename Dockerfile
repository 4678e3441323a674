# rmeeto-bench on CUDA: docker run --gpus all -v "$PWD/runs:/work/runs" rmeeto-bench
# The base is built for CUDA 12.6, which still serves V100 (sm_70) and everything up to H200; choose another with
# --build-arg BASE=...
ARG BASE=pytorch/pytorch:2.6.0-cuda12.6-cudnn9-devel
FROM ${BASE}

# g++ builds the CPU kernels on first use
RUN apt-get update && apt-get install --no-install-recommends -y g++ git && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY rmeeto_bench rmeeto_bench
COPY profiles profiles
COPY results/paper results/paper
# the image's own torch stays
RUN pip install --no-cache-dir .

WORKDIR /work
ENTRYPOINT ["rmeeto-bench"]
