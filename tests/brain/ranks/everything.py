"""Run by torchrun on two ranks: all faults that end well, in one process group.

Writes ``<folder>/rank<r>.json``: ``agreed`` and ``windows``, scenario -> what was seen.
"""

import json
import sys
from pathlib import Path

import agreed
import torch
import windows
from speechbrain.utils.distributed import ddp_init_group

if __name__ == "__main__":
    torch.set_num_threads(1)
    ddp_init_group({"distributed_launch": True, "distributed_backend": "gloo"})
    seen = {
        "agreed": agreed.scenarios(Path(sys.argv[1])),
        "windows": windows.scenarios(),
    }
    Path(sys.argv[1], f"rank{agreed.RANK}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()
