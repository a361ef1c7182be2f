"""Overrides, presets and run options: what is typed is what is set, or an error."""

import collections
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, example, settings
from hypothesis import strategies as st

from speechbrain_ext.config import ConfigError, load_command_line, parse_command_line
from speechbrain_ext.config.run_options import RUN_OPTIONS
from tests.config.allowed import load_recipe, plan_recipe

RECIPE = """
    seed: 1
    tag: first
    url: null
    learning_rate: 0.001
    steps: 3
    shuffle: false
    sizes: [1, 2]
    words: [x]
    shape: (3, 4)
    max_grad: 2.0
    n: 1
    a: 1
    flag: false
    x: 1
    zz: null
    data_folder: !PLACEHOLDER
    limit: !PLACEHOLDER int
    bag: !new:collections.Counter
        apples: !ref <a>
        pears: 2
    pair: [!new:collections.Counter {b: 1}, 5]
    section:
        depth: 4
        inner: {width: 8}
    ref_bag: !ref <bag>
"""
FILLED = ("--data_folder=d", "--limit=9")


@pytest.fixture
def load(project):
    name = project.recipe(RECIPE)

    def call(*overrides, **kwargs):
        return load_recipe(name, [*FILLED, *overrides], **kwargs)

    return call


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--url=http://a/b?x=1&y=2"], "url", "http://a/b?x=1&y=2"),
        (["--max_grad=7"], "max_grad", 7.0),
        (["--n=3"], "n", 3),
        (["--a=5"], "a", 5),
        (["--flag", "--x=2"], "flag", True),
        (["--flag", "--x=2"], "x", 2),
        (["--flag=false"], "flag", False),
        (["--flag", "true"], "flag", True),
        (["--tag=exp #1"], "tag", "exp #1"),
        (["--tag=a: b"], "tag", "a: b"),
        (["--tag=007"], "tag", "007"),
        (["--tag=null"], "tag", "null"),
        (["--tag=[1, 2]"], "tag", "[1, 2]"),
        (["--tag="], "tag", ""),
        (["--tag", "2024-01-01"], "tag", "2024-01-01"),
        (["--tag=a=b=c"], "tag", "a=b=c"),
        (["--tag=తెలుగు"], "tag", "తెలుగు"),
        (["--zz=exp #1"], "zz", "exp #1"),
        (["--zz=a: b"], "zz", "a: b"),
        (["--zz=2024-01-01"], "zz", "2024-01-01"),
        (["--zz='5'"], "zz", "5"),
        (["--zz=-1"], "zz", -1),
        (["--zz=[1, 5e-4, a b]"], "zz", [1, 0.0005, "a b"]),
        (["--learning_rate=5e-4"], "learning_rate", 0.0005),
        (["--learning-rate", "5e-4"], "learning_rate", 0.0005),
        (["--learning_rate=1"], "learning_rate", 1.0),
        (["--learning_rate=1", "--learning_rate=2"], "learning_rate", 2.0),
        (["--steps", "-1"], "steps", -1),
        (["--steps=null"], "steps", None),
        (["--sizes=[4]"], "sizes", [4]),
        (["--sizes.1=7"], "sizes", [1, 7]),
        (["--words=[007, a b]"], "words", ["007", "a b"]),
        (["--shape=(5, 6, 7)"], "shape", (5, 6, 7)),
        (["--data_folder=007"], "data_folder", "007"),
        (["--section.depth=5"], "section", {"depth": 5, "inner": {"width": 8}}),
        (["--section.inner.width=5"], "section", {"depth": 4, "inner": {"width": 5}}),
        (["--bag.pears=5"], "bag", collections.Counter(apples=1, pears=5)),
        (["--bag.apples=5"], "bag", collections.Counter(apples=5, pears=2)),
        (["--pair.0.b=5"], "pair", [collections.Counter(b=5), 5]),
    ],
)
def test_value_arrives_as_typed(load, words, key, value):
    got = load(*words).hparams[key]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.golden("overrides")
def test_bad_argument_has_a_message_of_its_own(load, lines, given, says):
    with pytest.raises(ConfigError) as error:
        load(*given)
    assert lines(error) == [f"command line  {message}" for message in says]
    assert error.value.exit_code == 2


def test_all_faults_are_told_at_once(load):
    with pytest.raises(ConfigError) as error:
        load("--stps=1", "junk", "--flag=3", presets=["nosuch"])
    assert str(error.value).startswith("config error (4 problems) in recipes/a.yaml\n")


