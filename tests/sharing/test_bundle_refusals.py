"""Broken and malicious bundles: each refused by its own words, nothing left behind."""

import json
import os
import pickle
import random
import struct
import zlib

import numpy as np
import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.sharing.bundle import unpack, verify
from speechbrain_ext.sharing.bundle.errors import BundleError, printable
from tests.sharing.bundles import (
    RECIPE,
    entries,
    entry,
    npz,
    raw_zip,
    safetensors,
    scores,
    whole,
    with_manifest,
    zipped,
)


class Bomb:
    """A pickle that makes the canary when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("canary",)


def more(name, data=b"x", **changes):
    """Add a member that the manifest does not name."""
    return raw_zip([*entries(), entry(name, data, **changes)])


def member(name, data, **changes):
    """Add a member that the manifest names."""
    return zipped(whole({name: data}, **changes))


def first(**changes):
    """Change how the first member, the manifest, stands in the archive."""
    one, *others = entries()
    return raw_zip([one | changes, *others])


def manifest(**changes):
    return zipped(whole(**changes))


def table(text):
    return zipped(with_manifest(text.encode()))


def without(name):
    return raw_zip([e for e in entries() if e["name"] != name.encode()])


def two_directories():
    """The first directory names nothing bad; the second one is what others read."""
    inner = raw_zip([entry("evil.py")])
    return raw_zip(entries()) + inner


def overlapping():
    one, two = entries()
    return raw_zip([one, two, entry("README.md", offset=0)])


def liar():
    """Declares ten bytes and holds a MiB."""
    return deflated(zlib.compress(bytes(2**20), 9)[2:-4], size=10)


def deflated(packed, **changes):
    """Let the manifest be these bytes of deflate."""
    return first(method=8, packed=packed, packed_size=len(packed), **changes)


def code(**changes):
    files = {"code/recipes/toy/train.py": b"import os; os.mkdir('canary')\n"}
    return zipped(whole(files, **changes))


BIG = bytes(2**23)
SCORES = "scores/cosine_main.npz"
OBJECTS = np.array([Bomb()], dtype=object)
TENSOR = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
LONG = [random.Random(n).getrandbits(13_000) for n in range(300)]
NAN = struct.pack("<2f", 1.0, float("nan"))
CASES = {
    # names
    "parent": (lambda: more("../canary"), "leads out of the folder by '..'"),
    "parent below": (lambda: more("scores/../../canary"), "by '..'"),
    "absolute": (lambda: more("/canary"), "has an absolute path"),
    "drive": (lambda: more("C:canary"), "has a drive letter"),
    "backslash": (lambda: more("..\\canary"), "has a backslash in its name"),
    "newline": (lambda: more("a\nb.json"), "control character in its name"),
    "nul": (lambda: more(b"README.md\0.py"), "control character in its name"),
    "bidi": (lambda: more("txt.\u202eyp.md"), "control character in its name"),
    "no text": (lambda: more(b"\xff\xfe", flags=0x800), "a name that is no text"),
    "no name": (lambda: more(""), "has no name"),
    "long": (lambda: more("a" * 300), "a name of more than 200 characters"),
    "dot": (lambda: more("./README.md"), "an empty or '.' part in its path"),
    "stream": (lambda: more("README.md:x"), "not all systems keep"),
    "device name": (lambda: more("scores/aux.npz"), "the name of a Windows device"),
    "ends in dot": (lambda: more("README.md."), "ends in a dot or space"),
    "twice": (lambda: more("recipe.yaml"), "'recipe.yaml' is there twice"),
    "case": (lambda: more("Recipe.yaml"), "differ by case or spelling only"),
    "accents": (
        lambda: raw_zip(
            [
                *entries(),
                entry("scores/\u00e9.npz"),
                entry("scores/e\u0301.npz"),
            ]
        ),
        "differ by case or spelling only",
    ),
    "unknown": (lambda: more("setup.py"), "is none of what a bundle can hold"),
    "checkpoint": (lambda: more("save/model.ckpt"), "is none of what a bundle"),
    # kinds
    "link": (lambda: more("README.md", b"/etc", mode=0o120777), "is a symbolic link"),
    "pipe": (lambda: more("README.md", mode=0o010644), "is a device, pipe or folder"),
    "device": (lambda: more("README.md", mode=0o020644), "is a device, pipe or"),
    "folder": (lambda: more("scores/"), "is a folder; a bundle holds files only"),
    "dos folder": (lambda: more("scores", attributes=0x10), "is a folder; a bundle"),
    "encrypted": (lambda: more("README.md", flags=1), "is encrypted"),
    "streamed": (lambda: more("README.md", flags=8), "size only after its data"),
    "flags": (lambda: more("README.md", flags=0x20), "flags that a bundle does not"),
    "method": (lambda: first(method=14), "is compressed by method 14"),
    # sizes
    "bomb": (lambda: more("README.md", BIG, method=8), "to 8,388,608 bytes, more than"),
    "liar": (liar, "holds more than the 10 bytes that it declares"),
    "giant": (
        lambda: raw_zip(
            [
                *entries(),
                *(
                    entry(f"scores/{n}.npz", size=2**30, packed_size=2**30)
                    for n in range(5)
                ),
            ]
        ),
        "declares 5.0 GiB; at most 4.0 can be",
    ),
    "large text": (
        lambda: raw_zip(
            [*entries(), entry("results.json", size=2**27, packed_size=2**27)]
        ),
        "'results.json' has 134,217,728 bytes; at most 67,108,864 can be",
    ),
    "large scores": (
        lambda: raw_zip([*entries(), entry(SCORES, size=2**30, packed_size=2**30)]),
        "at most 536,870,912 can be",
    ),
    "many": (
        lambda: raw_zip([entry(f"scores/{n}.npz") for n in range(1001)]),
        "has 1001 members; at most 1000",
    ),
    "less": (lambda: deflated(b"\3\0", size=3), "holds 0 bytes and declares 3"),
    "no deflate": (lambda: deflated(b"\xff" * 9), "can't be inflated"),
    "cut deflate": (lambda: deflated(b"\0\5"), "'manifest.json' is cut off"),
    # the frame
    "empty": (lambda: b"", "is no zip archive, or cut off"),
    "tar": (lambda: bytes(1024), "is no zip archive, or cut off"),
    "cut": (lambda: raw_zip(entries())[:-60], "is no zip archive, or cut off"),
    "cut end": (lambda: raw_zip(entries())[:-5], "is cut off in its last bytes"),
    "behind": (
        lambda: raw_zip(entries(), behind=b"#!sh"),
        "has data of 4 bytes behind",
    ),
    "comment": (
        lambda: raw_zip(entries(), comment=b"hi"),
        "a comment of 2 bytes behind",
    ),
    "before": (lambda: raw_zip(entries(), before=b"#!/bin/sh\n"), "is not next"),
    "two": (two_directories, "that its directory does not name: two archives"),
    "gap": (lambda: first(gap=b"hidden"), "is not next: data between members"),
    "overlap": (overlapping, "overlaps another"),
    "two names": (lambda: first(local_name=b"manifest.jsoN"), "something else in its"),
    "two sizes": (
        lambda: more("README.md", b"xy", size=3),
        "'README.md' is stored with two sizes",
    ),
    "extra field": (lambda: first(extra=b"UT\1\0x"), "has an extra field or comment"),
    "zip64": (lambda: raw_zip(entries(), count=0xFFFF), "is a zip64 archive"),
    "count": (lambda: raw_zip(entries(), count=1), "its directory holds more than it"),
    "checksum": (lambda: first(crc=1), "is damaged (CRC-32)"),
    "behind deflate": (lambda: deflated(b"\3\0junk"), "has data behind its end"),
    # the manifest
    "no manifest": (lambda: without("manifest.json"), "holds no manifest.json"),
    "no json": (lambda: table("{"), "manifest.json is no plain JSON"),
    "key twice": (lambda: table('{"name": 1, "name": 2}'), "a key stands twice"),
    "nan": (lambda: table('{"format": NaN}'), "NaN is no number of JSON"),
    "inf": (lambda: table('{"format": 1e999}'), "1e999 is too large for a number"),
    "deep": (lambda: table("[" * 10**5), "manifest.json is nested too deeply"),
    "foreign": (lambda: table('{"format": "npm"}'), "format is not 'speechbrain-ext"),
    "future": (lambda: manifest(version=2), "version is 2, this program reads 1"),
    "no kind": (lambda: manifest(kind="virus"), "kind is 'virus'; one of"),
    "bad name": (lambda: manifest(name="../up"), "name '../up' can't name a folder"),
    "more keys": (lambda: manifest(run="sh"), "of a wrong type: run"),
    "fewer": (lambda: manifest(kind="result"), "a result needs results.json"),
    "script": (
        lambda: manifest(scripts={"../../x.py": "0" * 64}),
        "scripts: ../../x.py is no recipes/TASK/NAME.py",
    ),
    "negative": (
        lambda: manifest(files={"recipe.yaml": {"sha256": "0" * 64, "bytes": -1}}),
        "files: recipe.yaml must have sha256 and bytes",
    ),
    "hash": (
        lambda: manifest(
            files={"recipe.yaml": {"sha256": "0" * 64, "bytes": len(RECIPE)}}
        ),
        "'recipe.yaml' is not what the manifest says: its SHA-256 is another",
    ),
    "size": (
        lambda: manifest(files={"recipe.yaml": {"sha256": "0" * 64, "bytes": 9}}),
        "bytes, the manifest says 9",
    ),
    "missing": (lambda: without("recipe.yaml"), "names, but is not there: recipe.yaml"),
    "unnamed": (lambda: more("README.md"), "the manifest does not name: README.md"),
    "other code": (code, "is not the script that the manifest names"),
    # contents
    "pickle": (
        lambda: member(SCORES, npz(**scores(ids=OBJECTS))),
        "ids: an array of objects is a pickle; it is not loaded",
    ),
    "raw pickle": (lambda: member(SCORES, pickle.dumps(Bomb())), "no file of arrays"),
    "npz bomb": (
        lambda: member(SCORES, npz(compressed=True, **scores(scores=np.zeros(2**20)))),
        "its arrays must be stored, not compressed",
    ),
    "more arrays": (lambda: member(SCORES, npz(**scores(), x=[1])), "must hold labels"),
    "text scores": (
        lambda: member(SCORES, npz(**scores(scores=np.array(["a"])))),
        "not as scores are",
    ),
    "pickled weights": (
        lambda: member("model.safetensors", pickle.dumps(Bomb())),
        "model.safetensors is no safetensors file",
    ),
    "tensor behind": (
        lambda: member("model.safetensors", safetensors(TENSOR, bytes(12))),
        "is cut off, or longer than its tensors",
    ),
    "tensor shape": (
        lambda: member(
            "model.safetensors",
            safetensors({"a": TENSOR["a"] | {"shape": [2**60]}}, bytes(8)),
        ),
        "tensor 'a' does not fit its shape",
    ),
    "long numbers": (
        lambda: member(
            "model.safetensors",
            safetensors({"a": TENSOR["a"] | {"shape": LONG}}, bytes(8)),
        ),
        "tensor 'a' does not fit its shape",
    ),
    "tensors overlap": (
        lambda: member(
            "model.safetensors",
            safetensors({"a": TENSOR["a"], "b": TENSOR["a"]}, bytes(8)),
        ),
        "overlaps another, or there are bytes that no tensor holds",
    ),
    "nan weights": (
        lambda: member("model.safetensors", safetensors(TENSOR, NAN)),
        "tensor 'a' holds NaN or Inf",
    ),
    "broken results": (
        lambda: member("results.json", b"{'a'"),
        "results.json is no pl",
    ),
    "binary card": (
        lambda: member("README.md", b"\xff\xfe"),
        "README.md is no text in",
    ),
    "escape": (lambda: member("README.md", b"\x1b[2J"), "holds the control character"),
    "long recipe": (
        lambda: zipped(whole({"recipe.yaml": np.random.default_rng(0).bytes(2**21)})),
        "recipe.yaml has more than 1,048,576 bytes",
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "_"))
def test_it_is_refused_by_name_and_leaves_nothing(case, tmp_path, monkeypatch):
    make, message = CASES[case]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "bundle.zip").write_bytes(make())
    before = sorted(tmp_path.rglob("*"))
    for folder in ("out", "a/b/out"):
        with pytest.raises(BundleError) as refused:
            unpack(tmp_path / "bundle.zip", tmp_path / folder)
        assert message in str(refused.value)
        assert refused.value.exit_code == 2
        assert "Next:" in str(refused.value)
        assert "\x1b" not in str(refused.value)
    assert not verify(tmp_path / "bundle.zip").ok
    assert sorted(tmp_path.rglob("*")) == before
    assert not os.path.exists("/canary")


def test_what_is_no_file_is_told_at_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.zip")
    for command in ("verify", "unpack", "inspect", "diff"):
        for name in ("pipe.zip", "nothing.zip", "."):
            path = str(tmp_path / name) if name != "." else str(tmp_path)
            words = [command, path, *([path] if command == "diff" else [])]
            assert run(cli, words, "speechbrain-ext") == 2, words
            assert capsys.readouterr().err or command == "inspect"


def test_there_are_many_and_each_has_a_message_of_its_own():
    assert len(CASES) > 60
    assert len({message for _, message in CASES.values()}) > 55


def test_what_is_not_malicious_is_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(whole({SCORES: npz(**scores())})))
    assert unpack(tmp_path / "a.zip", tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out" / "recipe.yaml").read_text() == RECIPE
    stamp = (tmp_path / "out").stat().st_mtime_ns
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out").stat().st_mtime_ns == stamp
    (tmp_path / "out" / "recipe.yaml").write_text("seed: 2\n")
    with pytest.raises(Exception, match="was this bundle, but recipe.yaml is another"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(whole()))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "mine.txt").write_text("mine")
    with pytest.raises(Exception, match="holds something else"):
        unpack(tmp_path / "a.zip", tmp_path / "toy")
    assert [p.name for p in (tmp_path / "toy").iterdir()] == ["mine.txt"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="is no folder"):
        unpack(tmp_path / "a.zip", tmp_path / "link")


def test_code_is_written_only_for_who_names_its_hash(tmp_path, capsys):
    name, text = "recipes/toy/train.py", b"print('theirs')\n"
    sha256 = whole({f"code/{name}": text})
    told = json.loads(sha256["manifest.json"])["files"][f"code/{name}"]["sha256"]
    (tmp_path / "a.zip").write_bytes(
        zipped(whole({f"code/{name}": text}, scripts={name: told}))
    )
    unpack(tmp_path / "a.zip", tmp_path / "plain")
    assert not (tmp_path / "plain" / "code").exists()
    assert run(cli, ["inspect", str(tmp_path / "a.zip")], "x") == 0
    out = capsys.readouterr().out
    assert "recipes/toy/train.py: not installed here" in out
    assert "+print('theirs')" in out
    digest = out.partition("--trust_code ")[2].split()[0]
    with pytest.raises(Exception, match="is not the SHA-256 of the code"):
        unpack(tmp_path / "a.zip", tmp_path / "other", trust_code=told)
    assert not (tmp_path / "other").exists()
    unpack(tmp_path / "a.zip", tmp_path / "trusted", trust_code=digest)
    assert (tmp_path / "trusted" / "code" / name).read_bytes() == text


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zipped(whole()))
    monkeypatch.setattr(
        "speechbrain_ext.sharing.bundle.unpacking.check_file",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "a.zip", tmp_path / "deep" / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_text_of_a_bundle_cannot_steer_the_terminal():
    assert printable("a\x1b]0;b\x07\u202ec") == "a\\x1b]0;b\\x07\\u202ec"
