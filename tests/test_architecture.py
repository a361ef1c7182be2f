"""The house as docs/architecture.md draws it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def imported(path):
    """Names of all modules that a Python file imports, at any depth in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return names


def python_files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.smoke
@pytest.mark.parametrize("path", python_files("speechbrain_ext"), ids=lambda p: p.name)
def test_the_library_never_imports_recipes_or_egs(path):
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"recipes", "egs", "tests"}


def test_recipes_are_never_imported_and_scripts_stay_thin():
    assert not list((ROOT / "recipes").rglob("__init__.py"))
    for path in python_files("recipes"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, path


def test_there_are_no_symlinks():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-s"], capture_output=True, text=True
    )
    assert not [line for line in listed.stdout.splitlines() if line[:6] == "120000"]


@pytest.mark.parametrize(
    "module", ["speechbrain_ext.cli", "speechbrain_ext.stages", "speechbrain_ext.files"]
)
def test_the_command_line_does_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_help_and_mistakes_of_no_command_wait_for_torch():
    code = """
import sys
from speechbrain_ext.cli import COMMANDS, cli, run
dumps = ("analyze-nan", "replay")  # they lie beside the Brain, which is torch's
calls = [[name, "--help"] for name in COMMANDS if name not in dumps]
calls += [[name, "--no_such_option"] for name in ("compare", "embed", "export")]
calls += [["export", "nope"], "compare nope nope --experiment nope".split()]
calls += ["embed nope --experiment nope --output x.npz".split()]
calls += [f"{name} nope x.wav.sbx --model x".split() for name in ("encode", "decode")]
calls += [["info", "nope"]]
for call in calls:
    try:
        code = run(cli, call, "speechbrain-ext")
    except SystemExit as end:
        code = end.code
    assert "torch" not in sys.modules, call
    assert code == (0 if call[1] == "--help" else 2), (call, code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_command_of_the_table_can_be_imported():
    from speechbrain_ext.cli import COMMANDS, cli

    for name in COMMANDS:
        assert cli.get_command(None, name).help


def test_a_misspelt_command_names_the_nearest(capsys):
    from speechbrain_ext.cli import cli, run

    assert run(cli, ["dctor"], "speechbrain-ext") == 2
    assert "no command 'dctor'; did you mean 'doctor'?" in capsys.readouterr().err


def test_relative_links_of_the_documents_lead_somewhere():
    import re

    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("egs/*/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
