"""Whose state is whose: owners beside the modules, and all of the modules by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from speechbrain_ext.brain.memory.containers import CONTAINERS
from speechbrain_ext.brain.memory.slots import module_names

#: Classes from these modules keep plain numbers and lists that a batch moves.
_OWNERS = (
    "speechbrain.utils.metric_stats",
    "speechbrain.utils.Accuracy",
    "speechbrain.utils.bleu",
    "speechbrain.utils.epoch_loop",
    "speechbrain.nnet.schedulers",
    "torch.optim.lr_scheduler",
    "torch.optim.swa_utils",
    "torch.amp.grad_scaler",
    "torch.cuda.amp.grad_scaler",
)
_NOT_OWNERS = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.utils.data.DataLoader,
    torch.utils.data.Dataset,
    torch.utils.data.Sampler,
    torch.Tensor,
    type,
)


def registered(brain: Any) -> dict[str, Any]:
    """Recoverables of the Brain's checkpointer, by name; {} without one."""
    return dict(getattr(getattr(brain, "checkpointer", None), "recoverables", {}))


def is_owner(value: Any, brain: Any) -> bool:
    """Whether the attributes of an object that a Brain holds are state of the run.

    They are if SpeechBrain or torch wrote its class for that (metrics, schedulers,
    epoch counters, the GradScaler), or if its class is defined beside the Brain's.
    """
    if isinstance(value, _NOT_OWNERS) or not hasattr(value, "__dict__"):
        return False
    home = getattr(type(value), "__module__", "")
    if home.startswith(_OWNERS):
        return True
    if home.startswith("speechbrain_ext.brain."):  # the guard itself
        return False
    own = {type(brain).__module__.split(".")[0], "__main__"} - {"speechbrain"}
    return home.split(".")[0] in own and not callable(value)


def _held(space: Mapping[str, Any]) -> Iterable[Any]:
    """Values of a namespace, and those one level down in its containers."""
    for value in space.values():
        yield value
        if isinstance(value, CONTAINERS) and len(value) <= 64:
            yield from value.values() if isinstance(value, dict) else value


def state_owners(brain: Any) -> list[object]:
    """Objects beside the modules whose numbers and lists a batch may move.

    Arguments
    ---------
    brain : speechbrain.Brain
        Its attributes, its hparams, metrics and schedulers in either, registered
        recoverables (no modules, optimizers or loaders) and the parameter groups of
        its optimizers are the state.

    Returns
    -------
    list[object]
        Objects with ``__dict__``, or dicts; each once.
    """
    owners: list[object] = [brain]
    if hasattr(brain, "hparams"):
        owners.append(brain.hparams)
    held = [value for owner in owners for value in _held(vars(owner))]
    owners += [value for value in held if is_owner(value, brain)]
    owners += [
        value
        for value in registered(brain).values()
        if not isinstance(value, _NOT_OWNERS) and hasattr(value, "__dict__")
    ]
    for optimizer in optimizers_of(brain).values():
        owners += optimizer.param_groups  # a hook may have set the learning rate
    return list({id(owner): owner for owner in owners}.values())


def optimizers_of(brain: Any) -> dict[str, torch.optim.Optimizer]:
    """All optimizers of a Brain, by name."""
    if getattr(brain, "optimizers_dict", None) is not None:
        return brain.optimizers_dict
    optimizer = getattr(brain, "optimizer", None)
    return {} if optimizer is None else {"optimizer": optimizer}


def named_state(modules: torch.nn.Module) -> dict[str, torch.Tensor | float | int]:
    """Copy all that modules know, by name, for a file.

    Returns
    -------
    dict
        Parameters, all buffers (also those that ``state_dict()`` leaves out), and
        tensors and numbers in plain attributes; plain tensors on CPU, so that it loads
        with ``weights_only=True``.
    """
    state: dict[str, torch.Tensor | float | int] = {}
    for prefix, module in modules.named_modules():
        prefix = prefix + "." if prefix else ""
        space = vars(module)
        held = [*module._parameters.items(), *module._buffers.items()]
        held += [(n, space[n]) for n in module_names(module) if n != "training"]
        for name, value in held:
            if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
                continue
            if isinstance(value, torch.Tensor):
                state[prefix + name] = value.detach().cpu().clone()
            elif isinstance(value, (bool, int, float)):
                state[prefix + name] = value
    return state


@torch.no_grad()
def load_named_state(
    modules: torch.nn.Module, state: Mapping[str, torch.Tensor | float | int]
) -> None:
    """Put a `named_state` into modules of the same make.

    Raises
    ------
    ValueError
        If a name is not there, or a tensor has another shape; nothing is loaded then.
    """
    known = dict(modules.named_modules())
    places, faults = [], []
    for name, value in state.items():
        prefix, _, last = name.rpartition(".")
        module = known.get(prefix)
        if module is None:
            faults.append(f"no module {prefix!r} for {name}")
            continue
        stored = {**vars(module), **dict(module._parameters.items())}
        stored |= dict(module._buffers.items())
        live = stored.get(last)
        if isinstance(live, torch.Tensor) and isinstance(value, torch.Tensor):
            if live.shape != value.shape and (
                last in module._parameters.keys() or last in module._buffers.keys()
            ):
                faults.append(f"{name} is {[*value.shape]}, here {[*live.shape]}")
        elif isinstance(live, torch.Tensor):
            faults.append(f"{name} is a number, here a tensor")
        places.append((module, last, live, value))
    if faults:
        raise ValueError(
            f"load_named_state: {len(faults)} entries do not fit these modules: "
            f"{'; '.join(faults[:5])}; build the modules from the recipe of the state"
        )
    for module, last, live, value in places:
        if not isinstance(value, torch.Tensor):
            setattr(module, last, value)
        elif isinstance(live, torch.Tensor) and live.shape == value.shape:
            live.copy_(value)
        else:  # a buffer or attribute that first forward makes
            device = next((p.device for p in modules.parameters()), value.device)
            setattr(module, last, value.to(device, copy=True))
