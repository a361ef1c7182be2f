"""Signatures of what a recipe names, and the ``check`` command."""

import inspect
import json
import subprocess
import sys

import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.config import ConfigError
from tests.config.allowed import check_recipe

MODULE = """
import functools

BUILT = []

class Base:
    def __init__(self, width, depth=1):
        BUILT.append(self)

class Forwards(Base):
    def __init__(self, height, **kwargs):
        super().__init__(**kwargs)

class Takes(Base):
    def __init__(self, **options):
        self.extra = options.pop("extra", 0)
        if "more" in options:
            self.more = options["more"]
        super().__init__(**options)

class Keeps:
    def __init__(self, **kwargs):
        self.kwargs = kwargs

class Renames(Base):
    def __init__(self, **kwargs):
        kwargs = dict(kwargs)
        super().__init__(**kwargs)

class New:
    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

class Inherits(Forwards):
    pass

class Plain:
    pass

def wrap(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner

@wrap
def wrapped(width, depth=1):
    BUILT.append(width)

def only(a, /, b, *, c):
    BUILT.append(a)

def anything(*args, **kwargs):
    BUILT.append(args)

constant = 3
"""


@pytest.fixture
def library(project, monkeypatch):
    project.write("a_library/__init__.py", MODULE)
    project.write("a_library/broken.py", "import no_such_dependency\n")
    project.write("a_library/raises.py", "raise RuntimeError('at import')\n")
    monkeypatch.syspath_prepend(project.folder)
    for name in [m for m in sys.modules if m.startswith("a_library")]:
        monkeypatch.delitem(sys.modules, name)
    return project


def command(*words: str) -> int:
    return run(cli, list(words), "speechbrain-ext")


ALLOW = "--allow=collections.Counter"


@pytest.mark.golden("signatures")
def test_arguments_are_held_against_the_signature(library, given, says):
    plan = check_recipe(library.recipe(f"it: {given}"))
    tag = given.split()[0]
    assert [fault.message for fault in plan.faults] == [f"{tag}: {m}" for m in says]
    assert getattr(sys.modules.get("a_library"), "BUILT", []) == []


def test_wrong_argument_is_told_at_its_own_line(library, lines):
    name = library.recipe(
        """
        it: !new:a_library.Base
            width: 1
            dept: 2
        """
    )
    plan = check_recipe(name)
    assert lines(ConfigError(name, plan.faults)) == [
        "line 3  !new:a_library.Base: no argument 'dept'; did you mean 'depth'?"
    ]


def test_what_passes_the_check_can_be_called(library):
    """The check is no stricter than the call: whatever it refuses fails there too."""
    import a_library

    for name in ("Base", "Forwards", "Takes", "Inherits", "Keeps", "New", "only"):
        thing = getattr(a_library, name)
        tag = "!new" if inspect.isclass(thing) else "!apply"
        for arguments in (
            {}, {"width": 1}, {"height": 1}, {"height": 1, "width": 1}, {"x": 1},
            {"extra": 1, "width": 1}, {"b": 1, "c": 1},
        ):  # fmt: skip
            text = f"it: {tag}:a_library.{name} {json.dumps(arguments)}"
            faults = check_recipe(library.recipe(text)).faults
            if faults:
                with pytest.raises(TypeError):
                    thing(**arguments)


def test_torch_classes_that_forward_their_arguments_are_followed(project):
    pytest.importorskip("torch")
    name = project.recipe(
        """
        a: !new:torch.nn.LSTM {input_size: 4, hidden_size: 4, batch_first: true}
        b: !new:torch.nn.LSTM {input_size: 4, hiden_size: 4}
        c: !name:torch.optim.Adam {lr: 0.1, betas: !tuple '(0.9, 0.99)'}
        d: !name:torch.optim.Adam {lrr: 0.1}
        """
    )
    assert [(f.where.line, f.message) for f in check_recipe(name).faults] == [
        (
            2,
            "!new:torch.nn.LSTM: no argument 'hiden_size'; did you mean 'hidden_size'?",
        ),
        (4, "!name:torch.optim.Adam: no argument 'lrr'; did you mean 'lr'?"),
    ]


def test_bad_partial_is_found_before_it_is_called(project):
    """HyperPyYAML takes any argument for !name: and fails when it is used, mid-run."""
    name = project.recipe("it: !name:fractions.Fraction {numertor: 1}")
    assert "did you mean 'numerator'?" in check_recipe(name).faults[0].message


def test_check_command_says_ok_or_everything(project, capsys):
    name = project.recipe("seed: 1\nbag: !new:collections.Counter {a: !ref <seed>}")
    assert command("check", name, "--seed=3", "--debug", ALLOW) == 0
    assert capsys.readouterr().out == (
        "OK recipes/a.yaml: 3 values, 1 objects; not checked: unused and missing keys "
        "(the recipe names no task)\n"
    )
    assert command("check", name, ALLOW, "--sed=3", "junk", "--preset") == 2
    assert capsys.readouterr().err == (
        "config error (3 problems) in recipes/a.yaml\n"
        "  command line  --preset: needs a name\n"
        "  command line  'junk': an argument must look like --key=value\n"
        "  command line  --sed: no key 'sed'; did you mean 'seed' (recipes/a.yaml line "
        "1)?\n"
    )
    assert command("check") == 2


def test_static_option_belongs_to_check_only_before_the_recipe(project):
    name = project.recipe("static: 1\nit: !new:no_such_module.X")
    allow = "--allow=no_such_module.X"
    assert command("check", "--static", name, allow) == 0
    assert command("check", "--static", name, allow, "--static=2") == 0
    assert command("check", name, allow, "--static=2") == 2


def test_static_check_imports_neither_torch_nor_speechbrain(project):
    name = project.recipe(
        """
        task: speechbrain_ext.config.keys
        seed: 1
        __set_seed: !apply:torch.manual_seed [!ref <seed>]
        net: !new:torch.nn.Linear [1, 2]
        opt: !name:torch.optim.Adam {lr: !ref <seed>}
        """
    )
    allow = "--allow=speechbrain_ext.config.keys"
    code = (
        "import sys, json; from speechbrain_ext.cli import cli, run\n"
        f"words = ['check', '--static', {name!r}, {allow!r}]\n"
        "rc = run(cli, words, 'speechbrain-ext')\n"
        "print(json.dumps([rc, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(p for p in sys.path if p)},
    )  # fmt: skip
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert not {"torch", "speechbrain", "numpy", "hyperpyyaml"} & set(modules)
