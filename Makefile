# The two commands of the README. Each makes .venv once, installs into it, and runs.
PYTHON ?= python3
VENV := .venv

.PHONY: quickstart test lint types clean

quickstart: $(VENV)/installed
	$(VENV)/bin/palestra quickstart

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# On the installed wheel: only there do the mapped folders have their import names.
types: $(VENV)/installed
	rm -rf $(VENV)/typed
	$(VENV)/bin/python -m pip install --quiet --no-deps --target $(VENV)/typed .
	cd $(VENV)/typed && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml -p palestra

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docker,e2b]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
