# make demo: a first trained, evaluated, exported and used network. make test: lint and all tests.
# make docs: the site. All make .venv and install what they need; PYTHON names another interpreter.

PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint format docs clean

demo: .venv/demo.stamp
	$(BIN)/python -m resnet_tf.demo --out=runs/demo

# One thread in each of two processes: TensorFlow's pools would take both cores for each, and wait for one another.
test: .venv/dev.stamp lint
	TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site of the documents in site/, with every link checked: read it with `python -m http.server --directory site`.
docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Not all of 15,000 modules compiled at once: Python compiles those that are imported when they are.
.venv/%.stamp: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv runs build site *.egg-info
