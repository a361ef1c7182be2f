"""SpeechBrain's run options, by exact name, without importing torch.

`speechbrain.utils.run_opts` takes any unambiguous prefix for an option, so that a YAML
key ``max_grad`` becomes ``max_grad_norm``, and swallows single letters. Names are the
same here, matched whole; a test compares the table with SpeechBrain's own.
"""

from __future__ import annotations

from typing import Any

PRECISIONS = ("fp32", "fp16", "bf16")

#: option -> type of its value; bool is a flag, a tuple is a choice, list takes words
RUN_OPTIONS: dict[str, type | tuple[str, ...]] = {
    "auto_mix_prec": bool,
    "bfloat16_mix_prec": bool,
    "ckpt_interval_minutes": int,
    "ckpt_interval_steps": int,
    "compile": bool,
    "compile_mode": ("default", "reduce-overhead", "max-autotune"),
    "compile_module_keys": list,
    "compile_using_dynamic_shape_tracing": bool,
    "compile_using_fullgraph": bool,
    "data_parallel_backend": bool,
    "debug": bool,
    "debug_batches": int,
    "debug_epochs": int,
    "debug_persistently": bool,
    "device": str,
    "distributed_backend": ("nccl", "gloo", "mpi"),
    "eval_precision": PRECISIONS,
    "find_unused_parameters": bool,
    "grad_accumulation_factor": int,
    "jit": bool,
    "jit_module_keys": list,
    "log_config": str,
    "max_grad_norm": float,
    "nonfinite_patience": int,
    "noprogressbar": bool,
    "optimizer_step_limit": int,
    "precision": PRECISIONS,
    "profile_steps": int,
    "profile_training": bool,
    "profile_warmup": int,
    "remove_vector_weight_decay": bool,
    "skip_nonfinite_grads": bool,
    "test_only": bool,
    "tqdm_colored_bar": bool,
}


def run_option_value(name: str, value: Any) -> Any:
    """Check the value of one run option.

    Arguments
    ---------
    name : str
        A key of `RUN_OPTIONS`.
    value : Any
        What YAML made of the given text (True for a bare flag).

    Returns
    -------
    Any
        The value with the option's type.

    Raises
    ------
    ValueError
        With the rule that is broken.

    Example
    -------
    >>> run_option_value("max_grad_norm", 1), run_option_value("debug", True)
    (1.0, True)
    """
    kind = RUN_OPTIONS[name]
    if isinstance(kind, tuple):
        if value not in kind:
            raise ValueError(f"must be one of {', '.join(kind)}; got {value!r}")
        return value
    if kind is list and isinstance(value, str):
        return value.split()
    accepts = (int, float) if kind is float else kind
    if not isinstance(value, accepts) or (kind is not bool and value is True):
        needs = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ValueError(f"needs {needs.get(kind, 'a value')}; got {value!r}")
    return kind(value)
