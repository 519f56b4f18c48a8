"""Tiny models with random weights, one for each family: for tests and for trying a pipeline without a download.

They have the families' real classes, processors and conversation format, and find nothing until they are trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxtune.errors import ModelError, nearest
from boxtune.models.families import FAMILIES

_WORDS = (
    "Detect all instances of: table figure text red blue white cell cells RBC WBC Platelets glass metal paper plastic "
    'nutrition-table bottle none object [{"bbox_2d": [1, 2, 3, 4], "label": "table"}, {"bbox_2d": [ "label": '
    'Locate every instance that belongs to the following categories: "table". Report bbox coordinates in JSON format. '
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n assistant\n"
)


def build_tiny(model_type: str, *, seed: int = 0, width: int = 64, depth: int = 2, max_pixels: int = 224 * 224) -> Any:
    """A model of the family with random weights, and its processor: `(model, processor)`.

    Args:
        model_type: one of the families table.
        seed: of the weights.
        width: hidden size of vision tower and language model, a multiple of 32.
        depth: number of blocks of each.
        max_pixels: area that larger images are reduced to.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    if model_type not in FAMILIES:
        raise ModelError(f"No tiny model of '{model_type}'. {nearest(model_type, FAMILIES)}")
    processor = tiny_processor(model_type, max_pixels=max_pixels)
    settings = _sizes(model_type, width, depth, len(processor.tokenizer))
    settings["text_config"] |= {"bos_token_id": None, "eos_token_id": processor.tokenizer.eos_token_id}
    ids = vision_token_ids(processor.tokenizer)
    config = AutoConfig.for_model(model_type, **settings, **ids, tie_word_embeddings=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
        centre_patch_filters(model)
    set_stop_tokens(model, processor.tokenizer)
    return model, processor


def save_tiny(model_type: str, folder: Path, **options: Any) -> Path:
    """Write such a model to a folder that any loader opens; returns the folder."""
    model, processor = build_tiny(model_type, **options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def vision_token_ids(tokenizer: Any) -> dict[str, int]:
    """What a model's configuration must know of the tokens around images."""
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def centre_patch_filters(model: Any) -> None:
    """Give the patch embedding filters without a mean, as long as their number of inputs asks for.

    At the start a patch is then told by its pattern, and not by its brightness alone, which all white pages share.
    """
    weight = model.model.visual.patch_embed.proj.weight.data
    weight -= weight.mean((1, 2, 3, 4), keepdim=True)
    weight *= 2 * weight[0].numel() ** -0.5 / weight.std()


def set_stop_tokens(model: Any, tokenizer: Any) -> None:
    """Generation ends at `<|im_end|>` or `<|endoftext|>`, and pads with the latter."""
    stop, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config.update(eos_token_id=[stop, pad], pad_token_id=pad, bos_token_id=None, do_sample=False)


def tiny_processor(model_type: str, *, max_pixels: int, tokenizer: Any = None) -> Any:
    """The family's processor around a small tokenizer."""
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    from boxtune.models.tokenizer import train_tokenizer

    tokenizer = tokenizer or train_tokenizer([_WORDS] * 50, vocab_size=700)
    three = model_type.startswith("qwen3")
    patch_size = 16 if three else 14
    limits = {"shortest_edge": (2 * patch_size) ** 2 * 4, "longest_edge": max_pixels}
    normalised: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if three else {}
    images = Qwen2VLImageProcessor(patch_size=patch_size, size=limits, **normalised)
    classes: dict[str, tuple[Any, Any]] = {
        "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor),
        "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    }
    processor_class, video_class = classes.get(model_type, (Qwen3VLProcessor, Qwen3VLVideoProcessor))
    return processor_class(images, tokenizer, video_class(), chat_template=tokenizer.chat_template)


def _sizes(model_type: str, width: int, depth: int, vocab_size: int) -> dict[str, Any]:
    heads = width // 32
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 6, 6]}  # 2 × 16 = 32, a head's width
    text: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "vocab_size": vocab_size,
        "max_position_embeddings": 32768,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
        # large models' 0.02 would leave nothing of the picture after a few narrow layers
        "initializer_range": width**-0.5,
    }
    vision: dict[str, Any] = {"depth": depth, "num_heads": heads, "initializer_range": width**-0.5}
    if model_type == "qwen2_vl":
        vision |= {"embed_dim": width, "hidden_size": width, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": width, "intermediate_size": 2 * width, "out_hidden_size": width}
    if model_type == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [depth - 1], "window_size": 112}
    if model_type.startswith("qwen3"):
        vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": 32, "rope_parameters": rope | {"mrope_interleaved": True}}
    if model_type == "qwen3_vl_moe":
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": width}
    return {"text_config": text, "vision_config": vision}
