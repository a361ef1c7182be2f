"""Where the project's other folders (``egs/``, ``recipes/``, ``hparams/``) are."""

from __future__ import annotations

from pathlib import Path


def project_root() -> Path:
    """Return the folder that holds this package: the checkout, if it is one.

    A package installed without its checkout has no ``egs/`` there; callers look.

    Example
    -------
    >>> (project_root() / "speechbrain_ext" / "checkout.py").exists()
    True
    """
    return Path(__file__).resolve().parents[1]
