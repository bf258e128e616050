# Two commands do everything on a machine with Python 3.11, 3.12 or 3.13 and make: `make serve` and `make test`.
# What is installed goes into .venv. A file in it is touched only after its install has ended well, so what was
# broken off is taken up again, and what is complete is not touched twice.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve install test lint types format train export lock image gpu clean

PORT ?= 8000
PYTHON ?=
ARGS ?=
UPGRADE ?=
TARGET ?= cpu
IMAGE ?= foldserve$(if $(filter gpu,$(TARGET)),-gpu)

# Since 1.29 the ONNX Runtime's Linux wheels send usage data to their maker unless this is set.
export ORT_DISABLE_TELEMETRY := 1

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Wheels only: nothing is compiled, and no package runs code of its own while it is installed.
INSTALL := $(PIP) install --quiet --require-hashes --only-binary :all: --requirement
# `make gpu` leaves a mark, and from then on this .venv keeps the GPU build of the ONNX Runtime.
RUNTIME = $(if $(wildcard .venv/.gpu),requirements/serve-gpu.txt,requirements/serve.txt)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: .venv/.serve ## start the server on port 8000 with the networks in models/ (PORT=9000, ARGS="--help")
	@exec $(BIN)/python -m service --port $(PORT) $(ARGS)

install: .venv/.dev ## prepare the full development environment in .venv

test: lint types ## install what is missing, then check style, types, imports and run all tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev ## check style, and that imports go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

types: .venv/.dev ## check the types
	$(BIN)/mypy

format: .venv/.dev ## put the source into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: .venv/.dev ## train a network (ARGS="--recipe best --data-dir FOLDER"; ARGS=--help lists all)
	$(BIN)/python scripts/train.py $(ARGS)

export: .venv/.dev ## fold, prove and write a bundle (ARGS="MODEL.keras --name NAME")
	$(BIN)/python scripts/export.py $(ARGS)

gpu: .venv/.python ## swap the CPU build of the ONNX Runtime in .venv for the GPU one (CUDA 13, cuDNN 9)
	$(use-gpu)
	@touch .venv/.gpu .venv/.serve
	@echo "Now: make serve ARGS='--provider cuda'"

# Dev first: serving then gets the same versions. Only pins that pyproject.toml rules out change, unless upgraded.
lock: .venv/.dev ## renew requirements/ from pyproject.toml (UPGRADE=--upgrade takes the newest versions)
	$(call compile,dev) pyproject.toml --extra cpu --extra compile --extra train --extra otel --extra ray --extra score --group dev
	$(call compile,serve) pyproject.toml --extra cpu --constraints requirements/dev.txt
	$(call compile,serve-gpu) pyproject.toml --extra gpu --constraints requirements/dev.txt
	$(call compile,sbom) --group sbom --constraints requirements/dev.txt

# What the image for each target installs.
INSTALLS_cpu := requirements/serve.txt
INSTALLS_gpu := requirements/serve-gpu.txt

image: ## build the container image (TARGET=gpu for NVIDIA cards; ARGS="--network host" and more for docker build)
	docker build --tag $(IMAGE) --build-arg REQUIREMENTS=$(or $(INSTALLS_$(TARGET)),$(error TARGET is cpu or gpu)) \
	  --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) $(ARGS) .
	@docker image inspect $(IMAGE) --format '$(IMAGE): {{.Size}} bytes' | awk '{ printf "%s %.0f MB\n", $$1, $$2 / 1e6 }'

clean: ## remove .venv and caches; runs/ and models/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The oldest supported Python first: it is the one in the container image. A candidate is run and not merely looked up,
# since version managers put shims on the PATH that fail, and some distributions leave out the venv module.
CANDIDATES = $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)
FITS := import sys, venv, ensurepip; \
  sys.exit(sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info < (3, 14))

.venv/.python:
	@for python in $(CANDIDATES); do \
	  if "$$python" -c '$(FITS)' 2>/dev/null; then \
	    echo "Making .venv with $$("$$python" --version)"; \
	    "$$python" -m venv --clear .venv && touch $@; exit; \
	  fi; \
	done; \
	echo "Python 3.11, 3.12 or 3.13 with its venv module is needed, and none of these is one: $(CANDIDATES)." >&2; \
	echo "On Debian and Ubuntu: apt install python3-venv. Or name one: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1

.venv/.serve: .venv/.python $(RUNTIME)
	@echo "Installing $(RUNTIME)"
	@$(INSTALL) $(RUNTIME)
	@touch $@

# The project itself is installed so that scripts/train.py, which Python starts with scripts/ as its import path, finds
# the other rooms, and for the commands `foldserve` and `bnfold`. The build backend is among the locked packages:
# without build isolation nothing unpinned is fetched.
.venv/.dev: .venv/.python requirements/dev.txt pyproject.toml
	@echo "Installing requirements/dev.txt (TensorFlow is in it; this takes a few minutes)"
	@$(INSTALL) requirements/dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(if $(wildcard .venv/.gpu),$(use-gpu))
	@touch $@ .venv/.serve

# Both builds write the same files: whichever is removed breaks the other, so both go before one comes.
define use-gpu
$(PIP) uninstall --quiet --yes onnxruntime onnxruntime-gpu
$(INSTALL) requirements/serve-gpu.txt
endef

# Not a uv.lock, which records the addresses of the package index it was made with.
compile = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
  --no-annotate --no-header $(UPGRADE) --output-file requirements/$(1).txt
