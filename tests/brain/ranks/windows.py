"""Faults of one rank inside an accumulation window; `everything.py` runs them."""

import math

import torch
from agreed import BAD, RANK, Toy, batches, digest, train


class Windowed(Toy):
    """Steps with the seventh batch; one rank's gradients may be bad alone."""

    def on_fit_start(self):
        super().on_fit_start()
        self.grad_accumulation_factor = 7

    def compute_objectives(self, logits, batch, stage):
        if batch["fault"] == "gradient":
            logits.register_hook(lambda grad: grad * math.nan)
        return super().compute_objectives(logits, batch, stage)


class Scaled(Windowed):
    """With a GradScaler, which sees the gradient when the window steps."""

    def on_fit_start(self):
        super().on_fit_start()
        self.scaler = torch.GradScaler("cpu", init_scale=8.0)


def scenarios():
    """Run all; scenario -> what this rank saw."""
    clean = batches(RANK)
    without = [batch for step, batch in enumerate(clean) if step != BAD]
    seen = {}

    def note(name, brain):
        synced = [m.require_backward_grad_sync for m in brain.modules.values()]
        seen[name] = {
            "state": digest(brain),
            "rejected": brain.health.rejected,
            "backoffs": brain.health.backoffs,
            "replayed": brain.health.replayed,
            "synced": all(synced),
            "causes": [incident["cause"] for incident in brain.incidents],
        }

    note("without", train(Windowed, without))
    for where in (0, 1):
        for fault in ("gradient", "nan", "objective error"):
            data = batches(RANK, fault if where == RANK else None)
            note(f"{fault} on {where}", train(Windowed, data))
        data = batches(RANK, "gradient" if where == RANK else None)
        note(f"scaled on {where}", train(Scaled, data))
        # One rank has no room for its batches: all take their snapshots together.
        room = 1e-3 if where == RANK else 10.0
        note(f"room on {where}", train(Toy, clean, journal_megabytes=room))
    return seen
