"""Train a speaker recipe while faults strike.

``python -m tests.acceptance.faulty_train`` takes the words of
recipes/speaker/train.py. Every fault of `speechbrain_ext.chaos` strikes once, spread
evenly over the run; what was expected and what happened is written to ``faults.json``
in the experiment.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from speechbrain_ext.chaos.faults import FAULTS, Fault
from speechbrain_ext.chaos.injection import Injection
from speechbrain_ext.config import load_command_line
from speechbrain_ext.files import write_json
from speechbrain_ext.tasks.speaker import train as task
from speechbrain_ext.tasks.training import carry_out


class Strikes:
    """Which fault belongs to which batch of a run."""

    def __init__(self, brain):
        self.brain = brain
        self.injection = Injection(brain)
        self.number = 0
        self.struck: list[dict] = []
        self.at: dict[int, Fault] = {}

    def plan(self, num_batches: int) -> None:
        """Spread the faults over the run."""
        apart = num_batches / (len(FAULTS) + 1)
        self.at = {
            round((number + 1) * apart): fault
            for number, fault in enumerate(FAULTS.values())
        }

    def batches(self, loader):
        """Hand over batches, some of them with a fault."""
        for batch in loader:
            fault = self.at.get(self.number)
            self.number += 1
            if fault is None:
                yield batch
                continue
            told = len(self.brain.incidents)
            self.injection.fault, self.injection.fired = fault, False
            self.injection.before(batch)
            yield batch
            self.injection.after()
            self.injection.fault = None
            entry = {"fault": fault.name, "fired": self.injection.fired, "from": told}
            self.struck.append(entry | {"expected": fault.expected})

    def outcome(self) -> list[dict]:
        """Say of each fault what the run told of it, up to the next one."""
        ends = [entry["from"] for entry in self.struck[1:]]
        ends.append(len(self.brain.incidents))
        for entry, end in zip(self.struck, ends, strict=True):
            told = self.brain.incidents[entry.pop("from") : end]
            entry["causes"] = [str(incident["cause"]) for incident in told]
            wanted = FAULTS[entry["fault"]].causes
            entry["named"] = bool(told) and all(c in wanted for c in entry["causes"])
        return self.struck


def main(argv: list[str]) -> None:
    """Train, with the task's own functions but for where the faults come in."""
    recipe = load_command_line(argv)
    kept: dict[str, Strikes] = {}

    def make_brain(recipe):
        brain = task.make_brain(recipe)
        kept["strikes"] = Strikes(brain)
        return brain

    def make_loaders(recipe, *sets):
        train_loader, valid_loader = task.make_loaders(recipe, *sets)
        strikes = kept["strikes"]
        strikes.plan(len(train_loader) * recipe.hparams["epoch_counter"].limit)
        kind = type(train_loader)

        class Faulty(kind):
            def __iter__(self):
                return strikes.batches(super().__iter__())

        Faulty.__name__ = Faulty.__qualname__ = kind.__name__
        train_loader.__class__ = Faulty
        return train_loader, valid_loader

    names = ("check_settings", "HARMLESS", "first_weights")
    kept_names = {name: getattr(task, name) for name in names}
    faulty = SimpleNamespace(
        **kept_names, make_brain=make_brain, make_loaders=make_loaders
    )
    carry_out(recipe, faulty)
    folder = recipe.hparams["output_folder"]
    write_json(f"{folder}/faults.json", {"struck": kept["strikes"].outcome()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
