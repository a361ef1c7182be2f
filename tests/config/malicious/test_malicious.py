"""Recipes that mean harm: none of them does it, and each is told why."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import pytest
import ruamel.yaml
from hypothesis import strategies as st

from speechbrain_ext.config import load_recipe
from speechbrain_ext.errors import UserError
from tests.config.malicious.fuzzing import Watch, recipes, try_recipe

HERE = Path(__file__).parent
TABLES = ("names", "texts", "places")
#: of the processor: well below one where nothing else runs beside it
MAX_SECONDS = 3.0


def rows(table):
    return ruamel.yaml.YAML(typ="safe", pure=True).load(HERE / f"{table}.yaml")


CASES = [
    (table, number, row) for table in TABLES for number, row in enumerate(rows(table))
]
NAMES = [f"{t}{n}-{row['recipe'].split(chr(10))[0][:60]}" for t, n, row in CASES]


def words(text):
    return [word for word in ("torch", "speech") if word in text]


EVIL = "open('CANARY', 'w')\nclass Model: pass\ndef function(): pass\n"
LIBRARY = """
import functools, os
from evil_twin import Other
alias = os.system
ready = functools.partial(os.system, 'touch CANARY')
listed = [os.system]
"""


class Den:
    """A folder with what the recipes hope to find, beside a project tree of theirs."""

    def __init__(self, folder: Path):
        self.folder = folder / "project" / "recipes"
        self.canary = folder / "canary"
        self.folder.mkdir(parents=True)
        (folder / "project" / "hparams").mkdir()
        for name, text in (
            ("evil.py", EVIL),
            ("library.py", LIBRARY),
            ("evil_twin.py", "class Other: pass\n"),
            ("fragment.yaml", "run: !apply:os.system [touch CANARY]\nevil: 1\n"),
            ("linked_exp/a", ""),
            ("package/deep/b.py", "pass\n"),
            ("../../outside.yaml", "a: 1\n"),
        ):
            path = self.folder / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(self.told(text), encoding="utf-8")
        (self.folder / "link.yaml").symlink_to(folder / "outside.yaml")
        (self.folder / "linked").symlink_to(folder)
        (self.folder / "linked_exp" / "out").symlink_to(folder)
        os.mkfifo(self.folder / "pipe")

    def told(self, text: str) -> str:
        return text.replace("CANARY", str(self.canary))

    def write(self, text: str, name: str = "recipe.yaml") -> str:
        (self.folder / name).write_text(self.told(text), encoding="utf-8")
        return name


@pytest.fixture
def den(tmp_path, monkeypatch):
    den = Den(tmp_path)
    monkeypatch.chdir(den.folder)
    monkeypatch.syspath_prepend(str(den.folder))
    yield den
    for name in ("evil", "library", "evil_twin"):
        sys.modules.pop(name, None)


def refused(den, recipe, **options) -> str:
    """Load a recipe; return what is said against it, in time and without a trace."""
    before = sorted(path.name for path in den.folder.parent.parent.rglob("*"))
    started = time.process_time()
    with pytest.raises(UserError) as error:
        load_recipe(recipe, **options)
    assert time.process_time() - started < MAX_SECONDS
    after = [
        path.name
        for path in den.folder.parent.parent.rglob("*")
        if "__pycache__" not in path.parts
    ]
    assert sorted(after) == before
    assert not den.canary.exists()
    return str(error.value)


@pytest.mark.parametrize(("table", "number", "row"), CASES, ids=NAMES)
def test_does_nothing_and_is_told_why(den, table, number, row):
    options = {"allow": row.get("allow", ())}
    if "preset" in row:
        options["presets"] = [den.write(row["preset"], "preset.yaml")]
    options["overrides"] = [den.told(word) for word in row.get("overrides", ())]
    said = refused(den, den.write(row["recipe"]), **options)
    for part in row["says"]:
        assert den.told(part) in said
    assert "Traceback" not in said
    if not row.get("allow"):
        assert not {"evil", "library", "evil_twin"} & set(sys.modules)


STOCK = [row for _, _, row in CASES if row.get("stock") is True]
#: those that need no torch are quick; `tests.acceptance.fuzz` tries them all
QUICK = [row for row in STOCK if not {"torch", "speech"} & set(words(row["recipe"]))]


@pytest.mark.parametrize("row", QUICK[::4])
def test_the_harm_is_real_without_the_allow_list(den, row):
    """The canary appears where HyperPyYAML loads the same text by itself."""
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from hyperpyyaml import load_hyperpyyaml\n"
        "try: load_hyperpyyaml(open('recipe.yaml'))\n"
        "except Exception as error: print(error)"
    )
    den.write(row["recipe"])
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=den.folder,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[2])},
    )
    assert den.canary.exists(), done.stdout + done.stderr


def doubling(line: str, count: int) -> str:
    return "\n".join(line.format(n=n, m=n - 1) for n in range(1, count))


BOMBS = {
    "aliases": (
        "l0: &l0 [x]\n" + doubling("l{n}: &l{n} [*l{m}, *l{m}]", 3000), "values"
    ),
    "merge keys": (
        "l0: &l0 {x: 1}\n"
        + doubling("l{n}: &l{n} {{<<: [*l{m}, *l{m}], k{n}: 1}}", 400),
        "merges more than 20 mappings into one",
    ),
    "copies": (
        "l0: [x]\n" + doubling("l{n}: [!copy <l{m}>, !copy <l{m}>]", 60), "copies"
    ),
    "flow": ("a: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
    "mixed flow": ("a: " + "[{x: " * 3_000 + "1" + "}]" * 3_000, "nested"),
    "block": ("".join(" " * n + "a:\n" for n in range(500)), "more than 60 deep"),
    "many values": ("a: [" + "1," * 60_000 + "]", "more than 5000 values"),
    "many keys": (doubling("k{n}: 1", 20_000), "more than 5000 values"),
    "much": ("a: 1\n" + "#" * (1 << 19), "larger than 262144 bytes"),
    "long text": ("a: " + "x" * 100_000, "too long for one value"),
    "power": ("a: 9\nb: !ref <a>**<a>**<a>", "exponent 387420489 is larger than 1024"),
    "tower": ("a: 9\nb: !ref <a>" + " ** 9" * 90, "larger than"),
    "product": (
        "l0: 9999999999\n" + doubling("l{n}: !ref <l{m}> * <l{m}>", 60),
        "larger than 256 bits",
    ),
    "shifted": ("a: 1\nb: !ref <a> << 999999999", None),
    "brackets": ("a: 1\nb: !ref " + "(" * 900 + "<a>" + ")" * 900, ""),
    "signs": ("a: 1\nb: !ref " + "-" * 1500 + "<a>", "longer than 500 characters"),
    "long sum": ("a: 1\nb: !ref <a>" + " + 1" * 450, "longer than 500 characters"),
    "repeated text": ("a: 1\nb: !ref \"'x' * 10**9 * <a>\"", None),
    "doubled text": (
        "l0: xxxxxxxxxx\n" + doubling("l{n}: !ref <l{m}><l{m}>", 60),
        "longer than 10000 characters",
    ),
    "open brackets": ("a: 1\nb: !ref " + "<" * 100_000, "too long for one value"),
    "open brackets in a text": (
        "a: '" + "<" * 19_000 + "'\n" + doubling("b{n}: !ref <a>x", 200), ""
    ),
    "whole number": ("a: " + "9" * 19_000, "Exceeds the limit"),
    "short number": ("a: 0x" + "f" * 19_000 + "\nb: !ref x<a>", "more than 256 bits"),
    "short number as a key": ("0x" + "f" * 900 + ": 1", "more than 256 bits"),
    "short number in a tuple": ("a: (0x" + "f" * 900 + ", 1)", "plain scalars only"),
    "directive behind another end of line": (
        "# c\r%TAG ! tag:yaml.org,2002:\r---\ra: 1", "%TAG directives are not accepted"
    ),
    "unknown references": (
        doubling("k{n}: !ref <no_such_key_{n}>", 2000), "too many faults"
    ),
    "unknown names": (
        doubling("k{n}: !new:torch.nn.Lineer{n}", 2000), "too many faults"
    ),
    "chain": ("\n".join(f"k{n}: !ref <k{n + 1}>" for n in range(2000)), "deeply"),
    "includes": (doubling("k{n}: !include:large.yaml", 120), "too large"),
    "include in a ring": ("a: !include:recipe.yaml", "includes itself"),
    "complex keys": ("? a\n" * 20_000, "not YAML"),
    "nothing": ("", "empty"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_defused_within_a_second(den, bomb):
    text, says = BOMBS[bomb]
    den.write(doubling("k{n}: 1", 1500), "large.yaml")
    name = den.write(text)
    if says:
        assert says in refused(den, name)
        return
    # Refused or loaded as it is: both are well, if it is soon.
    started = time.process_time()
    with contextlib.suppress(UserError):
        load_recipe(name)
    assert time.process_time() - started < MAX_SECONDS


def test_a_file_without_an_end_is_not_read_to_it(den):
    assert "larger than 262144 bytes" in refused(den, "/dev/zero")


def test_a_huge_preset_is_no_preset(den):
    den.write(doubling("k{n}: 1", 1000), "preset.yaml")
    said = refused(den, den.write("a: 1"), presets=["preset.yaml"])
    assert "more than 200 values: not a preset" in said


def test_a_message_does_not_steer_the_terminal(den):
    said = refused(den, den.write('"\\e[2J\\e[31mgone": !ref <x>'))
    assert "\x1b" not in said


WATCH = Watch()


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_no_text_does_harm_whatever_it_is(den, data):
    try_recipe(WATCH, den.folder, data.draw(recipes(den.canary)))
