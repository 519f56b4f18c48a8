"""An adapter folded into its base model, and the proof that nothing was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from boxtune.errors import ModelError
from boxtune.models.contract import FILE_NAME
from boxtune.models.load import load_model

# fp32 sums in another order: measured differences are about 1e-6 of the largest logit, see tests/models/test_merge.py.
TOLERANCE = 1e-3


def merge_adapter(adapter: Path, output_dir: Path, *, dtype: torch.dtype = torch.float32) -> float:
    """Write the merged model to `output_dir`; returns the largest relative difference of logits to the adapter's.

    The merged folder is read back from disk and compared on a test input before the function returns.

    Raises:
        ModelError: no adapter, a folder that is not empty, or logits that differ by more than the tolerance.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter} holds no adapter (adapter_config.json): a full model needs no merging.")
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ModelError(f"{output_dir} is not an empty folder: choose another --output-dir, nothing is written over.")
    loaded = load_model(str(adapter), dtype=dtype)
    inputs = probe_inputs(loaded.processor)
    before = _logits(loaded.model, inputs)
    merged = loaded.model.merge_and_unload(safe_merge=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    merged.save_pretrained(output_dir)
    loaded.processor.save_pretrained(output_dir)
    loaded.contract.save(output_dir)
    after = _logits(load_model(str(output_dir), dtype=dtype).model, inputs)
    difference = float((after - before).abs().max() / before.abs().max())
    if not difference <= TOLERANCE:
        (output_dir / FILE_NAME).unlink()
        raise ModelError(
            f"The merged model's logits differ from the adapter's by {difference:.2g} (allowed {TOLERANCE:g}): "
            f"do not use {output_dir}."
        )
    return difference


def probe_inputs(processor: Any) -> dict[str, torch.Tensor]:
    """A fixed small picture and a question, as tensors."""
    from PIL import Image

    image = Image.linear_gradient("L").resize((112, 112)).convert("RGB")
    content = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(text=[text], images=[image], return_tensors="pt"))


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**inputs).logits.float()
