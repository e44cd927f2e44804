#!/usr/bin/env bash
# Installs the other systems of the comparison into a virtual environment, made if it is not there.
# Each is optional: one that cannot be installed is reported, and compare.py skips it.
#
#     benchmarks/install_peers.sh ENVIRONMENT [PYTHON]
set -euo pipefail
if [[ $# -lt 1 ]]; then
    echo "usage: $0 ENVIRONMENT [PYTHON]" >&2
    exit 2
fi
environment=$1
[[ -x $environment/bin/pip ]] || "${2:-python3}" -m venv "$environment"
pip=("$environment/bin/pip" install --quiet --disable-pip-version-check)

"${pip[@]}" "numpy>=2"
missing=()
"${pip[@]}" --index-url https://download.pytorch.org/whl/cpu "torch>=2.9" ||
    "${pip[@]}" "torch>=2.9" || missing+=(torch)
# AMD's plugin, of the version of that PyTorch
torch=$("$environment/bin/pip" show torch 2>/dev/null | sed -n 's/^Version: \([0-9.]*\).*/\1/p')
"${pip[@]}" "zentorch==$torch.*" || missing+=(zentorch)
"${pip[@]}" "onnx>=1.19" "onnx-ir" "onnxruntime>=1.23" || missing+=(onnxruntime)
"${pip[@]}" "jax[cpu]>=0.7" || missing+=(jax)
"${pip[@]}" "openvino>=2025.3" || missing+=(openvino)
# Compiled here, for this processor: needs a C++ compiler and some minutes
"${pip[@]}" "llama-cpp-python>=0.3.9" "gguf>=0.17" || missing+=(llama.cpp)

# torch.compile writes C++
command -v "${CXX:-g++}" >/dev/null || missing+=("a C++ compiler, which torch.compile needs")
"$environment/bin/pip" list 2>/dev/null | grep -iE '^(torch|zentorch|onnx|onnxruntime|jax|openvino|llama_cpp_python|numpy) '
for name in "${missing[@]}"; do
    echo "not installed: $name" >&2
done
echo "python benchmarks/compare.py --python $environment/bin/python"
