"""A result leaves one folder and is the same in another one; edits are found."""

import hashlib
import json
import os
import shutil
import zipfile

import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.config import load_recipe
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_text
from speechbrain_ext.report.speaker.results import digest_of
from speechbrain_ext.sharing.bundle import pack, unpack, verify
from speechbrain_ext.sharing.bundle.manifest import describe_files, manifest_bytes
from speechbrain_ext.sharing.bundle.recipe import recipe_hash
from speechbrain_ext.sharing.bundle.scripts import library_hash
from speechbrain_ext.sharing.bundle.verification import FAILED
from speechbrain_ext.tasks.speaker.embed import embed_split
from speechbrain_ext.tasks.speaker.score import score
from speechbrain_ext.tasks.speaker.weights import load_encoder
from tests.sharing.bundles import zipped
from tests.sharing.shared_results import split, trained
from tests.tasks.test_codec_task import assert_same_weights


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """An experiment, its data, its results and its bundle."""
    folder = tmp_path_factory.mktemp("author")
    data = split(folder / "data")
    exp, results = trained(data, folder / "exp" / "voices")
    (exp / "debug_nan").mkdir(exist_ok=True)
    (exp / "debug_nan" / "nan_batch_1.pt").write_bytes(b"a dump with audio")
    return exp, data, results, pack(exp, folder / "voices.zip")


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def edited(path, change, out, *, reseal=False, rehash=True):
    """Change results.json of a bundle; and if asked all digests that cover it."""
    members = members_of(path)
    results = json.loads(members["results.json"])
    change(results)
    if reseal:
        results["digest"] = digest_of(results)
    members["results.json"] = json.dumps(results).encode()
    manifest = json.loads(members.pop("manifest.json"))
    if rehash:
        manifest["files"] = describe_files(members)
    members["manifest.json"] = manifest_bytes(manifest)
    out.write_bytes(zipped(members))
    return out


def failed(verified):
    return " ".join(c.text for c in verified.checks if c.verdict == FAILED)


# -- packing -----------------------------------------------------------------------


@pytest.mark.smoke
def test_packing_twice_gives_the_same_bytes_wherever_it_lies(shared, tmp_path):
    exp, _, _, packed = shared
    moved = tmp_path / "elsewhere" / "voices"
    shutil.copytree(exp, moved)
    again = pack(moved, tmp_path / "again.zip")
    assert again.path.read_bytes() == packed.path.read_bytes()
    assert again.digest == packed.digest
    manifest = members_of(packed.path)["manifest.json"]
    assert packed.digest == hashlib.sha256(manifest).hexdigest()


def test_the_digest_does_not_depend_on_compression(shared, tmp_path):
    members = members_of(shared[3].path)
    (tmp_path / "other.zip").write_bytes(zipped(members))
    assert verify(tmp_path / "other.zip").digest == shared[3].digest


def test_a_bundle_holds_what_is_shared_and_nothing_else(shared):
    members = members_of(shared[3].path)
    systems = [system["name"] for system in shared[2]["systems"]]
    assert set(members) == {
        *("manifest.json", "recipe.yaml", "README.md", "results.json", "env.json"),
        *("model.safetensors", "speakers.json", "train_log.txt"),
        "scores/utterances.json",
        *(f"scores/{name}_main.npz" for name in systems),
    }
    manifest = json.loads(members["manifest.json"])
    assert manifest["kind"] == "result"
    assert manifest["config_hash"] == shared[2]["conditions"]["config_hash"]
    assert set(manifest["scripts"]) == {
        f"recipes/speaker/{name}.py" for name in ("train", "embed", "score")
    }
    assert manifest["inputs"] == ["output_folder", "train_manifest", "valid_manifest"]


