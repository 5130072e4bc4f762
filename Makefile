# Every verb works on a fresh machine with make and Python 3.10 or later: the first one that needs
# the package makes .venv and installs it there, once, and again only after pyproject.toml or
# constraints.txt changed, which pins what is installed.

GIVEN_MODEL := $(origin MODEL)
GIVEN_PRECISION := $(origin PRECISION)
MODEL ?= mask_rcnn
PRECISION ?= fp32
LAST := build/.last

# The folder that MODEL and PRECISION name; where neither is given, the other verbs follow the last `make engine`.
NAMED = build/$(notdir $(MODEL:.onnx=))/$(PRECISION)
GIVEN := $(filter-out undefined,$(GIVEN_MODEL) $(GIVEN_PRECISION))
RUN ?= $(or $(if $(or $(GIVEN),$(filter engine,$(MAKECMDGOALS))),,$(shell cat $(LAST) 2>/dev/null)),$(NAMED))

# A TensorRT of the system, as on Jetson or in NVIDIA's images, is seen with SYSTEM_SITE_PACKAGES=1.
SYSTEM_SITE_PACKAGES ?=
EXTRAS ?= rtx,test

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TYPES := $(VENV)/types

# The first Python that is new enough and can make a virtual environment.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3 python python3.14; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& { echo $$p; break; }; done)

.PHONY: all help install engine inspect diff report verify bench zoo fuzz fuzz-files faults long-runs audit test lint lock clean

all: install help

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Settings: MODEL=$(MODEL) PRECISION=$(PRECISION) RUN=$(RUN)"

install: $(INSTALLED)  ## make .venv and install onnxgraft there, as the other verbs do [SYSTEM_SITE_PACKAGES=1 EXTRAS=rtx,test]

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 or later with venv was found:" \
		"install one (on Debian and Ubuntu also python3-venv) or give PYTHON=/path/to/python" >&2; exit 1; }
	@echo "installing into $(VENV) (once, a minute or two)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || \
		$(PYTHON) -m venv --clear $(if $(SYSTEM_SITE_PACKAGES),--system-site-packages) $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

engine: $(INSTALLED)  ## build MODEL (a golden graph or a .onnx file) in PRECISION [TARGET= SIZE= BATCH= CALIB=, ARGS= for any option of onnxgraft build]
	@$(BIN)/onnxgraft build $(MODEL) --precision $(PRECISION) -o $(RUN) \
		$(if $(TARGET),--target $(TARGET)) $(if $(SIZE),--size $(SIZE)) \
		$(if $(BATCH),--batch $(BATCH)) $(if $(CALIB),--calib $(CALIB)) $(ARGS)
	@mkdir -p $(dir $(LAST)) && echo $(RUN) > $(LAST)

# A build to look at: RUN, or a line that says which there are.
define BUILT
	@test -e $(RUN)/manifest.json || test -e $(RUN)/report.json || { echo "error: $(RUN): no build; make engine makes one," \
		"RUN=FOLDER names one$$(ls -d build/*/*/manifest.json 2>/dev/null | sed 's|/manifest.json||' | tr '\n' ' ' | sed 's|^|: |')" >&2; exit 1; }
endef

inspect: $(INSTALLED)  ## show what is recognised in MODEL, or why it is not
	@$(BIN)/onnxgraft inspect $(MODEL) $(ARGS)

diff: $(INSTALLED)  ## show what the passes of the last build, or of RUN=FOLDER, changed [PASS=one of them]
	$(BUILT)
	@$(BIN)/onnxgraft diff $(RUN) $(PASS) $(ARGS)

report: $(INSTALLED)  ## write the page that shows every pass of RUN
	$(BUILT)
	@$(BIN)/onnxgraft report $(RUN) $(ARGS)

verify: $(INSTALLED)  ## compare the detections of RUN with the reference
	$(BUILT)
	@$(BIN)/onnxgraft verify $(RUN) $(ARGS)

bench: $(INSTALLED)  ## measure RUN
	$(BUILT)
	@$(BIN)/onnxgraft bench $(RUN) $(ARGS)

zoo: $(INSTALLED)  ## measure every model of detectron2's zoo; needs torch and detectron2 in .venv; hours [SIZE= ARGS=]
	@$(BIN)/python -c 'import torch, detectron2' 2>/dev/null || { echo "error: make zoo needs torch and detectron2:" \
		"$(BIN)/pip install -e '.[export]', then detectron2 from its source" >&2; exit 1; }
	@$(BIN)/python -W ignore -m golden_graphs.zoo.sweep $(if $(SIZE),--size $(SIZE)) $(ARGS)

fuzz: $(INSTALLED)  ## change exported detectors and hold each build, or refusal, against the changed file [MINUTES=30 SEED=1 ARGS=]
	@PYTHONPATH=tests $(BIN)/python -W ignore -m campaigns.fuzz_graphs --minutes $(or $(MINUTES),30) --seed $(or $(SEED),1) $(ARGS)

fuzz-files: $(INSTALLED)  ## read 10,500 hostile files: models, sidecars, manifests, calibrations, pictures [ARGS=--cases N --seed N]
	@PYTHONPATH=tests $(BIN)/python -W ignore -m campaigns.fuzz_files $(ARGS)

faults: $(INSTALLED)  ## end commands at 260 random moments, and write where nothing can be written [ARGS=--kills N --signals N]
	@PYTHONPATH=tests $(BIN)/python -W ignore -m campaigns.faults $(ARGS)

long-runs: $(INSTALLED)  ## see that memory holds over 10,000 pictures, a calibration over 2,000 and 1,000 calls [ARGS=--infer N --calibrate N --calls N]
	@PYTHONPATH=tests $(BIN)/python -W ignore -m campaigns.long_runs $(ARGS)

audit: $(INSTALLED)  ## look the pinned packages up among known vulnerabilities; needs the network
	@$(BIN)/python -m pip_audit --version >/dev/null 2>&1 || $(BIN)/python -m pip install -qq --disable-pip-version-check pip-audit
	@$(BIN)/python -m pip_audit --strict --requirement constraints.txt --no-deps --disable-pip $(ARGS)

# Two processes test, and NumPy's threads would wait for each other's cores.
test: lint  ## ruff, mypy and all tests [ARGS= for pytest]
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

# mypy does not follow the import hook of an editable install, so it gets a folder of links in which
# compiler/, passes/ and plugins/ look like the package they are installed as.
lint: $(INSTALLED)  ## ruff and mypy
	@$(BIN)/ruff check --quiet --output-format concise .
	@rm -rf $(TYPES) && mkdir -p $(TYPES)/onnxgraft
	@cd $(TYPES)/onnxgraft && ln -sfn ../../../compiler/* ../../../passes ../../../plugins .
	@MYPYPATH=$(TYPES) $(BIN)/mypy -p onnxgraft

lock:  ## renew constraints.txt: the newest versions that each Python of 3.10 to 3.13 found here installs
	@$(PYTHON) .ci/lock.py

clean:  ## remove builds and caches (.venv stays)
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache $(TYPES)
