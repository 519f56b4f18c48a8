"""Milliseconds an image on one core: the synthetic photos by stage, the scenes by kind.

Run: python benchmarks/synthetic_speed.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

from boxtune.data.synthetic import SCENE_KINDS, make_scene, plan_nutrition, render_nutrition


def milliseconds(run: Callable[[int], object], count: int, first: int = 0) -> float:
    """CPU time of one call, on average."""
    start = time.process_time()
    for seed in range(first, first + count):
        run(seed)
    return (time.process_time() - start) / count * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--size", type=int, default=448)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    milliseconds(lambda seed: render_nutrition(seed, args.size), 200, first=10_000)  # fill the cache of words
    plans = [plan_nutrition(seed, args.size) for seed in range(args.count)]
    rows = [
        ("nutrition: plan (size and boxes)", milliseconds(lambda seed: plan_nutrition(seed, args.size), args.count)),
        ("nutrition: flat print", milliseconds(lambda seed: plans[seed].printed(), args.count)),
        ("nutrition: print, warp, photo", milliseconds(lambda seed: plans[seed].paint(), args.count)),
        ("nutrition: all", milliseconds(lambda seed: render_nutrition(seed, args.size), args.count)),
        ("scenes: all", milliseconds(lambda seed: make_scene(seed, args.size), args.count)),
    ]
    for kind in SCENE_KINDS:
        rows.append((f"scenes: {kind}", milliseconds(lambda seed, kind=kind: make_scene(seed, args.size, kind), 60)))
    for name, value in rows:
        print(f"{name:36s} {value:7.2f} ms  {1000 / value:7.1f} images/s")
    counts = [len(plan.detections()) for plan in plans]
    print(f"tables in a photo: {np.bincount(counts).tolist()} photos with 0, 1, 2, … of them")


if __name__ == "__main__":
    main()
