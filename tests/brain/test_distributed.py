"""Two ranks under torchrun with gloo: one verdict, equal states, never a hang."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: All in one worker: they share one run of two processes.
pytestmark = pytest.mark.xdist_group("ranks")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def torchrun(script, *arguments, timeout):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(HERE / "ranks" / script),
            *map(str, arguments),
        ],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun("everything.py", folder, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]


@pytest.fixture(scope="module")
def ranks(everything):
    return [rank["agreed"] for rank in everything]


@pytest.fixture(scope="module")
def windows(everything):
    return [rank["windows"] for rank in everything]


FAULTS = [
    f"{kind} {fault} on {where}"
    for where in (0, 1)
    for kind, faults in (
        ("Toy", "nan,spike,data error,loss only,label,objective error,quarantine"),
        ("OwnStep", "nan,data error,loss only,label"),
    )
    for fault in faults.split(",")
]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_one_rank_drops_the_batch_on_both_and_leaves_no_trace(ranks, name):
    kind = name.split()[0]
    for rank in ranks:
        assert rank[name]["rejected"] == 1
        assert rank[name]["finite"]
        assert rank[name]["state"] == rank[f"{kind} without"]["state"]
        assert rank[name]["step"] == rank[f"{kind} without"]["step"]
    assert ranks[0][name]["state"] == ranks[1][name]["state"]


@pytest.mark.parametrize("where", [0, 1])
def test_a_state_corrupted_on_one_rank_is_replayed_on_both(ranks, where):
    for rank in ranks:
        seen = rank[f"Toy state on {where}"]
        assert seen["rejected"] == 0
        assert seen["replayed"] > 0
        assert seen["state"] == rank["Toy clean"]["state"]


@pytest.mark.parametrize("where", [0, 1])
def test_the_rank_with_the_fault_names_it_and_the_other_says_where_it_lies(
    ranks, where
):
    assert ranks[where][f"Toy nan on {where}"]["causes"] == ["input non-finite"]
    assert ranks[where][f"Toy label on {where}"]["causes"] == ["label out of range"]
    assert ranks[where][f"Toy quarantine on {where}"]["causes"] == ["exception"]
    for fault in ("nan", "label", "loss only", "data error", "spike", "quarantine"):
        assert ranks[1 - where][f"Toy {fault} on {where}"]["causes"] == ["other rank"]


@pytest.mark.parametrize("where", [0, 1])
def test_an_exception_inside_collectives_ends_all_ranks_in_time_with_the_cause(
    tmp_path, where
):
    started = time.monotonic()
    done = torchrun("ends.py", tmp_path, where, timeout=120)
    assert done.returncode != 0
    assert time.monotonic() - started < 90
    assert "inside the forward of the wrapped module" in done.stderr
    entries = json.loads((tmp_path / "out.json").read_text())
    assert f"r{where}s5u0" in json.dumps(entries)


# -- inside an accumulation window, where gradients are each rank's own ------------


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("fault", ["gradient", "nan", "objective error"])
def test_a_micro_batch_that_is_bad_on_one_rank_is_dropped_on_both(
    windows, fault, where
):
    name = f"{fault} on {where}"
    for rank in windows:
        assert rank[name]["rejected"] == 1
        assert rank[name]["state"] == rank["without"]["state"]
        assert rank[name]["synced"]  # no_sync was left although it was unwound
    assert windows[0][name]["state"] == windows[1][name]["state"]
    assert windows[1 - where][name]["causes"] == ["other rank"]
    assert windows[where][name]["causes"] != ["other rank"]


@pytest.mark.parametrize("where", [0, 1])
def test_scaled_gradients_wait_for_the_step_on_both_ranks(windows, where):
    for rank in windows:
        seen = rank[f"scaled on {where}"]
        assert (seen["rejected"], seen["backoffs"]) == (0, 1)


@pytest.mark.parametrize("where", [0, 1])
def test_a_rank_without_room_for_its_batches_holds_up_nobody(windows, where):
    states = {rank[f"room on {where}"]["state"] for rank in windows}
    assert len(states) == 1
