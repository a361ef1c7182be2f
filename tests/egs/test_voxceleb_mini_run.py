"""egs/voxceleb_mini runs from nothing to a report, and then has nothing to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2] / "egs" / "voxceleb_mini"
ENV = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CDPATH")}
ENV["SPEECHBRAIN_EXT_PYTHON"] = sys.executable
ENV["OMP_NUM_THREADS"] = "1"
SMALL = (
    *("--number_of_epochs=2", "--crops_per_epoch=384", "--crop_seconds=1.0"),
    *("--speeds=[1.0]", "--average_checkpoints=2", "--training.warmup_steps=2"),
)


def stamps(folder):
    """Return what would change if a stage ran again."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        # run.sh is the command as it was typed last.
        if path.is_file() and ".stages" not in path.parts and path.name != "run.sh"
    }


@pytest.mark.xdist_group("voxceleb_mini")
def test_espeak_from_nothing_to_a_report_and_again_a_no_op(tmp_path):
    exp, data = tmp_path / "exp", tmp_path / "data"

    def run():
        return subprocess.run(
            [
                *("./run.sh", "--corpus=espeak", f"--expdir={exp}", "--nj=1"),
                *(f"--datadir={data}", *SMALL),
            ],
            cwd=HERE,
            env=ENV,
            capture_output=True,
            text=True,
            timeout=600,
        )

    first = run()
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    results = json.loads((exp / "results.json").read_text())
    systems = {system["name"]: system for system in results["systems"]}
    assert {"channel", "cosine"} < set(systems)
    assert sum(system["chosen"] for system in systems.values()) == 1
    for system in systems.values():
        main = system["lists"]["main"]
        assert 0 <= main["eer"] < 0.5
        assert main["eer_interval"][0] <= main["eer"] <= main["eer_interval"][1]
    for name in ("RESULTS.md", "report.html", "plots", "scores", "embeddings"):
        assert (exp / name).exists()
    before = stamps(exp) | stamps(data)
    again = run()
    assert again.returncode == 0, again.stderr
    assert "Nothing to do" in again.stdout + again.stderr
    assert stamps(exp) | stamps(data) == before
