import cv2
import numpy as np
import pytest

from boxtune.data.synthetic import plan_nutrition, render_nutrition
from boxtune.data.synthetic.nutrition import LEAST_VISIBLE
from boxtune.data.synthetic.nutrition_table import paint_nutrition_table
from boxtune.data.synthetic.packaging import TABLE


def _extent(mask: np.ndarray) -> list[int]:
    """Hull of the pixels that are mostly covered."""
    rows, columns = np.flatnonzero((mask > 127).any(axis=1)), np.flatnonzero((mask > 127).any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_same_seed_same_bytes() -> None:
    first, boxes = render_nutrition(7)
    again, boxes_again = render_nutrition(7)
    assert first.tobytes() == again.tobytes()
    assert boxes == boxes_again
    assert render_nutrition(8)[0].tobytes() != first.tobytes()


@pytest.mark.parametrize("size_px", [None, 448, (300, 420)])
def test_image_and_boxes_are_in_range(size_px: int | tuple[int, int] | None) -> None:
    counts = []
    for seed in range(25):
        image, found = render_nutrition(seed, size_px)
        height, width = image.shape[:2]
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        if size_px is None:
            assert 320 <= max(height, width) <= 640
        elif isinstance(size_px, int):
            assert max(height, width) == size_px
        else:
            assert (height, width) == size_px
        assert (found.xyxy >= 0).all()
        assert (found.xyxy <= [width, height, width, height]).all()
        assert (found.areas > 100).all()
        assert set(found.labels) <= {"nutrition-table"}
        counts.append(len(found))
    assert 1 <= max(counts) <= 3


def test_boxes_are_the_hull_of_the_warped_tables() -> None:
    kinds = set()
    for seed in range(60):
        photo = plan_nutrition(seed)
        kinds.add((bool(photo.bending.turn), bool(photo.bending.wave)))
        boxes = photo.detections().xyxy.tolist()
        for part in photo.parts:
            if part.kind != TABLE:
                continue
            flat = np.zeros(photo.bending.flat_hw, np.uint8)
            x, y, w, h = part.rect
            flat[y : y + h, x : x + w] = 255
            np.testing.assert_allclose(boxes.pop(0), _extent(photo.bending.warp(flat, photo.image_hw)), atol=1.5)
        assert not boxes
    assert len(kinds) == 3  # planes, cans and wrinkled bags were all among them


def test_way_back_undoes_the_way_there() -> None:
    for seed in range(40):
        photo = plan_nutrition(seed)
        height, width = photo.bending.flat_hw
        points = np.random.default_rng(seed).uniform(0.02, 0.98, (50, 2)) * [width, height]
        np.testing.assert_allclose(photo.bending.back(photo.bending.forward(points)), points, atol=0.05)


def test_tables_fill_their_rectangles() -> None:
    for seed in range(80):
        rng = np.random.default_rng(seed)
        width, height = int(rng.integers(60, 400)), int(rng.integers(40, 400))
        ground = (120, 160, 90)
        print_ = np.full((height, width, 3), ground, np.uint8)
        paint_nutrition_table(print_, rng, ground)
        changed = (np.abs(print_.astype(int) - ground).sum(axis=-1) > 40).astype(np.uint8)
        _, _, w, h = cv2.boundingRect(changed)
        assert w * h > 0.88 * width * height


def test_a_table_that_is_mostly_outside_is_not_printed() -> None:
    for seed in range(150):
        photo = plan_nutrition(seed)
        for part in photo.parts:
            if part.kind == TABLE:
                assert photo.bending.visible(part.rect, photo.image_hw) >= LEAST_VISIBLE


def test_sizes_vary() -> None:
    shares = []
    for seed in range(300):
        photo = plan_nutrition(seed)
        boxes = photo.detections().xyxy
        shares += (np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) / max(photo.image_hw)).tolist()
    assert np.quantile(shares, 0.05) < 0.2
    assert np.quantile(shares, 0.95) > 0.8
