"""What a camera and its user do to a picture: light, glare, blur, noise, white balance, JPEG. No pixel moves."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic.surfaces import ByteArray, clouds, noise


def expose(rng: np.random.Generator, image: ByteArray, harshness: float = 1.0) -> ByteArray:
    """The image `[H, W, 3]` as a hand-held phone would have taken it.

    Args:
        rng: source of chance.
        image: RGB bytes; not changed.
        harshness: 1 for photos of packages, less for other scenes: up to 0.85 no glare, up to 0.5 no shadow.
    """
    image = _lit(rng, image, harshness)
    if rng.random() < 0.3 * harshness and harshness > 0.85:
        image = _with_glare(rng, image)
    image = _blurred(rng, image, harshness)
    image = _toned(rng, image, harshness)
    if rng.random() < 0.7:
        image = with_noise(rng, image, float(rng.uniform(1, 11)) * harshness)
    if rng.random() < 0.75:
        image = compressed(image, int(rng.integers(30, 96)))
    return image


def _lit(rng: np.random.Generator, image: ByteArray, harshness: float) -> ByteArray:
    """Uneven light from a side, and sometimes the shadow of the photographer."""
    small = np.float32(rng.uniform(-1, 1)) * np.linspace(-1, 1, 24, dtype=np.float32)[None]
    small = small + np.float32(rng.uniform(-1, 1)) * np.linspace(-1, 1, 24, dtype=np.float32)[:, None]
    light = 1 + 0.22 * harshness * small
    if rng.random() < 0.3 * harshness and harshness > 0.5:
        angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.6)
        grid = np.linspace(-1, 1, 24, dtype=np.float32)
        side = grid[None] * np.cos(angle) + grid[:, None] * np.sin(angle) - place
        light = light * (1 - rng.uniform(0.2, 0.5) / (1 + np.exp(-side * rng.uniform(4, 30))))
    light = np.clip(light * 160, 20, 255).astype(np.uint8)
    light = cv2.resize(light, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, cv2.merge([light, light, light]), scale=1 / 160)


def _with_glare(rng: np.random.Generator, image: ByteArray) -> ByteArray:
    """One or a few bright spots or streaks, as lamps make on foil and glossy paper."""
    height, width = image.shape[0] // 4, image.shape[1] // 4
    spots = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        centre = int(rng.integers(width)), int(rng.integers(height))
        long = rng.uniform(0.02, 0.25) * max(height, width)
        axes = int(long) + 1, int(long * rng.uniform(0.1, 1)) + 1
        cv2.ellipse(spots, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(60, 230)), -1)
    spots = cv2.GaussianBlur(spots, (0, 0), float(rng.uniform(1.5, 8)))
    spots = cv2.resize(spots, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.add(image, cv2.merge([spots, spots, spots]))


def _blurred(rng: np.random.Generator, image: ByteArray, harshness: float) -> ByteArray:
    chance = rng.random()
    if chance < 0.25:
        return cv2.GaussianBlur(image, (0, 0), 0.35 + float(rng.uniform(0, 1.1)) * harshness)
    if chance < 0.25 + 0.1 * harshness:
        return cv2.filter2D(image, -1, _motion(rng))
    if chance < 0.5:
        height, width = image.shape[:2]
        factor = float(rng.uniform(0.5, 0.9))
        small = cv2.resize(
            image, (max(int(width * factor), 8), max(int(height * factor), 8)), interpolation=cv2.INTER_AREA
        )
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if chance < 0.6:
        return cv2.addWeighted(image, 1.6, cv2.GaussianBlur(image, (0, 0), 1.2), -0.6, 0)  # a phone's sharpening
    return image


def _motion(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    length, angle = float(rng.uniform(1, 4)), float(rng.uniform(0, np.pi))
    kernel = np.zeros((9, 9), np.float32)
    start = 4 - length * np.cos(angle), 4 - length * np.sin(angle)
    end = 4 + length * np.cos(angle), 4 + length * np.sin(angle)
    cv2.line(kernel, (round(start[0]), round(start[1])), (round(end[0]), round(end[1])), 1.0, 1)
    return kernel / kernel.sum()


def _toned(rng: np.random.Generator, image: ByteArray, harshness: float) -> ByteArray:
    """Gamma, contrast, exposure and white balance in one table a channel; rarely no colour at all."""
    if rng.random() < 0.02 and harshness >= 1:  # elsewhere labels speak of colours
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    level = np.linspace(0, 1, 256)[:, None]
    gamma = np.exp(rng.normal(0, 0.22 * harshness))
    contrast, shift = rng.uniform(1 - 0.4 * harshness, 1.15), rng.normal(0, 0.06 * harshness)
    balance = 1 + rng.normal(0, 0.07 * harshness, 3)
    table = ((level**gamma - 0.5) * contrast + 0.5 + shift) * balance
    return cv2.LUT(image, (np.clip(table, 0, 1) * 255).astype(np.uint8).reshape(1, 256, 3))


def with_noise(rng: np.random.Generator, image: ByteArray, deviation: float) -> ByteArray:
    """The image with Gaussian noise of a standard deviation in grey levels, partly in the colours."""
    height, width = image.shape[:2]
    scale = deviation / 64
    grey = cv2.convertScaleAbs(noise(rng, height, width), alpha=scale, beta=128)
    other = cv2.convertScaleAbs(noise(rng, height, width), alpha=scale, beta=128)
    planes = cv2.merge([grey, cv2.addWeighted(grey, 0.6, other, 0.4, 0), other])
    return cv2.addWeighted(image, 1, planes, 1, -128)


def compressed(image: ByteArray, quality: int) -> ByteArray:
    """The image after JPEG at a quality of 1–100."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # we have just made it
    return decoded


def mottled(rng: np.random.Generator, image: ByteArray, strength: float) -> ByteArray:
    """The image with slow changes of brightness, as of paper and wrinkles."""
    height, width = image.shape[:2]
    relief = cv2.resize(clouds(rng, height // 4, width // 4, cells=6, octaves=3), (width, height))
    relief = cv2.convertScaleAbs(relief, alpha=strength, beta=200 - 128 * strength)
    return cv2.multiply(image, cv2.merge([relief, relief, relief]), scale=1 / 200)
