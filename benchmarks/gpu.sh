#!/usr/bin/env bash
# Everything that needs a GPU: build, tests marked cuda, sanitizers, benchmarks.
# usage: benchmarks/gpu.sh OUTPUT_FOLDER [REFERENCE_FOLDER]
# JPMAP_PARTS names the parts to run, all of them if unset; each ends within nine minutes, its build
# included; "reproduce" goes on where it stopped if the folder is kept:
#   tests_a tests_b older sanitizers_ops sanitizers_fused sanitizers_whole sanitizers_tiles benchmarks
#   native draws encoder restorations faces linear_solver reproduce
# "older" builds for 8.0 alone and tests what a newer device makes of that. JPMAP_SITE is a folder
# where the package is built already, or will be for the next part. From "encoder" on they use
# JPMAP_DATA, a folder with mnist.npz and faces_test.npz, and all of these but "reproduce"
# JPMAP_FACES_PRIOR, weights for faces where none are bundled.
# The package is installed outside the checkout and the tests run from a copy, so that what is
# tested is what was built.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
reference=${2:+$(cd "$2" && pwd)}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
site=${JPMAP_SITE:-$place/site}
export PYTHONUNBUFFERED=1 CUDAARCHS="${CUDAARCHS:-90}" PYTHONPATH="$site"
everything="tests_a tests_b older sanitizers_ops sanitizers_fused sanitizers_whole sanitizers_tiles"
everything="$everything benchmarks native draws encoder restorations faces linear_solver reproduce"
parts=" ${JPMAP_PARTS:-$everything} "
images=()
data=${JPMAP_DATA:+$(cd "$JPMAP_DATA" && pwd)}
[ -n "$data" ] && images+=(--data "$data")
[ -n "${JPMAP_FACES_PRIOR:-}" ] && images+=(--faces-prior "$(realpath "$JPMAP_FACES_PRIOR")")
failed=0
wanted() { case "$parts" in *" $1 "*) true ;; *) false ;; esac; }
step() { echo "== $1"; shift; "$@" || { echo "FAILED: $*"; failed=1; }; }

if [ ! -d "$site/jpmap_fast" ]; then
  JPMAP_CUDA=ON step build python3 -m pip install -q --no-build-isolation --no-deps --target "$site" "$root"
  cp -r "$root/jpmap_fast/experiments" "$site/jpmap_fast" # no part of a wheel
fi
cp -r "$root/tests" "$root/benchmarks" "$root/pyproject.toml" "$place"
cd "$place"
pytest="python3 -m pytest -q -p no:cacheprovider"
ops="tests/test_x_update.py tests/test_objective.py tests/test_conjugate_gradient_ops.py"
workers=$(python3 -c "import xdist" 2>/dev/null && echo "-n 8" || true)
if wanted tests_a; then
  step "tests marked cuda, a to m" timeout 420 $pytest -m cuda $workers tests/test_[a-m]*.py
fi
if wanted tests_b; then
  step "tests marked cuda, n to z" timeout 420 $pytest -m cuda $workers tests/test_[n-z]*.py
fi
if wanted older; then
  JPMAP_CUDA=ON CUDAARCHS=80 step "build for 8.0" python3 -m pip install -q --no-build-isolation \
    --no-deps --target "$place/older" "$root"
  PYTHONPATH="$place/older" step "tests of a build for 8.0" $pytest -m cuda tests/test_mlp_cuda.py \
    tests/test_restorer.py tests/test_damped_solve.py tests/test_jpmap_tiles_cuda.py
fi
sanitized() { # PART CHOICE FILES: tests under every tool, all four at a time
  if wanted "$1" && command -v compute-sanitizer >/dev/null; then
    local tools=()
    for tool in memcheck racecheck initcheck synccheck; do
      (step "$tool, $1" timeout 450 compute-sanitizer --tool $tool --error-exitcode 9 \
        --print-limit 5 $pytest -m cuda -x -k "$2" "${@:3}"; exit $failed) &
      tools+=($!)
    done
    for tool in "${tools[@]}"; do wait "$tool" || failed=1; done
  fi
}
small="not 4096 and not 70_000 and not graph and not opcheck and not 20000 and not 256-12288"
sanitized sanitizers_ops "$small" $ops tests/test_weighted_draws.py tests/test_damped_solve.py \
  tests/test_fingerprint.py
