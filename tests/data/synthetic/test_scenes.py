import numpy as np
import pytest

from boxtune.data.synthetic import SCENE_KINDS, make_scene, render_scene, scene_size
from boxtune.data.synthetic.placing import Canvas
from boxtune.data.synthetic.shapes import SHAPES, _paint_shape
from boxtune.errors import DataError


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_every_kind_is_deterministic_and_in_range(kind: str) -> None:
    labels: set[str] = set()
    for seed in range(12):
        scene = make_scene(seed, 320, kind)
        assert scene.image.tobytes() == make_scene(seed, 320, kind).image.tobytes()
        height, width = scene.image.shape[:2]
        assert (height, width) == scene_size(seed, 320)
        assert max(height, width) == 320
        assert (scene.detections.xyxy >= 0).all()
        assert (scene.detections.xyxy <= [width, height, width, height]).all()
        assert (scene.detections.areas > 3).all()
        assert len(scene.detections) <= 60
        labels |= set(scene.detections.labels)
    assert len(labels) >= 2


def test_absent_labels_are_absent() -> None:
    for seed in range(150):
        scene = make_scene(seed, 224)
        assert not set(scene.absent) & set(scene.detections.labels), scene.kind


def test_a_query_is_answered_by_exactly_what_it_asks_for() -> None:
    seen = {"all": 0, "some": 0, "absent": 0, "nothing": 0}
    for seed in range(120):
        scene = make_scene(seed, 224)
        rng = np.random.default_rng(seed)
        asked, answer = scene.query(rng)
        assert asked
        assert len(asked) == len(set(asked))
        assert sorted(answer.labels) == sorted(label for label in scene.detections.labels if label in asked)
        present = set(scene.detections.labels)
        seen["all"] += present <= set(asked)
        seen["some"] += bool(present - set(asked)) and len(answer) > 0
        seen["absent"] += bool(set(asked) - present)
        seen["nothing"] += len(answer) == 0
    assert min(seen.values()) > 5, seen


@pytest.mark.parametrize("form", sorted(SHAPES))
def test_boxes_of_shapes_are_exact(form: str) -> None:
    for seed in range(8):
        canvas = Canvas(np.zeros((300, 300, 3), np.uint8))
        taken: list[list[float]] = []
        assert _paint_shape(np.random.default_rng(seed), canvas, taken, SHAPES[form], (200, 200, 200))
        mask = canvas.image.max(axis=-1) > 90
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(taken[0], extent, atol=1.5 if form != "star" else 2.5)  # its tips are thin


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(DataError, match="smear"):
        render_scene(0, kind="smears")
