# The commands of this repository. Each works on a fresh clone: it makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(wildcard engine/native/*.cpp engine/native/*.h engine/native/operators/* engine/native/cuda/*)
EMULATION := $(wildcard tests/support/*.cpp)
PROTOS := $(wildcard proto/*/*/*.proto)
CHECKPOINT := llmsrec/pretrained/ml-100k-smollm2-135m
BUNDLE := demo/bundle

.PHONY: help demo test lint format clean
help:  ## Show the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BUNDLE)/manifest.json  ## Build a bundle, serve it, and recommend films to three real users
	$(BIN)/python examples/demo.py $(BUNDLE)

test: $(INSTALLED)  ## Run the whole test suite (no GPU needed)
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## Run every static check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/clang-format --dry-run -Werror $(NATIVE) $(EMULATION)

format: $(INSTALLED)  ## Format Python and C++ in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(NATIVE) $(EMULATION)

clean:  ## Remove what the commands made, but not the downloads
	rm -rf $(VENV) build demo

$(BUNDLE)/manifest.json: $(INSTALLED) $(wildcard $(CHECKPOINT)/*)
	$(BIN)/python export/build_engine.py --checkpoint $(CHECKPOINT) --output $(BUNDLE)

# The build runs without isolation: what it needs is pinned by the lock file like everything else.
$(INSTALLED): pyproject.toml requirements.lock CMakeLists.txt $(NATIVE) $(PROTOS)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@
