"""The language model's linear layers in 4 bits (NF4, Dettmers et al. 2023, arXiv 2305.14314), and nothing else.

Vision tower, mergers, embeddings and head keep their precision: pictures suffer first, and they are a small part.
`llm_int8_skip_modules` of transformers matches names from the beginning, as a regex, or at the end, so that a name such
as `visual` skips nothing (transformers 5.23, `quantizers/quantizers_utils.py`). So the pattern here is made from the
families table, and the types of all modules are looked at once the model is loaded.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import torch

from boxtune.errors import ModelError
from boxtune.models.families import Family

Quantize = Literal["none", "nf4"]
COMPUTE_DTYPE = torch.bfloat16
INSTALL = "pip install 'bitsandbytes>=0.50'"  # the first release that computes on CPUs too


def quantization_config(family: Family) -> Any:
    """What `from_pretrained` of transformers is told: a `BitsAndBytesConfig` for the family's language linears."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=COMPUTE_DTYPE,
        llm_int8_skip_modules=[rf"(?!(?:{_packed(family)})$).+"],
    )


def require_bitsandbytes(device: str | torch.device) -> None:
    """Pack and unpack a few numbers on the device, which is the only proof that the library can.

    Raises:
        ModelError: bitsandbytes is not installed, or cannot work on this device.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError(
            f"4 bits need bitsandbytes: {INSTALL}; or do without, by model.quantize=none in training, and by "
            "--base original in merging."
        ) from None
    try:
        pack_and_unpack(torch.linspace(-1, 1, 4096, device=device).view(64, 64))
    except Exception as error:  # whatever a native library raises where it has no kernel
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"bitsandbytes cannot pack weights into 4 bits on {device} ({type(error).__name__}: {reason}): use another "
            "model.device, or model.quantize=none."
        ) from error


def settle(model: Any) -> None:
    """Make packed layers what they stay, whatever runs through them.

    bitsandbytes 0.50 (`nn/modules.py`) changes them in the first forward pass: it rounds biases to the dtype that is
    computed in, and on CPUs with bf16 instructions it repacks the weights in evaluation, after which no gradient gets
    through. The first is done here, the second is switched off.
    """
    for module in model.modules():
        if is_packed(module):
            module.support_avx512bf16_for_cpu = False
            if module.bias is not None:
                module.bias.data = module.bias.data.to(COMPUTE_DTYPE)


def check_precision(model: Any, family: Family, quantize: Quantize) -> None:
    """Every layer that should be packed is, and no other.

    Raises:
        ModelError: names the first layer that is not what it should be, and its area.
    """
    found = 0
    for name, module in model.named_modules():
        wanted = quantize == "nf4" and re.fullmatch(_packed(family), name) is not None
        found += wanted
        if is_packed(module) == wanted:
            continue
        area = family.area_of(f"{name}.weight")
        held, asked = ("4 bits", "full precision") if is_packed(module) else (type(module).__name__, "4 bits")
        raise ModelError(
            f"'{name}' (area '{area}') was loaded as {held}, but {asked} is asked for: load weights that are not "
            "quantised yet; if they are not, this release of transformers skips modules in another way."
        )
    if quantize == "nf4" and not found:
        raise ModelError(f"4-bit loading matches no layer of this {family.model_type}: see models/families.py.")


def is_packed(module: Any) -> bool:
    """Whether a module is a 4-bit linear layer."""
    return is_4bit(getattr(module, "weight", None))


def is_4bit(parameter: Any) -> bool:
    """Whether a parameter holds two numbers a byte; by name, so that bitsandbytes need not be there."""
    return type(parameter).__name__ == "Params4bit"


def num_elements(parameter: Any) -> int:
    """How many numbers a parameter stands for, packed or not."""
    if is_4bit(parameter) and parameter.quant_state is not None:
        return int(parameter.quant_state.shape.numel())
    return int(parameter.numel())


def num_bytes(parameter: Any) -> int:
    """Bytes that a parameter takes; of packed ones with scales and code tables."""
    size = int(parameter.numel() * parameter.element_size())
    if is_4bit(parameter) and (state := parameter.quant_state) is not None:
        scales = [state.absmax, state.code]
        if state.nested:
            scales += [state.offset, state.state2.absmax, state.state2.code]
        size += sum(int(scale.numel() * scale.element_size()) for scale in scales)
    return size


def dtype_name(parameter: Any) -> str:
    """`nf4`, or the name of torch's dtype: `bfloat16`."""
    return "nf4" if is_4bit(parameter) else str(parameter.dtype).removeprefix("torch.")


def pack_and_unpack(weight: torch.Tensor) -> torch.Tensor:
    """The weight that a packed layer computes with; same shape, dtype and device.

    Args:
        weight: [out, in], in the dtype that it was packed from.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state)


@torch.no_grad()
def round_as_packed(model: Any, family: Family, dtype: torch.dtype) -> None:
    """Give a model in full precision the language weights that a packed one computes with; in place.

    An adapter on such a model does what it did in training on 4 bits, without bitsandbytes in between.

    Args:
        model: of transformers, or a PeftModel around it.
        family: its row.
        dtype: of the weights before they were packed in training.
    """
    for name, module in model.named_modules():
        bare = name.removeprefix("base_model.model.").removesuffix(".base_layer")
        if not re.fullmatch(_packed(family), bare) or hasattr(module, "base_layer"):
            continue
        weight = module.weight.data
        module.weight.data = pack_and_unpack(weight.to(dtype)).to(weight.dtype)
        if module.bias is not None:
            module.bias.data = module.bias.data.to(COMPUTE_DTYPE).to(weight.dtype)


def _packed(family: Family) -> str:
    return family.lora_targets["language"]
