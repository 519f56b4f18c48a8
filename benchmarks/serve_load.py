"""Images a second of `boxtune serve` under many clients, beside the same pictures asked one by one without a server.

    python benchmarks/serve_load.py --output-dir runs/serve                       # embedded, two CPU cores
    python benchmarks/serve_load.py --clients 64 --batch-size 64 --rounds 6 --output-dir runs/serve-gpu   # one GPU
    python benchmarks/serve_load.py --tiny --output-dir runs/try                  # seconds, on a CPU

The server is a process of its own, reached over loopback; the clients are threads of this one, each with its own
pictures, and ask the next as soon as they have an answer. A round is every picture once; the first one is not counted.
An answer is the same if its boxes are those of the single call to the pixel. Latency is a client's, from its first byte
to its last.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boxtune.data.dataset import load_dataset
from boxtune.inference.detector import load_detector

Boxes = list[tuple[str, list[float]]]


def form(content: bytes) -> tuple[bytes, str]:
    mark = "part-of-a-form-of-serve-load"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="picture.jpg"\r\n\r\n'
    return head.encode() + content + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def ask(port: int, content: bytes) -> tuple[Boxes, float]:
    """Boxes and seconds of one request; raises where it is refused."""
    body, kind = form(content)
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/detect", body, {"Content-Type": kind})
    response = connection.getresponse()
    told = json.loads(response.read())
    connection.close()
    seconds = time.perf_counter() - began
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {told}")
    return [(box["label"], [round(corner) for corner in box["xyxy"]]) for box in told["boxes"]], seconds


def by_single_calls(arguments: argparse.Namespace, images: list[Any]) -> tuple[list[Boxes], dict[str, Any]]:
    detector = load_detector(arguments.model, arguments.device, labels=labels_of(arguments), num_candidates=0)
    found: list[Boxes] = []
    seconds: list[float] = []
    for round_number in range(arguments.rounds + 1):
        for image in images:
            began = time.perf_counter()
            (result,) = detector.detect([image])
            if round_number:
                seconds.append(time.perf_counter() - began)
            else:
                boxes = result.detections
                corners = [[round(corner) for corner in box] for box in boxes.xyxy.tolist()]
                found.append(list(zip(boxes.labels, corners, strict=True)))
    return found, row("single calls, no server", 1, seconds, sum(seconds), len(images), len(images), 1.0)


def by_clients(
    arguments: argparse.Namespace, port: int, contents: list[bytes], expected: list[Boxes], clients: int
) -> dict[str, Any]:
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda content: ask(port, content), contents))
        batches = metric(port, "boxtune_batch_images_count"), metric(port, "boxtune_batch_images_sum")
        began = time.perf_counter()
        answers = list(pool.map(lambda content: ask(port, content), contents * arguments.rounds))
        wall = time.perf_counter() - began
    asked = metric(port, "boxtune_batch_images_sum") - batches[1]
    size = asked / (metric(port, "boxtune_batch_images_count") - batches[0])
    same = sum(one == truth for (one, _), truth in zip(answers, expected * arguments.rounds, strict=True))
    seconds = [taken for _, taken in answers]
    return row(f"boxtune serve, {clients} clients", clients, seconds, wall, same, len(answers), size)


def row(
    name: str, clients: int, seconds: list[float], wall: float, same: int, answers: int, size: float
) -> dict[str, Any]:
    ordered = sorted(seconds)
    return {
        "name": name,
        "clients": clients,
        "images_per_s": len(seconds) / wall,
        "median_s": statistics.median(ordered),
        "p95_s": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "images_a_batch": size,
        "same": same,
        "answers": answers,
    }


def metric(port: int, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]


@contextmanager
def server(arguments: argparse.Namespace) -> Any:
    """The port of `boxtune serve` in a process of its own."""
    command = [sys.executable, "-m", "boxtune", "serve", "--model", arguments.model, "--port", "0"]
    command += ["--device", arguments.device, "--batch-size", str(arguments.batch_size), "--timeout", "600"]
    command += ["--max-requests", str(2 * arguments.clients), "--max-wait-ms", str(arguments.max_wait_ms)]
    if labels := labels_of(arguments):
        command += ["--labels", ",".join(labels)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield int(re.search(r":(\d+)/detect", line)[1])  # type: ignore[index]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "the server has not ended well"
    finally:
        process.kill()


def labels_of(arguments: argparse.Namespace) -> list[str] | None:
    return ["box"] if arguments.tiny else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", default="synthetic:nutrition?n=64&seed=7")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-wait-ms", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few pictures: to see that it runs")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.model, arguments.data = "tiny:qwen2_vl", "synthetic:scenes?n=3"
        arguments.clients = min(arguments.clients, 3)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    pictures = [sample.image for sample in load_dataset(arguments.data, "val")]
    contents = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        contents.append(buffer.getvalue())
    expected, single = by_single_calls(arguments, pictures)
    rows = [single]
    with server(arguments) as port:
        rows += [by_clients(arguments, port, contents, expected, clients) for clients in (1, arguments.clients)]
    (arguments.output_dir / "serve_load.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("| how | images/s | against single calls | median s | 95 % s | images a batch | same boxes |")
    print("|---|---|---|---|---|---|---|")
    for one in rows:
        print(
            f"| {one['name']} | {one['images_per_s']:.2f} | {one['images_per_s'] / single['images_per_s']:.2f} × | "
            f"{one['median_s']:.2f} | {one['p95_s']:.2f} | {one['images_a_batch']:.1f} | "
            f"{one['same']} of {one['answers']} |"
        )


if __name__ == "__main__":
    main()
