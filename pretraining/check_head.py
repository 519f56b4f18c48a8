"""Assert that the head is taught what it is asked at inference: the same memory, and the losses of the library.

python pretraining/check_head.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from head_loss import TERMS, HeadLoss, truth_of
from PIL import Image
from pool import Pool
from pretrain_head import Questions, frozen
from stream import Pictures, draw, tokens_of

from boxtune.collators.objects import memory_of
from boxtune.inference.detector import load_detector
from boxtune.inference.language_pass import read_questions
from boxtune.losses import captions, detection
from boxtune.losses.detection import DetectionLossConfig, Layer
from boxtune.models.bare import bare_model
from boxtune.models.detection_head.captioner import encode_labels
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import gather_memory
from boxtune.models.load import load_model

SHAPE, IMAGE_HW = "16x17", (448, 476)


@torch.no_grad()
def check_memory() -> float:
    """Largest difference of any state, questions of different length in one batch; in fp32 on the CPU."""
    detector = load_detector("embedded", device="cpu")
    processor = detector.loaded.processor
    drawn = [draw(seed, IMAGE_HW, nutrition=seed % 2 == 0) for seed in range(3)]
    asked = [one.query(np.random.default_rng(7))[0] for one in drawn]
    questions = [
        detector.encoder.question(Image.fromarray(one.image), tuple(labels))
        for one, labels in zip(drawn, asked, strict=True)
    ]
    with detector._asking():
        read = read_questions(bare_model(detector.loaded.model), questions)
        expected = gather_memory(read.tapped, read.vision, memory_of(questions, read.packed, processor))
    prompts = []
    for one, labels in zip(drawn, asked, strict=True):
        ids, start = tokens_of(processor, labels, one.query(np.random.default_rng(7))[1], IMAGE_HW, 16 * 17)
        prompts.append(torch.tensor(ids[:start]))
    assert [p.tolist() for p in prompts] == [q.input_ids.tolist() for q in questions]
    device = torch.device("cpu")
    model = frozen(load_model("embedded").model, device)
    lengths = [len(prompt) for prompt in prompts]
    assert len(set(lengths)) > 1
    padded = torch.zeros(len(prompts), 400, dtype=torch.int16)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    batch = {"input_ids": padded, "length": max(lengths), "answer_starts": torch.tensor(lengths)}
    pixels = torch.from_numpy(np.stack([one.image for one in drawn])).permute(0, 3, 1, 2).float() / 255
    memory = Questions(model, processor, device).memory(SHAPE, batch, pixels)
    width = expected.prompt.shape[1]
    assert not memory.prompt_mask[:, width:].any()
    memory = memory._replace(prompt=memory.prompt[:, :width], prompt_mask=memory.prompt_mask[:, :width])
    for name in ("image_mask", "prompt_mask", "centres_xy"):
        assert torch.equal(getattr(memory, name), getattr(expected, name)), name
    largest = 0.0
    for name in ("vision", "image", "prompt"):
        one, other = getattr(memory, name), getattr(expected, name)
        assert one.shape == other.shape, name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.std()))
        largest = max(largest, float((one - other).abs().max()))
    return largest


def check_loss() -> None:
    """Terms and gradients of a batch of the stream, against `losses.detection`; and the stream's labels."""
    torch.manual_seed(0)
    loaded = load_model("embedded")
    processor, device, config = loaded.processor, torch.device("cpu"), DetectionLossConfig()
    data = yaml.safe_load((Path(__file__).parent / "head.yaml").read_text())["data"]
    data |= {"shapes": {"16x16": 1}, "chunk": 8, "pool": 8, "nutrition_share": 0.0}
    chunk = next(iter(Pictures(processor, data, 5)))
    pool = Pool(data, device, processor.tokenizer.pad_token_id)
    pool.add(chunk)
    _, batch = next(pool.mixed_batches(np.random.default_rng(3), 16 * 256))
    truth = truth_of(batch)
    head = DetectionHead(fitted_to(loaded.model.config.get_text_config(), processor.tokenizer.eos_token_id))
    names = [processor.tokenizer.decode([i for i in row if i >= 0][:-1]) for row in truth.objects.tokens.tolist()]
    encoded = encode_labels(names, processor.tokenizer, head.config)
    assert torch.equal(truth.objects.tokens[:, : encoded.shape[1]], encoded)
    assert (truth.objects.tokens[:, encoded.shape[1] :] == -100).all()
    memory = Questions(frozen(loaded.model, device), processor, device).memory(
        "16x16", batch, batch["images"].permute(0, 3, 1, 2).float() / 255
    )
    embedding = loaded.model.get_input_embeddings().weight
    outputs = head(memory)
    loss = HeadLoss(outputs, truth, config)
    loss.ask()
    terms = dict(zip(TERMS, loss.terms(head, embedding), strict=True))
    layers = [Layer(one.objectness_logits, one.boxes, one.mask) for one in (*outputs.layers, outputs.proposals)]
    sums, matches = detection.totals(layers[:-1], truth.objects, config, proposals=layers[-1])
    tokens = truth.objects.tokens[matches.box]
    logits = head.caption_logits(outputs.states[matches.image, matches.query], tokens, embedding)
    sums["captions"] = captions.total(logits, tokens)
    counts = detection.counts(truth.objects)
    for name, value in terms.items():
        torch.testing.assert_close(value, sums[name] / counts[name], msg=name)
    weights = detection.weights(config)
    whole = sum(weights[name] * value for name, value in terms.items())
    torch.testing.assert_close(whole, detection.weighted(sums, counts, config))
    print(f"loss: {whole.item():.4f} of {len(names)} boxes in {len(truth.per_image)} pictures: {sorted(set(names))}")


if __name__ == "__main__":
    print(f"memory: at most {check_memory():.1e} apart")
    check_loss()
