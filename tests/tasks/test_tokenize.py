"""The stage tokenize: a corpus as tokens that come back, whatever happens between."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from speechbrain_ext.codec.pieces import VocabularyError
from speechbrain_ext.codec.tokenize_command import command
from speechbrain_ext.codec.tokens import CodeTokenizer
from speechbrain_ext.config import load_recipe
from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.manifest import ManifestError, read_manifest, write_manifest
from speechbrain_ext.data.token_files import LINES, MODEL
from speechbrain_ext.data.tokens import TokenDataset
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import sha256_file, write_text
from speechbrain_ext.report.codec.tokens import read_tokens
from speechbrain_ext.tasks.codec import tokenize as task
from speechbrain_ext.tasks.codec.tokenize import tokenize
from speechbrain_ext.tasks.codec.weights import load_codec
from tests.tasks.test_codec_task import data, recipe  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[2]
SEANET = {
    "codec.channels": 2,
    "codec.quantizer.dim": 8,
    "codec.quantizer.num_quantizers": 3,
    "codec.quantizer.codebook_size": 32,
}


def experiment(data, folder, seed=0, **settings):  # noqa: F811
    """An experiment as training leaves it; nothing but first weights is learned."""
    made = recipe(data, folder, **settings)
    codec = made.hparams["modules"]["codec"]
    torch.manual_seed(seed)
    if hasattr(codec, "initialize"):
        waves = read_manifest(data / "train.json").values()
        codec.initialize([torch.from_numpy(read_samples(u)) for u in waves], seed)
    else:
        codec.quantizer.initialize(torch.randn(400, codec.quantizer.dim))
    write_text(folder / "hyperparams.yaml", made.resolved_yaml)
    checkpointer = made.hparams["checkpointer"]
    checkpointer.add_recoverable("codec", codec)
    checkpointer.save_and_keep_only(meta={"snr": float(seed), "epoch": 1})
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):  # noqa: F811
    return experiment(data, tmp_path_factory.mktemp("exp") / "tiny")


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "exp")
    return tmp_path / "exp"


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "tokens.json"}


def tokenized_codes(folder):
    """utt_id -> codes, as a reader gets them."""
    found = {}
    for split in ("train", "valid", "test"):
        dataset = TokenDataset(folder, split)
        for index in range(len(dataset)):
            item = dataset[index]
            found[item["id"]] = dataset.decode(item["tokens"])
    return found


@pytest.mark.parametrize("kind", ["transform", "seanet"])
def test_every_utterance_comes_back_as_the_codecs_own_codes(
    kind,
    data,  # noqa: F811
    tmp_path,
    folder,
):
    if kind == "seanet":
        path = ROOT / "recipes/codec/seanet.yaml"
        folder = experiment(data, tmp_path / "seanet", path=path, base=SEANET)
    record = tokenize(folder, data, codebooks=3, pattern="delay", vocab_size=120)
    codec, _ = load_codec(folder, stage="test")
    found = tokenized_codes(folder)
    for role in ("train", "valid", "test"):
        for utt_id, utterance in read_manifest(data / f"{role}.json").items():
            wav = torch.from_numpy(read_samples(utterance))[None]
            own = codec.encode(wav)[0, :3].numpy()
            assert np.array_equal(found.pop(utt_id), own)
    assert not found
    assert record["verified"] == {"utterances": 7, "codes": True, "waveforms": True}
    assert record["model"]["name"] == type(codec).__name__
    assert read_tokens(folder) == record


def test_figures_are_those_of_the_files(data, folder):  # noqa: F811
    record = tokenize(folder, data)
    test = record["splits"]["test"]
    lines = [json.loads(x) for x in (folder / "tokens" / LINES).open(encoding="utf-8")]
    mine = [line for line in lines if line["split"] == "test"]
    assert len(mine) == test["utterances"] == 2
    seconds = sum(line["duration"] for line in mine)
    assert test["seconds"] == pytest.approx(seconds)
    tokens = [token for line in mine for token in line["tokens"]]
    found = test["tokens"]["per_second"]
    assert found == pytest.approx(len(tokens) / seconds, abs=1e-3)
    codes = sum(line["num_codes"] for line in mine)
    assert test["codes"]["per_second"] == pytest.approx(codes / seconds, abs=1e-3)
    assert test["codes"]["nominal_bps"] == pytest.approx(4 * codes / seconds, abs=1e-3)
    size = record["tokenizer"]["vocab_size"]
    assert test["tokens"]["used"] == pytest.approx(
        len(set(tokens)) / (size - 4), abs=1e-4
    )
    # Of the sizes tried the one is taken that the valid files are cheapest with.
    tried = {t["vocab_size"]: t["coded_bps"] for t in record["vocab_sizes_tried"]}
    assert min(tried, key=tried.get) == size
    assert tried[size] == record["splits"]["valid"]["tokens"]["coded_bps"]


def test_interrupted_it_goes_on_and_ends_with_the_same_bytes(
    data,  # noqa: F811
    folder,
    tmp_path,
    monkeypatch,
    capsys,
):
    shutil.copytree(folder, tmp_path / "other")
    tokenize(tmp_path / "other", data, vocab_size=60)
    seen = []

    def read(utterance):
        seen.append(utterance.utt_id)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read_samples(utterance)

    monkeypatch.setattr(task, "read_samples", read)
    with pytest.raises(KeyboardInterrupt):
        tokenize(folder, data, vocab_size=60)
    assert not (folder / "tokens").exists()
    half = folder / ".tokens" / "codes.jsonl"
    with open(half, "ab") as stream:
        stream.write(b'{"utt_id":"cut o')  # as a kill leaves it
    tokenize(folder, data, vocab_size=60)
    assert "goes on: 3 of 7 utterances" in capsys.readouterr().err
    assert len(seen) == 4 + 4  # three of seven were there
    assert content(folder / "tokens") == content(tmp_path / "other" / "tokens")
    assert not half.exists()


def test_what_another_model_encoded_is_not_used(data, folder, monkeypatch):  # noqa: F811
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "learn_tokenizer", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenize(folder, data)
    monkeypatch.undo()
    experiment(data, folder, seed=3)  # a better checkpoint
    tokenize(folder, data, vocab_size=60)
    codec, _ = load_codec(folder, stage="test")
    utterance = next(iter(read_manifest(data / "test.json").values()))
    own = codec.encode(torch.from_numpy(read_samples(utterance))[None])[0, :2]
    assert np.array_equal(tokenized_codes(folder)[utterance.utt_id], own.numpy())


def test_a_loss_ends_loudly_and_keeps_what_was(data, folder, monkeypatch):  # noqa: F811
    tokenize(folder, data, vocab_size=60)
    before = content(folder / "tokens")

    def wrong(self, tokens, **_):
        return decode(self, tokens) ^ 1

    decode = CodeTokenizer.decode
    monkeypatch.setattr(CodeTokenizer, "decode", wrong)
    with pytest.raises(WorkError, match=r"7 of 7 utterances do not come back[^U]*utt0"):
        tokenize(folder, data, vocab_size=40)
    assert content(folder / "tokens") == before


def test_mistakes_are_told(data, folder, tmp_path):  # noqa: F811
    for settings, message in (
        ({"codebooks": 9}, "--codebooks must be 1 to 8, .* got 9"),
        ({"kbps": 0.1}, "--token_kbps:\n.* between 0.2 and 1.6, got 0.1"),
        ({"codebooks": 1, "kbps": 0.4}, "give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            tokenize(folder, data, **settings)
    with pytest.raises(VocabularyError, match="at most [0-9]+ tokens"):
        tokenize(folder, data, vocab_size=50_000)
    with pytest.raises(UserError, match="is no experiment"):
        tokenize(tmp_path / "none", data)
    empty = tmp_path / "data"
    write_manifest(empty / "train.json", [])
    with pytest.raises(ManifestError, match="is empty"):
        tokenize(folder, empty)


def test_one_utterance_for_each_role_is_enough(data, folder, tmp_path):  # noqa: F811
    for role in ("train", "valid", "test"):
        first = next(iter(read_manifest(data / f"{role}.json").values()))
        write_manifest(tmp_path / f"{role}.json", [first])
    assert tokenize(folder, tmp_path)["verified"]["utterances"] == 3


def test_a_codec_without_codes_is_told_or_passed_over(
    data,  # noqa: F811
    folder,
    monkeypatch,
):
    monkeypatch.setattr(task, "load_codec", lambda *_, **__: (torch.nn.Identity(), {}))
    with pytest.raises(UserError, match="Identity has no codes.*\n.*transform.yaml"):
        tokenize(folder, data)
    words = [str(folder), f"--data={data}", "--skip_without_codes"]
    said = CliRunner().invoke(command, words)
    assert said.exit_code == 0
    assert "skipped: Identity has no codes" in said.output
    assert (folder / "tokens" / "tokens.json").exists()
    assert read_tokens(folder) == {}  # the report goes without


def test_the_script_does_not_hide_the_standard_library_from_its_neighbours():
    # A script's folder is searched first: `import tokenize` finds recipes/codec.
    code = "import tokenize, inspect; print(tokenize.__file__); tokenize.open"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd=ROOT / "recipes" / "codec",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    standard = importlib.util.find_spec("tokenize").origin
    assert done.stdout.strip() == standard


def test_help_names_the_options_and_imports_no_torch():
    code = (
        "import sys; sys.argv = ['tokenize.py', '--help']; import runpy;"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules));"
        f"runpy.run_path({str(ROOT / 'recipes/codec/tokenize.py')!r}, "
        "run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    for option in ("--codebooks", "--token_kbps", "--interleaving", "--vocab_size"):
        assert option in done.stdout, done.stderr
    assert done.stdout.strip().endswith("False")


def test_the_recipes_hash_and_the_weights_name_the_model(data, folder):  # noqa: F811
    record = tokenize(folder, data, vocab_size=60)
    found = load_recipe(folder / "hyperparams.yaml", {"output_folder": str(folder)})
    assert record["model"]["config_hash"] == found.config_hash
    [weights] = (folder / "save").glob("CKPT*/codec.ckpt")
    assert record["model"]["sha256"] == sha256_file(weights)
    model = (folder / "tokens" / MODEL).read_bytes()
    facts = record["tokenizer"]
    assert CodeTokenizer(model, 2, 16, facts["pattern"]).digest == facts["sha256"]