def test_a_recipe_alone_is_flat_open_and_takes_presets_and_overrides(tmp_path):
    from tests.tasks.test_speaker_task import RECIPE

    words = ["--learning_rate=0.005", "--preset", "low_scale", "--output_folder=/x/y"]
    out = tmp_path / "mine.zip"
    command = ["pack", str(RECIPE), *words, "--output", str(out)]
    assert run(cli, command, "speechbrain-ext") == 0
    members = members_of(out)
    assert set(members) == {"manifest.json", "recipe.yaml"}
    text = members["recipe.yaml"].decode()
    assert "!include" not in text
    assert "output_folder: !PLACEHOLDER\n" in text
    assert "save_folder: !ref <output_folder>/save\n" in text
    assert "learning_rate: 0.005\n" in text
    manifest = json.loads(members["manifest.json"])
    places = {name: "x" for name in manifest["inputs"]}
    (tmp_path / "recipe.yaml").write_text(text)
    there = load_recipe(tmp_path / "recipe.yaml", places)
    here = load_recipe(
        RECIPE, {"learning_rate": 0.005, **places}, presets=["low_scale"]
    )
    assert there.config_hash == here.config_hash == manifest["config_hash"]
    assert verify(out).ok


def test_a_model_whose_valid_figure_is_nan_can_be_packed(shared, tmp_path, monkeypatch):
    from speechbrain_ext.tasks.speaker import weights

    def without_figure(*args):
        encoder, info = load_encoder(*args)
        return encoder, info | {"valid_eer": float("nan")}

    monkeypatch.setattr(weights, "load_encoder", without_figure)
    packed = pack(shared[0], tmp_path / "x.zip")
    manifest = json.loads(members_of(packed.path)["manifest.json"])
    assert manifest["model"]["valid_eer"] is None


def test_an_experiment_without_its_result_is_its_recipe(shared, tmp_path):
    packed = pack(shared[0], tmp_path / "r.zip", result=False)
    assert set(members_of(packed.path)) == {"manifest.json", "recipe.yaml"}
    full = members_of(shared[3].path)["recipe.yaml"]
    assert members_of(packed.path)["recipe.yaml"] == full


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda exp: shutil.rmtree(exp), "no such experiment or recipe"),
        (lambda exp: (exp / "hyperparams.yaml").unlink(), "is no experiment"),
        (lambda exp: (exp / "results.json").unlink(), "nothing was scored yet"),
        (lambda exp: shutil.rmtree(exp / "save"), "no checkpoint"),
        (lambda exp: edit(exp, '"eer": 0', '"eer": 0.1, "x": 0'), "results error"),
        (lambda exp: (exp / "scores" / "a\nb.npz").touch(), "score"),
        (lambda exp: (exp / "env.json").write_text("[1"), "env.json: broken"),
        (lambda exp: (exp / "env.json").write_text("[1]"), "env.json: broken"),
        (
            lambda exp: (exp / "scores" / "utterances.json").write_text("{}"),
            "utterances.json|can't be read",
        ),
        (
            lambda exp: (exp / "scores" / "utterances.json").write_text("[" * 10**5),
            "scores: can't be read",
        ),
        (lambda exp: (exp / "train_log.txt").write_text("a\x1b"), "could unpack it"),
        (lambda exp: link(exp / "speakers.json"), "is a link to a file outside"),
        (lambda exp: cut(exp / "scores" / "cosine_main.npz"), "scores"),
        (
            lambda exp: (exp / "results.json").write_text("[" * 10**5),
            "can't be read as JSON",
        ),
    ],
)
def test_what_is_broken_is_not_packed(shared, tmp_path, prepare, message):
    exp = tmp_path / "exp"
    shutil.copytree(shared[0], exp)
    prepare(exp)
    with pytest.raises(UserError, match=message):
        pack(exp, tmp_path / "out.zip")
    assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/proc/x.zip", "/proc/x.zip can't be written"),
        (".", "is a folder or device; name a file"),
        ("pipe", "is a folder or device; name a file"),
        ("file/x.zip", "can't be written"),
        ("file", r"ends in \.zip"),
    ],
)
def test_an_output_that_can_not_be_written_is_a_message(
    tmp_path, monkeypatch, output, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        pack("recipe.yaml", output)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(OSError, match="is a folder or device"):
        write_text(tmp_path / "pipe", "a pipe stays one, as /dev/null has to")


@pytest.mark.parametrize("name", ["README.md", "thesis.txt", "model.zip", "half.zip"])
def test_only_a_bundle_is_replaced(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    for _ in range(2):
        packed = pack("recipe.yaml", "mine.zip")
    (tmp_path / name).write_bytes(packed.path.read_bytes()[:-9] + b"\n")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match=r"ends in \.zip|is there and is no bundle"):
        pack("recipe.yaml", name)
    assert (tmp_path / name).read_bytes() == before
    with pytest.raises(UserError, match=r"Next: --output new\.md\.zip"):
        pack("recipe.yaml", "new.md")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exp", "--keeep", "x"], "no option --keeep; did you mean '--keep'?"),
        (["exp", "-o", "x.zip"], "no option -o;"),
        (["recipe.yaml", "-o", "x.zip"], "no option -o;"),
        (["--recipe", "exp/f"], "no option --recipe;"),
        (["exp", "--seed=3"], "--key=value is for a recipe: speechbrain-ext pack REC"),
    ],
)
def test_an_option_that_pack_does_not_have_is_named(
    tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp").mkdir()
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    assert run(cli, ["pack", *words], "speechbrain-ext") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.zip"))


def link(path):
    """Put a link to somebody's file in the place of a file."""
    secret = path.parent.parent / "secret.txt"
    secret.write_text("a password")
    path.unlink(missing_ok=True)
    path.symlink_to(secret)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def edit(exp, old, new):
    path = exp / "results.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- elsewhere ---------------------------------------------------------------------


def test_unpacked_elsewhere_it_has_the_same_hash_weights_and_metric(shared, tmp_path):
    exp, data, results, packed = shared
    there = tmp_path / "another" / "user" / "voices"
    copy = shutil.copytree(data, tmp_path / "corpus")
    bundle = shutil.copy(packed.path, tmp_path / "b.zip")
    assert verify(bundle, expect_digest=packed.digest).ok
    unpack(bundle, there)
    encoder, info = load_encoder(there, "cpu")
    original, _ = load_encoder(exp, "cpu")
    assert info["recipe"].config_hash == results["conditions"]["config_hash"]
    assert_same_weights(encoder.state_dict(), original.state_dict())
    embed_split(there, copy, log=lambda _: None)
    again = score(there, copy, draws=20)
    assert again["systems"] == results["systems"]
    assert again["conditions"]["config_hash"] == results["conditions"]["config_hash"]
    assert again["conditions"]["bundle"]["digest"] == packed.digest
    assert not (there / "README.md").exists()  # it is of the author's results
    assert (there / "author" / "README.md").exists()
    repacked = members_of(pack(there, tmp_path / "again.zip").path)
    first = members_of(packed.path)
    for name in ("recipe.yaml", "model.safetensors", "scores/cosine_main.npz"):
        assert repacked[name] == first[name]


def test_verify_measures_again_from_audio(shared, tmp_path):
    exp, data, _, packed = shared
    found = verify(packed.path, data=data)
    assert found.ok, found.lines()
    [audio] = [check for check in found.checks if check.name == "audio"]
    assert "furthest off 0.0e+00" in audio.text
    other = split(tmp_path / "other", test=(5, 9))
    assert "is another split" in failed(verify(packed.path, data=other))


def test_weights_that_do_not_belong_to_the_scores_are_found_by_ear(shared, tmp_path):
    members = members_of(shared[3].path)
    data = bytearray(members["model.safetensors"])
    data[-4000:] = bytes(4000)
    members["model.safetensors"] = bytes(data)
    manifest = json.loads(members.pop("manifest.json"))
    # The card names the weights, so whoever swaps them has to change it, too.
    sha256 = manifest["files"]["model.safetensors"]["sha256"].encode()
    swapped = describe_files(members)["model.safetensors"]["sha256"].encode()
    assert sha256 in members["README.md"]
    members["README.md"] = members["README.md"].replace(sha256, swapped)
    manifest["files"] = describe_files(members)
    members["manifest.json"] = manifest_bytes(manifest)
    (tmp_path / "x.zip").write_bytes(zipped(members))
    assert verify(tmp_path / "x.zip").ok
    assert "scores are off" in failed(verify(tmp_path / "x.zip", data=shared[1]))


# -- edits -------------------------------------------------------------------------


def main_of(results, system=1):
    return results["systems"][system]["lists"]["main"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: main_of(r).update(eer=0.001), "eer: is 0.001, the scores give"),
        (lambda r: main_of(r).update({"min_dcf_0.01": 0.0}), "min_dcf_0.01: is 0.0"),
        (
            lambda r: main_of(r).update(eer_interval=[0.0, 0.5]),
            "eer_interval: is [0.0, 0.5], the scores give",
        ),
        (lambda r: main_of(r)["thresholds"][0].update(frr=0.0), "frr: is 0.0"),
        (lambda r: r["nan_trials"].update(most=3), "nan_trials.most: is 3"),
        (
            lambda r: r["conditions"].update(num_test_speakers=1000),
            "num_test_speakers: is 1000",
        ),
        (
            lambda r: r["conditions"].update(config_hash="0" * 64),
            "conditions.config_hash: is 000",
        ),
        (lambda r: r["conditions"].update(bootstrap_draws=10**9), "bootstrap_draws is"),
        (lambda r: r["systems"].pop(2), "a file of scores too many"),
        (lambda r: r["errors"].update(system="none", utterances=[]), "was not scored"),
    ],
)
def test_an_edit_is_found_even_if_all_digests_are_made_anew(
    shared, tmp_path, change, message
):
    path = shared[3].path
    by_hand = edited(path, change, tmp_path / "a.zip", rehash=False)
    assert "is not what the manifest says" in failed(verify(by_hand)) or (
        "the manifest says" in failed(verify(by_hand))
    )
    whole = edited(path, change, tmp_path / "b.zip", reseal=True)
    found = verify(whole)
    assert not found.ok
    assert message in failed(found)
    assert run(cli, ["verify", str(whole)], "speechbrain-ext") == 1


