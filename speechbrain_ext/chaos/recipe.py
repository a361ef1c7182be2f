"""Any recipe as a subject of chaos: its own model, its own data, few batches."""

from __future__ import annotations

import importlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from speechbrain.utils.seed import seed_everything

from speechbrain_ext.brain import NonFinitePolicy
from speechbrain_ext.chaos.injection import Deliveries
from speechbrain_ext.config import Recipe, load_recipe
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_text

logger = logging.getLogger(__name__)

#: A fault needs batches before it and after it.
MIN_BATCHES = 3


class RecipeSubject:
    """A recipe that is trained again and again from the same first weights.

    The recipe is loaded, its data read and its first weights made once; batches are
    recorded from its own loader. Each run then builds everything anew from the YAML.

    Arguments
    ---------
    path : str or Path
        The recipe; it has to name its ``task``.
    overrides : Sequence[str]
        As for `load_recipe`; they fill the manifests.
    presets : Sequence[str]
        As for `load_recipe`.
    folder : Path
        Temporary; takes the place of the recipe's ``output_folder``.
    batches, num_epochs : int
        Batches in all, and over how many epochs they are spread evenly; fewer if the
        recipe's epochs are shorter.
    allow : Sequence[str]
        As for `load_recipe`.

    Raises
    ------
    ConfigError
        If the recipe has faults.
    UserError
        If it names no task, its data is missing, or its epochs are too short.
    """

    #: ``"off"`` is stock: the recipe's Brain stands on `NaNSafeBrain`
    guards = ("off", "skip", "transaction")

    def __init__(
        self,
        path: str | Path,
        overrides: Sequence[str],
        presets: Sequence[str],
        folder: Path,
        *,
        batches: int,
        num_epochs: int = 2,
        allow: Sequence[str] = (),
    ):
        self.name = Path(path).stem
        self.path, self.presets = Path(path), tuple(presets)
        self.overrides = tuple(overrides)
        self.allow = tuple(allow)
        self.num_epochs = num_epochs
        recipe = self._load(folder)
        self.task = task_module(recipe)
        #: the recipe's own
        self.policy: NonFinitePolicy = (
            recipe.hparams.get("nan_guard") or NonFinitePolicy()
        )
        brain = self.task.make_brain(recipe)
        train_set, valid_set = self.task.manifests(recipe.hparams)
        self.task.first_weights(brain, train_set)
        self._first = {
            name: value.clone() for name, value in brain.modules.state_dict().items()
        }
        loader = self.task.make_loaders(recipe, train_set, valid_set)[0]
        self._epochs = record(loader, num_epochs, batches // num_epochs, self.name)

    def _load(self, folder: Path, *more: str) -> Recipe:
        given = [*self.overrides, f"--output_folder={folder}", "--noprogressbar"]
        return load_recipe(
            self.path, [*given, *more], presets=self.presets, allow=self.allow
        )

    def epochs(self) -> list[list[Any]]:
        """Return the recorded batches of each epoch."""
        return self._epochs

    def brain(
        self, guard: str, policy: NonFinitePolicy, folder: Path, accumulation: int = 1
    ) -> Any:
        """Build everything anew from the YAML, with the recorded first weights."""
        more = []
        if accumulation > 1:
            more = [f"--grad_accumulation_factor={accumulation}"]
        recipe = self._load(folder, *more)
        recipe.hparams["nan_guard"] = policy
        # The checklist after the first epoch looks for it.
        write_text(folder / "hyperparams.yaml", recipe.resolved_yaml)
        brain = self.task.make_brain(recipe)
        brain.modules.load_state_dict(self._first)
        seed_everything(int(recipe.hparams.get("seed", 0)), verbose=False)
        return brain

    def fit(self, brain: Any, deliveries: Deliveries) -> None:
        """Train on what is delivered, without validation."""
        counter = getattr(brain.hparams, "epoch_counter", None)
        if counter is None:
            counter = range(1, self.num_epochs + 1)
        else:
            counter.limit = self.num_epochs
        brain.fit(counter, deliveries)


def task_module(recipe: Recipe) -> ModuleType:
    """Find the module that trains a recipe's task.

    Raises
    ------
    UserError
        If the recipe names none, or one without ``train``.
    """
    task = recipe.hparams.get("task")
    if not isinstance(task, str):
        raise UserError(
            f"chaos: {recipe.path} names no task, so nothing says how it is trained; "
            "add  task: speechbrain_ext.tasks.codec  or the module of your own"
        )
    try:
        return importlib.import_module(f"{task}.train")
    except ModuleNotFoundError as error:
        raise UserError(
            f"chaos: task {task!r} of {recipe.path} has no module {task}.train "
            f"({error}); it has to hold make_brain, manifests, make_loaders and "
            "first_weights"
        ) from error


def record(loader: Any, num_epochs: int, batches: int, name: str) -> list[list[Any]]:
    """Take the first batches of each epoch from a recipe's loader.

    Arguments
    ---------
    loader : DataLoader
        Of training; ``sampler.set_epoch`` is called where there is one.
    num_epochs, batches : int
        How many epochs, and batches of each.
    name : str
        Of the recipe, for messages.

    Returns
    -------
    list of list
        The batches; all epochs have the same number of them.

    Raises
    ------
    UserError
        If there are fewer than `MIN_BATCHES` in an epoch.
    """
    epochs = []
    for epoch in range(1, num_epochs + 1):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        epochs.append(list(itertools.islice(loader, batches)))
    shortest = min(map(len, epochs))
    if shortest < MIN_BATCHES:
        raise UserError(
            f"chaos: {name}: {shortest} batches in an epoch, and a fault needs "
            f"{MIN_BATCHES}; give more --batches, or a smaller --batch_size"
        )
    return [epoch[:shortest] for epoch in epochs]
