"""Whatever bytes are given, unpacking writes a whole bundle or nothing."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechbrain_ext.sharing.bundle import unpack
from speechbrain_ext.sharing.bundle.errors import BundleError
from tests.sharing.bundles import entries, entry, npz, raw_zip, scores, whole, zipped

NAMES = st.one_of(
    st.sampled_from(
        ["README.md", "../x", "/x", "scores/a.npz", "code/recipes/a/b.py", "a\\b", ""]
    ),
    st.text(max_size=20),
)
NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1))
MEMBERS = whole({"scores/a.npz": npz(**scores()), "README.md": b"# card\n"})
BASE = zipped(MEMBERS)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.sampled_from([0, 1, 8, 0x800, 0xFFFF]),
        "method": st.sampled_from([0, 8, 12, 99]),
        "size": NUMBERS,
        "crc": NUMBERS,
        "mode": st.integers(0, 0xFFFF),
        "attributes": st.integers(0, 0xFF),
        "extra": st.binary(max_size=8),
        "comment": st.binary(max_size=8),
        "gap": st.binary(max_size=8),
        "offset": NUMBERS,
        "local_name": st.binary(max_size=8),
    },
)


@st.composite
def flipped(draw):
    """A whole bundle with some bytes changed, cut out or put in."""
    data = bytearray(BASE)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data) - 1))
        cut = draw(st.integers(0, 4))
        data[place : place + cut] = draw(st.binary(max_size=4))
    return bytes(data)


@st.composite
def built(draw):
    """Members of odd names, kinds and sizes, in an odd frame."""
    members = entries()
    for _ in range(draw(st.integers(0, 3))):
        name, data = draw(NAMES), draw(st.binary(max_size=40))
        name = name.encode("utf-8", "replace")
        members.append(entry(name, data, **draw(CHANGES)))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(members) - 1))
        members[place] |= draw(CHANGES)
    frame = st.binary(max_size=6)
    shift = draw(st.sampled_from([0, 0, 0, 1]))
    return raw_zip(members, before=draw(frame), behind=draw(frame), shift=shift)


@st.composite
def inside(draw):
    """A whole archive whose manifest fits members that are odd inside."""
    arrays = npz(
        **scores(ids=np.array(draw(st.lists(st.text(max_size=3), max_size=3))))
    )
    data = bytearray(arrays)
    place = draw(st.integers(0, len(data) - 1))
    data[place : place + 1] = draw(st.binary(max_size=3))
    text = draw(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(_encoded)))
    name = draw(st.sampled_from(["README.md", "env.json", "model.safetensors"]))
    return zipped(whole({"scores/a.npz": bytes(data), name: text}))


def _encoded(text):
    return text.encode("utf-8", "replace")


BUNDLES = st.one_of(st.binary(max_size=200), flipped(), built(), inside())


def outcome(data):
    """Unpack; returns what was written, after comparing it with what was promised."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "a.zip").write_bytes(data)
        with contextlib.suppress(BundleError):
            unpack(folder / "a.zip", folder / "out")
        assert {p.name for p in folder.iterdir()} <= {"a.zip", "out"}
        assert not any(p.is_symlink() for p in folder.rglob("*"))
        out = folder / "out"
        if not out.exists():
            return None
        return {
            p.relative_to(out).as_posix(): p.read_bytes()
            for p in out.rglob("*")
            if p.is_file()
        }


def check(data):
    """Whole, with all that the manifest names, or nothing."""
    found = outcome(data)
    if found is not None:
        assert {"manifest.json", "recipe.yaml"} <= set(found)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(BUNDLES)
def test_any_bytes_are_a_whole_bundle_or_nothing(data):
    check(data)


def test_the_base_of_the_fuzz_is_a_whole_bundle():
    assert outcome(BASE) == MEMBERS
