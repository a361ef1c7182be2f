"""``./run.sh --recipe BUNDLE`` runs what somebody packed, in another place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechbrain_ext.config import load_recipe
from speechbrain_ext.sharing.bundle import pack, unpack
from speechbrain_ext.sharing.bundle.manifest import describe_files
from speechbrain_ext.sharing.bundle.unpacking import unpack_below
from tests.sharing.bundles import whole, zipped

ROOT = Path(__file__).resolve().parents[2]
ENV = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CDPATH")}
ENV |= {"SPEECHBRAIN_EXT_PYTHON": sys.executable, "HOME": "/nonexistent"}
RECIPES = {"voxceleb_mini": "speaker/ecapa_mini", "telugu": "codec/transform"}
RECIPES_BY_NAME = {Path(task).name: task for task in RECIPES.values()}


@pytest.fixture(params=RECIPES)
def place(request, tmp_path):
    """A checkout in another place with one egs folder, and a bundle of a recipe."""
    task = RECIPES[request.param]
    packed = pack(
        ROOT / "recipes" / f"{task}.yaml",
        tmp_path / "given.zip",
        overrides=["--learning_rate=0.004"],
    )
    there = tmp_path / "another user" / "checkout"
    for folder in ("speechbrain_ext", "recipes", "hparams"):
        (there / folder).parent.mkdir(parents=True, exist_ok=True)
        (there / folder).symlink_to(ROOT / folder)
    (there / "egs").mkdir()
    (there / "egs" / "common.sh").write_text((ROOT / "egs/common.sh").read_text())
    here = there / "egs" / "mine"
    here.mkdir()
    for name in ("run.sh", "local"):
        original = ROOT / "egs" / request.param / name
        if original.is_dir():
            (here / name).symlink_to(original)
        else:
            (here / name).write_text(original.read_text())
            (here / name).chmod(0o755)
    return here, packed, Path(task).name


def run(here, *words, rc=0):
    done = subprocess.run(
        ["./run.sh", "--corpus=espeak", *words],
        cwd=here,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == rc, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_bundle_is_a_recipe_as_any_other_with_the_same_hash(place):
    here, packed, name = place
    before = sorted(here.parent.rglob("*"))
    text = run(here, "--recipe", str(packed.path), "--dry_run")
    assert sorted(here.parent.rglob("*")) == before
    folder = unpack_below(packed.path, here / "exp" / ".bundles")
    assert folder.name == f"{name}-{packed.digest[:16]}"
    assert f"exp/.bundles/{folder.name}/recipe.yaml" in text
    assert f"exp/{name}_espeak" in text
    recipe = load_recipe(
        folder / "recipe.yaml",
        dict.fromkeys(("output_folder", "train_manifest", "valid_manifest"), "x"),
    )
    original = load_recipe(
        ROOT / "recipes" / f"{RECIPES_BY_NAME[name]}.yaml",
        {
            "learning_rate": 0.004,
            **dict.fromkeys(("output_folder", "train_manifest", "valid_manifest"), "y"),
        },
    )
    assert recipe.config_hash == original.config_hash
    stamp = folder.stat().st_mtime_ns
    run(here, "--recipe", str(packed.path), "--dry_run", "--learning_rate=0.1")
    assert folder.stat().st_mtime_ns == stamp
    text = run(here, "--recipe", str(packed.path), "--dry_run", "--lr=1", rc=2)
    assert "--lr: no key" in text


def test_a_bad_bundle_ends_it_and_an_unpacked_one_is_an_experiment(place, tmp_path):
    here, packed, _ = place
    (tmp_path / "bad.zip").write_bytes(packed.path.read_bytes()[:-9])
    text = run(here, "--recipe", str(tmp_path / "bad.zip"), rc=2)
    assert "is cut off" in text or "is no zip archive" in text
    assert not (here / "exp").exists() or not list((here / "exp").iterdir())
    unpack(packed.path, here / "exp" / "theirs")
    text = run(here, "--tag", "theirs", "--dry_run")
    assert "exp/theirs/recipe.yaml" in text
    text = run(here, "--recipe", "exp/theirs/", "--dry_run", rc=2)
    assert "exp/theirs/ is a folder; a recipe is a file: " in text
    assert "--recipe exp/theirs/recipe.yaml" in text


def test_an_experiment_of_somebody_else_does_not_choose_the_scripts(place, tmp_path):
    here, packed, name = place
    task = RECIPES_BY_NAME[name].split("/")[0]
    evil = here / "exp" / "theirs"
    unpack(packed.path, evil / "x-trusted")
    script = evil / "x-trusted" / "code" / "recipes" / task / "train.py"
    script.parent.mkdir(parents=True)
    script.write_text("print('theirs')\n")
    (here / "exp" / ".bundles").mkdir()
    (evil / ".stages").mkdir()
    recipe = "exp/.bundles/../theirs/x-trusted/recipe.yaml"
    (evil / ".stages" / "settings").write_text(f"recipe={recipe}\n")
    text = run(here, "--tag", "theirs", "--dry_run")
    assert recipe in text
    assert "x-trusted/code/" not in text


def test_carried_scripts_run_only_if_they_are_trusted(place, tmp_path):
    here, packed, name = place
    task = RECIPES_BY_NAME[name].split("/")[0]
    script = f"recipes/{task}/train.py"
    members = {
        f"code/{script}": b"print('theirs')\n",
        "recipe.yaml": unpack(packed.path, tmp_path / "x")
        .joinpath("recipe.yaml")
        .read_bytes(),
    }
    files = describe_files(members)
    sha256 = files[f"code/{script}"]["sha256"]
    bundle = tmp_path / "code.zip"
    bundle.write_bytes(zipped(whole(members, scripts={script: sha256})))
    plain = run(here, "--recipe", str(bundle), "--dry_run")
    assert f"../../{script}" in plain
    wrong = run(here, "--recipe", str(bundle), "--trust_code", "0" * 64, rc=2)
    assert "is not the SHA-256 of the code" in wrong
    digest = wrong.partition("which is ")[2].split()[0]
    text = run(here, "--recipe", str(bundle), "--trust_code", digest, "--dry_run")
    assert f"-trusted/code/{script}" in text
