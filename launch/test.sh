#!/usr/bin/env bash
# The tests, two files at a time; arguments are passed to pytest: bash launch/test.sh tests/test_mix.py -k weights
# (-n 0 runs them in one process, as a debugger needs)
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "test"
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"  # the order is tests/conftest.py's
