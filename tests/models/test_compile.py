"""Blocks compiled one by one: few graphs, the same gradients, and a way back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from boxtune.collators.batch import Collator
from boxtune.losses import language
from boxtune.models import attention_varlen
from boxtune.models.attention import AttentionChoice, use_attention
from boxtune.models.compile import (
    are_compiled,
    blocks_of,
    compile_blocks,
    is_compile_error,
    release_blocks,
    uncompiled,
)
from collators.conversations import encoder_of
from models.opaque_kernel import opaque_attention

MOST_GRAPHS = 8  # what dynamo makes of one function before it gives up; all blocks share one


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
    (language.total(outputs.logits, batch["targets"]) / language.count(batch["targets"])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "by_parts"), [("qwen2_5_vl", False), ("qwen3_vl", False), ("qwen2_5_vl", True)])
def test_the_same_gradients_from_few_graphs(tiny, samples, model_type, by_parts, monkeypatch):
    """`aot_eager` traces as the real backend does, and leaves out its compiler; lengths differ from step to step."""
    monkeypatch.setattr(attention_varlen, "load_kernel", lambda key: opaque_attention)
    monkeypatch.setattr(attention_varlen, "_kernel_dtype", lambda query: query.dtype)
    model, processor = tiny(model_type)
    compiled, plain = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    use_attention(compiled, AttentionChoice("varlen", "varlen", "a test"))
    collator = Collator(encoder_of(model_type, processor), batching="packed")
    compile_blocks(compiled, backend="aot_eager", by_parts=by_parts)
    assert are_compiled(compiled)
    assert not are_compiled(plain)
    graphs = []
    for part in (samples[:3], samples[1:], samples[:2]):
        found, expected = (gradients(each, collator(part)) for each in (compiled, plain))
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)
        graphs.append(counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] < MOST_GRAPHS
    assert graphs[2] == graphs[1] == graphs[0]  # no new shape asks for another
    assert not counters["graph_break"]


@pytest.mark.slow
def test_generation_runs_the_blocks_as_they_are(tiny, samples):
    model, processor = tiny("qwen2_5_vl")
    compiled = copy.deepcopy(model)
    batch = Collator(encoder_of("qwen2_5_vl", processor))(samples[:2])
    compile_blocks(compiled, backend="aot_eager")
    with uncompiled(), torch.no_grad():
        compiled(**batch["inputs"])
    assert counters["stats"]["unique_graphs"] == 0
    with torch.no_grad():
        compiled(**batch["inputs"])
    made = counters["stats"]["unique_graphs"]
    assert made > 0
    release_blocks(compiled)
    assert not are_compiled(compiled)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled(**batch["inputs"])
    assert counters["stats"]["unique_graphs"] == made


def test_all_blocks_are_found(tiny):
    for model_type in ("qwen2_vl", "qwen3_vl_moe"):
        model = tiny(model_type)[0]
        names = {type(block).__name__ for block in blocks_of(model)}
        assert len(names) == 2
        assert all("Block" in name or "DecoderLayer" in name for name in names), names


def test_errors_of_compiling_are_told_from_others():
    def fails(graph, inputs):
        raise RuntimeError("no C++ compiler")

    with pytest.raises(Exception, match=r"no C\+\+ compiler") as caught:
        torch.compile(lambda x: x + 1, backend=fails)(torch.ones(2))
    assert is_compile_error(caught.value)

    def runs_out(graph, inputs):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(Exception, match="out of memory") as caught:
        torch.compile(lambda x: x * 3, backend=runs_out)(torch.ones(2))
    assert not is_compile_error(caught.value)
    assert not is_compile_error(ValueError("a row is too long"))
