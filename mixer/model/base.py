"""Base models on disk or on the hub, brought into memory, whole or quantized. Knows nothing of anchors, gates or text.

The linear modules of the layers are quantized. The embeddings and the output head are not: a base's fingerprint is
taken from the embeddings, so that anchors of a base fit the quantized base too.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mixer.errors import BadArtifact, InvalidValue, UnknownName, Unsupported

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCHEMES = ("nf4", "int8")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

DeviceMap = str | Mapping[str, str | int]


def pick_device(device: str = "auto") -> torch.device:
    """The device of this name; `auto` is CUDA if there is one, else Apple's, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValue(f"The device {device!r} cannot be used: {reason}", "Try auto, cpu or cuda.") from error


def pick_dtype(dtype: str, device: torch.device, quantize: str | None = None) -> torch.dtype:
    """The dtype of this name; `auto` is float32 on a CPU and bfloat16 on other devices.

    For a quantized base `auto` is bfloat16 on a CPU too: its kernels round to bfloat16 or coarser, whatever the dtype.
    """
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" and quantize is None else torch.bfloat16
    if dtype not in DTYPES:
        raise InvalidValue(f"There is no dtype {dtype!r} here.", f"Choose auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def load_base(
    base: str,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str | None = None,
    device_map: DeviceMap | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM and its tokenizer, from a local folder or a hub id.

    A base that is stored quantized is loaded in its own scheme.

    Args:
        dtype: of what is not quantized, and of the arithmetic.
        quantize: `nf4` (4 bits, QLoRA's format) or `int8`, through bitsandbytes; None for the weights as they are.
        device_map: how accelerate spreads the base over several devices, in place of `device`.

    Raises:
        BadArtifact: it is not there, not complete, or no causal LM. Pickled weights are never read.
        UnknownName: there is no such scheme or device map.
        Unsupported: a package is missing, or the base does not fit into the devices' memory.
        InvalidValue: the base is stored quantized in another way.
    """
    if _is_path(base) and not Path(base).is_dir():
        raise BadArtifact(f"There is no base model at {base}.", "Give a folder or hub id of a causal LM.")
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise UnknownName("device map", device_map, DEVICE_MAPS)
    try:
        stored = _scheme(getattr(AutoConfig.from_pretrained(base), "quantization_config", None))
        if stored or quantize:
            _quiet_bitsandbytes()
        how = quantization_config(base, stored, quantize, dtype)
        tokenizer = AutoTokenizer.from_pretrained(base)
        lm = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype,
            device_map={"": device} if device_map is None else device_map,
            use_safetensors=True,
            **({"quantization_config": how} if how else {}),
        )
    except ImportError as error:
        reason = " ".join(str(error).split())[:300]
        raise Unsupported(
            f"The base model {base!r} needs a package that is not installed: {reason}.",
            "Install it, or choose the base as it was before it was quantized.",
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadArtifact(
            f"The base model {base!r} cannot be loaded: {reason}",
            "Give a folder or hub id of a causal LM with safetensors.",
        ) from error
    if not tokenizer.is_fast:
        raise Unsupported(f"The tokenizer of {base!r} is a slow one.", "Convert it to a tokenizer.json.")
    if any(parameter.is_meta for parameter in lm.parameters()):
        raise Unsupported(
            f"The base model {base!r} does not fit into the memory of {_devices(lm)}; what stays on the disk or moves "
            "in and out cannot be mixed.",
            "Quantize it (nf4 takes about a third of bfloat16's memory), or choose a smaller one.",
        )
    return _prepared(lm.eval()), tokenizer


def is_quantized(model: nn.Module) -> str | None:
    """The scheme of a model's or module's weights, such as `nf4`, `int8` or `gptq`; None if they are not quantized."""
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        kind = type(weight).__name__  # by name, since bitsandbytes need not be installed
        if kind == "Params4bit":
            return str(weight.quant_type)
        if kind == "Int8Params":
            return "int8"
    return _scheme(getattr(getattr(model, "hf_quantizer", None), "quantization_config", None))


def local_folder(name: str) -> Path:
    """The folder at this path; if there is none and `name` has the form OWNER/NAME, the one fetched from the hub.

    Raises:
        BadArtifact: it is neither.
    """
    path = Path(name)
    if path.is_dir():
        return path
    reason = "it has not the form OWNER/NAME of a hub id either"
    if not _is_path(name):
        try:
            return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.yaml"]))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = "the hub did not give it either: " + " ".join(str(error).split())[:200]
    raise BadArtifact(f"There is no folder {name}; {reason}.", "Check the path.")


def _is_path(name: str) -> bool:
    """Whether a name cannot be a hub id, which is NAME or OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def quantization_config(
    base: str, stored: str | None, quantize: str | None, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """The option of `transformers` that quantizes a base on loading; None leaves the weights as they are stored.

    Args:
        base: for messages. stored: the scheme in which it is stored, None if it is not quantized.
        quantize: the scheme that is asked for, None for that of the file. dtype: of the arithmetic.

    Raises:
        UnknownName: there is no such scheme. InvalidValue: it is stored in another one. Unsupported: no bitsandbytes.
    """
    if quantize is None:
        return None
    if quantize not in SCHEMES:
        raise UnknownName("quantization", quantize, SCHEMES)
    if stored == quantize:
        return None
    if stored:
        raise InvalidValue(
            f"The base model {base!r} is stored quantized already ({stored}).",
            "Load it without --quantize, or choose the base as it was before.",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Unsupported("Quantizing a base needs bitsandbytes.", "Get it with `pip install bitsandbytes`.")
    if quantize == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    # With a threshold, LLM.int8 treats columns apart in which any token of the batch is large: a row's text would
    # depend on the other rows. Without one, each token has its own scale, and rows are independent bit for bit.
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)


def _scheme(config: Any) -> str | None:
    """The name of a stored scheme, from a dict or object in the manner of `quantization_config`."""
    record: Mapping[str, Any] = config if isinstance(config, dict) else getattr(config, "__dict__", {})
    method = record.get("quant_method")
    method = getattr(method, "value", method)
    if method != "bitsandbytes":
        return None if method is None else str(method)
    four = record.get("load_in_4bit") or record.get("_load_in_4bit")
    return str(record.get("bnb_4bit_quant_type", "fp4")) if four else "int8"


def _quiet_bitsandbytes() -> None:
    """Suppress its warnings of kernels that are not there, and of rounding in every 8-bit product."""
    log = logging.getLogger("bitsandbytes")
    if not log.level:
        log.setLevel(logging.ERROR)


def _prepared(lm: PreTrainedModel) -> PreTrainedModel:
    """The model after a first pass, where bitsandbytes packs its weights for a CPU, and without views of its file."""
    if is_quantized(lm) not in ("nf4", "fp4", "int8") or lm.device.type != "cpu":
        return lm
    for module in lm.modules():
        linear: Any = module
        # The fast 4-bit product on a CPU (bitsandbytes 0.50.2) takes no other shapes: it would raise.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            fits = linear.out_features % 32 == 0 and linear.in_features % linear.weight.blocksize == 0
            linear.support_avx512bf16_for_cpu = fits
    with torch.no_grad():
        lm(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False)
        for parameter in lm.parameters():
            if parameter.is_floating_point():  # not quantized: a view of the file, which it would keep in memory
                parameter.data = parameter.data.clone()
    return lm


def _devices(lm: PreTrainedModel) -> str:
    devices = {str(parameter.device) for parameter in lm.parameters() if not parameter.is_meta}
    return ", ".join(sorted(devices)) or "any device"
