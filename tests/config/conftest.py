import textwrap
from pathlib import Path

import pytest
import ruamel.yaml

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config):
    config.addinivalue_line("markers", "golden(table): run for each row of the table")


def pytest_generate_tests(metafunc):
    """Give a test marked ``golden("x")`` the rows of ``golden/x.yaml``."""
    if marker := metafunc.definition.get_closest_marker("golden"):
        path = GOLDEN / f"{marker.args[0]}.yaml"
        rows = ruamel.yaml.YAML(typ="safe", pure=True).load(path)
        metafunc.parametrize(
            ("given", "says"),
            [(row["given"], row["says"]) for row in rows],
            ids=[str(row["given"])[:40] for row in rows],
        )


class Project:
    """A throwaway project tree; files are named as a user there would name them."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("recipes", "hparams/fragments", "hparams/presets"):
            (folder / name).mkdir(parents=True)

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return name

    def recipe(self, text: str) -> str:
        return self.write("recipes/a.yaml", text)

    def fragment(self, name: str, text: str) -> str:
        return self.write(f"hparams/fragments/{name}.yaml", text)

    def preset(self, name: str, text: str) -> str:
        return self.write(f"hparams/presets/{name}.yaml", text)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def lines():
    """Lines of an error below its head, stripped of their indent."""

    def split(error) -> list[str]:
        text = str(error.value if hasattr(error, "value") else error)
        return [line.strip() for line in text.splitlines()[1:]]

    return split
