"""Where a model lies, and what its small files are refused for."""

from __future__ import annotations

import pytest

from boxtune.errors import ModelError
from boxtune.models.places import load_config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{oops", r"config\.json is not JSON \(.*line 1.*\): give a model's config\.json\."),
        (
            '{"model_type": "qwen2_vl", "model_type": "qwen3_vl"}',
            r"config\.json has what is not taken here \(the key 'model_type' stands twice\): copy the model's",
        ),
    ],
)
def test_a_configuration_is_refused_for_what_it_is(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=said):
        load_config(str(tmp_path))
