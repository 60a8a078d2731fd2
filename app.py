"""Opens the desk's page: `python app.py`. Also the entry of a Hugging Face Space."""

from __future__ import annotations

import sys

from mixer.process import prepare_page

prepare_page()  # before anything imports Gradio or torch

from mixer.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["page", *sys.argv[1:]]))
