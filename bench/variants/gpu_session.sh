#!/usr/bin/env bash
# What a GPU is needed for, in steps of a few minutes each; results go below $OUT.
#
#   gpu_session.sh tests     the tests marked `gpu`, of the engines that are installed
#   gpu_session.sh torch     build and judge every torch variant of the encoder
#   gpu_session.sh all       build and judge what is missing (ONNX Runtime's, where onnxruntime-gpu is importable), then
#                            time every variant in turns, with both floors and the kernels of a batch of 32
#   gpu_session.sh pieces    time the encoder's products and kernels one by one, several ways
#   gpu_session.sh llm       build and time every variant of the language model
#   gpu_session.sh package NAME FILE...   join pieces of a package under the cache folder, for a machine without a network
#
# VARIANTS=a,b chooses some of them, COMMIT=... says what is measured where there is no git, ROUNDS=... how often;
# NO_DEFAULT=1 leaves torch.compile in its default mode out of `all`.
# Needs a CUDA build of torch, safetensors and onnx; no installation of the project.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD/src:$PWD/bench/variants${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
: "${OUT:=.state/gpu}"
mkdir -p "$OUT"
told=(${COMMIT:+--commit "$COMMIT"})
chosen=("${told[@]}" ${VARIANTS:+--variants "$VARIANTS"})

case "${1:-}" in
  tests)
    python3 -m pytest -m gpu tests/unit/variants/test_gpu.py tests/unit/variants/llm/gpu -v -p no:cacheprovider 2>&1 | tee "$OUT/gpu-tests.txt"
    ;;
  torch)
    python3 bench/variants/encoder.py --device cuda --engines torch,torch-compile --judge-only "${chosen[@]}" \
      --output "$OUT/encoder-torch.jsonl" 2>"$OUT/torch.log"
    ;;
  all)
    python3 bench/variants/encoder.py --device cuda --rounds "${ROUNDS:-20}" "${chosen[@]}" ${NO_DEFAULT:+--no-default} \
      --output "$OUT/encoder-all.jsonl" 2>"$OUT/all.log"
    ;;
  pieces)
    python3 bench/variants/encoder_pieces.py "${told[@]}" --output "$OUT/encoder-pieces.jsonl" 2>"$OUT/pieces.log"
    ;;
  llm)
    python3 bench/variants/llm_gpu.py --rounds "${ROUNDS:-8}" "${chosen[@]}" --output "$OUT/llm.jsonl" 2>"$OUT/llm.log"
    ;;
  package)
    folder="${XDG_CACHE_HOME:-$HOME/.cache}/anabranch/packages"
    mkdir -p "$folder"
    cat "${@:3}" >"$folder/$2"
    ;;
  *)
    sed -n '2,16s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
