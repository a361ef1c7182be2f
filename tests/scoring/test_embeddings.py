"""Sets of embeddings: whole, named, and readable with NumPy alone."""

import io
import zipfile

import numpy as np
import pytest

from speechbrain_ext.scoring.embeddings import EmbeddingError, EmbeddingSet

RNG = np.random.default_rng(0)


def some(count=3, dim=4, **changes):
    values = {
        "ids": [f"utt.{index} ü" for index in range(count)],
        "vectors": RNG.standard_normal((count, dim)).astype(np.float32),
        "seconds": np.arange(count) + 0.5,
        "checkpoint": "ab" * 32,
        "system": "toy",
        "stamps": [f"{index:064d}" for index in range(count)],
    }
    return EmbeddingSet(**(values | changes))


@pytest.mark.smoke
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_what_is_saved_is_loaded(tmp_path, count, dtype):
    vectors = RNG.standard_normal((count, 4)).astype(dtype)
    before = some(count, vectors=vectors)
    before.save(tmp_path / "a.npz")
    after = EmbeddingSet.load(tmp_path / "a.npz")
    assert after.ids == before.ids
    assert after.vectors.dtype == np.float32
    assert np.array_equal(after.vectors, vectors.astype(np.float32))
    assert after.seconds.tolist() == before.seconds.tolist()
    assert (after.checkpoint, after.system) == ("ab" * 32, "toy")
    assert after.stamps == before.stamps


def test_numpy_alone_reads_the_file_without_pickles(tmp_path):
    some().save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert stored["ids"].tolist() == some().ids
        assert stored["vectors"].shape == (3, 4)


def test_the_same_set_gives_the_same_bytes(tmp_path):
    one = some()
    for name in ("a.npz", "b.npz"):
        one.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_rows_come_in_the_order_asked_for_and_may_repeat():
    one = some()
    rows = one.rows([one.ids[2], one.ids[0], one.ids[2]])
    assert np.array_equal(rows, one.vectors[[2, 0, 2]])
    assert one.rows([]).shape == (0, 4)


def test_ids_without_an_embedding_are_named():
    with pytest.raises(EmbeddingError, match=r"2 of 3 utterances.*: x, y\n"):
        some().rows(["x", "utt.0 ü", "y", "x"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_with_one_bad_number_is_named_and_survives_the_file(tmp_path, value):
    one = some()
    one.vectors[1, 3] = value
    one.save(tmp_path / "a.npz")
    assert EmbeddingSet.load(tmp_path / "a.npz").nonfinite() == ["utt.1 ü"]


def test_finite_and_empty_sets_name_none():
    assert some().nonfinite() == []
    assert some(0).nonfinite() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["a", "b", "a"]}, "appear twice: a"),
        ({"stamps": ["x"]}, "stamps must be 3 or none, got 1"),
        ({"ids": ["a"], "stamps": []}, r"must be \[1, dim\]"),
        ({"vectors": np.zeros(3)}, r"got shape \[3\]"),
        ({"seconds": [1.0]}, r"seconds must be \[3\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        some(**changes)


def _plain_array(path):
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))


def _pickled(path):
    np.savez(path, ids=np.array([{}]), **dict.fromkeys(("vectors", "seconds"), 0.0))


def _without_system(path):
    some().save(path)
    kept = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(kept, "w") as new:
        for name in old.namelist():
            if name != "system.npy":
                new.writestr(name, old.read(name))
    path.write_bytes(kept.getvalue())


def _cut(path):
    some().save(path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no zip"),
        _plain_array,
        _pickled,
        _without_system,
        _cut,
    ],
)
def test_a_file_that_is_none_of_ours_is_a_message_with_the_next_command(
    tmp_path, damage
):
    path = tmp_path / "a.npz"
    damage(path)
    with pytest.raises(EmbeddingError, match=r"(?s)a\.npz.*--stage embed"):
        EmbeddingSet.load(path)


def test_a_failed_save_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    some().save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="disk full"):
        some(5).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_another_suffix_is_refused_before_numpy_appends_its_own(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        some().save(tmp_path / "a.bin")
