"""A training script refuses a recipe of the other task before it does anything."""

from types import SimpleNamespace

import pytest

from speechbrain_ext.errors import UserError
from speechbrain_ext.tasks.codec import train as codec
from speechbrain_ext.tasks.speaker import train as speaker


@pytest.mark.parametrize(
    ("task", "named", "place"),
    [
        (speaker, "codec", "egs/telugu"),
        (codec, "speaker", "egs/voxceleb_mini"),
    ],
)
def test_a_recipe_of_another_task_is_refused(task, named, place, tmp_path):
    folder = tmp_path / "exp"
    hparams = {"task": f"speechbrain_ext.tasks.{named}", "output_folder": str(folder)}
    recipe = SimpleNamespace(hparams=hparams, path="theirs.yaml", run_opts={})
    with pytest.raises(UserError) as caught:
        task.train(recipe)
    assert f"theirs.yaml is of the task {named}" in str(caught.value)
    assert place in str(caught.value)
    assert not folder.exists()