sanitized sanitizers_fused "(activation and elu and sigmoid) or clusters_end and (sizes0-0 or sizes1-14) or known_minima" \
  tests/test_mlp_cuda.py
# Races of a cluster take minutes to look for: one problem of each kind.
sanitized sanitizers_whole "float64 and changed0-1 or bad_image and nan" tests/test_jpmap_cuda.py
sanitized sanitizers_tiles "float64 and changed0-1 or any_size and 12" tests/test_jpmap_tiles_cuda.py
if wanted benchmarks; then
  step benchmarks python3 benchmarks/bench_kernels.py --device cuda --output "$out/kernels_cuda.json"
  step restorations python3 benchmarks/bench_restore.py --device cuda --output "$out/restore_cuda.json"
  step latency python3 benchmarks/bench_latency.py --device cuda --output "$out/latency_cuda.json"
  step "one call" python3 benchmarks/bench_whole.py --device cuda --output "$out/whole_cuda.json"
  step "conjugate gradients" python3 benchmarks/bench_conjugate_gradient.py --device cuda \
    --output "$out/conjugate_gradient_cuda.json"
  if python3 -c "import deepinv" 2>/dev/null; then
    step operators python3 benchmarks/bench_operators.py --device cuda \
      --output "$out/operators_cuda.json"
  fi
  step baseline python3 benchmarks/baseline.py --device cuda --problems inpainting --images 1 \
    --output "$out/baseline_cuda.json"
  if [ -n "${reference:-}" ]; then
    step "reference cases" python3 benchmarks/reference_cases.py "$reference" --device cuda \
      --output "$out/reference_cases_cuda.json"
  fi
fi
if wanted native; then
  # An export for each case: one batch of each says what there is to say.
  step "without Python" python3 benchmarks/bench_export.py --device cuda --batches 1 \
    --output "$out/export_cuda.json"
fi
if wanted draws; then
  step likelihoods python3 benchmarks/bench_log_likelihood.py --device cuda \
    --output "$out/log_likelihood_cuda.json"
  step samples timeout 170 python3 benchmarks/bench_sample.py --device cuda \
    --output "$out/sample_cuda.json"
  step "faces drawn" timeout 170 python3 benchmarks/posterior_faces.py --device cuda --truths 32 \
    --problems inpainting denoising --residuals white covariance grey \
    ${data:+--faces "$data/faces_test.npz"} --output "$out/posterior_faces_cuda.json"
fi
measured() { # PART SCRIPT OPTIONS: a part that is one script; sizes keep all four in four minutes
  if wanted "$1"; then
    step "$1" timeout 200 python3 "benchmarks/$2.py" --device cuda "${images[@]}" "${@:3}" \
      --output "$out/$1_cuda.json"
  fi
}
measured encoder encoder --faces 32 --singles 3 --limit 0.3
measured restorations restorations --limit 0.3
measured faces bench_faces --latency-limit 6 --baseline-seconds 45
measured linear_solver bench_linear_solver --limit 0.3
reproduced() {
  step "reproduce $*" python3 -m jpmap_fast.cli reproduce "$@" --full --device cuda --no-progress \
    ${data:+--faces "$data/faces_test.npz"} --output "$out/reproduced"
}
if wanted reproduce; then # needs deepinv
  # What others begin with, then side by side, then what measures time, and the report of all.
  reproduced supervised
  reproduced sigma-dvae encoder-accuracy faces-reconstruction &
  reproduced convergence continuation &
  reproduced denoising inpainting &
  reproduced compressed-sensing faces-inpainting encoder-initialisation &
  reproduced pnp-convergence candidates posterior generative-quality &
  wait
  reproduced speed
  reproduced all
fi
echo "== $([ $failed = 0 ] && echo all passed || echo SOMETHING FAILED)"
exit $failed
