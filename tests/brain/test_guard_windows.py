"""Two ranks inside an accumulation window, where gradients are each rank's own."""

import json

import pytest

from tests.brain.test_distributed import torchrun


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    done = torchrun("windows.py", folder, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("fault", ["gradient", "nan", "objective error"])
def test_a_micro_batch_that_is_bad_on_one_rank_is_dropped_on_both(ranks, fault, where):
    name = f"{fault} on {where}"
    for rank in ranks:
        assert rank[name]["rejected"] == 1
        assert rank[name]["state"] == rank["without"]["state"]
        assert rank[name]["synced"]  # no_sync was left although it was unwound
    assert ranks[0][name]["state"] == ranks[1][name]["state"]
    assert ranks[1 - where][name]["causes"] == ["other rank"]
    assert ranks[where][name]["causes"] != ["other rank"]


@pytest.mark.parametrize("where", [0, 1])
def test_scaled_gradients_wait_for_the_step_on_both_ranks(ranks, where):
    for rank in ranks:
        seen = rank[f"scaled on {where}"]
        assert (seen["rejected"], seen["backoffs"]) == (0, 1)


@pytest.mark.parametrize("where", [0, 1])
def test_a_rank_without_room_for_its_batches_holds_up_nobody(ranks, where):
    states = {rank[f"room on {where}"]["state"] for rank in ranks}
    assert len(states) == 1
