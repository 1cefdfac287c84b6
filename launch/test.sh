#!/usr/bin/env bash
# Installs what is missing and runs the whole test suite: lint, types, tests. Arguments go to pytest.
source "$(dirname "$0")/install.sh"
ruff check .
ruff format --check .
# On one core, beside the tests, which end long after it.
mypy &
TYPES=$!
TESTS=0
python -m pytest "$@" || TESTS=$?
wait "$TYPES"
exit "$TESTS"
