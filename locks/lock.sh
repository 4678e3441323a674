#!/usr/bin/env bash
# Makes the lock files anew: bash locks/lock.sh. Needs uv (pip install 'rmeeto-bench[release]') and an index of packages.
#
# cuda13.txt     torch as the default index has it: CUDA 13, sm_75 and newer; the newest torch the tests have passed with
# cuda126.txt    the last torch that the default index has for CUDA 12.6, for V100
# cpu.txt        cuda13.txt without torch and what only a GPU needs; cpu-torch.txt is the torch that goes with it
# build.txt      what builds the wheels
# mamba-*.txt    the optional packages, as sources (2.3.1 is the last mamba-ssm that compiles for V100), and what they need
set -euo pipefail
cd "$(dirname "$0")/.."
python=3.12
export SETUPTOOLS_SCM_PRETEND_VERSION=0.1.0

compile() { # file, then what to lock
    local file=$1
    shift
    uv pip compile --quiet --upgrade --universal --no-header --no-annotate --no-emit-index-url --generate-hashes \
        --python-version "$python" --output-file "locks/$file" "$@"
}

pins=$(mktemp -d)
trap 'rm -rf "$pins"' EXIT
printf 'torch==2.14.1\ntorchvision==0.29.1\n' > "$pins/cuda13.in"
printf 'torch==2.7.1\ntorchvision==0.22.1\n' > "$pins/cuda126.in"
printf 'build\nhatchling\nhatch-vcs\nninja\npackaging\nsetuptools\nwheel\n' > "$pins/build.in"
compile cuda13.txt pyproject.toml --extra fleet "$pins/cuda13.in"
compile cuda126.txt pyproject.toml --extra fleet "$pins/cuda126.in"
compile build.txt "$pins/build.in"
python3 locks/split.py

# mamba-ssm and causal-conv1d are sources that no resolver can read without torch: their hashes are written by hand below.
# einops and transformers are what mamba_ssm imports.
for cuda in cuda13 cuda126; do
    printf 'einops\ntransformers\n' > "$pins/mamba-$cuda.in"
    compile "mamba-$cuda-needs.txt" "$pins/mamba-$cuda.in" --constraints "locks/$cuda.txt"
done
cat > locks/mamba-cuda13.txt <<'LOCK'
mamba-ssm==2.3.2.post1 \
    --hash=sha256:104cc47e9101e5401a675fa2b784f2952b9b037f3b1dd83b5ac544394e95d028
causal-conv1d==1.6.0 \
    --hash=sha256:4eae3220d08e1e88238f3a0a88783147cbdf47f612cc610add75127c7a37ca3e
LOCK
cat > locks/mamba-cuda126.txt <<'LOCK'
mamba-ssm==2.3.1 \
    --hash=sha256:4d529477ad94753962216d583fc8f1c127c717b7d7c875d6bbb9376366d0d761
causal-conv1d==1.6.0 \
    --hash=sha256:4eae3220d08e1e88238f3a0a88783147cbdf47f612cc610add75127c7a37ca3e
LOCK
