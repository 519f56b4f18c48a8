"""The published shapes of the three families, written as config.json: no weights, no network.

Sizes are those of the `config.json` of each model on the Hugging Face hub (`Qwen/<name>`); Qwen3-VL has no dense model
above 32B. The totals that they must give are the hub's own counts of the safetensors files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_QWEN2_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 32768,
}


def _qwen2(width: int, inner: int, layers: int, heads: int, kv: int, vocab: int) -> dict[str, Any]:
    """Qwen2-VL writes the language model's sizes at the top."""
    vision = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": width, "patch_size": 14}
    text = _text(width, inner, layers, heads, kv, vocab)
    return {"model_type": "qwen2_vl", **_QWEN2_IDS, **text, "vision_config": vision}


def _qwen2_5(width: int, inner: int, layers: int, heads: int, kv: int, vocab: int, vision_inner: int) -> dict[str, Any]:
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": vision_inner, "num_heads": 16, "out_hidden_size": width,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    text = _text(width, inner, layers, heads, kv, vocab)
    return {"model_type": "qwen2_5_vl", **_QWEN2_IDS, **text, "vision_config": vision}


def _qwen3(width: int, inner: int, layers: int, heads: int, large_vision: bool, tied: bool) -> dict[str, Any]:
    depth, vision_width, vision_inner = (27, 1152, 4304) if large_vision else (24, 1024, 4096)
    vision = {
        "depth": depth, "hidden_size": vision_width, "intermediate_size": vision_inner, "num_heads": 16,
        "out_hidden_size": width, "patch_size": 16, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24] if large_vision else [5, 11, 17],
    }  # fmt: skip
    text = _text(width, inner, layers, heads, 8, 151936) | {
        "head_dim": 128,
        "dtype": "bfloat16",
        "rope_theta": 5000000,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
    }
    ids = {name: number for name, number in _QWEN2_IDS.items() if name.endswith("_id")}
    return {"model_type": "qwen3_vl", **ids, "tie_word_embeddings": tied, "text_config": text, "vision_config": vision}


def _text(width: int, inner: int, layers: int, heads: int, kv: int, vocab: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "tie_word_embeddings": vocab == 151936 and width <= 2560,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen2-VL-2B-Instruct": _qwen2(1536, 8960, 28, 12, 2, 151936),
    "Qwen2-VL-7B-Instruct": _qwen2(3584, 18944, 28, 28, 4, 152064),
    "Qwen2-VL-72B-Instruct": _qwen2(8192, 29568, 80, 64, 8, 152064),
    "Qwen2.5-VL-3B-Instruct": _qwen2_5(2048, 11008, 36, 16, 2, 151936, 3420),
    "Qwen2.5-VL-7B-Instruct": _qwen2_5(3584, 18944, 28, 28, 4, 152064, 3420),
    "Qwen2.5-VL-72B-Instruct": _qwen2_5(8192, 29568, 80, 64, 8, 152064, 3456),
    "Qwen3-VL-2B-Instruct": _qwen3(2048, 6144, 28, 16, False, True),
    "Qwen3-VL-8B-Instruct": _qwen3(4096, 12288, 36, 32, True, False),
    "Qwen3-VL-32B-Instruct": _qwen3(5120, 25600, 64, 64, True, False),
}


def write_shape(folder: Path, name: str) -> Path:
    """A folder with nothing but the model's config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    return folder
