"""Pictures made by the program, seeded and endless: photos of nutrition labels and mixed scenes for pretraining.

One picture takes 10–12 ms of one core at 448 pixels. OpenCV starts threads of its own: in a program with many worker
processes call `cv2.setNumThreads(1)` in each, or they hinder one another.
"""

from boxtune.data.synthetic.nutrition import plan_nutrition, render_nutrition
from boxtune.data.synthetic.scenes import SCENE_KINDS, Scene, make_scene, render_scene, scene_size
from boxtune.data.synthetic.source import load_synthetic

__all__ = [
    "SCENE_KINDS", "Scene", "load_synthetic", "make_scene", "plan_nutrition", "render_nutrition", "render_scene",
    "scene_size",
]  # fmt: skip
