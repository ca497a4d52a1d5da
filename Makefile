# One place for the commands that README, CONTRIBUTING and CI name.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test check demo docs clean

# torch is pinned so that a machine without a GPU gets the build its pip finds, and no other package pulls a newer one
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

install: .venv/installed

demo: install
	$(BIN)/foveate run

docs: install
	$(BIN)/foveate methods --markdown > docs/methods.md

test: check
	$(BIN)/pytest -n 2

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv
