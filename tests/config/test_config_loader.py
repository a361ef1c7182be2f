"""What a recipe may say, what it means, and how it is told what is wrong."""

import collections
import functools
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from speechbrain_ext.config import ConfigError
from tests.config.allowed import check_recipe, load_recipe


@pytest.fixture
def faults(project, lines):
    """Lines of the error that loading a recipe's text ends in; [] if it loads."""

    def call(text, *overrides, **kwargs):
        try:
            load_recipe(project.recipe(text), overrides, **kwargs)
        except ConfigError as error:
            return lines(error)
        return []

    return call


@pytest.mark.golden("sources")
def test_fault_is_told_with_its_line(project, lines, given, says):
    plan = check_recipe(project.recipe(given), signatures=False)
    assert lines(ConfigError(plan.name, plan.faults)) == says


def test_missing_file_names_the_nearest(project, lines):
    project.recipe("a: 1")
    project.write("recipes/transform.yaml", "a: 1")
    with pytest.raises(ConfigError) as error:
        load_recipe("recipes/transfrom.yaml")
    assert lines(error) == ["whole file  no such file; did you mean 'transform.yaml'?"]


def test_binary_huge_and_deep_files_are_refused(project, lines):
    for content in (b"\xff\xfe\x00", b"a: \x00", b"#" * (1 << 20) + b"#"):
        (project.folder / "recipes/a.yaml").write_bytes(content)
        with pytest.raises(ConfigError):
            load_recipe("recipes/a.yaml")
    for text in ("a: " + "[" * 300 + "]" * 300, "a: " + "{b: " * 80 + "1" + "}" * 80):
        with pytest.raises(ConfigError, match="nested too deeply|not YAML"):
            load_recipe(project.recipe(text))
    chain = "\n".join(f"k{i}: !ref <k{i + 1}>" for i in range(1500)) + "\nk1500: 1"
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_recipe(project.recipe(chain))


def test_aliases_do_not_multiply(project):
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9)]
    name = project.recipe("l0: &l0 [x]\n" + "\n".join(levels))
    recipe = load_recipe(name)
    assert recipe.hparams["l8"][0] is recipe.hparams["l7"]
    assert len(recipe.resolved_yaml) < 2000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005),
        ("1.0e-3", 0.001),
        ("012", 12),
        ("1_000", 1000),
        ("0x10", 16),
        ("(3, 4)", (3, 4)),
        ("(3, 5e-5, a, true)", (3, 5e-5, "a", True)),
        ("()", ()),
        ("!tuple (1, 2)", (1, 2)),
        ("'007'", "007"),
        ("'yes'", "yes"),
        ("~", None),
        (".inf", float("inf")),
        ("{1: a, b: 2}", {1: "a", "b": 2}),
        ("!ref <two> * 2", 4),
        ("!ref <two>*2", 4),
        ("!ref <two> // 4", 0),
        ("!ref (<two> + 1) / <two>", 1.5),
        ("!ref <two> ** -1", 0.5),
        ("!ref <negative> * 2", -6),
        ("!ref 2 - <negative>", 5),
        ("!ref -<two>", -2),
        ("!ref 1e-3 * <two>", 0.002),
        ("!ref <two>.<two>", "2.2"),
        ("!ref <two><two>", "22"),
        ("!ref v<two>", "v2"),
        ("!ref exp/<text>/<two>", "exp/7/2"),
        ("!ref 2024-<text>", "2024-7"),
        ("!ref <text>/<text>", "7/7"),
        ("!ref <truth>", True),
        ("!ref <text>", "7"),
        ("!ref <later>", 8),
        ("!ref <later_text>", "x8"),
        ("!ref <later_text>/<two>", "x8/2"),
    ],
)
def test_value_means_what_it_says_here_and_when_resolved(project, text, value):
    hyperpyyaml = pytest.importorskip("hyperpyyaml")
    name = project.recipe(
        f"two: 2\nnegative: -3\ntext: '7'\ntruth: true\nit: {text}\n"
        "later: !ref <two> * 4\nlater_text: !ref x<later>\n"
    )
    recipe = load_recipe(name)
    stock = hyperpyyaml.load_hyperpyyaml(recipe.resolved_yaml)
    again = load_recipe(project.write("recipes/b.yaml", recipe.resolved_yaml))
    for hparams in (recipe.hparams, stock, again.hparams):
        assert hparams["it"] == value
        assert isinstance(hparams["it"], type(value))
    assert again.config_hash == recipe.config_hash
    assert again.resolved_yaml == recipe.resolved_yaml


def test_fragment_keys_are_reached_by_reference_and_override(project):
    project.fragment(
        "inner",
        "width: !PLACEHOLDER\nbag: !new:collections.Counter {w: !ref <width>}\n",
    )
    project.fragment(
        "outer",
        """
        dim: !PLACEHOLDER
        scale: 2
        half: !ref <dim> // <scale>
        deep: !include:inner.yaml
            width: !ref <half>
        bag: !ref <deep[bag]>
        """,
    )
    name = project.recipe(
        """
        size: 8
        block: !include:../hparams/fragments/outer.yaml
            dim: !ref <size>
        again: !include:../hparams/fragments/outer.yaml
            dim: 100
        bag: !ref <block[bag]>
        """
    )
    hparams = load_recipe(name).hparams
    assert hparams["block"]["half"] == 4
    assert hparams["bag"] == collections.Counter(w=4)
    assert hparams["bag"] is hparams["block"]["deep"]["bag"]
    assert hparams["again"]["bag"] == collections.Counter(w=50)
    changed = load_recipe(
        name, ["--block.scale=4", "--again.deep.bag.w=1", "--size=16"]
    )
    assert changed.hparams["bag"] == collections.Counter(w=4)
    assert changed.hparams["again"]["bag"] == collections.Counter(w=1)
    assert load_recipe(name, ["--block.dim=80"]).hparams["bag"]["w"] == 40


def test_fragment_may_be_one_object(project):
    project.fragment(
        "bag", "!new:collections.Counter\na: !PLACEHOLDER\nb: !ref <a> + 1\n"
    )
    name = project.recipe(
        "one: !include:../hparams/fragments/bag.yaml {a: 1}\nmodules: {one: !ref <one>}"
    )
    recipe = load_recipe(name, ["--one.a=5"])
    assert recipe.hparams["one"] == collections.Counter(a=5, b=6)
    assert recipe.hparams["modules"]["one"] is recipe.hparams["one"]
    assert "!ref <one[a]> + 1" in recipe.resolved_yaml


def test_faults_of_includes_are_told_with_file_and_line(project, faults):
    file = project.fragment(
        "f", "dim: !PLACEHOLDER\nbad: !ref <dmi>\nup: !ref <size>\n"
    )
    project.fragment("loop", "again: !include:loop.yaml\n")
    project.fragment("broken", "a: [\n")
    project.write("elsewhere.yaml", "a: 1")
    got = faults(
        """
        size: 1
        bag: !new:collections.Counter {a: 1}
        f: !include:../hparams/fragments/f.yaml
            dmi: 3
        g: !include:../hparams/fragments/f.yaml {dim: !ref <bag>}
        h: !include:../hparams/fragments/f.yaml {dim: !new:collections.Counter {}}
        i: !include:../hparams/fragments/loop.yaml
        j: !include:../../../etc/passwd
        k: !include:../hparams/fragments/ff.yaml
        l: [!include:../hparams/fragments/loop.yaml ]
        m: !include:../hparams/fragments/broken.yaml
        n: !ref <m[a]>
        """
    )
    no_object = (
        "an object cannot be passed into an include (HyperPyYAML would build a second "
        "one); pass numbers, texts or lists of them"
    )
    root = "outside the recipe's root ."
    assert got[:6] == [
        f"line 4  dmi: {file} has no such key; did you mean 'dim'?",
        f"line 5  g.dim: {no_object}",
        f"line 6  dim: {no_object}",
        f"line 8  !include:../../../etc/passwd: {root}",
        "line 9  !include:../hparams/fragments/ff.yaml: no such file "
        "hparams/fragments/ff.yaml; did you mean 'f.yaml'?",
        "line 10  !include:../hparams/fragments/loop.yaml: a fragment needs a key of "
        "its own, of letters, digits and underscores, outside of lists",
    ]
    text = "\n".join(got)
    assert "loop.yaml line 1  !include:loop.yaml: includes itself" in text
    assert "broken.yaml line 2  not YAML" in text
    assert f"{file} line 1  f.dim: left open; pass 'dim' to the !include" in text
    assert (
        f"{file} line 2  f.bad: <dmi>: no key 'dmi' in f; did you mean 'dim'?" in text
    )
    assert "a fragment sees its own keys: declare 'size: !PLACEHOLDER'" in text
    assert "h.dim: left open" not in text
    assert " n: " not in text  # what depends on a broken include is not told again


def test_input_of_the_wrong_type_is_told(project, faults):
    file = project.fragment(
        "f", "dim: 3\nrate: 0.5\nname: x\nlimit: !PLACEHOLDER int\n"
    )
    got = faults(
        """
        text: abc
        f: !include:../hparams/fragments/f.yaml
            dim: !ref <text>
            rate: 1
            name: 7
            limit: 2.5
        """
    )
    assert got == [
        f"line 3  f.dim: needs a whole number like 3; got 'abc' ({file} line 1)",
        f"line 5  f.name: needs a text like 'x'; got 7 ({file} line 3)",
        f"line 6  f.limit: needs a whole number like 0; got 2.5 ({file} line 4)",
    ]


def test_include_through_a_link_stays_confined(project, tmp_path_factory, lines):
    outside = tmp_path_factory.mktemp("outside") / "o.yaml"
    outside.write_text("a: 1")
    (project.folder / "hparams/link.yaml").symlink_to(outside)
    with pytest.raises(ConfigError, match="outside the recipe's root"):
        load_recipe(project.recipe("a: !include:../hparams/link.yaml"))


def test_recipe_outside_a_project_is_confined_to_its_folder(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "up.yaml").write_text("a: 1")
    (tmp_path / "x/near.yaml").write_text("a: 1")
    recipe = tmp_path / "x/r.yaml"
    recipe.write_text("b: !include:near.yaml")
    assert load_recipe(recipe).hparams == {"b": {"a": 1}}
    recipe.write_text("b: !include:../up.yaml")
    with pytest.raises(ConfigError, match="outside the recipe's root"):
        load_recipe(recipe)


def test_identities_are_those_of_hyperpyyaml(project):
    hyperpyyaml = pytest.importorskip("hyperpyyaml")
    name = project.recipe(
        """
        first: &anchor !new:collections.OrderedDict
            inner: !ref <shared>
        shared: !new:collections.Counter
        refs: {a: !ref <first>, b: !ref <shared>, c: [!ref <first>]}
        alias: *anchor
        chain: !ref <alias>
        copy: !copy <first>
        argument: !ref <first[inner]>
        sizes: [1, 2]
        same_sizes: !ref <sizes>
        base: &base {x: 1, things: !ref <sizes>}
        merged: {<<: *base, x: 2}
        call: !ref <shared.total>
        partial: !name:collections.Counter {z: !ref <shared>}
        """
    )
    recipe = load_recipe(name)
    with open(name, encoding="utf-8") as stream:
        original = hyperpyyaml.load_hyperpyyaml(stream)
    resolved = hyperpyyaml.load_hyperpyyaml(recipe.resolved_yaml)
    for h in (recipe.hparams, original, resolved):
        first, shared = h["first"], h["shared"]
        assert list(h) == list(recipe.hparams)
        assert first["inner"] is shared is h["refs"]["b"] is h["argument"]
        assert h["refs"]["a"] is h["refs"]["c"][0] is h["alias"] is h["chain"] is first
        assert h["copy"] == first
        assert h["copy"] is not first
        assert h["copy"]["inner"] is not shared
        assert h["same_sizes"] is h["sizes"] is h["merged"]["things"]
        assert h["merged"]["x"] == 2
        assert h["call"] == shared.total
        assert isinstance(h["partial"], functools.partial)
        assert h["partial"].keywords["z"] is shared


