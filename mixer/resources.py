"""Where the shipped files lie: assets and anchors, in a checkout or in an installed package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("mixer")))
# A wheel carries these folders inside the package; in a checkout they lie beside it.
ROOT = _PACKAGE if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent
ASSETS, ANCHORS, RECIPES = ROOT / "assets", ROOT / "anchors", ROOT / "recipes"
# Pairs and labels are shared by all bases; each base has a folder of anchors of its own.
PAIRS, TINY_ANCHORS = ANCHORS / "pairs", ANCHORS / "tiny"
# Where commands write by default: beside the checkout's own files, or below the current folder.
OUTPUTS = Path() if ROOT == _PACKAGE else ROOT
BASE, JUDGES, PRESETS, WEB = ASSETS / "base", ASSETS / "judges", ASSETS / "presets.yaml", ASSETS / "web"
TRANSLATIONS, FAVICON = ASSETS / "translations.yaml", ASSETS / "favicon.png"