def test_an_edited_card_is_found(shared, tmp_path):
    members = members_of(shared[3].path)
    members["README.md"] += b"\nThe best there is: 0.0123 % EER.\n"
    manifest = json.loads(members.pop("manifest.json"))
    manifest["files"] = describe_files(members)
    members["manifest.json"] = manifest_bytes(manifest)
    (tmp_path / "x.zip").write_bytes(zipped(members))
    found = failed(verify(tmp_path / "x.zip"))
    assert "README.md is not what the results give" in found
    manifest["library_sha256"] = "0" * 64
    members["manifest.json"] = manifest_bytes(manifest)
    (tmp_path / "y.zip").write_bytes(zipped(members))
    verified = verify(tmp_path / "y.zip")
    told = " ".join(map(str, verified.checks))
    assert "written by other code, or edited: trust the figures only" in told
    assert "the results don't give its 0.0123" in told
    assert "speechbrain_ext: SHA-256 0000000000000000" in told
    assert f"; here {library_hash()[:16]}, commit " in told
    assert verified.ending().startswith("agrees with itself, but not README.md; ")


def test_a_setting_that_is_said_to_be_open_does_not_hide_another_recipe(
    shared, tmp_path
):
    members = members_of(shared[3].path)
    other = members["recipe.yaml"].replace(b"seed: 1234", b"seed: 7")
    members["recipe.yaml"] = other
    (tmp_path / "other.yaml").write_bytes(other)
    manifest = json.loads(members.pop("manifest.json"))
    manifest["files"] = describe_files(members)
    manifest["config_hash"] = recipe_hash(tmp_path / "other.yaml")
    manifest["inputs"].append("learning_rate")
    members["manifest.json"] = manifest_bytes(manifest)
    (tmp_path / "x.zip").write_bytes(zipped(members))
    found = verify(tmp_path / "x.zip")
    assert "in the recipe or in the manifest, not in both: learning_rate" in failed(
        found
    )
    assert "so it can't be told whether the figures are of this recipe" in " ".join(
        check.text for check in found.checks
    )