def test_initial_weights_are_those_of_hyperpyyaml(project):
    torch = pytest.importorskip("torch")
    hyperpyyaml = pytest.importorskip("hyperpyyaml")
    project.fragment(
        "linear",
        """
        dim: !PLACEHOLDER
        linear: !new:torch.nn.Linear
            in_features: !ref <dim>
            out_features: !ref <dim>
        """,
    )
    name = project.recipe(
        """
        seed: 3
        __set_seed: !apply:torch.manual_seed [!ref <seed>]
        early: {net: !ref <net>}
        block: !include:../hparams/fragments/linear.yaml {dim: 4}
        net: !new:torch.nn.Sequential
            - !ref <block[linear]>
            - !new:torch.nn.GRU {input_size: 4, hidden_size: 3}
        copy: !copy <block>
        """
    )
    recipe = load_recipe(name, ["--seed=5"])
    resolved = hyperpyyaml.load_hyperpyyaml(recipe.resolved_yaml)
    original = load_recipe(
        project.write("recipes/b.yaml", recipe.resolved_yaml)
    ).hparams
    torch.manual_seed(5)
    linear, gru = torch.nn.Linear(4, 4), torch.nn.GRU(4, 3)
    by_hand = torch.nn.Sequential(linear, gru).state_dict()
    for hparams in (recipe.hparams, original, resolved):
        state = hparams["net"].state_dict()
        assert all(torch.equal(state[key], by_hand[key]) for key in by_hand)
        assert hparams["net"][0] is hparams["block"]["linear"]
        assert hparams["copy"]["linear"] is not hparams["block"]["linear"]
    ours, stock = recipe.hparams["copy"]["linear"], resolved["copy"]["linear"]
    assert torch.equal(ours.weight, stock.weight)


def test_resolved_recipe_still_takes_overrides(project):
    recipe = load_recipe(
        project.recipe(
            "output_folder: exp/a\nlog: !ref <output_folder>/log.txt\ndim: 3\n"
        ),
        ["--dim=4"],
    )
    again = load_recipe(
        project.write("exp/a/hyperparams.yaml", recipe.resolved_yaml),
        ["--output_folder=exp/b"],
    )
    assert again.hparams == {"output_folder": "exp/b", "log": "exp/b/log.txt", "dim": 4}


def test_hash_tells_what_is_trained_and_not_where(project):
    text = """
        output_folder: exp/a
        data_folder: d
        train_manifest: d/train.json
        tag: t
        log: !ref <output_folder>/log.txt
        dim: 4
        rate: 1
        part: !include:../hparams/fragments/f.yaml {dim: !ref <dim>}
        """
    project.fragment("f", "dim: !PLACEHOLDER\nrate: 0.5\n")
    base = load_recipe(project.recipe(text)).config_hash
    assert len(base) == 64

    def hash_with(*overrides):
        return load_recipe("recipes/a.yaml", overrides).config_hash

    assert base == hash_with("--output_folder=x", "--train_manifest=y", "--tag=z")
    assert base == hash_with("--rate=1", "--part.rate=0.5")
    changes = ["--dim=5", "--rate=2", "--part.rate=1", "--log=x", "--part.dim=5"]
    assert len({hash_with(change) for change in changes} | {base}) == 6


def test_numbers_survive_the_round_trip(project):
    numbers = [1e-05, 5e-4, 1e22, 1e-300, 0.1 + 0.2, -0.0, 3.0, 2**70, -7, 1.5e300]
    overrides = {f"n{i}": number for i, number in enumerate(numbers)}
    text = "\n".join(f"n{i}: null" for i in range(len(numbers)))
    recipe = load_recipe(project.recipe(text), overrides)
    again = load_recipe(project.write("recipes/b.yaml", recipe.resolved_yaml))
    assert [repr(v) for v in again.hparams.values()] == [repr(n) for n in numbers]


@pytest.mark.parametrize(
    "value",
    [
        *"#'\"-{*~=%@|>`",
        *("no", "1:30", "a: b", " x", "x ", "line\nline", "é ✓", "[", "!x", "&x"),
        *("null", "5e-4", "0x1", "<<", "a" * 300, "\t", "2024-01-01", "x:", ": y"),
        *("---", "...", "? a", "\\n"),
    ],
)
def test_texts_survive_the_round_trip(project, value):
    hyperpyyaml = pytest.importorskip("hyperpyyaml")
    name = project.recipe(
        "text: a\nlist: [a]\nsame: !ref <text>\njoined: !ref x/<text>"
    )
    recipe = load_recipe(name, {"text": value, "list": [value, value]})
    again = load_recipe(project.write("recipes/b.yaml", recipe.resolved_yaml)).hparams
    stock = hyperpyyaml.load_hyperpyyaml(recipe.resolved_yaml)
    expected = {
        "text": value, "list": [value, value], "same": value, "joined": f"x/{value}"
    }  # fmt: skip
    assert recipe.hparams == again == stock == expected


def test_constructor_that_fails_is_told_with_its_line(project, faults):
    got = faults("a: 1\nb: !new:fractions.Fraction [!ref <a>, 0]\n")
    assert got == ["line 2  !new:fractions.Fraction: ZeroDivisionError: Fraction(1, 0)"]


def test_nothing_is_built_while_there_is_a_fault(project, faults, monkeypatch):
    canary = project.folder / "canary"
    got = faults(
        f"a: !apply:os.mkdir [{canary}]\nb: !applyref:os.mkdir [{canary}]\n"
        "c: !ref <d>\n"
    )
    assert got == ["line 3  c: <d>: no key 'd'; known: a, b, c"]
    assert not canary.exists()


def test_applyref_gives_a_value_that_references_see(project):
    hyperpyyaml = pytest.importorskip("hyperpyyaml")
    name = project.recipe(
        """
        name: !applyref:os.path.basename [a/b]
        length: !applyref:len
            _args: [abc]
            _kwargs: {}
        path: !ref exp/<name>
        twice: !ref <length> * 2
        """
    )
    recipe = load_recipe(name)
    expected = {"name": "b", "length": 3, "path": "exp/b", "twice": 6}
    assert recipe.hparams == expected
    assert hyperpyyaml.load_hyperpyyaml(recipe.resolved_yaml) == expected


def test_keys_that_nothing_reads_and_keys_that_are_missing(project, faults):
    text = """
        seed: 1
        __set_seed: !apply:random.seed [!ref <seed>]
        device: cpu
        lernin_rate: 0.1
        nothing: 3
        bag: !new:collections.Counter {a: 1}
        used: !new:collections.Counter {a: 1}
        section: {a: 1, b: 2}
        modules: {used: !ref <used>, x: !ref '<section[a]>'}
        part: !include:../hparams/fragments/f.yaml {dim: 2}
        opt: !ref <part[thing]>
        """
    project.fragment("f", "dim: !PLACEHOLDER\nextra: 3\nthing: !ref <dim>\n")
    got = faults(text, required=["modules", "learning_rate", "gone"], optional=["opt"])
    unread = "no reference names it and the task does not read it"
    assert got == [
        "whole file  missing key 'gone': the task needs it",
        "line 4  lernin_rate: unknown key; did you mean 'learning_rate'?",
        f"line 5  nothing: unused: {unread}",
        f"line 6  bag: unused: {unread}",
        f"line 8  section.b: unused: {unread}",
        f"hparams/fragments/f.yaml line 2  part.extra: unused: {unread}",
    ]
    assert faults(text) == []  # nobody said what is read


def test_a_misspelt_key_is_told_and_not_those_who_refer_to_the_right_one(faults):
    text = """
        learning_rte: 0.1
        opt: {lr: !ref <learning_rate>, again: !ref <learning_rate> * 2}
        """
    no_key = "<learning_rate>: no key 'learning_rate'; line 1 has 'learning_rte'"
    assert faults(text, required=["opt"]) == [
        "line 1  learning_rte: unknown key; did you mean 'learning_rate'?",
        f"line 2  opt.lr: {no_key}",
        f"line 2  opt.again: {no_key}",
    ]


def test_task_module_declares_its_keys_without_being_imported(
    project, faults, monkeypatch
):
    project.write("my_tasks/__init__.py", "raise RuntimeError('imported')")
    project.write(
        "my_tasks/codec.py",
        "import torch\nREQUIRED_KEYS = ('modules',)\nOPTIONAL_KEYS = ['limit']\n"
        "raise RuntimeError('imported')",
    )
    monkeypatch.syspath_prepend(project.folder)
    assert faults("task: my_tasks.codec\nmodules: {}\nlimit: 3") == []
    assert faults("task: my_tasks.codec\nlimt: 3") == [
        "whole file  missing key 'modules': my_tasks.codec needs it",
        "line 2  limt: unknown key; did you mean 'limit'?",
    ]
    assert faults("task: my_tasks.codex") == [
        "line 1  task: no module 'my_tasks.codex'"
    ]


VALUES = (
    "1", "2.5", "5e-4", "abc", "true", "null", "'007'", "[1, 2]", "{x: 1, y: 2}",
    "(1, 2)", "-5", "''", "2024-01-01", "'<k1>'", "!ref <k0>", "!ref <k1>",
    "!ref <k2> * 2", "!ref x/<k3>", "!ref <k4[x]>", "!copy <k1>", "!copy <k2>",
    "!new:collections.Counter", "!new:collections.Counter {a: !ref <k0>}",
    "!name:collections.Counter {b: !ref <k3>}", "!ref <k1.total>", "!ref <k0><k1>",
    "!apply:os.path.join [a, b]", "!applyref:os.path.join [a, !ref <k5>]",
    "!ref <k5>-<k0>", "!ref <k5> - <k0>", "[!ref <k1>, !ref <k2>]", "!ref <k6[p]>",
    "{p: !ref <k6>, q: {r: !ref <k3>}}", "!ref (<k0> + <k1>) * 2", "!ref <k7>",
)  # fmt: skip


def shared(value, path=(), seen=None) -> list:
    """Places that hold an object seen before, and where it was seen first."""
    seen = {} if seen is None else seen
    if not isinstance(value, (dict, list)):
        return []
    if id(value) in seen:
        return [(path, seen[id(value)])]
    seen[id(value)] = path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [hit for key, item in items for hit in shared(item, (*path, key), seen)]


@hypothesis.settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(values=st.lists(st.sampled_from(VALUES), min_size=8, max_size=8))
def test_any_recipe_is_refused_or_resolves_to_what_hyperpyyaml_builds(project, values):
    hyperpyyaml = pytest.importorskip("hyperpyyaml")
    text = "".join(f"k{i}: {value}\n" for i, value in enumerate(values))
    name = project.write("recipes/a.yaml", text)
    try:
        recipe = load_recipe(name)
    except ConfigError:
        return
    again = load_recipe(project.write("recipes/b.yaml", recipe.resolved_yaml))
    stock = hyperpyyaml.load_hyperpyyaml(recipe.resolved_yaml)
    assert (again.resolved_yaml, again.config_hash) == (
        recipe.resolved_yaml,
        recipe.config_hash,
    )
    assert shared(recipe.hparams) == shared(stock)
    assert re.sub("0x[0-9a-f]+", "", repr(recipe.hparams)) == re.sub(
        "0x[0-9a-f]+", "", repr(dict(stock))
    )
