"""The service over real sockets: what it answers, what it refuses and how, and under load."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from boxtune.inference.detector import Detector
from boxtune.inference.uploads import UploadLimits
from boxtune.serve.service import ServeOptions
from collators.conversations import LABELS
from inference.test_head_decoding import with_head
from serve.running import multipart, png, running, until


@pytest.fixture(scope="module")
def direct(taught) -> Detector:
    return Detector(taught, labels=LABELS, max_new_tokens=120, batch_size=1, num_candidates=0)


def as_told(prediction) -> list[tuple[str, list[float]]]:
    boxes = prediction.result.detections
    return [(label, box.tolist()) for label, box in zip(boxes.labels, boxes.xyxy, strict=True)]


def test_a_form_and_json_say_what_the_detector_says(client, direct, samples):
    for sample in samples:
        (expected,) = direct.predict([sample.image])
        for told in (
            client.form(png(sample.image), {"raw": "true"}),
            client.json(png(sample.image), raw=True),
        ):
            assert told.status == 200
            found = told.json
            assert [(box["label"], box["xyxy"]) for box in found["boxes"]] == as_told(expected)
            scores = expected.result.detections.scores
            assert [box["score"] for box in found["boxes"]] == pytest.approx(list(scores), abs=1e-4)
            assert (found["text"], found["status"], found["truncated"]) == (expected.text, "ok", False)
            assert (found["height"], found["width"]) == sample.image_hw
            assert (found["labels"], found["decoder"]) == (list(LABELS), "text")


def test_options_of_a_question(client, samples):
    picture = png(samples[0].image)
    assert "text" not in client.form(picture).json
    everything = client.form(picture).json["boxes"]
    assert len(everything) == 1
    assert client.form(picture, {"min_score": str(everything[0]["score"] + 1e-6)}).json["boxes"] == []
    asked = client.form(picture, {"labels": " red cell,table ,red cell"}).json
    assert asked["labels"] == ["red cell", "table"]
    uri = "data:image/png;base64," + base64.b64encode(picture).decode()
    assert client.json(None, image=uri, labels=["table"]).json["labels"] == ["table"]
    broken_in_lines = base64.encodebytes(picture).decode()
    assert client.json(None, image=broken_in_lines, labels=["table"]).json["labels"] == ["table"]


def test_phone_photos_are_answered_upright(client, samples):
    image, exif, buffer = samples[0].image, Image.Exif(), io.BytesIO()
    exif[274] = 6
    image.save(buffer, "JPEG", exif=exif)
    assert client.form(buffer.getvalue()).json["width"] == image.height


def bomb(width: int) -> bytes:
    return png(Image.new("1", (width, 5_000)))


def gif_of(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, form)
    return buffer.getvalue()


PICTURE = png(Image.new("RGB", (40, 40)))
REFUSED = {
    "no picture": (422, lambda c: c.form(b"hello"), "'picture.png' is no image that can be read"),
    "empty picture": (422, lambda c: c.form(b""), "is no image"),
    "cut picture": (422, lambda c: c.form(PICTURE[:60]), "cut short"),
    "no field": (422, lambda c: c.form(None, {"raw": "true"}), "in the field 'image'"),
    "picture as text": (422, lambda c: c.form(None, {"image": "x"}), "in the field 'image'"),
    "unknown field": (422, lambda c: c.form(PICTURE, {"lables": "a"}), "'lables'. Did you mean 'labels'?"),
    "unknown field in JSON": (422, lambda c: c.json(PICTURE, score=1), "Unknown field 'score'"),
    "score out of range": (422, lambda c: c.form(PICTURE, {"min_score": "2"}), "min_score: must be"),
    "score that is no number": (422, lambda c: c.form(PICTURE, {"min_score": "nan"}), "min_score"),
    "unknown decoder": (422, lambda c: c.form(PICTURE, {"decoder": "x"}), "decoder: must be"),
    "no head": (422, lambda c: c.form(PICTURE, {"decoder": "head"}), "no detection head, so only text"),
    "labels that name nothing": (422, lambda c: c.form(PICTURE, {"labels": " , "}), "labels"),
    "too many labels": (422, lambda c: c.json(PICTURE, labels=["a"] * 300), "labels"),
    "endless label": (422, lambda c: c.json(PICTURE, labels=["a" * 300]), "labels"),
    "labels of another type": (422, lambda c: c.json(PICTURE, labels=[1]), "labels"),
    "no base64": (422, lambda c: c.json(None, image="%%%"), "not base64"),
    "no image in JSON": (422, lambda c: c.json(None), "image"),
    "JSON that is a list": (
        422,
        lambda c: c.request("POST", "/detect", b"[]", content_type="application/json"),
        "must be a JSON object",
    ),
    "no JSON": (400, lambda c: c.request("POST", "/detect", b"{", content_type="application/json"), "not JSON"),
    "endless JSON": (
        400,
        lambda c: c.request("POST", "/detect", b"[" * 90_000, content_type="application/json"),
        "not JSON",
    ),
    "field of half a character": (
        422,
        lambda c: c.request("POST", "/detect", b'{"\\ud800": 1}', content_type="application/json"),
        "Unknown field '\\ud800'",
    ),
    "a key twice in JSON": (
        400,
        lambda c: c.request("POST", "/detect", b'{"image": "", "image": ""}', content_type="application/json"),
        "The body has what is not taken here: the key 'image' stands twice.",
    ),
    "bytes that are no text": (
        400,
        lambda c: c.request("POST", "/detect", b'{"a": "\xff"}', content_type="application/json"),
        "not JSON",
    ),
    "form without boundary": (
        400,
        lambda c: c.request("POST", "/detect", b"x", content_type="multipart/form-data"),
        "boundary",
    ),
    "another type": (415, lambda c: c.request("POST", "/detect", PICTURE, content_type="image/png"), "'image/png'"),
    "too many pixels": (413, lambda c: c.form(bomb(12_000)), "12000×5000 pixels, the limit is 50,000,000"),
    "image bomb": (413, lambda c: c.form(bomb(20_000)), "a small file can fill the memory"),
    "larger bomb": (413, lambda c: c.form(bomb(40_000)), "a small file can fill the memory"),
    "stretched picture": (422, lambda c: c.form(png(Image.new("L", (4000, 2)))), "cut it into parts"),
    "a format that starts programs": (422, lambda c: c.form(gif_of("EPS")), "is no image that can be read"),
    "too many bytes": (413, lambda c: c.form(bytes(21_000_000)), "20,000,000 bytes"),
    "far too many bytes in JSON": (413, lambda c: c.json(bytes(30_000_000)), "20,000,000 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_clear_sentence(case, client):
    status, ask, words = REFUSED[case]
    told = ask(client)
    assert told.status == status, told.body
    assert words in told.json["detail"]
    assert len(told.json["detail"]) < 300


@pytest.mark.parametrize("seed", range(20))
def test_broken_bodies_never_break_the_service(client, seed):
    """Forms with bytes changed at random: an answer or a refusal, never a 5xx."""
    import random

    chance = random.Random(seed)
    body, kind = multipart(PICTURE, {"labels": "a", "min_score": "0.5", "raw": "1"})
    changed = bytearray(body)
    for _ in range(chance.randint(1, 30)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    told = client.request("POST", "/detect", bytes(changed[: chance.randint(1, len(changed))]), content_type=kind)
    assert told.status in (200, 400, 413, 422)


def test_methods_and_paths_that_are_not_there(client):
    assert client.get("/detect").status == 405
    assert client.get("/nothing").status == 404


def test_health_and_metrics(client, samples):
    health = client.get("/health")
    assert health.status == 200
    assert health.json | {"version": ""} == {
        "status": "ok",
        "model": "taught",
        "labels": list(LABELS),
        "decoders": ["text"],
        "device": "cpu",
        "queue_length": 0,
        "version": "",
    }
    before = client.metric("boxtune_requests_total"), client.metric("boxtune_batch_images_sum")
    assert client.form(png(samples[0].image)).status == 200
    assert client.form(b"hello").status == 422
    assert client.metric("boxtune_requests_total") == before[0] + 2
    assert client.metric("boxtune_batch_images_sum") == before[1] + 1
    assert client.metric("boxtune_request_seconds_count") == before[0] + 2
    assert client.metric("boxtune_requests_in_flight") == client.metric("boxtune_queue_length") == 0
    assert 'boxtune_requests_total{status="422"}' in client.get("/metrics").body.decode()


def test_the_root_leads_to_the_page_of_the_interface(client):
    assert client.get("/").status == 307


def test_the_page_of_the_interface_needs_no_network(client):
    page = client.get("/docs").body.decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 3
    for address in loaded:
        assert address.startswith("/")
        assert client.get(address).status == 200
    schema = client.get("/openapi.json").json
    detect = schema["paths"]["/detect"]["post"]
    assert set(detect["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    form = detect["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", "labels", "decoder", "min_score", "raw"}
    assert {"200", "413", "422", "429", "503", "504"} <= set(detect["responses"])


def test_each_question_chooses_its_decoder(taught, direct, samples):
    detector = with_head(direct, "text", batch_size=4)
    picture = png(samples[2].image)
    with running(detector) as client:
        assert client.get("/health").json["decoders"] == ["text", "head", "both"]
        for decoder in ("head", "both", "text"):
            (expected,) = with_head(direct, decoder).predict([samples[2].image], num_candidates=0)
            told = client.form(picture, {"decoder": decoder, "raw": "1"}).json
            assert (told["decoder"], told["text"]) == (decoder, expected.text)
            assert [box["label"] for box in told["boxes"]] == list(expected.result.detections.labels)
        assert client.form(picture).json["decoder"] == "text"


# ---- load -----------------------------------------------------------------------------------------------------------


def test_sixty_four_clients_get_their_own_answers(client, direct, samples):
    """Every picture has a size of its own, so that no answer fits another question."""
    pictures = [
        sample.image.resize((sample.image.width + step, sample.image.height + step))
        for step in range(16)
        for sample in samples
    ]
    expected = list(direct.predict(pictures))
    started, batches = threading.Barrier(64), client.metric("boxtune_batch_images_count")

    def ask(number: int):
        started.wait(30)
        content = png(pictures[number])
        return client.json(content, raw=True) if number % 2 else client.form(content, {"raw": "true"})

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    for number, told in enumerate(answers):
        assert told.status == 200
        assert (told.json["width"], told.json["height"]) == pictures[number].size
        assert told.json["text"] == expected[number].text
        assert [(box["label"], box["xyxy"]) for box in told.json["boxes"]] == as_told(expected[number])
    assert len({str(as_told(one)) for one in expected}) > 40
    assert client.metric("boxtune_batch_images_count") - batches < 32, "nothing was asked together"


def test_too_many_are_told_to_come_again(held, samples):
    picture = png(samples[0].image)
    with running(held, ServeOptions(max_requests=3)) as client, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(client.form, picture) for _ in range(3)]
        until(lambda: client.metric("boxtune_requests_in_flight") == 3)
        refused = client.form(picture)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "3 requests are waiting or at work" in refused.json["detail"]
        assert client.get("/health").status == 200
        held.gate.set()
        assert [one.result(60).status for one in waiting] == [200] * 3
        assert client.form(picture).status == 200


def test_a_request_that_takes_too_long(held, samples):
    with running(held, ServeOptions(timeout_s=0.3)) as client:
        first, second = (client.form(png(samples[0].image)) for _ in range(2))
        assert (first.status, second.status) == (504, 504)
        assert "No answer within 0.3 seconds" in first.json["detail"]
        assert held.num_asked == 1  # the second waited behind it and has left the queue
        held.gate.set()
        until(lambda: client.metric("boxtune_queue_length") == 0)
        assert client.form(png(samples[0].image)).status in (200, 504)


def test_an_upload_that_never_ends(held):
    with running(held, ServeOptions(timeout_s=0.3)) as client:
        body, kind = multipart(PICTURE, {})
        told = client.request("POST", "/detect", body[:50], content_type=kind, content_length=str(len(body)))
        assert told.status == 504
        held.gate.set()


def test_a_client_that_goes_away_is_not_answered(held, samples):
    with running(held, ServeOptions(max_wait_s=0)) as client, ThreadPoolExecutor(1) as pool:
        picture = png(samples[0].image)
        first = pool.submit(client.form, picture)
        until(lambda: held.num_asked == 1)
        body, kind = multipart(picture, {})
        with socket.create_connection(("127.0.0.1", client.port)) as leaving:
            head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            leaving.sendall(head.encode() + body)
            until(lambda: client.metric("boxtune_queue_length") == 1)
        until(lambda: client.metric("boxtune_queue_length") == 0 and client.metric("boxtune_requests_in_flight") == 1)
        held.gate.set()
        assert first.result(60).status == 200
        assert held.num_asked == 1
        assert 'status="499"' in client.get("/metrics").body.decode()


def test_a_model_that_fails_is_said_and_goes_on(taught, samples, caplog):
    class Failing(Detector):
        def predict(self, images, *arguments, **options):
            images = list(images)
            if any(image.width == 33 for image in images):
                raise RuntimeError("out of something")
            return super().predict(images, *arguments, **options)

    with running(Failing(taught, labels=LABELS, max_new_tokens=20)) as client:
        told = client.form(png(Image.new("RGB", (33, 50))))
        assert (told.status, "RuntimeError" in told.json["detail"]) == (500, True)
        assert "out of something" not in told.json["detail"]  # that is for the log
        assert client.form(png(samples[0].image)).status == 200
    assert "out of something" in caplog.text


def test_limits_of_the_user(held):
    held.gate.set()
    with running(held, ServeOptions(limits=UploadLimits(max_bytes=500, max_pixels=1000))) as client:
        assert client.form(PICTURE).status == 413
        assert "limit is 1,000" in client.form(PICTURE).json["detail"]
        noise = png(Image.effect_noise((30, 30), 90))
        assert "500" in client.form(noise).json["detail"]


def test_time_is_not_lost_by_waiting_for_others(held, samples):
    """A picture alone goes after `max_wait_s`."""
    held.gate.set()
    with running(held, ServeOptions(max_wait_s=0.01)) as client:
        began = time.monotonic()
        assert json.loads(client.form(png(samples[0].image)).body)["seconds_waited"] < 5
        assert time.monotonic() - began < 20
