"""The special tokens of the Qwen-VL tokenizers that matter for boxes, and how labels are kept free of them."""

from __future__ import annotations

REF_START = "<|object_ref_start|>"
REF_END = "<|object_ref_end|>"
BOX_START = "<|box_start|>"
BOX_END = "<|box_end|>"
QUAD_START = "<|quad_start|>"
QUAD_END = "<|quad_end|>"
END_TOKENS = ("<|im_end|>", "<|endoftext|>")


def neutralise(label: str) -> str:
    """A label that no tokenizer reads as a special token: every `<|` becomes `< |`.

    All special tokens that give an answer or a conversation its structure start with `<|`, so a label can neither end
    its own element nor open an image or a turn. Labels without `<|` stay as they are.
    """
    return label.replace("<|", "< |")
