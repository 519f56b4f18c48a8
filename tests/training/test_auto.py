"""Values that are fitted to the model, the data and the machine."""

from __future__ import annotations

import pytest
import torch

from boxtune.config.load import load_config
from boxtune.config.schema import Config
from boxtune.training import auto

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SMALL, LARGE = 5_000_000, 3_000_000_000


@pytest.mark.parametrize(
    ("overrides", "num_parameters", "areas"),
    [
        pytest.param([], SMALL, ("full", "full", "full"), id="small"),
        pytest.param([], LARGE, ("lora", "frozen", "frozen"), id="large"),
        pytest.param(["adapter.language=lora"], SMALL, ("lora", "frozen", "frozen"), id="small, lora asked for"),
        pytest.param(["adapter.language=full"], LARGE, ("full", "frozen", "frozen"), id="large, full asked for"),
        pytest.param(["adapter.vision=frozen"], SMALL, ("full", "frozen", "full"), id="small, vision frozen"),
        pytest.param(["adapter.vision=lora"], SMALL, ("lora", "lora", "frozen"), id="small, lora on vision"),
        pytest.param(["model.quantize=nf4"], SMALL, ("lora", "frozen", "frozen"), id="small, 4 bits"),
    ],
)
def test_areas(overrides, num_parameters, areas):
    adapter = auto.fit_areas(load_config(None, overrides), num_parameters).adapter
    assert (adapter.language, adapter.vision, adapter.merger) == areas


@pytest.mark.parametrize(
    ("num_parameters", "num_images", "device", "batch", "rate", "epochs", "checkpointing"),
    [
        pytest.param(SMALL, 16, CPU, 8, 2e-4, 150, False, id="small, few images"),
        pytest.param(SMALL, 3, CPU, 3, 2e-4, 300, False, id="batch no larger than the set"),
        pytest.param(SMALL, 100_000, GPU, 32, 2e-4, 3, False, id="small, many images, GPU"),
        pytest.param(LARGE, 1000, CPU, 1, 1e-4, 3, False, id="large on a CPU"),
        pytest.param(LARGE, 100, GPU, 4, 1e-4, 12, True, id="large, GPU"),
    ],
)
def test_training(num_parameters, num_images, device, batch, rate, epochs, checkpointing):
    config = auto.fit_training(auto.fit_areas(Config(), num_parameters), num_parameters, num_images, device)
    trainer = config.trainer
    assert trainer.per_device_train_batch_size == batch
    assert trainer.learning_rate == rate
    assert trainer.num_train_epochs == epochs
    assert trainer.gradient_checkpointing is checkpointing
    assert config.evaluation.batch_size == max(8, batch)
    assert isinstance(config.data.num_workers, int)


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        (["adapter.language=frozen", "adapter.vision=full"], 5e-5),
        (["adapter.language=full"], 1e-5),
        (["adapter.language=frozen", "adapter.vision=lora"], 1e-4),
    ],
    ids=["vision in full", "language in full", "lora on vision"],
)
def test_rates_of_large_models(overrides, rate):
    config = auto.fit_areas(load_config(None, overrides), LARGE)
    assert auto.fit_training(config, LARGE, 1000, GPU).trainer.learning_rate == rate


def test_adapters_of_a_small_model_learn_at_a_higher_rate():
    config = auto.fit_areas(load_config(None, ["adapter.language=lora"]), SMALL)
    assert auto.fit_training(config, SMALL, 16, CPU).trainer.learning_rate == 1e-3


@pytest.mark.parametrize(("known_head", "rate"), [(False, 1e-3), (True, 5e-4)])
def test_a_head_that_knows_something_learns_at_a_lower_rate(known_head, rate):
    frozen = ["adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen", "model.detection_head=true"]
    config = auto.fit_areas(load_config(None, frozen), SMALL)
    assert auto.fit_training(config, SMALL, 16, CPU, known_head=known_head).trainer.learning_rate == rate


@pytest.mark.parametrize(
    ("wish", "num_images", "augment"),
    [("auto", 999, "light"), ("auto", 1000, "none"), ("none", 5, "none"), ("strong", 5000, "strong")],
)
def test_few_images_are_changed(wish, num_images, augment):
    config = auto.fit_areas(load_config(None, [f"data.augment={wish}"]), SMALL)
    assert auto.fit_training(config, SMALL, num_images, CPU).data.augment == augment


