"""A module in the place of `vllm`, which needs a GPU or a build of its own.

Names, arguments and fields are those of vLLM 0.33 (`entrypoints/llm.py`, `engine/arg_utils.py`, `sampling_params.py`,
`outputs.py`, `logprobs.py`), as far as boxtune uses them; `test_vllm_engine` holds them against the real ones where
vLLM is installed. The answers are those of transformers' own `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from PIL import ImageOps
from safetensors import safe_open


@dataclass
class SamplingParams:
    temperature: float = 1.0
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: Any
    outputs: list[CompletionOutput]
    finished: bool


class LLM:
    made: ClassVar[list[LLM]] = []

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        mm_processor_kwargs: dict[str, Any] | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        limit_mm_per_prompt: dict[str, int] | None = None,
        mm_processor_cache_gb: float = 4,
        enable_prefix_caching: bool | None = None,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.processor = AutoProcessor.from_pretrained(model)
        _load_every_file(Path(model), set(self.model.state_dict()))
        self.mm_processor_kwargs, self.limit_mm_per_prompt = mm_processor_kwargs or {}, limit_mm_per_prompt
        self.max_num_seqs, self.dtype = max_num_seqs, dtype
        self.calls: list[int] = []
        LLM.made.append(self)

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: SamplingParams | None = None, *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        assert sampling_params is not None
        assert sampling_params.temperature == 0.0
        self.calls.append(len(prompts))
        return [self._answer(str(index), prompt, sampling_params) for index, prompt in enumerate(prompts)]

    @torch.inference_mode()
    def _answer(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> RequestOutput:
        image = ImageOps.exif_transpose(prompt["multi_modal_data"]["image"])
        vision = self.processor.image_processor(images=[image], return_tensors="pt", **self.mm_processor_kwargs)
        placeholder = self.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        number = int(vision["image_grid_thw"].prod()) // self.processor.image_processor.merge_size**2
        ids = [
            token
            for asked in prompt["prompt_token_ids"]
            for token in ([placeholder] * number if asked == placeholder else [asked])
        ]
        written = self.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            mm_token_type_ids=(torch.tensor([ids]) == placeholder).int(),
            **vision,
            max_new_tokens=params.max_tokens,
            do_sample=False,
            eos_token_id=params.stop_token_ids,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens = written.sequences[0, len(ids) :].tolist()
        chances = [logits[0].float().log_softmax(-1) for logits in written.logits]
        logprobs = [{t: Logprob(float(row[t]), 1)} for t, row in zip(tokens, chances, strict=True)]
        reason = "stop" if tokens[-1] in (params.stop_token_ids or ()) else "length"
        output = CompletionOutput(0, "", tokens, None, logprobs if params.logprobs else None, reason)
        return RequestOutput(request_id, None, ids, None, [output], True)


def _load_every_file(folder: Path, known: set[str]) -> None:
    """As vLLM does where no index says which files are the model's."""
    if (folder / "model.safetensors.index.json").is_file():
        return
    modules = {part for name in known for part in name.split(".")}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            names = list(weights.keys())
        if strange := [name for name in names if not set(name.split(".")) <= modules]:
            raise ValueError(f"There is no module or parameter named '{strange[0]}'")


def module() -> ModuleType:
    """To stand in `sys.modules` as `vllm`."""
    made = ModuleType("vllm")
    LLM.made = []
    made.LLM, made.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    return made
