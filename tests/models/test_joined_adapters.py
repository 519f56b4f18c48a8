"""Wide adapters as one product with their base: PEFT's numbers, never an old B, and a way back to the bit."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from torch._dynamo.utils import counters

from boxtune.collators.batch import Collator
from boxtune.losses import language
from boxtune.models import attention_varlen
from boxtune.models.areas import LowRank, prepare_for_training, recompute_activations
from boxtune.models.attention import AttentionChoice, use_attention
from boxtune.models.compile import blocks_of, compile_blocks
from boxtune.models.families import family
from boxtune.models.joined_adapters import JoinableLinear, join_adapters, make_joinable, separate_adapters
from collators.conversations import encoder_of
from models.joined_products import count_products
from models.opaque_kernel import opaque_attention

AREAS = {"language": "lora", "vision": "lora", "merger": "frozen"}
Gradients = dict[str, torch.Tensor]


class Layers(nn.Module):
    """What stands around the layers of a Qwen-VL, as far as joining looks at it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.language_model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.language_model(x)


def layers(bias: bool = False, dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    """A wide layer and its way back, B not at zero, in training."""
    torch.manual_seed(0)
    bare = Layers(nn.Linear(24, 64, bias=bias), nn.SiLU(), nn.Linear(64, 24)).to(dtype)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": r".*\.[02]"} | lora)
    make_joinable(config)
    model = get_peft_model(bare, config)
    moved(model)
    return model.train()


@torch.no_grad()
def moved(model: Any) -> None:
    """Another B, as after a step of the optimizer."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def wide(model: Any) -> Any:
    (layer,) = (module for module in model.modules() if isinstance(module, JoinableLinear))
    return layer


def results(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, Gradients]:
    """Output, and gradients of all adapters and of the input."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # of dropout
    y = model(x)
    y.float().square().sum().backward()
    return y.detach(), {"x": x.grad} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(found: Gradients, expected: Gradients, tolerance: float = 1e-5) -> None:
    """Differences by the largest number of each tensor."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name].dtype == gradient.dtype
        assert (found[name] - gradient).abs().max() <= tolerance * gradient.abs().max(), name


@pytest.fixture
def products(monkeypatch) -> Iterator[list[int]]:
    """One entry for each product that was made of two."""
    made: list[int] = []
    count_products(monkeypatch, made)
    return made


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24), (1, 2, 3, 24)])
@pytest.mark.parametrize(
    "style", [{}, {"bias": True}, {"lora_dropout": 0.5}, {"use_rslora": True}], ids=["plain", "bias", "dropout", "rs"]
)
def test_as_peft_computes_it(shape, style, products):
    model, x = layers(**style), torch.randn(shape)
    expected, of_expected = results(model, x)
    assert join_adapters(model) == 1
    assert not products
    found, of_found = results(model, x)
    assert len(products) == 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert_close(of_found, of_expected)


@pytest.mark.parity
def test_bf16_is_no_further_from_exact_than_peft_is():
    """Both round to 8 bits; what is compared with is computed in fp32 from the same rounded weights."""
    model, x = layers(dtype=torch.bfloat16), torch.randn(2, 50, 24).bfloat16()
    exact, of_exact = results(copy.deepcopy(model).float(), x.float())

    def distances() -> tuple[float, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            y, gradients = results(model, x)
        assert y.dtype == gradients["x"].dtype == torch.bfloat16
        assert all(g.dtype == torch.float32 for name, g in gradients.items() if name != "x")
        (of_up,) = (g for name, g in gradients.items() if "0.lora_B" in name)
        assert torch.equal(of_up, of_up.bfloat16().float())  # rounded as autocast rounds it
        errors = [(y - exact).norm() / exact.norm()]
        errors += [(gradients[name] - g).norm() / g.norm() for name, g in of_exact.items()]
        return tuple(map(float, errors))

    plain = distances()
    assert join_adapters(model) == 1
    assert all(0 < found < max(1.2 * by_peft, 2**-8) for found, by_peft in zip(distances(), plain, strict=True))


def test_the_weight_is_one_half_of_the_buffer_and_comes_back_to_the_bit():
    model = layers()
    layer = wide(model)
    weight, before = layer.base_layer.weight, layer.base_layer.weight.clone()
    names = list(model.state_dict())
    join_adapters(model)
    assert layer.base_layer.weight is weight  # what others hold of it stays right
    assert torch.equal(weight, before)
    assert weight.stride() == (32, 1)
    assert weight.data_ptr() == layer.joined[0].data_ptr()
    assert list(model.state_dict()) == names == list(join_and_count(model).state_dict())
    separate_adapters(model)
    assert layer.base_layer.weight is weight
    assert weight.is_contiguous()
    assert torch.equal(weight, before)
    assert weight.untyped_storage().nbytes() == weight.nbytes
    assert not layer.joined
    assert not model.get_base_model().model.language_model._forward_pre_hooks
    separate_adapters(model)


def join_and_count(model: Any) -> Any:
    assert join_adapters(model) == 1  # a second time changes nothing
    return model


@pytest.mark.parity
def test_b_is_never_an_old_one(products):
    model, x = layers(), torch.randn(3, 24)
    plain = copy.deepcopy(model)
    join_adapters(model)
    for change in (
        lambda each: torch.optim.AdamW([p for p in each.parameters() if p.requires_grad], lr=0.1).step(),
        moved,
        lambda each: each.load_state_dict({n: v * 2 if "lora_B" in n else v for n, v in each.state_dict().items()}),
        lambda each: [p.data.mul_(0.5) for n, p in each.named_parameters() if "lora_B" in n],  # shows in no version
    ):
        for each in (model, plain):
            results(each, x)
            torch.manual_seed(2)
            change(each)
        assert_close(results(model, x)[1], results(plain, x)[1])
    assert len(products) == 8


@pytest.mark.parity
def test_gradients_add_up_and_two_forward_passes_may_come_before_a_backward_pass():
    model, parts = layers(), torch.randn(2, 3, 24)

    def together() -> Gradients:
        model.zero_grad()
        sum(model(part).square().sum() for part in parts).backward()
        for part in parts:
            model(part).square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = together()
    join_adapters(model)
    assert_close(together(), expected)


def test_it_is_left_where_a_model_is_asked_or_the_adapter_is_not_wanted(products):
    model, x = layers(), torch.randn(3, 24)
    join_adapters(model)
    with torch.no_grad():
        moved(model)
        asked = model.eval()(x)
        model.train()
        with model.disable_adapter():
            base = model(x)
        assert not products
        torch.testing.assert_close(model(x), asked)  # with the B of now
        assert len(products) == 1
        separate_adapters(model)
        assert torch.equal(model.eval()(x), asked)
        with model.disable_adapter():
            assert torch.equal(model(x), base)


@pytest.mark.parametrize("safe", [False, True])
def test_merged_and_taken_apart_again(safe, products):
    model, x = layers(), torch.randn(3, 24)
    expected = results(model, x)
    join_adapters(model)
    model.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(model(x), expected[0], rtol=1e-4, atol=1e-5)
    assert not products
    model.unmerge_adapter()
    found = results(model, x)
    assert len(products) == 1
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert_close(found[1], expected[1], 1e-4)
    merged = model.eval().merge_and_unload(safe_merge=safe)
    torch.testing.assert_close(merged(x), expected[0], rtol=1e-4, atol=1e-5)


def test_weights_that_were_replaced_are_joined_again(products):
    """An evaluation on a CPU in the course of a run casts frozen weights and puts them back."""
    model, x = layers(), torch.randn(3, 24)
    join_adapters(model)
    weight = wide(model).base_layer.weight
    weight.data = (2 * weight.data).clone()
    found = results(model, x)
    assert len(products) == 1
    assert weight.data_ptr() == wide(model).joined[0].data_ptr()
    model.double()
    results(model, x.double())
    assert wide(model).joined[0].dtype == torch.float64
    model.float()
    assert_close(results(model, x)[1], found[1])
    separate_adapters(model)
    assert_close(results(model, x)[1], found[1])
    assert len(products) == 3


def test_a_copy_looks_after_itself():
    model, x = layers(), torch.randn(3, 24)
    join_adapters(model)
    before = results(model, x)[1]
    other = copy.deepcopy(model)
    moved(other)
    assert_close(results(model, x)[1], before)
    changed = results(other, x)[1]
    separate_adapters(other)
    assert_close(results(other, x)[1], changed)
    assert wide(model).joined
    assert not wide(other).joined


def test_two_adapters_or_another_are_pefts_business(products):
    model, x = layers(), torch.randn(3, 24)
    join_adapters(model)
    model.add_adapter("other", model.peft_config["default"])
    moved(model)
    for active in ("other", ["default", "other"]):
        model.base_model.set_adapter(active)
        joined = results(model, x)
        separated = copy.deepcopy(model)
        separate_adapters(separated)
        assert torch.equal(joined[0], results(separated, x)[0])
        assert not products
    assert join_adapters(model) == 0
    assert wide(model).base_layer.weight.is_contiguous()


def test_two_precisions_are_added_in_the_wider_one(products):
    model, x = layers(), torch.randn(3, 24)
    join_adapters(model)
    with torch.autocast("cpu", torch.bfloat16):  # around a base in fp32
        results(model, x)
    assert not products


@pytest.mark.parametrize(
    "style", [{"use_dora": True}, {"lora_bias": True}, {"r": 6}], ids=lambda style: next(iter(style))
)
def test_other_adapters_stay_as_they_are(style):
    model = layers(bias=True, **style)
    assert join_adapters(model) == 0
    assert wide(model).base_layer.weight.is_contiguous()


def test_trained_weights_stay_as_they_are():
    model = layers()
    wide(model).base_layer.weight.requires_grad_(True)
    assert join_adapters(model) == 0


def test_4_bit_layers_get_pefts_own_adapters():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    bare = Layers(bitsandbytes.nn.Linear4bit(64, 128, quant_type="nf4")).to("cpu")
    bare.is_loaded_in_4bit = True
    config = LoraConfig(r=8, target_modules=r".*\.0")
    make_joinable(config)
    model = get_peft_model(bare, config)
    (layer,) = (m for m in model.modules() if hasattr(m, "lora_A"))
    assert not isinstance(layer, LoraLinear)
    assert type(layer).__name__ == "Linear4bit"
    assert join_adapters(model) == 0


# ---- whole models ----------------------------------------------------------------------------------------------------


def prepared(tiny, model_type: str) -> Any:
    model = prepare_for_training(copy.deepcopy(tiny(model_type)[0]), family(model_type), AREAS, LowRank(rank=8))
    moved(model)
    return model.train()


def gradients(model: Any, batch: Any) -> Gradients:
    model.zero_grad()
    outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
    (language.total(outputs.logits, batch["targets"]) / language.count(batch["targets"])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parity
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_same_gradients_in_every_family(tiny, samples, model_type, checkpointing, products):
    model = prepared(tiny, model_type)
    if checkpointing:
        recompute_activations(model)
    batch = Collator(encoder_of(model_type, tiny(model_type)[1]))(samples)
    expected = gradients(model, batch)
    num_layers = len(model.get_base_model().model.language_model.layers)
    assert join_adapters(model) == 2 * num_layers  # gate and up; nothing of the vision tower
    found = gradients(model, batch)
    assert len(products) == 2 * num_layers * (1 + checkpointing)
    assert_close(found, expected)
    separate_adapters(model)
    again = gradients(model, batch)
    assert all(torch.equal(again[name], gradient) for name, gradient in expected.items())


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_compiled_without_a_break_and_for_all_lengths(tiny, samples, checkpointing, monkeypatch):
    """Attention as in `test_compile.py`: what boxtune compiles."""
    monkeypatch.setattr(attention_varlen, "load_kernel", lambda key: opaque_attention)
    monkeypatch.setattr(attention_varlen, "_kernel_dtype", lambda query: query.dtype)
    torch._dynamo.reset()
    counters.clear()
    model = prepared(tiny, "qwen2_5_vl")
    plain = copy.deepcopy(model)
    if checkpointing:
        recompute_activations(model)
    use_attention(model.get_base_model(), AttentionChoice("varlen", "varlen", "a test"))
    join_adapters(model)
    compile_blocks(model, backend="aot_eager")
    collator = Collator(encoder_of("qwen2_5_vl", tiny("qwen2_5_vl")[1]), batching="packed")
    graphs = []
    for part in (samples[:3], samples[1:], samples[:2]):
        assert_close(gradients(model, collator(part)), gradients(plain, collator(part)), 1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
        for each in (model, plain):
            torch.manual_seed(3)
            moved(each)
    assert 0 < graphs[0] == graphs[1] == graphs[2]
    assert not counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("joined", [False, True])
def test_compiled_and_recomputed_nothing_wide_is_kept(tiny, samples, joined):
    """A function of autograd's in the place of the operation kept its outputs in every block (torch 2.11)."""
    torch._dynamo.reset()
    model = prepared(tiny, "qwen2_5_vl")
    recompute_activations(model)
    if joined:
        join_adapters(model)
    compile_blocks(model, backend="aot_eager")
    inputs = Collator(encoder_of("qwen2_5_vl", tiny("qwen2_5_vl")[1]))(samples[:2])["inputs"]
    wide = inputs["input_ids"].numel() * model.config.get_text_config().intermediate_size

    def num_wide() -> int:
        gc.collect()
        return sum(type(thing) is torch.Tensor and thing.numel() == wide for thing in gc.get_objects())

    before = num_wide()  # other tests may have left some
    outputs = model(**inputs, use_cache=False)
    assert num_wide() <= before
    assert outputs.logits.requires_grad
    torch._dynamo.reset()


@pytest.mark.parity
@pytest.mark.slow
def test_compiled_by_inductor_as_one_graph():
    torch._dynamo.reset()
    model, x = layers(), torch.randn(2, 5, 24)
    plain = copy.deepcopy(model)
    join_adapters(model)
    model.get_base_model().model.language_model[0].compile(dynamic=True, fullgraph=True)
    for length in (5, 7):
        x = torch.randn(2, length, 24)
        assert_close(results(model, x)[1], results(plain, x)[1])
    torch._dynamo.reset()


def test_blocks_have_adapters_of_the_joinable_kind_only_where_they_are_wide(tiny):
    model = prepared(tiny, "qwen2_5_vl")
    for block in blocks_of(model):
        for name, module in block.named_modules():
            if isinstance(module, LoraLinear):
                is_wide = module.out_features >= 2 * module.in_features
                assert isinstance(module, JoinableLinear) == is_wide, name