def test_what_has_a_rate_of_0_is_frozen():
    config = load_config(None, ["trainer.rates.vision=0", "trainer.rates.adapter=0"])
    assert auto.fit_areas(config, SMALL).adapter.model_dump(exclude={"lora"}) == {
        "language": "full",
        "vision": "frozen",
        "merger": "full",
    }


def test_what_is_said_stays():
    said = [
        "trainer.per_device_train_batch_size=5",
        "data.augment=strong",
        "trainer.learning_rate=0.02",
        "trainer.num_train_epochs=0.5",
        "trainer.gradient_checkpointing=true",
        "data.num_workers=3",
        "evaluation.batch_size=2",
        "evaluation.decoder=text",
        "model.min_pixels=1000",
        "model.max_pixels=2000",
    ]
    config = load_config(None, said)
    assert auto.fit_pixels(auto.fit_training(config, SMALL, 10, CPU), (1, 10**8)) == config


@pytest.mark.parametrize(
    ("own", "said", "fitted"),
    [
        ((3136, 12_845_056), [], (3136, 1_003_520)),
        ((64, 50_176), [], (64, 50_176)),
        ((65_536, 16_777_216), ["model.max_pixels=50000"], (50_000, 50_000)),
        ((65_536, 16_777_216), ["model.max_pixels=2000000"], (65_536, 2_000_000)),
        ((3136, 12_845_056), ["model.min_pixels=2000000"], (2_000_000, 2_000_000)),
        ((3136, 12_845_056), ["model.min_pixels=64"], (64, 1_003_520)),
        ((3136, 12_845_056), ["model.min_pixels=64", "model.max_pixels=100"], (64, 100)),
    ],
)
def test_pixels(own, said, fitted):
    model = auto.fit_pixels(load_config(None, said), own).model
    assert (model.min_pixels, model.max_pixels) == fitted


@pytest.mark.parametrize(
    ("wish", "device", "dtype"),
    [("auto", CPU, torch.float32), ("auto", GPU, torch.bfloat16), ("bfloat16", CPU, torch.bfloat16)],
)
def test_dtype(wish, device, dtype):
    assert auto.frozen_dtype(load_config(None, [f"model.dtype={wish}"]), device) == dtype


@pytest.mark.parametrize(
    ("wish", "capabilities", "bf16"),
    [
        pytest.param("auto", {"avx512_bf16": True}, True, id="AVX-512 BF16"),
        pytest.param("auto", {"amx_bf16": True, "avx512_bf16": False}, True, id="AMX"),
        pytest.param("auto", {"avx512_f": True, "avx512_bf16": False}, False, id="no bf16"),
        pytest.param("float32", {"avx512_bf16": True}, False, id="fp32 asked for"),
        pytest.param("bfloat16", {}, True, id="bf16 asked for"),
    ],
)
def test_bf16_on_a_cpu_that_is_fast_at_it(wish, capabilities, bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert auto.use_bf16(load_config(None, [f"model.dtype={wish}"]), CPU) is bf16


@pytest.mark.parametrize(
    ("minutes", "pixels", "device", "batch"),
    [
        pytest.param(15, 313_600, CPU, 8, id="plenty"),
        pytest.param(2, 313_600, CPU, 2, id="short: more steps of fewer images"),
        pytest.param(2, 100_352, CPU, 6, id="short, small images"),
        pytest.param(0.1, 313_600, CPU, 2, id="never one image alone"),
        pytest.param(1e308, 313_600, CPU, 8, id="for ever"),
        pytest.param(2, 313_600, GPU, 32, id="GPU"),
    ],
)
def test_batch_within_a_budget_of_time(minutes, pixels, device, batch, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    config = load_config(None, [f"trainer.minutes={minutes}", f"model.max_pixels={pixels}"])
    config = auto.fit_training(config, 10_000_000, 100, device)
    assert config.trainer.per_device_train_batch_size == batch


def test_answers_may_be_longer_than_the_longest_seen():
    assert auto.fit_answer_length(0) >= 32
    assert auto.fit_answer_length(100) == 182
