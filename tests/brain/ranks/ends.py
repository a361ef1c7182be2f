"""Run by torchrun on two ranks: one raises where nobody can be told in time."""

import sys

import torch
from agreed import BAD, RANK, Toy, batches, train  # noqa: I001  (the file beside)
from speechbrain.utils.distributed import ddp_init_group

from speechbrain_ext.errors import exits_cleanly


class Exploding(Toy):
    """Raises inside the wrapped module's forward, on one rank."""

    def compute_forward(self, batch, stage):
        net = getattr(self.modules.net, "module", self.modules.net)
        net.explode = batch["fault"] == "explode"
        return super().compute_forward(batch, stage)


@exits_cleanly
def main(argv):
    """Train until the rank named on the command line raises."""
    ddp_init_group({"distributed_launch": True, "distributed_backend": "gloo"})
    data = batches(RANK)
    if int(argv[1]) == RANK:
        data[BAD]["fault"] = "explode"
    train(Exploding, data, collective_timeout=20, quarantine_file=f"{argv[0]}/out.json")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
