"""Attention against torch's own, and what a DETR decoder promises."""

from __future__ import annotations

import torch

from boxtune.models.detection_head.attention import Attention
from boxtune.models.detection_head.decoder import DecoderLayer, DetrDecoder


def decoder_and_inputs(num_layers: int = 2):
    torch.manual_seed(0)
    decoder = DetrDecoder(num_layers, 16, 2, 32, 0.0).eval()
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    return decoder, [torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 16), mask]


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4, 0.0).eval(), torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    layers = (ours.to_query, ours.to_key, ours.to_value)
    theirs.in_proj_weight.data = torch.cat([layer.weight.data for layer in layers])
    theirs.in_proj_bias.data = torch.cat([layer.bias.data for layer in layers])
    theirs.out_proj.load_state_dict(ours.to_out.state_dict())
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    mask = torch.tensor([[True] * 6, [True, True, False, True, False, False]])
    expected = theirs(query, key, value, key_padding_mask=~mask)[0]
    torch.testing.assert_close(ours(query, key, value, key_mask=mask), expected)


def reference_layer(layer: DecoderLayer, states, positions, memory, mask) -> torch.Tensor:
    """Figure 10 of arXiv 2005.12872, with the norms in front: positions on queries and keys, not values."""
    own = layer.norm_own(states)
    states = states + layer.own(own + positions, own + positions, own)
    asking = layer.norm_memory(states) + positions
    states = states + layer.memory(asking, memory, memory, key_mask=mask)
    return states + layer.mlp(layer.norm_mlp(states))


def test_positions_are_added_wherever_queries_ask():
    decoder, (content, positions, memory, mask) = decoder_and_inputs(1)
    expected = decoder.norm(reference_layer(decoder.layers[0], content, positions, memory, mask))
    torch.testing.assert_close(decoder(content, positions, memory, mask)[0], expected)


def test_causal_attention_does_not_look_ahead():
    attention = Attention(16, 4, 0.0).eval()
    states = torch.randn(1, 5, 16)
    before = attention(states, states, states, causal=True)
    states[:, 3:] += 1
    torch.testing.assert_close(attention(states, states, states, causal=True)[:, :3], before[:, :3])


def test_dropout_acts_in_training_only():
    attention = Attention(16, 2, 0.5)
    states = torch.randn(1, 5, 16)
    assert not torch.equal(attention(states, states, states), attention(states, states, states))
    attention.eval()
    assert torch.equal(attention(states, states, states), attention(states, states, states))


def test_masked_memory_is_never_seen():
    decoder, (content, positions, memory, mask) = decoder_and_inputs()
    before = decoder(content, positions, memory, mask)[-1]
    memory[1, 4:] = 1e4
    assert torch.equal(decoder(content, positions, memory, mask)[-1], before)


def test_queries_in_another_order_give_the_same_objects_in_that_order():
    decoder, (content, positions, memory, mask) = decoder_and_inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    before = decoder(content, positions, memory, mask)[-1]
    after = decoder(content[:, order], positions[:, order], memory, mask)[-1]
    torch.testing.assert_close(after, before[:, order], atol=1e-5, rtol=0)


def test_there_is_an_answer_after_each_layer():
    decoder, inputs = decoder_and_inputs(3)
    states = decoder(*inputs)
    assert [state.shape for state in states] == [(2, 5, 16)] * 3
    fewer = DetrDecoder(2, 16, 2, 32, 0.0).eval()
    kept = {name: tensor for name, tensor in decoder.state_dict().items() if not name.startswith("layers.2.")}
    fewer.load_state_dict(kept)
    torch.testing.assert_close(fewer(*inputs)[-1], states[1])


def test_queries_see_each_other():
    """Else two of them could not agree on who takes an object."""
    decoder, (content, positions, memory, mask) = decoder_and_inputs()
    before = decoder(content, positions, memory, mask)[-1]
    content[:, 0] += torch.randn(16)
    assert not torch.allclose(decoder(content, positions, memory, mask)[-1][:, 1:], before[:, 1:], atol=1e-3)
