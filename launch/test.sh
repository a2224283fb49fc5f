#!/usr/bin/env bash
# The tests, two files at a time; arguments are passed on to pytest:
#
#   bash launch/test.sh
#   bash launch/test.sh tests/test_mix.py -k weights
#   bash launch/test.sh -n 0          # in one process, as a debugger needs
#   bash launch/test.sh -m slow       # those that take minutes
source "$(dirname "${BASH_SOURCE[0]}")/help.sh" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "test"
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"  # the order is tests/conftest.py's
