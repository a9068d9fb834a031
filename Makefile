# make run: environment, then train and test ReFLIP-VAD on the built-in sample. make test: environment, then the quick test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes, each test file in one of them.
TWO := -n 2 --dist loadfile

.PHONY: run test slow lint setup clean

run: $(VENV)/run.stamp
	$(BIN)/python xd_train.py

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(TWO)

slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(TWO) -m slow

lint: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/run.stamp

$(VENV)/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python {v[0]}.{v[1]} found, 3.11 or newer expected: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) runs data/sample
