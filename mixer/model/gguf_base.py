"""A GGUF file of a Llama-shaped model as a base: converted once, and kept in the user's cache folder.

The quantization is undone, which takes some seconds; what that gives is kept as an ordinary model folder, in float32,
which holds every value exactly. The most usual kind of file is read by `mixer.model.gguf_llama`, others by
`transformers`. Where the cache folder cannot be written, a temporary folder stands for it until the program ends. Knows
nothing of which file is whose.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mixer.errors import BadArtifact, Unsupported
from mixer.model.gguf_file import MAGIC, read_gguf
from mixer.model.gguf_llama import PlainLlama, is_plain_llama

FORMAT = 2  # raised when a conversion would give something else than before
SIZES = "sizes.json"  # of the files of a conversion, in bytes: what was cut off later is made again
# What reading raises for a file that is cut off, damaged, or of a model that nobody here knows.
UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, struct.error)


def cache_folder() -> Path:
    """The folder for what can be made again: `MIXER_CACHE`, or `mixing-desk` in the user's cache folder."""
    if own := os.environ.get("MIXER_CACHE"):
        return Path(own)
    try:
        home = Path.home()
    except RuntimeError:  # no HOME and no entry for the user
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mixing-desk"


def gguf_folder(path: Path) -> Path:
    """The folder with the converted model of a GGUF file; converts it unless that was done before.

    Raises:
        BadArtifact: it is no GGUF file, or not one of a causal LM that `transformers` reads.
        Unsupported: there is no room for the converted model anywhere.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BadArtifact(f"There is no base model at {path}: {error.strerror}.", "Check the path.") from error
    if magic != MAGIC:
        raise BadArtifact(f"{path} is no GGUF file.", "Give a .gguf file, or a folder or hub id of a causal LM.")
    mark = f"{FORMAT} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    name = f"{path.stem[:60]}-{hashlib.sha256(mark.encode()).hexdigest()[:16]}"
    kept = cache_folder() / "bases" / name
    if _is_whole(kept):
        return kept
    print(f"Preparing {path.name} for its first use; that takes some seconds ...", file=sys.stderr, flush=True)
    try:
        return _convert_into(path, kept)
    except OSError as error:
        print(f"{kept.parent} cannot be written ({error.strerror or error}): not kept for later.", file=sys.stderr)
    try:
        passing = Path(tempfile.mkdtemp(prefix="mixing-desk-"))
        atexit.register(shutil.rmtree, passing, ignore_errors=True)
        return _convert_into(path, passing / name)
    except OSError as error:
        raise Unsupported(
            f"There is no room to prepare {path.name}: {error.strerror or error}.",
            "Free some 600 MB, or point MIXER_CACHE at a folder that has them.",
        ) from error


def _is_whole(folder: Path) -> bool:
    """Whether a conversion is there with all its files, each as long as it was made."""
    try:
        sizes = json.loads((folder / SIZES).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _convert_into(path: Path, folder: Path) -> Path:
    """Convert beside the folder and rename: two programs that start at once do not disturb each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(path, beside)
        sizes = {made.name: made.stat().st_size for made in beside.iterdir()}
        (beside / SIZES).write_text(json.dumps(sizes), encoding="utf-8")
        try:
            beside.replace(folder)
        except OSError:
            if not _is_whole(folder):  # another program was first, or a broken one lies there
                shutil.rmtree(folder, ignore_errors=True)
                beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _convert(path: Path, out: Path) -> None:
    try:
        metadata, tensors = read_gguf(path)
        plain = is_plain_llama(metadata, tensors)
        model = PlainLlama.of(metadata, tensors) if plain else _ReadByTransformers(path)
    except ImportError as error:
        raise Unsupported(f"Reading GGUF files needs a package: {error}", "`pip install gguf` gives it.") from error
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise BadArtifact(
            f"{path} cannot be read as a language model: {reason}", "Give a GGUF file of a Llama-shaped model."
        ) from error
    model.save(out)


class _ReadByTransformers:
    """A model and its tokenizer from any file that `transformers` reads."""

    def __init__(self, path: Path) -> None:
        where: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        self._tokenizer = AutoTokenizer.from_pretrained(**where)
        self._lm: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)

    def save(self, out: Path) -> None:
        """Write both into a folder."""
        # The weights are plain numbers from here on, and the dtype is the one that a GPU or training should use.
        if hasattr(self._lm.config, "quantization_config"):
            del self._lm.config.quantization_config
        self._lm.hf_quantizer = None
        self._tokenizer.save_pretrained(out)
        self._lm.save_pretrained(out)
        config = AutoConfig.from_pretrained(out)  # `save_pretrained` writes the dtype of the weights
        config.dtype = torch.bfloat16
        config.save_pretrained(out)