def test_dict_overrides_are_held_to_the_same_rules(project):
    name = project.recipe(RECIPE)
    filled = {"data_folder": project.folder, "limit": 1}
    given = {**filled, "bag.pears": 7, "section": {"inner": {"width": 1}}, "tag": "t"}
    hparams = load_recipe(name, given).hparams
    assert hparams["bag"]["pears"] == 7
    assert hparams["section"]["inner"] == {"width": 1}
    assert hparams["data_folder"] == str(project.folder)
    for key, value in [("steps", "3"), ("tag", 3), ("zz", object()), ("bag", {"b": 1})]:
        with pytest.raises(ConfigError):
            load_recipe(name, {**filled, key: value})


def test_run_options_are_matched_whole_and_kept_apart_from_keys(load):
    recipe = load("--device", "cpu", "--debug", "--max_grad=7", "--precision=bf16")
    assert recipe.run_opts == {"device": "cpu", "debug": True, "precision": "bf16"}
    assert recipe.hparams["max_grad"] == 7.0
    assert "device" not in recipe.hparams


def test_run_option_that_is_a_key_too_sets_both(project):
    name = project.recipe("precision: fp32\nalso: !ref <precision>")
    recipe = load_recipe(name, ["--precision=bf16"])
    assert recipe.hparams == {"precision": "bf16", "also": "bf16"}
    assert recipe.run_opts == {"precision": "bf16"}


def test_flag_does_not_swallow_the_next_word(load, lines):
    with pytest.raises(ConfigError) as error:
        load("--debug", "junk")
    assert lines(error) == [
        "command line  'junk': an argument must look like --key=value"
    ]


def test_run_options_are_speechbrains():
    run_opts = pytest.importorskip("speechbrain.utils.run_opts")
    parser = run_opts.RunOptions._create_parser()
    actions = {
        a.dest: a for a in parser._actions if a.dest not in ("help", "param_file")
    }
    assert set(RUN_OPTIONS) == set(actions)
    for name, action in actions.items():
        ours = RUN_OPTIONS[name]
        assert (ours is bool) == (action.nargs == 0), name
        assert (ours is list) == (action.nargs == "*"), name
        if action.type in (int, float) and not isinstance(ours, tuple):
            assert ours is action.type, name
    from_dict = run_opts.RunOptions.from_dictionary({"device": "cpu", "debug": True})
    assert from_dict.overridden_args == {"device", "debug"}


def test_preset_comes_between_yaml_and_command_line(project, load):
    project.preset(
        "safe",
        """
        learning_rate: 1e-5
        steps: 7
        bag.pears: 8
        section: {depth: 9}
        tag: 007
        sizes: [5]
        precision: fp32
        """,
    )
    recipe = load("--steps=8", presets=["safe"])
    assert recipe.hparams["learning_rate"] == 1e-5
    assert recipe.hparams["steps"] == 8
    assert recipe.hparams["bag"]["pears"] == 8
    assert recipe.hparams["section"]["depth"] == 9
    assert recipe.hparams["tag"] == "007"
    assert recipe.hparams["sizes"] == [5]
    assert recipe.run_opts == {"precision": "fp32"}
    assert load(presets=["hparams/presets/safe.yaml"]).hparams["steps"] == 7


