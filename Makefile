# Every target makes the one virtual environment first, if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow lanes lint format docs bench peers table clean

demo: $(READY)
	$(BIN)/conceptlens demo --out out/demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --jaxtyping-packages=conceptlens,beartype.beartype

# The demo with the oldest and the newest versions that pyproject.toml promises.
lanes: $(READY) out/oldest/.ready
	out/oldest/bin/python benchmarks/lane.py
	$(BIN)/python benchmarks/lane.py

out/oldest/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv out/oldest
	out/oldest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[web]'
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# Other tools beside this one, in an environment of their own: they ask for versions that do not go together.
peers: out/peers/.ready
	out/peers/bin/python benchmarks/peers.py

out/peers/.ready: benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv out/peers
	out/peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . matplotlib scipy
	out/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	touch $@

# The paper's tables on the small models of zoo/; the same call goes on where it stopped.
table: $(READY)
	$(BIN)/conceptlens bench table --out out/table
	for axis in space attention layers noise; do \
	    $(BIN)/conceptlens bench ablate $$axis --model zoo:neutral --out out/table/neutral || exit 1; done

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "conceptlens needs Python 3.11 or newer; set PYTHON=")'
	@echo "setting up $(VENV), once: minutes, and 2.5 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) out site .pytest_cache .ruff_cache
