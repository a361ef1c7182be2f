"""First weights of a run from somebody's checkpoint (``--init_from``)."""

from __future__ import annotations

from pathlib import Path

import torch

from speechbrain_ext.errors import UserError

#: recoverable of ours -> file that SpeechBrain publishes for it, and where its tensors
#: stand in ours. ``embedding_model.ckpt`` of spkrec-ecapa-voxceleb is the ECAPA alone.
PUBLISHED = {"encoder": ("embedding_model", "encoder.")}
#: Where averaged weights lie, below a save folder and below an experiment.
_AVERAGED = ("averaged", "save/averaged")


def find_weights(source: str, name: str) -> Path:
    """Find the weights file that ``--init_from`` means.

    Arguments
    ---------
    source : str
        A ``.ckpt`` or ``.pt`` file, a ``CKPT+...`` folder, a ``save`` folder, or an
        experiment folder; of several checkpoints the newest is taken, and averaged
        weights before all others. For a speaker encoder also a folder as SpeechBrain
        publishes it, with ``embedding_model.ckpt``.
    name : str
        Name of the recoverable, such as ``"codec"`` or ``"encoder"``.

    Raises
    ------
    UserError
        If there is nothing; the message says where was looked.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    patterns = [f"{name}.ckpt"]
    if name in PUBLISHED:
        patterns.append(f"{PUBLISHED[name][0]}.ckpt")
        patterns += [f"{place}/CKPT*/{name}.ckpt" for place in _AVERAGED]
    patterns += [f"CKPT*/{name}.ckpt", f"save/CKPT*/{name}.ckpt"]
    for pattern in patterns:
        found = sorted(path.glob(pattern), key=lambda p: p.stat().st_mtime)
        if found:
            return found[-1]
    raise UserError(
        f"--init_from={source}: no weights there; looked for "
        + ", ".join(str(path / pattern) for pattern in patterns)
    )


def load_initial_weights(module: torch.nn.Module, source: str, name: str) -> str:
    """Load what fits, and tell what did not.

    Arguments
    ---------
    module : torch.nn.Module
        Gets the weights in place.
    source, name : str
        See `find_weights`.

    Returns
    -------
    str
        A report: how many tensors were loaded, which are missing in the file, which
        the module does not have, and which have another shape.

    Raises
    ------
    UserError
        If the file can't be read, holds a non-finite number, or nothing in it fits.
    """
    path = find_weights(source, name)
    try:
        given = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a broken file
        raise UserError(f"--init_from={source}: {path} can't be read: {error}") from (
            error
        )
    if not isinstance(given, dict):
        raise UserError(f"--init_from={source}: {path} holds no state_dict")
    own = module.state_dict()
    tensors = {k: v for k, v in given.items() if isinstance(v, torch.Tensor)}
    if name in PUBLISHED and not any(key in own for key in tensors):
        prefix = PUBLISHED[name][1]
        tensors = {prefix + key: value for key, value in tensors.items()}
        own = {key: value for key, value in own.items() if key.startswith(prefix)}
    mismatched = [k for k in own if k in tensors and tensors[k].shape != own[k].shape]
    loaded = [k for k in own if k in tensors and k not in mismatched]
    bad = [
        k
        for k in loaded
        if tensors[k].is_floating_point() and not tensors[k].isfinite().all()
    ]
    if bad:
        raise UserError(
            f"--init_from={source}: {len(bad)} tensors in {path} hold NaN or Inf, "
            f"first {bad[0]}; take an older checkpoint"
        )
    if not loaded:
        raise UserError(
            f"--init_from={source}: nothing in {path} fits this model; is it the same "
            "recipe?"
        )
    module.load_state_dict({k: tensors[k] for k in loaded}, strict=False)
    count = sum(own[k].numel() for k in loaded)
    share = count / max(1, sum(tensor.numel() for tensor in own.values()))
    lines = [
        f"init_from {path}: {len(loaded)} of {len(own)} tensors loaded, "
        f"{count:,} numbers ({share:.0%})"
    ]
    for what, names in (
        ("not in the file, so newly initialised", [k for k in own if k not in tensors]),
        ("in the file but not in this model", [k for k in tensors if k not in own]),
        ("of another shape, so newly initialised", mismatched),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"  {what}: {', '.join(names[:5])}{more}")
    return "\n".join(lines)
