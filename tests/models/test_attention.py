"""Which implementation attends where, and that packed attention is exact."""

from __future__ import annotations

import copy

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.errors import ModelError
from boxtune.losses import language
from boxtune.models import attention, attention_kernels
from boxtune.models.attention import AttentionChoice, choose_attention, has_sliding_window, use_attention
from boxtune.models.attention_kernels import KernelCheck, attend_by_segments, fastest_kernel
from boxtune.models.attention_varlen import borders_of, register_varlen
from boxtune.models.families import FAMILIES
from collators.conversations import encoder_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parity
def test_segments_are_attended_alone():
    """Against a softmax over a mask that is written down."""
    noise = torch.Generator().manual_seed(0)
    query = torch.randn(7, 4, 8, generator=noise)
    key, value = (torch.randn(7, 2, 8, generator=noise) for _ in range(2))
    sample = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    for causal in (False, True):
        found = attend_by_segments(query, key, value, torch.tensor([0, 3, 5, 7], dtype=torch.int32), 3, 0.5, causal)
        weights = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(2, 1)) * 0.5
        allowed = sample[:, None] == sample[None]
        allowed = allowed.tril() if causal else allowed
        weights = weights.masked_fill(~allowed, -torch.inf).softmax(-1)
        expected = torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(2, 1))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_borders_are_where_positions_start_anew():
    assert borders_of(torch.tensor([[0, 1, 2, 0, 1, 0]])).tolist() == [0, 3, 5, 6]
    assert borders_of(torch.tensor([[4, 5, 6]])).tolist() == [0, 3]


def losses_and_gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
    loss = language.total(outputs.logits, batch["targets"])
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parity
@pytest.mark.parametrize("batching", ["padded", "packed", "packed without borders"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_same_as_eager(tiny, samples, model_type, batching):
    """Loss and every gradient in fp32: sums in another order, 1e-5 of the largest entry."""
    model, processor = tiny(model_type)
    encoder = encoder_of(model_type, processor)
    exact = copy.deepcopy(model)
    exact.set_attn_implementation("eager")
    expected_loss, expected = losses_and_gradients(exact, Collator(encoder, batching="padded")(samples))
    varlen = copy.deepcopy(model)
    use_attention(varlen, AttentionChoice("segments", "segments", "a test"))
    batch = Collator(encoder, batching="padded" if batching == "padded" else "packed")(samples)
    if batching == "packed without borders":
        for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"):
            del batch["inputs"][name]
    loss, gradients = losses_and_gradients(varlen, batch)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        largest = max(float(expected[name].abs().max()), 1e-3)
        assert torch.allclose(gradient, expected[name], rtol=0, atol=2e-5 * largest), name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_generation_is_left_to_sdpa(tiny, samples, model_type):
    """Prompts padded on the left and a cache that grows: token for token the same."""
    from boxtune.collators.batch import pad

    model, processor = tiny(model_type)
    encoder = encoder_of(model_type, processor)
    encoded = [encoder.question(sample.image) for sample in samples]
    inputs, _ = pad(encoded, [e.input_ids for e in encoded], processor.tokenizer.pad_token_id, side="left")
    varlen = copy.deepcopy(model)
    use_attention(varlen, AttentionChoice("segments", "segments", "a test"))
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "output_logits": True}
    expected = model.generate(**inputs, return_dict_in_generate=True, **options)
    found = varlen.generate(**inputs, return_dict_in_generate=True, **options)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-4)


def test_no_saved_configuration_tells_of_it(tiny, tmp_path):
    model = copy.deepcopy(tiny("qwen2_5_vl")[0])
    use_attention(model, AttentionChoice("segments", "matmul", "a test"))
    model.config.save_pretrained(tmp_path)
    assert "boxtune" not in (tmp_path / "config.json").read_text()


def test_a_packed_row_that_cannot_be_attended_exactly_is_refused(tiny):
    register_varlen("segments")
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend = ALL_ATTENTION_FUNCTIONS["boxtune_flash_segments"]
    query = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="cannot be attended exactly"):
        attend(torch.nn.Module(), query, query, query, None, dropout=0.1, cu_seq_lens_q=torch.tensor([0, 2, 4]))


@pytest.mark.parametrize(
    ("wanted", "bf16", "packed", "language", "vision"),
    [
        ("auto", True, False, "sdpa", "matmul"),
        ("auto", False, False, "sdpa", "sdpa"),
        ("auto", True, True, "segments", "matmul"),
        ("sdpa", True, True, "sdpa", "sdpa"),
        ("eager", False, False, "eager", "eager"),
        ("varlen", False, True, "segments", "segments"),
    ],
)
def test_on_a_cpu(wanted, bf16, packed, language, vision):
    choice = choose_attention(wanted, CPU, bf16=bf16, packed=packed)
    assert (choice.language, choice.vision) == (language, vision)
    assert choice.why


@pytest.fixture
def kernels_that_run(monkeypatch):
    """Names of the kernels that run on a GPU that is made up."""

    def install(*names):
        def check_package(package, device):
            installed = any(package.name in name for name in names)
            usable = package.name in names
            return KernelCheck(package.name, usable, "1.0" if installed else None, "" if usable else "broken")

        monkeypatch.setattr(attention_kernels, "check_package", check_package)
        monkeypatch.setattr(attention, "check_package", check_package)
        usable = "torch varlen" in names
        check = KernelCheck("torch varlen", usable, None, "" if usable else "too old")
        monkeypatch.setattr(attention_kernels, "check_varlen", lambda: check)

    return install


@pytest.mark.parametrize(
    ("running", "kernel"),
    [
        (("torch varlen",), "varlen"),
        (("torch varlen", "flash-attn 2"), "flash_attention_2"),
        (("torch varlen", "flash-attn 2", "flash-attn 3"), "flash_attention_3"),
        (("torch varlen", "broken flash-attn 4"), "varlen"),
        ((), "sdpa"),
    ],
)
def test_on_a_gpu(kernels_that_run, running, kernel):
    kernels_that_run(*running)
    choice = choose_attention("auto", GPU, bf16=True, packed=True)
    assert (choice.language, choice.vision) == (kernel, kernel)
    assert "too old" in choice.why if not running else "runs here" in choice.why
    behind = choose_attention("auto", GPU, bf16=True, packed=True, looks_back=True)
    assert (behind.language, behind.vision) == ("sdpa", kernel)
    assert choose_attention("auto", GPU, bf16=False, packed=True).language == "sdpa"


def test_what_is_asked_for_by_name_and_cannot_run_is_refused(kernels_that_run):
    kernels_that_run("torch varlen")
    with pytest.raises(ModelError, match="flash_attention_3 cannot be used: broken"):
        choose_attention("flash_attention_3", GPU, bf16=True, packed=False)
    with pytest.raises(ModelError, match="in bf16 on a GPU only"):
        choose_attention("flash_attention_2", CPU, bf16=True, packed=False)
    with pytest.raises(ModelError, match="knows no sliding window"):
        choose_attention("varlen", GPU, bf16=True, packed=False, looks_back=True)
    assert choose_attention("varlen", GPU, bf16=True, packed=False).language == "varlen"


def test_sliding_windows_are_seen(tiny):
    config = copy.deepcopy(tiny("qwen2_5_vl")[0].config)
    assert not has_sliding_window(config)
    config.text_config.layer_types = ["full_attention", "sliding_attention"]
    assert has_sliding_window(config)


@pytest.mark.parity
@pytest.mark.gpu
def test_a_kernel_runs_on_a_real_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    key, why = fastest_kernel()
    assert key is not None, why
