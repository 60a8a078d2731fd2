"""A mix as one plain LoRA adapter in PEFT's format, and how close a compressed one is to the mix."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mixer.adapters.fingerprint import base_fingerprint
from mixer.adapters.peft import CONFIG, WEIGHTS
from mixer.desk import Desk
from mixer.errors import InvalidValue
from mixer.export.factors import compress, difference, file_dtype, joined, rounded
from mixer.export.folder import refuse_folder, written
from mixer.values.mix import Mix


@dataclass(frozen=True)
class ModuleExport:
    """How one module's delta `D` was written, as `D'`.

    Attributes:
        full: rank of the exact adapter, the sum of its anchors' ranks.
        rank: rank of the written one.
        energy: share of the squared singular values that was kept, in [0, 1].
        spectral: norm of `D - D'`, with the rounding to the file's dtype: `|D x - D' x| <= spectral |x|` for every x.
            In float32 it is the first singular value that was dropped.
        frobenius: Frobenius norm of `D - D'`.
    """

    module: str
    full: int
    rank: int
    energy: float
    spectral: float
    frobenius: float


@dataclass(frozen=True)
class AdapterExport:
    """A written adapter, and how close it is to the mix.

    Attributes:
        energy: share of the squared singular values of all modules together that was kept.
        size: bytes of its weights.
    """

    folder: Path
    modules: tuple[ModuleExport, ...]
    energy: float
    size: int

    @property
    def rank(self) -> int:
        """The largest rank of a module, LoRA's `r`."""
        return max(module.rank for module in self.modules)

    def to_dict(self) -> dict:
        """The same as plain values, for JSON."""
        return asdict(self) | {"folder": str(self.folder), "rank": self.rank}

    def table(self) -> str:
        """A table for people, with one line a module."""
        width = max(len(module.module) for module in self.modules)
        lines = [f"{'module':{width}}  rank       energy   |D x - D' x| / |x|   Frobenius"]
        for m in self.modules:
            rank = f"{m.rank}/{m.full}"
            lines.append(
                f"{m.module:{width}}  {rank:9}  {m.energy:.4f}   at most {m.spectral:<10.3g}   {m.frobenius:.3g}"
            )
        return "\n".join([*lines, f"{'all':{width}}  {self.rank:<9}  {self.energy:.4f}"])


@torch.no_grad()
def export_adapter(
    desk: Desk,
    mix: Mix,
    folder: Path | str,
    rank: int | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> AdapterExport:
    """Write a mix as one plain LoRA adapter in PEFT's format, which `peft` and this desk can load.

    The adapter does not depend on the base's precision, so a quantized desk can export too. Where anchors adapt
    different modules or have different ranks, each module keeps its own rank, in `rank_pattern` and `alpha_pattern`.
    The scaling is 1 in all modules.

    Args:
        rank: compress each module to at most this rank. None is exact, and so is a rank that is no smaller than the
            exact one.
        dtype: of the file, `float32`, `bfloat16` or `float16`.
        overwrite: replace an earlier adapter in a folder that is not empty.

    Raises:
        InvalidValue: the mix is the base (an adapter for it would hold nothing), `rank` or `dtype` cannot be used, a
            number does not fit into `dtype`, or the folder is not empty. UnknownName: the mix names an unknown anchor.
        BadArtifact: the folder cannot be written.
    """
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise InvalidValue(f"The rank must be a whole number above zero, not {str(rank)[:40]!r}.", "Give 8, or None.")
    to = file_dtype(dtype)
    factors = joined(desk, mix)
    if not factors:
        raise InvalidValue("The mix is the base model: there is no adapter to export.", "Move a slider.")
    refuse_folder(desk, Path(folder), overwrite, foreign="config.json")
    tensors: dict[str, Tensor] = {}
    modules, kept, total = [], 0.0, 0.0
    for name, (a, b) in factors.items():
        small_a, small_b, own, whole = compress(a, b, len(a) if rank is None else rank)
        small_a, small_b = rounded(name, small_a, to), rounded(name, small_b, to)
        kept, total = kept + own, total + whole
        energy = own / whole if whole else 1.0
        modules.append(ModuleExport(name, len(a), len(small_a), energy, *difference(a, b, small_a, small_b)))
        tensors[f"base_model.model.{name}.lora_A.weight"] = small_a
        tensors[f"base_model.model.{name}.lora_B.weight"] = small_b
    facts = {
        "format": "pt",
        "base_fingerprint": base_fingerprint(desk.base_model),
        "mix": str(mix),
        "mix_key": mix.key,
        "coefficients": json.dumps(dict(mix.weights)),
    }
    with written(Path(folder)) as work:
        save_file(tensors, work / WEIGHTS, facts)
        size = (work / WEIGHTS).stat().st_size
        _save_config(desk.base_model, {module.module: module.rank for module in modules}, work)
    return AdapterExport(Path(folder), tuple(modules), kept / total if total else 1.0, size)


def _save_config(lm: PreTrainedModel, ranks: Mapping[str, int], work: Path) -> None:
    """Write `adapter_config.json` by PEFT itself, with module names in a fixed order."""
    import peft  # slow to import

    rank = max(ranks.values())
    pattern = {f"^{re.escape(name)}": own for name, own in ranks.items() if own != rank}
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        target_modules=_targets(lm, ranks),
        fan_in_fan_out=any(isinstance(lm.get_submodule(name), Conv1D) for name in ranks),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=lm.name_or_path,
    )
    config.save_pretrained(str(work))
    record = json.loads((work / CONFIG).read_text(encoding="utf-8"))
    record["target_modules"].sort()
    (work / CONFIG).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _targets(lm: PreTrainedModel, names: Mapping[str, int]) -> list[str]:
    """The last parts of the modules' names, as other programs expect, if no other module has them; else full names."""
    last = {name.rpartition(".")[2] for name in names}
    matching = {name for name, _ in lm.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last if matching == set(names) else names)
