# make run: environment, then train and test ReFLIP-VAD on the built-in sample. make test: environment, then the quick test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes, each test file in one of them.
TWO := -n 2 --dist loadfile

.PHONY: run test slow lint setup lock clean

run: $(VENV)/run.stamp
	$(BIN)/python xd_train.py

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest $(TWO)

slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(TWO) -m slow --no-loadscope-reorder --durations 20

lint: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/run.stamp

$(VENV)/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python {v[0]}.{v[1]} found, 3.11 or newer expected: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-app.txt requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

lock: $(VENV)/test.stamp
	$(BIN)/python -m pip freeze --all --exclude-editable > $(VENV)/installed.txt
	$(BIN)/uv pip compile --quiet --constraint $(VENV)/installed.txt --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
		requirements-app.txt --output-file requirements.lock

clean:
	rm -rf $(VENV) data/sample
