"""Memory that runs out: what did not fit is named, and halved batches give the run that would have been."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from boxtune.config.load import load_config
from boxtune.errors import ConfigError, RunError
from boxtune.training.arguments import check_oom
from boxtune.training.callbacks.checkpoints import checkpoints
from boxtune.training.callbacks.parts import release_memory
from boxtune.training.failures import is_out_of_memory, what_would_fit
from training.runs import short_run, weights

LONG = ("trainer.max_steps=5", "trainer.save_steps=100", "trainer.optim=sgd", "trainer.learning_rate=0.1")
HEAD = ("model.detection_head=true", "detection_head.num_queries=5", "detection_head.width=32")
STYLES = {
    "padded": ("collator.batching=padded", "trainer.per_device_train_batch_size=4"),
    "accumulated": (
        "collator.batching=padded",
        "trainer.per_device_train_batch_size=2",
        "trainer.gradient_accumulation_steps=2",
    ),
    "packed": ("collator.batching=packed", "trainer.per_device_train_batch_size=4"),
    "head": ("collator.batching=packed", "trainer.per_device_train_batch_size=4", *HEAD),
    "budget": ("collator.batching=packed", "collator.token_budget=260"),
}


@pytest.fixture
def small_memory(monkeypatch):
    """A model that takes no more than so many images from a step on, and finds it out on the way there or back."""

    def limit(num_images: int, *, backward: bool, from_call: int = 0) -> list[int]:
        sizes: list[int] = []
        real = Qwen2VLForConditionalGeneration.forward

        def forward(self, *args, **kwargs):
            size = len(kwargs["image_grid_thw"])
            sizes.append(size)
            too_large = self.training and size > num_images and len(sizes) > from_call
            if too_large and not backward:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            outputs = real(self, *args, **kwargs)
            if too_large:
                self.model.language_model.layers[0].register_full_backward_hook(fail)
            return outputs

        def fail(module, *_):
            module._backward_hooks.clear()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        monkeypatch.setattr(Qwen2VLForConditionalGeneration, "forward", forward)
        return sizes

    return limit


@pytest.fixture(scope="module")
def large_memory(coco, tmp_path_factory):
    """The runs with room enough."""
    home, made = tmp_path_factory.mktemp("large"), {}

    def run(style: str):
        if style not in made:
            made[style] = short_run(coco, home / style, *LONG, *STYLES[style])[0]
        return home / style, made[style]

    return run


def assert_alike(folder, result, expected) -> None:
    """Sums in another order."""
    whole, unbroken = expected
    assert [loss for _, loss in result.losses] == pytest.approx([loss for _, loss in unbroken.losses], rel=1e-4)
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, weights(whole)[name], rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize(
    ("style", "backward"),
    [("padded", True), ("accumulated", True), ("head", True), ("budget", False)],
)
def test_retry(style, backward, coco, large_memory, small_memory, tmp_path):
    """Half-made gradients are forgotten; what follows is computed in halves from the start."""
    expected = large_memory(style)
    sizes = small_memory(1, backward=backward, from_call=3)
    result, said = short_run(coco, tmp_path / "o", *LONG, *STYLES[style], "trainer.oom=retry")
    assert_alike(tmp_path / "o", result, expected)
    assert "Batches are computed in 2 parts from now on; the step is done again." in said
    assert sizes[-1] == 1
    assert max(sizes[-4:]) == 1, sizes  # not tried anew at every step


def test_stop_names_what_did_not_fit_and_goes_on_with_retry(coco, large_memory, small_memory, tmp_path):
    expected = large_memory("packed")
    small_memory(2, backward=False, from_call=3)
    with pytest.raises(RunError) as caught:
        short_run(coco, tmp_path / "o", *LONG, *STYLES["packed"])
    said = str(caught.value)
    assert said.startswith("Out of memory at step 4, in 4 images of ")
    assert "fitted so far): " in said
    assert "--oom retry (halves batches from now on; the optimum stays)" in said
    assert "in a new run trainer.per_device_train_batch_size=2 trainer.gradient_accumulation_steps=2." in said
    assert said.endswith(f"Saved at step 3; go on with: boxtune train --resume --output-dir {tmp_path / 'o'}")
    assert [path.name for path in checkpoints(tmp_path / "o")] == ["checkpoint-3"]
    result, _ = short_run(coco, tmp_path / "o", *LONG, *STYLES["packed"], "trainer.oom=retry", resume=True)
    assert_alike(tmp_path / "o", result, expected)


def test_one_image_that_does_not_fit(coco, small_memory, tmp_path):
    small_memory(0, backward=False)
    with pytest.raises(RunError, match=r"Out of memory at step 1, in image \d of \d+ tokens.*model\.max_pixels=6272"):
        short_run(coco, tmp_path / "o", *LONG, *STYLES["packed"], "trainer.oom=retry")


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_say_so(error, known):
    assert is_out_of_memory(error) is known


@pytest.mark.parametrize(
    ("overrides", "samples", "said"),
    [
        ([], 8, "trainer.per_device_train_batch_size=4 trainer.gradient_accumulation_steps=2"),
        (["collator.batching=packed", "collator.token_budget=8192"], 8, "collator.token_budget=4000"),
        ([], 1, "model.max_pixels=500000"),
    ],
)
def test_settings_that_fit(overrides, samples, said):
    config = load_config(None, ["data.path=x", "model.max_pixels=1000000", *overrides])
    assert said in what_would_fit(config, samples, 8000, 0)
    if "token_budget" in said:
        assert "collator.token_budget=5120" in what_would_fit(config, samples, 8000, 5120)


def test_retry_is_for_one_process(monkeypatch):
    config = load_config(None, ["data.path=x", "trainer.oom=retry"])
    check_oom(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"trainer\.oom=retry is for one process"):
        check_oom(config)


@pytest.mark.gpu
def test_a_gpu_that_is_too_small(coco, tmp_path):
    """A real allocation fails: the process may use no more than a part of the memory.

    Images are large, since torch takes memory 20 MiB at a time: of small ones a batch is no more than model and data.
    """
    style = (*LONG, "model.device=cuda", "collator.batching=padded", "trainer.per_device_train_batch_size=8",
             "model.min_pixels=400000", "model.max_pixels=500000")  # fmt: skip
    config = ("model.dtype=float32", "model.speedups=[]", "trainer.oom=retry", "data.val_fraction=0")
    whole, _ = short_run(coco, tmp_path / "whole", *style, *config)
    release_memory()  # of the run before, too: its trainer is part of a circle
    torch.cuda.reset_peak_memory_stats()
    short_run(coco, tmp_path / "again", *style, *config)
    peak, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    release_memory()
    torch.cuda.set_per_process_memory_fraction(0.8 * peak / total)
    try:
        result, said = short_run(coco, tmp_path / "small", *style, *config)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "parts from now on; the step is done again." in said
    assert [loss for _, loss in result.losses] == pytest.approx([loss for _, loss in whole.losses], rel=1e-3)