def test_another_recipe_is_found_and_another_digest(shared, tmp_path):
    members = members_of(shared[3].path)
    members["recipe.yaml"] = members["recipe.yaml"].replace(b"seed: 1234", b"seed: 7")
    manifest = json.loads(members.pop("manifest.json"))
    manifest["files"] = describe_files(members)
    members["manifest.json"] = manifest_bytes(manifest)
    (tmp_path / "x.zip").write_bytes(zipped(members))
    found = verify(tmp_path / "x.zip", expect_digest=shared[3].digest)
    assert f"expected {shared[3].digest}" in failed(found)
    assert "the manifest says" in failed(found)
    assert found.lines()[-1].startswith("not the author's file: ")


def test_each_ending_says_what_was_found(shared, tmp_path, capsys):
    packed = shared[3]
    other = tmp_path / "other.zip"
    other.write_bytes(packed.path.read_bytes()[:-9])
    changed = edited(
        packed.path, lambda r: main_of(r).update(eer=0.5), tmp_path / "e.zip"
    )
    half = packed.digest[:16]
    for path, digest, code, ending in (
        (packed.path, packed.digest, 0, "verified, and it is the digest you gave"),
        (packed.path, f"sha256:{half}", 0, "verified, and it begins with what you"),
        (packed.path, None, 0, "agrees with itself; authorship unchecked: "),
        (packed.path, "0" * 64, 1, "not the author's file: "),
        (other, packed.digest, 1, "no bundle: "),
        (changed, None, 1, "NOT verified: it does not agree with itself"),
    ):
        words = [
            "verify",
            str(path),
            *([f"--expect_digest={digest}"] if digest else []),
        ]
        assert run(cli, words, "speechbrain-ext") == code
        assert capsys.readouterr().out.splitlines()[-1].startswith(ending)


@pytest.mark.parametrize("digest", ["abc", "", "0" * 15, "0" * 65, "x" * 64])
def test_a_digest_that_says_too_little_is_refused(shared, digest):
    with pytest.raises(UserError, match="at least 16 of the 64 characters"):
        verify(shared[3].path, expect_digest=digest)


def test_data_without_manifests_are_told_before_anything_is_checked(shared, tmp_path):
    (tmp_path / "data" / "split1").mkdir(parents=True)
    looked = []
    given = {"on_check": looked.append}
    with pytest.raises(UserError, match="--data .*nope: no such folder"):
        verify(shared[3].path, data=tmp_path / "nope", **given)
    with pytest.raises(UserError, match=r"no test\.json.*\n.*stop_stage prepare"):
        verify(shared[3].path, data=tmp_path / "data", **given)
    (tmp_path / "data" / "split1" / "test.json").touch()
    with pytest.raises(UserError, match=r"Next: --data .*data/split1$"):
        verify(shared[3].path, data=tmp_path / "data", **given)
    assert not looked


def test_inspect_says_what_runs_and_runs_nothing(shared, capsys):
    assert run(cli, ["inspect", str(shared[3].path)], "speechbrain-ext") == 0
    out = capsys.readouterr().out
    assert shared[3].digest in out
    assert "recipes/speaker/train.py: the installed one" in out
    assert "speechbrain_ext.models.SpeakerEncoder" in out
    assert "you fill in  output_folder, train_manifest, valid_manifest" in out


def test_code_that_differs_is_named_and_carried_only_if_asked(
    shared, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "speechbrain_ext.sharing.bundle.packing.changed_scripts",
        lambda task: {f"recipes/{task}/train.py": b"import os\n"},
    )
    monkeypatch.setattr(
        "speechbrain_ext.sharing.bundle.packing.script_hashes",
        lambda task: {
            f"recipes/{task}/train.py": hashlib.sha256(b"import os\n").hexdigest()
        },
    )
    plain = pack(shared[0], tmp_path / "a.zip", result=False)
    assert "--with_code takes it along" in plain.notes[0]
    assert "code/recipes/speaker/train.py" not in members_of(plain.path)
    packed = pack(shared[0], tmp_path / "b.zip", result=False, with_code=True)
    assert members_of(packed.path)["code/recipes/speaker/train.py"] == b"import os\n"
    notes = [str(c) for c in verify(packed.path).checks if c.verdict == "note"]
    assert any("differs from the installed one" in note for note in notes)
    assert any("run only if you say --trust_code" in note for note in notes)
