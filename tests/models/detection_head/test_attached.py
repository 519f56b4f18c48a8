"""A head is found among the parameters of its model, and never in what the model saves."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from boxtune.models.areas import LowRank, prepare_for_training, summarize
from boxtune.models.detection_head.attached import attach, attached_head, detached
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.families import family

FROZEN = {"vision": "frozen", "merger": "frozen", "language": "frozen"}


@pytest.fixture(params=["frozen", "full", "lora"])
def model(request, tiny):
    model, processor = tiny("qwen3_vl")
    model = copy.deepcopy(model)
    head = DetectionHead(fitted_to(model.config.text_config, processor.tokenizer.eos_token_id, width=16, num_heads=2))
    training = FROZEN | {"language": request.param}
    return prepare_for_training(model, family("qwen3_vl"), training, LowRank(rank=2), head)


def test_its_parameters_are_an_area_of_the_model(model):
    own = [name for name, _ in model.named_parameters() if name.startswith("detection_head.")]
    head = attached_head(model)
    assert len(own) == len(list(head.parameters()))
    assert all(parameter.requires_grad for parameter in head.parameters())
    area = next(row for row in summarize(model, family("qwen3_vl")) if row.area == "detection_head")
    assert (area.training, area.num_tensors) == ("full", len(own))


def test_inside_detached_the_model_is_as_others_know_it(model):
    names = [name for name, _ in model.named_parameters()]
    with detached(model) as head:
        assert attached_head(model) is None
        assert not any("detection_head" in name for name, _ in model.named_parameters())
    assert attached_head(model) is head
    assert [name for name, _ in model.named_parameters()] == names  # an optimizer's state goes by their order


def test_it_comes_back_after_an_error(model):
    with pytest.raises(RuntimeError, match="disk"), detached(model):
        raise RuntimeError("disk")
    assert attached_head(model) is not None


def test_a_folder_holds_none_of_it(model, tmp_path):
    with detached(model):
        model.save_pretrained(tmp_path)
    saved = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert saved
    assert not any("detection_head" in name for name in saved)
    if isinstance(model, PeftModel):
        assert "detection_head" not in (tmp_path / "adapter_config.json").read_text()


def test_a_model_without_a_head(tiny):
    model = tiny("qwen3_vl")[0]
    assert attached_head(model) is None
    with detached(model) as head:
        assert head is None


def test_a_model_has_one_head(model):
    with pytest.raises(AssertionError, match="one head"):
        attach(model, attached_head(model))


def test_the_forward_pass_does_not_know_it(tiny, model):
    tokens = {"input_ids": torch.tensor([[5, 6, 7]])}
    with torch.no_grad():
        with_head = model.eval()(**tokens).logits
        with detached(model):
            assert torch.equal(with_head, model(**tokens).logits)