def test_preset_multiplies_the_number_that_the_recipe_has(project, load):
    project.preset("half", 'steps: "* 0.5"\nlearning_rate: "* 0.5"')
    plain = load().hparams
    half = load(presets=["half"]).hparams
    assert half["learning_rate"] == plain["learning_rate"] * 0.5
    assert half["steps"] == max(1, plain["steps"] // 2)
    assert type(half["steps"]) is int
    assert load(presets=["half", "half"]).hparams["learning_rate"] == (
        plain["learning_rate"] * 0.25
    )


def test_preset_multiplies_a_key_that_is_a_run_option_too(project, load, lines):
    project.preset("tight", 'max_grad_norm: "* 0.2"')
    project.preset("one", "max_grad_norm: 1.0")
    with pytest.raises(ConfigError) as caught:  # nothing there to multiply
        load(presets=["tight"])
    assert "no such key" in lines(caught)[0]
    root = Path(__file__).parents[2] / "recipes" / "codec" / "transform.yaml"
    plan = plan_recipe(root, presets=["ultrasafe", "tight_clip"], open_inputs=True)
    assert plan.run_opts["max_grad_norm"] == 0.2
    assert plan.root.value["max_grad_norm"].value == 0.2


def test_preset_multiplies_numbers_only(project, load, lines):
    project.preset("half", 'tag: "* 0.5"')
    with pytest.raises(ConfigError) as caught:
        load(presets=["half"])
    assert "only a number can be multiplied" in lines(caught)[0]


def test_preset_key_that_does_not_fit_is_an_error_with_its_line(project, load, lines):
    project.preset(
        "safe", "seed: 2\nlernin_rate: 1\nbag: !new:os.system []\nsteps: x\n"
    )
    with pytest.raises(ConfigError) as error:
        load(presets=["safe"])
    file = "hparams/presets/safe.yaml"
    assert lines(error) == [
        f"{file} line 2  lernin_rate: no key 'lernin_rate'; did you mean "
        "'learning_rate' (recipes/a.yaml line 4)?",
        f"{file} line 3  bag: a preset holds plain scalars and lists of them",
        f"{file} line 4  steps: needs a whole number like 3; got 'x' "
        "(recipes/a.yaml line 5)",
    ]


def test_unknown_preset_names_the_nearest(project, load, lines):
    project.preset("ultrasafe", "seed: 2")
    with pytest.raises(ConfigError) as error:
        load(presets=["ultrasaf", "no/such.yaml"])
    assert lines(error) == [
        "command line  --preset ultrasaf: unknown preset; did you mean 'ultrasafe'?",
        "command line  --preset no/such.yaml: no such file",
    ]


def test_command_line_splits_into_its_parts(project):
    command = parse_command_line(
        ["r.yaml", "--preset", "safe", "--preset=low_lr", "--a.b", "1", "--debug"]
    )
    assert str(command.recipe) == "r.yaml"
    assert command.overrides == ["--a.b", "1", "--debug"]
    assert command.presets == ["safe", "low_lr"]
    assert command.run_opts == {"debug": True}


def test_words_of_a_list_option_end_at_the_next_option():
    command = parse_command_line(["r.yaml", "--jit_module_keys", "a", "b", "--jit"])
    assert command.run_opts == {"jit_module_keys": ["a", "b"], "jit": True}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seed=1", "a.yaml"], "--seed=1: the recipe comes first"),
        (["a.yaml", "--preset"], "--preset: needs a name"),
        (["a.yaml", "--preset="], "--preset: needs a name"),
        (["a.yaml", "b.yaml"], "'b.yaml': an argument must look like --key=value"),
    ],
)
def test_command_line_out_of_shape_is_an_error(argv, message):
    with pytest.raises(ConfigError, match=message):
        parse_command_line(argv)


def test_help_ends_with_exit_code_0(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_command_line(["--help"], program="train.py")
    assert ended.value.code == 0
    assert "train.py RECIPE.yaml" in capsys.readouterr().out


def test_load_command_line_reports_grammar_and_recipe_together(project):
    name = project.recipe(RECIPE)
    words = [name, "--preset", "--stps=1", "--allow=collections.Counter"]
    with pytest.raises(ConfigError, match=r"\(4 problems\)"):  # and two open inputs
        load_command_line(words)


KEYS = st.sampled_from(
    "seed tag url steps shuffle sizes words shape zz bag bag.pears section.inner.width "
    "pair.0.b limit device debug precision sizes.0 nope section. .a a..b".split()
)
YAMLISH = st.text(alphabet="aZ01.,:#=-+e_ []{}()!&*<>'\"\\%@|\n\té~/", max_size=20)
WORDS = st.one_of(
    st.text(max_size=12),
    st.builds("--{}={}".format, KEYS, YAMLISH),
    st.builds("--{}={}".format, st.text(max_size=5), YAMLISH),
    st.builds("--{}".format, KEYS),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@hypothesis.given(words=st.lists(WORDS, max_size=4))
@example(["--zz=" + "[" * 2000])
@example(["--steps=" + "9" * 5000])
@example(["--learning_rate=" + "9" * 400])
@example(["--zz=!!int x"])
@example(["--tag=\x00"])
def test_no_override_ever_raises_anything_but_config_error(load, words):
    try:
        recipe = load(*words)
    except ConfigError as error:
        assert error.faults  # noqa: PT017
    else:
        assert recipe.hparams["seed"] is None or type(recipe.hparams["seed"]) is int
