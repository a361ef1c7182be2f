"""A script that `smoke` runs in a process of its own: what does a folder compute.

Arguments: the folder, an ``.npz`` of signals (and their rate), an ``.npz`` to write,
names allowed beyond the list (with commas), and the words of what to do: ``stock``,
``speaker``, ``codec``. For ``stock`` nothing of this package can be imported: that part
comes first, and this file imports none of it.
"""

import sys

# This file's folder is no place for modules of others to be found in.
sys.path.pop(0)

PACKAGE = "speechbrain_ext"


class Blocked:
    """Import hook under which the package is not installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Refuse the package and all that is in it."""
        if name.partition(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def stock(folder, signals, sample_rate):
    """Embeddings and cosines from stock SpeechBrain's EncoderClassifier."""
    import torch
    from speechbrain.inference.classifiers import EncoderClassifier

    model = EncoderClassifier.from_hparams(folder, run_opts={"device": "cpu"})
    found = {}
    for name, signal in signals.items():
        if len(signal) < sample_rate // 4:  # stock raises on what is very short
            continue
        cosines, _, _, labels = model.classify_batch(torch.from_numpy(signal))
        embedding = model.encode_batch(torch.from_numpy(signal)).reshape(-1)
        found[f"stock.embedding.{name}"] = embedding.numpy()
        found[f"stock.cosines.{name}"] = cosines.reshape(-1).numpy()
        found[f"stock.label.{name}"] = labels[0]
    if any(name.partition(".")[0] == PACKAGE for name in sys.modules):
        raise SystemExit(f"{PACKAGE} was imported")
    return found


def main(folder, given, output, allow, *words):
    """Compute and write."""
    import numpy as np

    with np.load(given, allow_pickle=False) as stored:
        signals = dict(stored)
    sample_rate = int(signals.pop("sample_rate"))
    found = {}
    if "stock" in words:
        sys.meta_path.insert(0, Blocked)
        found |= stock(folder, signals, sample_rate)
        sys.meta_path.remove(Blocked)
    if "speaker" in words or "codec" in words:
        from speechbrain_ext.sharing.export import outputs

        opened = outputs.open_model(folder, words[-1], filter(None, allow.split(",")))
        found |= outputs.compute(opened, signals, sample_rate)
    np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
