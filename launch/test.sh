#!/usr/bin/env bash
# Installs what is missing and runs the whole test suite: lint, types, tests. Arguments go to pytest.
source "$(dirname "$0")/install.sh"
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
