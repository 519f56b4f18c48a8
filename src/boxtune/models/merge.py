"""An adapter folded into its base model, or a head put beside it, and the proof that nothing was lost.

An adapter that was trained on a 4-bit base has learned what goes with the rounded weights. `dequantized` folds it into
just these, unpacked: the result answers as the trained model did. `original` folds it into the weights that were
rounded; the result is what the adapter folder gives when it is loaded on its base unpacked. Which one is better on
unseen images has to be measured; which one was trained is known, and is the default.

A head that was trained alone leaves its base as it is: the two are written to one folder, which then needs no other.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from boxtune.errors import ModelError
from boxtune.models.bases import base_of_head
from boxtune.models.contract import FILE_NAME, RUN_FILE, Contract
from boxtune.models.detection_head.saving import CONFIG_FILE as HEAD_CONFIG
from boxtune.models.detection_head.saving import save_head
from boxtune.models.fingerprint import weights_fingerprint
from boxtune.models.load import LoadedModel, load_model
from boxtune.models.quantize import require_bitsandbytes, round_as_packed

Base = Literal["auto", "dequantized", "original"]

# Of the largest logit. fp32: sums in another order, measured about 2e-6. bf16: a weight is off by up to 2⁻⁹ of itself,
# and logits by some such roundings; measured in steps of 2⁻⁸, dense tiny models differ by up to 10, mixtures, which may
# choose another expert, by up to 16. What proves a bf16 merge is not this but the sum, which is compared in fp32, and
# the written weights, which must be its rounding bit for bit.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 32 * 2**-8}
_SHARD = "5GB"  # as the checkpoints on the hub


def merge_adapter(adapter: Path, output_dir: Path, *, base: Base = "auto", dtype: torch.dtype = torch.float32) -> float:
    """Write the merged model to `output_dir`; returns the largest relative difference of logits to the adapter's.

    The sum is made in fp32 and its logits are compared; then it is rounded to `dtype`, written, read back, and compared
    again, weights and logits. A detection head is carried over as it is, and so is the record of the run, by which an
    evaluation knows the images that were trained on.

    Args:
        adapter: folder of a LoRA run, or of a head that was trained alone.
        output_dir: new or empty. Gets what a checkpoint on the hub has, in the names that it has there.
        base: see the module; `auto` is `dequantized` for an adapter that was trained on 4 bits.
        dtype: float32 or bfloat16, of the written weights.

    Raises:
        ModelError: no adapter, a folder that is not empty, a base that does not fit or has changed, or logits that
            differ by more than the tolerance.
    """
    if not (adapter / "adapter_config.json").is_file() and base_of_head(adapter) is None:
        heads = [path for path in adapter.glob(f"checkpoint-*/{HEAD_CONFIG}") if base_of_head(path.parent) is not None]
        parts = [*adapter.glob("checkpoint-*/adapter_config.json"), *heads]
        if checkpoints := sorted(parts, key=lambda path: path.stat().st_mtime):
            raise ModelError(f"{adapter} is an unfinished run: finish it, or merge {checkpoints[-1].parent}.")
        if stages := sorted(adapter.glob("stage-*/adapter_config.json")):
            raise ModelError(f"{adapter} holds the stages of a recipe: merge {stages[-1].parent}.")
        what = "a full model needs no merging" if (adapter / "config.json").is_file() else "name a run trained by LoRA"
        raise ModelError(f"{adapter} holds no adapter (adapter_config.json): {what}.")
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ModelError(f"{output_dir} is not an empty folder: choose another --output-dir, nothing is written over.")
    loaded = _with_base(adapter, base)
    inputs = probe_inputs(loaded.processor)
    before = _logits(loaded.model, inputs)
    model = loaded.model
    merged = model.merge_and_unload(safe_merge=True) if hasattr(model, "peft_config") else model
    _check(_difference(_logits(merged, inputs), before), TOLERANCE[torch.float32], "nothing was written")
    _write(merged.to(dtype), loaded, adapter, output_dir)
    read = load_model(str(output_dir), dtype=dtype)
    written = read.model
    try:
        _check_written(written, merged, output_dir)
        if loaded.head is not None:
            assert read.head is not None
            _check_written(read.head, loaded.head, output_dir)
        difference = _difference(_logits(written.float(), inputs), before)
        _check(difference, TOLERANCE[dtype], f"do not use {output_dir}")
    except ModelError:
        (output_dir / FILE_NAME).unlink()
        raise
    return difference


def probe_inputs(processor: Any) -> dict[str, torch.Tensor]:
    """A fixed small picture and a question, as tensors."""
    from PIL import Image

    image = Image.linear_gradient("L").resize((112, 112)).convert("RGB")
    content = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(text=[text], images=[image], return_tensors="pt"))


def _with_base(adapter: Path, base: Base) -> LoadedModel:
    """The adapter in fp32 on the base that it is to be folded into."""
    loaded = load_model(str(adapter))
    contract = loaded.contract
    _check_base(adapter, loaded.base, contract)
    held = contract.quantized_base
    if base == "dequantized" and held is None:
        raise ModelError(f"{adapter} was not trained on a 4-bit base: leave --base out, there is only the original.")
    if held is not None and base != "original":
        require_bitsandbytes("cpu")
        round_as_packed(loaded.model, loaded.family, getattr(torch, held["dtype"]))
    return loaded


def _check_base(adapter: Path, base: str, contract: Contract) -> None:
    if contract.base_weights is not None and weights_fingerprint(Path(base)) != contract.base_weights:
        raise ModelError(
            f"The weights in {base} are not those that {adapter} was trained on: put back the result of the stage "
            "before, or train this stage again."
        )


def _write(merged: Any, loaded: LoadedModel, adapter: Path, output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    merged.save_pretrained(output_dir, max_shard_size=_SHARD)
    loaded.processor.save_pretrained(output_dir)
    # transformers before 5, and what is built on it, looks for this file; later ones take processor_config.json
    loaded.processor.image_processor.save_pretrained(output_dir)
    if loaded.head is not None:
        save_head(loaded.head, output_dir)
    if (adapter / RUN_FILE).is_file():
        shutil.copyfile(adapter / RUN_FILE, output_dir / RUN_FILE)
    replace(loaded.contract, quantized_base=None, base_weights=None, base_of_head=None).save(output_dir)


def _check(difference: float, allowed: float, consequence: str) -> None:
    if not difference <= allowed:
        raise ModelError(
            f"The merged model's logits differ from the adapter's by {difference:.2g} of the largest (allowed "
            f"{allowed:.2g}): {consequence}."
        )


def _check_written(written: Any, merged: Any, output_dir: Path) -> None:
    found, expected = written.state_dict(), merged.state_dict()
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected or not torch.equal(found[name], expected[name]):
            raise ModelError(f"'{name}' was not written to {output_dir} as it was merged: do not use that folder.")


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**inputs).logits.float()
