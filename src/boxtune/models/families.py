"""What differs between the families of Qwen-VL, in one table keyed on `config.model_type`.

A new family is one more row (and a codec in `boxtune.grounding` if its boxes are written in another way). Module paths
and names were read from transformers 5.23 (`models/<model_type>/modeling_<model_type>.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boxtune.errors import ModelError
from boxtune.grounding.codec import Codec
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.spaces import InputPixels, Relative1000
from boxtune.grounding.token_form import TokenForm

# Every parameter of a model belongs to exactly one area: these match the beginning of its name.
_AREAS = {
    "merger": r"model\.visual\.(merger|deepstack_merger_list)\.",
    "vision": r"model\.visual\.(?!merger\.|deepstack_merger_list\.)",
    "language": r"model\.language_model\.",
    "lm_head": r"lm_head\.",
    "detection_head": r"detection_head\.",  # ours, beside the model where one is trained
}
_LANGUAGE_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        model_type: as in the model's config.json.
        codec: how boxes are written in text.
        areas: area name → regex of the beginning of its parameters' names.
        lora_targets: area name → regex that a module's whole name must match to be given LoRA weights: the linear
            layers of the area. Those of `language` are also what 4-bit loading packs (see models/quantize.py).
    """

    model_type: str
    codec: Codec
    areas: Mapping[str, str]
    lora_targets: Mapping[str, str]

    def area_of(self, parameter_name: str) -> str:
        """The area of a parameter of the bare model.

        Raises:
            ModelError: no area of the table matches the name.
        """
        for area, prefix in self.areas.items():
            if re.match(prefix, parameter_name):
                return area
        raise ModelError(
            f"'{parameter_name}' belongs to no area of {self.model_type}: add its prefix to models/families.py."
        )


def _row(model_type: str, codec: Codec, visual_linears: Mapping[str, str]) -> Family:
    visual = {area: rf"model\.visual\.{pattern}" for area, pattern in visual_linears.items()}
    return Family(model_type, codec, _AREAS, {"language": _LANGUAGE_LINEARS, **visual})


_TOKENS_1000 = Codec(Relative1000(), TokenForm())
_JSON_PIXELS = Codec(InputPixels(), JsonForm())
_JSON_1000 = Codec(Relative1000(), JsonForm())
_QWEN2_MERGER = r"merger\.mlp\.[02]"
_QWEN2_VISION = {"vision": r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])", "merger": _QWEN2_MERGER}
_QWEN2_5_VISION = {"vision": r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)", "merger": _QWEN2_MERGER}
_QWEN3_VISION = {
    "vision": r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
    "merger": r"(merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
}

FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in (
        _row("qwen2_vl", _TOKENS_1000, _QWEN2_VISION),
        _row("qwen2_5_vl", _JSON_PIXELS, _QWEN2_5_VISION),
        _row("qwen3_vl", _JSON_1000, _QWEN3_VISION),
        # its experts are stacked tensors, not linears: LoRA reaches the attention of every layer
        _row("qwen3_vl_moe", _JSON_1000, _QWEN3_VISION),
    )
}


def family(model_type_or_config: Any) -> Family:
    """The family of a model type, or of a config that has one.

    Raises:
        ModelError: unknown; the message names the known ones and how to add a row.
    """
    model_type = getattr(model_type_or_config, "model_type", model_type_or_config)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(
            f"Unknown model family '{model_type}'. Known: {', '.join(FAMILIES)}. "
            "A new one is a row in boxtune/models/families.py."
        )
    return FAMILIES[model_type]
