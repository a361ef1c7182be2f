"""The export folder as it is read: a recipe of the model alone, weights, and hashes.

``config.json`` says what it is and holds the SHA-256 of the other files. Nothing that
is read is a pickle, and the recipe goes through the strict loader.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from speechbrain_ext.config import load_recipe
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.sharing.kinds import CONFIG, FORMAT
from speechbrain_ext.sharing.weights import read_weights

RECIPE = "model.yaml"
WEIGHTS = "model.safetensors"
DECISION = "decision.safetensors"
#: All that is read to use a model; what else lies there is for other programs.
READ_FILES = (CONFIG, RECIPE, WEIGHTS, DECISION)
MAX_RATE = 1_000_000  # Hz
#: Key of `RECIPE` under which the model stands.
MODEL = "model"

#: What is asked of a model of each task, whatever its class is: one of these sets.
_PARTS = {
    "codec": (
        ("sample_rate", "bitrates", "encode", "decode", "quantizer"),
        ("sample_rate", "compress", "decompress", "digest"),
    ),
    "speaker": (("sample_rate", "features"),),
}
_OPENS = {"codec": "SpeechCodec", "speaker": "SpeakerVerifier"}


def is_export(folder: str | os.PathLike) -> bool:
    """Whether a folder was written by ``speechbrain-ext export``, whole or not."""
    return (Path(folder) / CONFIG).is_file()


@dataclass(frozen=True)
class ExportFolder:
    """A folder that ``speechbrain-ext export`` wrote.

    Attributes
    ----------
    path : Path
        Where it is.
    config : dict
        ``format``, ``task``, ``model``, ``sample_rate`` (Hz), ``checkpoint_sha256``,
        ``config_hash``, ``versions``, ``decision`` (speaker), ``files``.
    """

    path: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike, task: str | None = None) -> ExportFolder:
        """Read ``config.json``.

        Arguments
        ---------
        path : str or PathLike
            The folder.
        task : {"codec", "speaker"} or None
            What the model shall do; None: any of them.

        Raises
        ------
        UserError
            If it is no such folder, or of another task.
        """
        path = Path(path)
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            if config["format"] != FORMAT:
                raise ValueError(f"its format is {config['format']!r}, not {FORMAT!r}")
            found = config["task"], config["sample_rate"], dict(config["files"])
            if not isinstance(found[0], str):
                raise ValueError(f"its task is {found[0]!r}")
            if type(found[1]) is not int or not 0 < found[1] <= MAX_RATE:
                raise ValueError(f"its sample_rate is {found[1]!r}")
        except FileNotFoundError:
            raise UserError(f"{path} is no export folder: no {CONFIG} in it") from None
        except (
            OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
        ) as error:  # fmt: skip
            raise UserError(
                f"{path / CONFIG}: not written by speechbrain-ext export ({error!r})"
            ) from error
        if found[0] != (task or found[0]):
            raise UserError(
                f"{path} holds a model of the task {found[0]!r}, not {task!r}; open it "
                f"with {_OPENS.get(found[0], 'what that task has')}.from_hparams"
            )
        return cls(path, config)

    def file(self, name: str) -> Path:
        """Return the path of a file whose bytes are those that were exported.

        Raises
        ------
        UserError
            If it is missing, or its bytes are others.
        """
        path = self.path / name
        try:
            found = sha256_file(path)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"{path}: {reason}; get the whole folder again") from error
        if found != self.config["files"].get(name):
            raise UserError(
                f"{path}: other bytes than {CONFIG} says: a copy that is not complete, "
                "or a file that was changed\n  Next: get the whole folder again, or "
                "export it again: speechbrain-ext export EXP"
            )
        return path

    def load_model(self, device: str, allow: Iterable[str] = ()) -> torch.nn.Module:
        """Build the model from its recipe and give it its weights.

        Arguments
        ---------
        device : str
            Where to.
        allow : Iterable of str
            Names that the recipe may build beyond the list; see `load_recipe`.

        Returns
        -------
        torch.nn.Module
            In evaluation mode.

        Raises
        ------
        ConfigError
            If the recipe is not one that the strict loader takes.
        UserError
            If a file is missing or changed, or the weights do not fit the model.
        """
        recipe = load_recipe(self.file(RECIPE), allow=allow)
        model = recipe.hparams.get(MODEL)
        if not isinstance(model, torch.nn.Module):
            raise UserError(
                f"{self.path / RECIPE}: '{MODEL}' is no model but "
                f"{type(model).__name__}; export it again: speechbrain-ext export EXP"
            )
        task, rate = self.config["task"], self.config["sample_rate"]
        missing = [
            [x for x in parts if not hasattr(model, x)] for parts in _PARTS[task]
        ]
        fault = ""
        if all(missing):
            fault = f"has no {', '.join(missing[0])}, as a {task} model has"
        elif model.sample_rate != rate:
            fault = f"is for {model.sample_rate} Hz, {CONFIG} says {rate}"
        if fault:
            raise UserError(
                f"{self.path / RECIPE}: {type(model).__name__} {fault}; export it "
                "again: speechbrain-ext export EXP"
            )
        tensors = read_weights(self.file(WEIGHTS))
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise UserError(
                f"{self.path / WEIGHTS} does not fit {RECIPE}: {first}\n  Next: export "
                "it again: speechbrain-ext export EXP"
            ) from error
        return model.to(device).eval()
