#!/usr/bin/env bash
# What a change must pass beside the tests: format, lint, floors, census, documentation, types.
#
#   bash launch/check.sh
#   bash launch/check.sh --fix      # mends what can be mended first
source "$(dirname "${BASH_SOURCE[0]}")/help.sh" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "dev"
case "${1:-}" in
  "") ;;
  --fix) .venv/bin/ruff check --fix --quiet . || true; .venv/bin/ruff format --quiet . ;;
  *) fail "expected --fix or nothing, got $1" ;;
esac
echo "format"; .venv/bin/ruff format --check --quiet . || fail "not formatted: bash launch/check.sh --fix"
echo "lint"; .venv/bin/ruff check .
echo "floors"; .venv/bin/lint-imports --no-logo
echo "census"; .venv/bin/python tests/census.py
echo "documentation"; NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet --site-dir="$(mktemp -d)"
echo "types"; .venv/bin/pyright
