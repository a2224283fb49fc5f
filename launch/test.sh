#!/usr/bin/env bash
# The tests; arguments are passed to pytest: bash launch/test.sh tests/test_mix.py -k weights
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "test"
exec .venv/bin/python -m pytest "$@"
