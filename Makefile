# The two commands a newcomer needs: make demo, make test. Both set up what they need in .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc jpmap_fast/cmake -type f) $(shell find jpmap_fast -name '*.py')
# poetry-core for reuse, which has no wheel for most machines.
BUILD_TOOLS := "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.26" ninja poetry-core
CXX_FILES := $(shell find csrc jpmap_fast/include benchmarks/cpp tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: setup demo test browser service fleet napari cpp lint docs format bench release clean

setup: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv .venv

# torch first: the extension is compiled against the one that will run it. torchvision, which
# deepinv needs, with it: each release of one fits one of the other, and pip must not replace torch.
$(STAMP): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check "torch>=2.11" torchvision numpy $(BUILD_TOOLS)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[test,dev,docs,experiments]"
	touch $@

demo: setup
	$(BIN)/jpmap-fast demo --output demo

# A process a core, each with one thread: most of the time goes into small operations.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

# The page, by hand and by Chromium, which is installed already.
browser: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[app]" playwright
	$(BIN)/python -m pytest -q -m browser

# The service with Ray, replicas killed.
service: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[serve]" aiohttp
	$(BIN)/python -m pytest -q -m service

# The plug-in in napari's window, on a screen or on one of Xvfb.
napari: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[napari]" PyQt6 pytest-qt
	$(if $(DISPLAY),,xvfb-run -a) $(BIN)/python -m pytest -q -m napari

# Restorations without Python: packages, and the program that runs them.
cpp: setup
	$(BIN)/python -m pytest -q -m cpp

# A folder restored by workers on two nodes, some of them killed; a bucket served by moto.
fleet: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[ray]" s3fs "moto[s3,server]"
	$(BIN)/python -m pytest -q -m fleet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy
	$(BIN)/python benchmarks/pages.py --check
	$(BIN)/reuse lint --lines

# Warnings are errors: broken links, pages without a place, names that are gone. Not --quiet, by which
# mkdocs would count no warnings.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: setup
	$(BIN)/python -m pytest -q benchmarks/test_cpu_kernels.py
	$(BIN)/python benchmarks/bench_kernels.py --device cpu
	$(BIN)/python benchmarks/bench_restore.py --device cpu
	$(BIN)/python benchmarks/bench_latency.py --device cpu --calls 1000
	$(BIN)/python benchmarks/bench_conjugate_gradient.py --device cpu
	$(BIN)/python benchmarks/bench_log_likelihood.py
	$(BIN)/python benchmarks/bench_operators.py --device cpu
	$(BIN)/python benchmarks/baseline.py --device cpu

# Wheels, sources, bills of materials and sums into dist/: the head of the script says the settings.
release:
	.ci/release $(PYTHON)

clean:
	rm -rf .venv build demo site .pytest_cache .mypy_cache .ruff_cache
