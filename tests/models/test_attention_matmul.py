"""Attention as whole matrix products, in the vision tower and in packed rows."""

from __future__ import annotations

import copy

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.losses import language
from boxtune.models import attention_matmul
from boxtune.models.attention_kernels import attend_by_segments
from boxtune.models.attention_matmul import MATMUL, attend_causally, matmul_attention, register_matmul
from boxtune.models.families import FAMILIES
from collators.conversations import encoder_of


def heads(num_patches: int, dtype: torch.dtype) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, num_patches, 8, generator=noise).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parity
def test_the_same_as_sdpa_but_for_rounding():
    query, key, value = heads(20, torch.bfloat16)
    found, _ = matmul_attention(torch.nn.Module(), query, key, value, None, 8**-0.5)
    exact = [tensor.detach().float().requires_grad_() for tensor in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*exact).transpose(1, 2)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    upstream = torch.ones_like(expected)
    gradients = torch.autograd.grad(found, (query, key, value), upstream.bfloat16())
    for gradient, true in zip(gradients, torch.autograd.grad(expected, exact, upstream), strict=True):
        torch.testing.assert_close(gradient.float(), true, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        pytest.param(torch.float32, {}, id="fp32"),
        pytest.param(torch.bfloat16, {"is_causal": True}, id="causal"),
        pytest.param(torch.bfloat16, {"num_patches": 30}, id="long"),
        pytest.param(torch.bfloat16, {"masked": True}, id="masked"),
    ],
)
def test_sdpa_where_that_is_faster_or_anything_else_is_asked(dtype, options, monkeypatch):
    asked = []
    monkeypatch.setattr(attention_matmul, "LONGEST", 25)
    recorded = lambda *args, **_: asked.append(args) or (args[1], None)  # noqa: E731
    monkeypatch.setattr(attention_matmul, "sdpa_attention_forward", recorded)
    options = dict(options)
    num_patches = options.pop("num_patches", 20)
    mask = torch.ones(1, 1, num_patches, num_patches, dtype=torch.bool) if options.pop("masked", False) else None
    matmul_attention(torch.nn.Module(), *heads(num_patches, dtype), mask, 1.0, **options)
    assert len(asked) == 1


@pytest.mark.parity
@pytest.mark.parametrize("model_type", FAMILIES)
def test_vision_towers_take_it(tiny, samples, model_type, monkeypatch, tmp_path):
    """Every family asks for it in its vision tower and there alone; what is saved does not name it."""
    bare, processor = tiny(model_type)
    model = copy.deepcopy(bare)
    batch = Collator(encoder_of(model_type, processor))(samples)

    def loss_of(model):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
        return float(language.total(outputs.logits, batch["targets"]) / language.count(batch["targets"]))

    expected = loss_of(model)
    model.set_attn_implementation({"vision_config": register_matmul()})
    assert model.config.vision_config._attn_implementation == MATMUL
    assert model.config.text_config._attn_implementation == bare.config.text_config._attn_implementation
    monkeypatch.setattr(attention_matmul, "sdpa_attention_forward", None)  # would be called for nothing
    assert loss_of(model) == pytest.approx(expected, rel=0.01)
    model.config.save_pretrained(tmp_path)
    assert MATMUL not in (tmp_path / "config.json").read_text()


# ---- packed rows ----------------------------------------------------------------------------------------------------


def row(length: int, num_heads: int, num_groups: int, dtype: torch.dtype) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    return [
        torch.randn(length, heads, 16, generator=noise).to(dtype).requires_grad_()
        for heads in (num_heads, num_groups, num_groups)
    ]


@pytest.mark.parity
@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize(("num_heads", "num_groups"), [(4, 4), (4, 2), (6, 1)])
def test_each_token_sees_those_before_it(num_heads, num_groups, scale, monkeypatch):
    """Against sdpa in fp32, several blocks of rows and a rest of one included: off by no more than bf16 rounds."""
    monkeypatch.setattr(attention_matmul, "_ROWS", 8)
    tensors = [tensor.transpose(0, 1) for tensor in row(25, num_heads, num_groups, torch.bfloat16)]
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    found = attend_causally(*tensors, scale)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(tensor[None] for tensor in exact), is_causal=True, scale=scale, enable_gqa=True
    )[0]
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, tensors, upstream.bfloat16())
    for gradient, true in zip(gradients, torch.autograd.grad(expected, exact, upstream), strict=True):
        assert torch.nn.functional.cosine_similarity(gradient.float().flatten(), true.flatten(), dim=0) > 0.999


@pytest.mark.parametrize(
    ("dtype", "autocast", "learns", "causal", "by_products"),
    [
        pytest.param(torch.float32, True, True, True, True, id="a step under autocast"),
        pytest.param(torch.bfloat16, False, True, True, True, id="bf16"),
        pytest.param(torch.float32, False, True, True, False, id="fp32"),
        pytest.param(torch.bfloat16, False, False, True, False, id="no backward pass"),
        pytest.param(torch.bfloat16, False, True, False, False, id="the vision tower"),
    ],
)
def test_segments_take_products_where_they_are_faster(dtype, autocast, learns, causal, by_products, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "boxtune.models.attention_kernels.attend_causally", lambda *args: taken.append(1) or attend_causally(*args)
    )
    query, key, value = row(20, 4, 2, dtype)
    borders = torch.tensor([0, 13, 20], dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(learns):
        found = attend_by_segments(query, key, value, borders, 13, None, causal)
    assert len(taken) == 2 * by_products
    exact = (tensor.detach().float() for tensor in (query, key, value))
    expected = attend_by_segments(*exact, borders, 13, None, causal)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
