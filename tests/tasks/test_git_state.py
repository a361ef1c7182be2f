"""Code that is not committed is told; what is no code is not taken for it."""

import subprocess

import pytest

from speechbrain_ext.tasks.experiment import git_state


def git(folder, *words):
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", folder, *author, *words], check=True)


@pytest.fixture
def tree(tmp_path):
    for name in ("speechbrain_ext/a.py", "recipes/b.yaml", "README.md", ".gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("exp/\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("egs/mini/got/x.wav", False),
        ("theirs.zip", False),
        ("egs/mini/exp/local/x.py", False),
        ("egs/mini/local/prepare.py", True),
        ("egs/mini/local/deeper/x.py", True),
        ("speechbrain_ext/models/mine.py", True),
        ("recipes/mine.yaml", True),
        ("README.md", True),
    ],
)
def test_what_is_new_counts_only_where_code_lies(tree, name, dirty):
    assert git_state(tree / "speechbrain_ext")["dirty"] is False
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text("changed\n")
    found = git_state(tree / "speechbrain_ext")
    assert found["dirty"] is dirty
    assert len(found["commit"]) == 40


def test_outside_git_nothing_is_known(tmp_path):
    assert git_state(tmp_path) is None
