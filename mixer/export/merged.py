"""Base and mix as one model that plain `transformers` loads, with a manifest of base, adapters and coefficients."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mixer.adapters.fingerprint import base_fingerprint
from mixer.adapters.peft import CONFIG, WEIGHTS
from mixer.desk import Desk
from mixer.errors import BadArtifact, Unsupported
from mixer.export.factors import file_dtype, joined, rounded
from mixer.export.folder import refuse_folder, written
from mixer.values.mix import Mix

MANIFEST = "manifest.json"


@torch.no_grad()
def export_merged(desk: Desk, mix: Mix, folder: Path | str, dtype: str | None = None, overwrite: bool = False) -> Path:
    """Write base and mix as one model and its tokenizer, which plain `transformers` loads; returns the folder.

    The folder also has `manifest.json` with the base, the adapters' hashes and the coefficients. A mix of zeros gives
    the base itself. If an anchor adapts an output head that is tied to the embedding, the two are untied.

    Args:
        dtype: of the file; None is the desk's own. W0 is read from the desk, too: if the base is stored in float32,
        load
            the desk in float32, so that the result is rounded once.
        overwrite: replace an earlier export in a folder that is not empty.

    Raises:
        Unsupported: the base is quantized, so that there is no W0. UnknownName: the mix names an unknown anchor.
        InvalidValue: there is no such dtype, a number does not fit into it, or the folder is not empty.
        BadArtifact: the folder cannot be written, or an anchor's file is missing.
    """
    lm, to = desk.base_model, None if dtype is None else file_dtype(dtype)
    factors = joined(desk, mix)
    _refuse_quantized(desk, factors)
    refuse_folder(desk, Path(folder), overwrite, foreign=CONFIG)
    record = _manifest(desk, mix, to or lm.dtype)
    twin = _twin(lm, factors)
    weights = lm.state_dict()
    merged = {name: _merged(lm, name, weights[name], factors, to) for name in twin.state_dict()}
    twin.load_state_dict(merged, assign=True)
    twin.tie_weights()
    with written(Path(folder)) as work:
        twin.save_pretrained(work)
        if lm.generation_config is not None:
            # Written as it is, since save_pretrained refuses unused options, which some bases have.
            lm.generation_config.to_json_file(work / "generation_config.json")
        desk.tokenizer.save_pretrained(str(work))
        (work / MANIFEST).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(folder)


def _merged(
    lm: PreTrainedModel, name: str, weight: Tensor, factors: Mapping[str, tuple[Tensor, Tensor]], to: torch.dtype | None
) -> Tensor:
    """One tensor of the merged model, on the CPU; a new tensor where the mix changes it."""
    weight = weight.detach().cpu()
    to = to if to and weight.is_floating_point() else weight.dtype
    module, _, kind = name.rpartition(".")
    if kind != "weight" or module not in factors:
        return rounded(name, weight, to)
    a, b = factors[module]
    delta = b @ a
    return rounded(name, weight.float() + (delta.T if isinstance(lm.get_submodule(module), Conv1D) else delta), to)


def _twin(lm: PreTrainedModel, factors: Mapping[str, tuple[Tensor, Tensor]]) -> PreTrainedModel:
    """An empty model of the same class, to be saved: saving changes a model's configuration."""
    config = copy.deepcopy(lm.config)
    head = lm.get_output_embeddings()
    if any(lm.get_submodule(name) is head for name in factors):
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    with torch.device("meta"):
        twin = type(lm)(config)
    return twin.eval()


def _manifest(desk: Desk, mix: Mix, dtype: torch.dtype) -> dict:
    """The contents of `manifest.json`."""
    coefficients = dict(zip(desk.anchors, mix.coefficients(desk.anchors), strict=True))
    adapters, name = {}, str(desk.base_model.name_or_path)
    for adapter in desk.anchor_set.adapters:
        if coefficient := coefficients[adapter.anchor.name]:
            file = Path(adapter.anchor.path) / WEIGHTS
            try:
                with file.open("rb") as weights:
                    digest = hashlib.file_digest(weights, "sha256").hexdigest()
            except OSError as error:
                raise BadArtifact(f"{file} has gone since it was loaded: {error.strerror}.", "Put it back.") from error
            adapters[adapter.anchor.name] = {"coefficient": coefficient, "sha256": digest}
    return {
        "base": Path(name).name if Path(name).is_dir() else name,
        "base_fingerprint": base_fingerprint(desk.base_model),
        "mix": str(mix),
        "mix_key": mix.key,
        "adapters": adapters,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _refuse_quantized(desk: Desk, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    hint = "Load the base without quantization, or export an adapter: it needs no W0."
    if desk.quantized:
        raise Unsupported(
            f"The base is quantized ({desk.quantized}): W0 is gone, and so few bits would lose most of the mix.",
            hint,
        )
    for name in factors:
        weight = desk.base_model.get_submodule(name).weight
        if not (isinstance(weight, Tensor) and weight.is_floating_point()):
            raise Unsupported(f"The base is quantized: the weight of {name!r} is no tensor of plain numbers.", hint)
