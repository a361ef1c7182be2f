"""An absent package is a hint, not a traceback."""

import importlib.util

import pytest

from speechbrain_ext.errors import UserError
from speechbrain_ext.tasks.loggers import optional_loggers


def test_nothing_is_made_by_default(tmp_path):
    assert optional_loggers(tmp_path, tensorboard=False, wandb="disabled") == []


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("tensorboard", {"tensorboard": True, "wandb": "disabled"}),
        ("wandb", {"tensorboard": False, "wandb": "offline"}),
    ],
)
def test_an_absent_package_is_named_with_its_command(
    tmp_path, monkeypatch, package, options
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        optional_loggers(tmp_path, **options)


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(UserError, match="'ofline' must be one of disabled, offline"):
        optional_loggers(tmp_path, tensorboard=False, wandb="ofline")
