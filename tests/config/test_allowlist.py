"""What a recipe may name: the lists, their agreement with the code, and a person's."""

import ast
import csv
import functools
import json
import os
from pathlib import Path

import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.config import ConfigError, load_recipe
from speechbrain_ext.config.allowlist import AllowList
from speechbrain_ext.config.allowlist.draft import NAMESPACES, draft
from speechbrain_ext.config.allowlist.judge import home_of, listed
from speechbrain_ext.config.allowlist.lists import (
    FOLDER,
    read_names,
    read_places,
    read_refusals,
    refusal_of,
)
from speechbrain_ext.config.allowlist.memory import remember, remembered
from speechbrain_ext.config.inspection import inspect_recipe
from speechbrain_ext.config.keys import module_file
from speechbrain_ext.config.loader import plan_recipe
from speechbrain_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BODIES = (ast.ClassDef, ast.FunctionDef)


def speechbrain_rows():
    text = (FOLDER / "speechbrain_recipes.tsv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return list(csv.reader(lines, delimiter="\t"))


# --- the lists --------------------------------------------------------------------


def test_every_name_of_speechbrains_own_recipes_is_decided_as_the_table_says():
    rows = speechbrain_rows()
    assert len(rows) > 320
    allowed = AllowList()
    for tag, name, verdict, *reason in rows:
        said = allowed.text_fault(tag, name)
        if verdict == "allowed":
            assert said is None, name
        else:
            assert reason
            assert AllowList([name]).text_fault(tag, name) is None
        if verdict in ("refused", "top"):
            assert said.startswith(f"refused, it {reason[0]}")
            assert said.endswith("unless you wrote it: docs/configuration.md")
            assert "--allow" not in said
            assert (allowed.text_fault(tag, name, top=True) is None) == (
                verdict == "top"
            )
        elif verdict in ("absent", "unlisted"):
            assert said.startswith("not on the allow-list")
            assert f"--allow {name}" in said


def test_names_that_are_called_absent_are_in_no_installed_module():
    for _, name, verdict, *_ in speechbrain_rows():
        if verdict == "absent":
            owner, _, last = name.rpartition(".")
            path = module_file(owner)
            defined = set()
            if path is not None:
                tree = ast.parse(path.read_text(encoding="utf-8"))
                defined = {n.name for n in tree.body if isinstance(n, BODIES)}
            assert last not in defined


def test_places_are_where_the_signatures_have_them():
    """A place that may be given by position is one there, too."""
    for name, places in read_places().items():
        owner, _, last = name.rpartition(".")
        path = module_file(owner)
        if path is None:  # a method, or a package that is not installed
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        [found] = [n for n in tree.body if isinstance(n, BODIES) and n.name == last]
        inits = [n for n in ast.walk(found) if getattr(n, "name", "") == "__init__"]
        if isinstance(found, ast.ClassDef) and not inits:  # a dataclass of keywords
            continue
        arguments = (inits or [found])[0].args
        order = [a.arg for a in arguments.args if a.arg != "self"]
        for place in places:
            if place.argument in order and place.position is not None:
                assert order[place.position] == place.argument, (name, place)
            else:
                assert place.position is None, (name, place)
                assert place.argument not in order or place.role == "read", name


def test_our_own_rooms_are_listed_as_they_are():
    """A new public name is a decision: namespaces.txt or refused.tsv."""
    ours = [name for name in NAMESPACES if name.startswith("speechbrain_ext.")]
    drafted = draft(ours)
    shipped = {
        name: home
        for name, home in read_names("namespaces.txt").items()
        if name.startswith("speechbrain_ext.")
    }
    assert drafted == shipped, (
        "type: python -m speechbrain_ext.config.allowlist.draft > "
        "speechbrain_ext/config/allowlist/namespaces.txt, and look at the difference"
    )


def test_nothing_that_is_refused_is_listed_but_by_hand():
    refusals = read_refusals()
    for name, home in read_names("namespaces.txt").items():
        assert refusal_of(name, refusals) is None, name
        assert refusal_of(home, refusals) is None, name
    by_hand = {
        name
        for name in {*read_names("exact.txt"), *read_names("calls.txt")}
        if refusal_of(name, refusals)
    }
    assert by_hand == {
        "huggingface_hub.constants.HUGGINGFACE_HUB_CACHE",
        "operator.not_",
        "speechbrain.integrations.k2_fsa.losses.ctc_k2",
        "speechbrain.integrations.nlp.bleu.BLEUStats",
        "speechbrain.utils.data_utils.scalarize",
        "speechbrain.utils.data_utils.undo_padding",
    }


def test_every_place_is_an_argument_and_writes_nowhere_by_itself():
    """What is not given must write nothing: its default is None, or it has none."""
    for name, places in read_places().items():
        signature = arguments_of(name)
        for place in places:
            if not signature:
                continue  # a compiled or generated signature
            assert place.argument in signature, f"{name}: {place.argument}"
            position, default = signature[place.argument]
            assert place.position in (None, position), f"{name}: {place.argument}"
            if place.role == "write":
                assert default in ("required", "None"), f"{name}: {place.argument}"


def arguments_of(name):
    """Argument -> position and default, from the source."""
    parts = name.split(".")
    while parts and module_file(".".join(parts)) is None:
        parts.pop()
    if not parts:
        return None
    body = ast.parse(module_file(".".join(parts)).read_text(encoding="utf-8")).body
    wanted = name.split(".")[len(parts) :]
    if not wanted:
        return None
    found = None
    for part in wanted:
        found = next((n for n in body if getattr(n, "name", "") == part), None)
        if found is None:
            return None
        body = found.body
    if isinstance(found, ast.ClassDef):
        fields = [n for n in body if isinstance(n, ast.AnnAssign)]
        found = next((n for n in body if getattr(n, "name", "") == "__init__"), None)
        if found is None:
            return fields and {
                n.target.id: (
                    number, "required" if n.value is None else ast.unparse(n.value)
                )
                for number, n in enumerate(fields)
            }  # fmt: skip
    given = [*found.args.posonlyargs, *found.args.args]
    defaults = ["required"] * (len(given) - len(found.args.defaults))
    defaults += [ast.unparse(d) for d in found.args.defaults]
    skipped = 1 if given and given[0].arg in ("self", "cls") else 0
    return {
        argument.arg: (number - skipped, default)
        for number, (argument, default) in enumerate(zip(given, defaults, strict=True))
    }


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("!new", "torch.nn.Linear"),
        ("!new", "torch.nn.modules.linear.Linear"),
        ("!name", "torch.nn.functional.conv1d"),
        ("!name", "torch.optim.AdamW"),
        ("!new", "torchaudio.transforms.MelSpectrogram"),
        ("!new", "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN"),
        ("!new", "speechbrain.lobes.models.ECAPA_TDNN.AttentiveStatisticsPooling"),
        ("!name", "speechbrain.nnet.losses.nll_loss"),
        ("!new", "speechbrain_ext.models.SpeakerEncoder"),
        ("!apply", "speechbrain.utils.seed_everything"),
        ("!applyref", "speechbrain.utils.hparams.choice"),
        ("task", "speechbrain_ext.tasks.speaker"),
    ],
)
def test_what_recipes_are_made_of_is_listed(tag, name):
    assert AllowList().text_fault(tag, name) is None


def test_listed_names_lead_where_the_list_says():
    from speechbrain_ext.config.signatures import locate

    allowed = AllowList()
    for name in (
        "torch.nn.Linear",
        "torch.nn.functional.conv1d",
        "torch.nn.functional.max_pool1d",
        "torch.optim.Adafactor",
        "speechbrain.decoders.CTCBeamSearcher",
        "speechbrain.lobes.features.Fbank",
        "speechbrain_ext.brain.NonFinitePolicy",
        "torch.bfloat16",
    ):
        assert allowed.object_fault("!name", name, locate(name)) is None
        assert "leads to" in allowed.object_fault("!name", name, os.system)
        assert "leads to" in allowed.object_fault("!name", name, os)


# --- what a person allows ---------------------------------------------------------


def test_a_prefix_reaches_what_is_below_and_nothing_that_is_refused():
    allowed = AllowList(["mine.*, torch.*", "mine.*"])
    assert allowed.extra == ("mine.*", "torch.*")
    assert allowed.text_fault("!new", "mine.deep.Net") is None
    assert allowed.text_fault("!module", "mine") is None
    assert allowed.text_fault("!new", "minerva.Net") is not None
    assert allowed.text_fault("!apply", "torch.load").startswith("refused")
    assert allowed.text_fault("!apply", "torch.arange") is None
    assert AllowList(["torch.load"]).text_fault("!apply", "torch.load") is None


@pytest.mark.parametrize(
    "name", ["", "*", ".*", "a b", "a.", "a..b", "a*", "о.x", "-x"]
)
def test_what_is_no_name_cannot_be_allowed(name):
    with pytest.raises(UserError, match="must be a dotted name"):
        AllowList([name])


def test_home_is_told_of_whatever_a_name_may_lead_to():
    class Local:
        def method(self):
            return None

    assert home_of(os) == "os"
    assert home_of(os.system) == "posix.system"
    assert home_of(functools.partial(functools.partial(os.system, "x"))) == (
        "posix.system"
    )
    assert home_of(Local().method).endswith("Local.method")
    assert home_of(Local()).endswith("Local")
    assert home_of([1, {"a": os.system}]) == "posix.system"
    assert home_of({}.keys) == "builtins.dict.keys"
    assert home_of((1, "a", None)) is None


def test_allow_on_the_command_line_lets_a_recipe_load(project, capsys):
    name = project.recipe("bag: !new:click.Choice {choices: [a]}")
    assert run(cli, ["check", name], "speechbrain-ext") == 2
    typed = capsys.readouterr().err.partition("trust it: ")[2].split()
    assert typed == ["--allow", "click.Choice"]
    assert run(cli, ["check", name, *typed], "speechbrain-ext") == 0
    assert load_recipe(name, allow=[typed[1]]).allow == ("click.Choice",)


def test_what_is_refused_outright_loads_by_its_name_which_no_message_proposes(
    project, capsys
):
    name = project.recipe("bag: !new:collections.Counter {a: 1}")
    assert run(cli, ["check", name], "speechbrain-ext") == 2
    assert "--allow" not in capsys.readouterr().err
    load_recipe(name, allow=["collections.Counter"])


@pytest.fixture
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


def test_what_was_allowed_is_remembered_for_the_experiment_only(project, home):
    text = "bag: !new:collections.Counter {a: 1}\n"
    name = project.write("exp/a/hyperparams.yaml", text)
    folder = project.folder / "exp" / "a"
    with pytest.raises(ConfigError, match="check --remember exp/a/hyperparams.yaml"):
        load_recipe(name)
    assert remember(folder, ["collections.Counter"])
    assert load_recipe(name).hparams["bag"]["a"] == 1
    assert (home / "speechbrain_ext" / "allow.key").stat().st_mode & 0o077 == 0
    folder.rename(project.folder / "moved")
    moved = project.folder / "moved" / "hyperparams.yaml"
    assert remembered(moved) == ("collections.Counter",)
    other = moved.with_name("other.yaml")
    other.write_text(text)
    with pytest.raises(ConfigError):
        load_recipe(other)
    moved.write_text(text.replace("1", "2"))
    assert remembered(moved) == ()  # of another recipe nothing was allowed
    assert remember(moved.parent, [])
    assert not (moved.parent / "allow.json").exists()


def test_the_stages_after_training_know_what_was_allowed(project, home):
    from speechbrain_ext.tasks.conditions import trained_recipe

    folder = project.folder / "exp" / "a"
    text = "output_folder: exp/a\nbag: !new:collections.Counter {a: 1}\n"
    project.write("exp/a/hyperparams.yaml", text)
    with pytest.raises(ConfigError):
        trained_recipe(folder, "evaluate")
    remember(folder, ["collections.Counter"])
    assert trained_recipe(folder, "evaluate").allow == ("collections.Counter",)


@pytest.mark.parametrize(
    "forged",
    [
        {"allow": ["os.system"]},
        {"allow": ["os.system"], "code": ""},
        {"allow": ["os.system"], "code": "0" * 64},
        {"allow": ["os.system"], "code": None},
        {"allow": "os.system", "code": "0" * 64},
        [],
        "os.system",
    ],
)
def test_a_strangers_experiment_allows_nothing(project, home, forged):
    canary = project.folder / "canary"
    text = f"a: !apply:os.system [touch {canary}]\n"
    name = project.write("exp/a/hyperparams.yaml", text)
    project.write("exp/a/allow.json", json.dumps(forged))
    with pytest.raises(ConfigError, match="os.system"):
        load_recipe(name)
    # Neither does one that another user signed.
    os.environ["XDG_STATE_HOME"] = str(home / "stranger")
    remember(project.folder / "exp" / "a", ["os.system"])
    os.environ["XDG_STATE_HOME"] = str(home)
    with pytest.raises(ConfigError, match="os.system"):
        load_recipe(name)
    assert not canary.exists()


def test_remember_is_for_experiments(project, home, capsys):
    name = project.recipe("bag: !new:collections.Counter {a: 1}")
    words = ["check", "--remember", name, "--allow=collections.Counter"]
    assert run(cli, words, "speechbrain-ext") == 2
    assert "only the hyperparams.yaml" in capsys.readouterr().err
    name = project.write("exp/a/hyperparams.yaml", "bag: !new:collections.Counter {}")
    words[2] = name
    assert run(cli, words, "speechbrain-ext") == 0
    assert load_recipe(name).hparams["bag"] == {}


# --- where it writes --------------------------------------------------------------

LOGGER = "!new:speechbrain.utils.train_logger.FileTrainLogger"


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (f"output_folder: exp\nlog: {LOGGER} [exp/a/../log.txt]", []),
        (f"output_folder: exp\nlog: {LOGGER} [!ref '<output_folder>/log.txt']", []),
        ("output_folder: exp\nlog: " + LOGGER + " {save_file: x}",
         ["--log.save_file=/x"]),
        (f"output_folder: !PLACEHOLDER\nlog: {LOGGER} [!ref '<output_folder>/l']",
         ["--output_folder=/somewhere/else"]),
        ("base: a\noutput_folder: !ref <base>/b", ["--base=/somewhere"]),
        (f"output_folder: exp\nsave_folder: x\nlog: {LOGGER} [!ref '<save_folder>/l']",
         ["--save_folder=/scratch"]),
    ],
)  # fmt: skip
def test_a_place_in_the_experiment_or_given_by_a_person_is_right(
    project, text, overrides
):
    assert plan_recipe(project.recipe(text), overrides).faults == []


def test_an_experiment_may_name_its_own_folder(project):
    folder = project.folder / "exp" / "a"
    text = f"output_folder: {folder}\n"
    assert plan_recipe(project.write("exp/a/hyperparams.yaml", text)).faults == []
    assert plan_recipe(project.write("exp/b/hyperparams.yaml", text)).faults != []


def test_downloads_go_into_a_folder_that_a_person_gives(project):
    text = """
        output_folder: exp
        data_folder: {folder}
        fetch: !name:speechbrain.augment.preparation.prepare_dataset_from_URL
            URL: https://a.b/c.zip
            dest_folder: !ref <data_folder>/noise
            csv_file: !ref <output_folder>/noise.csv
    """
    name = project.recipe(text.replace("{folder}", "!PLACEHOLDER"))
    assert plan_recipe(name, ["--data_folder=/data"]).faults == []
    assert plan_recipe(name, ["--data_folder=/data"], open_inputs=True).faults == []
    [fault] = plan_recipe(project.recipe(text.replace("{folder}", "/data"))).faults
    assert "dest_folder: /data/noise is outside" in fault.message


# --- inspect ----------------------------------------------------------------------


def test_inspect_tells_what_loading_would_do_and_does_nothing(project):
    project.fragment("f", "dim: !PLACEHOLDER\nnet: !new:torch.nn.Linear [1, 2]\n")
    name = project.recipe(
        """
        output_folder: !PLACEHOLDER
        __seed: !apply:torch.manual_seed [1]
        f: !include:../hparams/fragments/f.yaml {dim: 1}
        opt: !name:torch.optim.Adam {lr: 0.1}
        log: !new:speechbrain.utils.train_logger.FileTrainLogger
            save_file: !ref <output_folder>/log.txt
        noise: !new:speechbrain.augment.time_domain.AddNoise {csv_file: noise.csv}
        pretrained: !new:speechbrain.utils.parameter_transfer.Pretrainer
            collect_in: /elsewhere
            paths: {net: https://a.b/net.ckpt}
        evil: !apply:os.system [touch canary]
        wrong: !ref <no_key>
        """
    )
    found = inspect_recipe(name)
    assert [item.what for item in found.calls] == ["torch.manual_seed", "os.system"]
    assert [bool(item.refused) for item in found.calls] == [False, True]
    assert [item.why for item in found.prepares] == ["opt"]
    assert found.constructs[0].why == "f.net"
    assert found.constructs[0].where.file == "hparams/fragments/f.yaml"
    assert [item.what for item in found.writes] == [
        "{output_folder}/log.txt",
        "/elsewhere",
    ]
    assert [item.what for item in found.reads] == [
        name,
        "hparams/fragments/f.yaml",
        "noise.csv",
    ]
    assert [item.what for item in found.fetches] == ["https://a.b/net.ckpt"]
    assert "torch.nn.modules.linear" in found.imports
    assert "os" not in found.imports
    assert [fault.where.line for fault in found.refused] == [9, 11]
    assert [fault.where.line for fault in found.faults] == [12]
    text = "\n".join(found.lines())
    assert "line 11  evil: os.system  REFUSED" in text
    assert "line 12  wrong: <no_key>: no key 'no_key'" in text
    assert json.loads(json.dumps(found.as_dict()))["calls"][1]["line"] == 11
    assert not (project.folder / "canary").exists()


@pytest.mark.parametrize("mode", ["disabled", "offline", "online", "!ref <tag>"])
def test_inspect_tells_what_the_tasks_keys_make_a_script_do(project, mode):
    name = project.recipe(
        f"""
        task: speechbrain_ext.tasks.codec
        tag: shared
        output_folder: !PLACEHOLDER
        save_folder: !ref <output_folder>/save
        train_manifest: a.json
        init_from: other/save
        tensorboard: true
        wandb: {mode}
        """
    )
    found = inspect_recipe(name)
    sent = [item.what for item in found.sends]
    assert bool(sent) == (mode not in ("disabled", "offline"))
    assert ("SENDS TO OTHER MACHINES" in "\n".join(found.lines())) == bool(sent)
    written = {item.what for item in found.writes}
    folder = "{output_folder}"
    assert {folder, f"{folder}/save", f"{folder}/tensorboard"} <= written
    lines = found.lines()
    assert any("line 3  key output_folder: {output_folder}" in line for line in lines)
    assert "command line" not in "\n".join(lines)  # nothing was typed
    typed = inspect_recipe(name, ["--output_folder=exp/x"]).lines()
    assert any("command line  key output_folder: exp/x" in line for line in typed)
    assert (f"{folder}/wandb" in written) == (mode != "disabled")
    assert {"a.json", "other/save"} <= {item.what for item in found.reads}
    assert found.as_dict()["sends"] == [
        {"what": sent[0], "why": "key wandb", "file": name, "line": 8} for _ in sent
    ]


def test_a_planted_file_of_permissions_allows_nothing_and_ends_nothing(project):
    project.write("exp/a/hyperparams.yaml", "a: !apply:os.system [touch canary]\n")
    for text in ("[" * 10**5, "[]", '{"allow": ["os.system"], "code": "\u00e9"}'):
        project.write("exp/a/allow.json", text)
        assert remembered(Path("exp/a/hyperparams.yaml")) == ()
        with pytest.raises(ConfigError, match="refused, it runs commands"):
            load_recipe("exp/a/hyperparams.yaml")


def test_inspect_of_an_experiment_names_its_recipe(project):
    project.write("exp/a/hyperparams.yaml", "seed: 1\n")
    text = "\n".join(inspect_recipe("exp/a").lines())
    assert "a folder; its recipe is exp/a/hyperparams.yaml" in text
    assert "nothing is refused" not in text


def test_inspect_command_exits_2_where_something_is_refused(project, capsys):
    good = project.recipe("a: !new:torch.nn.Linear [1, 2]")
    assert run(cli, ["inspect", good, "--json"], "speechbrain-ext") == 0
    assert json.loads(capsys.readouterr().out)["constructs"][0]["why"] == "a"
    bad = project.recipe("a: !apply:os.system [x]")
    assert run(cli, ["inspect", bad], "speechbrain-ext") == 2
    assert run(cli, ["inspect", bad, "--allow=os.system"], "speechbrain-ext") == 0
    assert run(cli, ["inspect"], "speechbrain-ext") == 2


# --- check --all ------------------------------------------------------------------


def test_every_file_of_this_tree_is_without_faults(capsys):
    words = ["check", "--all", "--static", str(ROOT)]
    assert run(cli, words, "speechbrain-ext") == 0
    lines = capsys.readouterr().out.splitlines()
    checked = [*(ROOT / "recipes").glob("*/*.yaml"), *(ROOT / "egs").glob("*/run.sh")]
    checked += (ROOT / "hparams").rglob("*.yaml")
    assert len(lines) == len(checked) + 1
    assert all(line.startswith("OK ") for line in lines)


def test_check_all_names_each_file_that_is_wrong(project, capsys):
    project.recipe("rate: 1\nevil: !apply:os.system [x]\n")
    project.fragment(
        "whole", "!new:torch.nn.Linear\nin_features: !PLACEHOLDER\nx: !ref <y>"
    )
    project.preset("fits", "rate: 2")
    project.preset("wrong", "rat: 2")
    project.write("egs/a/run.sh", 'if\noption recipe "yaml:X" gone "help"\n')
    project.write("egs/b/read.me", "")
    project.write("egs/c/run.sh", "true\n")
    project.write("egs/c/mine.yaml", "a: !ref <b>")
    project.write("egs/c/exp/x/hyperparams.yaml", "a: !ref <b>")
    assert run(cli, ["check", "--all", "--static"], "speechbrain-ext") == 2
    said = capsys.readouterr()
    assert [line.split(": ")[0] for line in said.out.splitlines()] == [
        "FAULT recipes/a.yaml",
        "FAULT hparams/fragments/whole.yaml",
        "FAULT hparams/presets/fits.yaml",
        "FAULT hparams/presets/wrong.yaml",
        "FAULT egs/a/run.sh",
        "FAULT egs/b/run.sh",
        "OK egs/c/run.sh",
        "FAULT egs/c/mine.yaml",
    ]
    assert "no recipe recipes/gone.yaml" in said.err
    words = ["check", "--all", "--static", "--allow", "os.system"]
    assert run(cli, words, "speechbrain-ext") == 2
    assert (
        "OK hparams/presets/fits.yaml: fits recipes/a.yaml" in capsys.readouterr().out
    )
    assert run(cli, ["check", "--all", "recipes", "--x=1"], "speechbrain-ext") == 2


# --- SpeechBrain's own ------------------------------------------------------------


def test_a_recipe_like_speechbrains_ecapa_loads(project):
    """The names, and the way of writing, of its VoxCeleb recipe with ECAPA-TDNN."""
    pytest.importorskip("torch")
    name = project.recipe(
        (Path(__file__).parent / "ecapa_like.yaml").read_text("utf-8")
    )
    recipe = load_recipe(name, [f"--data_folder={project.folder}/voxceleb"])
    assert (
        recipe.hparams["modules"]["embedding_model"]
        is (recipe.hparams["checkpointer"].recoverables["embedding_model"])
    )
    assert recipe.hparams["prepare_noise_data"].keywords["ext"] == "wav"
    assert (project.folder / "results/ecapa/7/save").is_dir()
    inside = {
        path.relative_to(project.folder).parts[0] for path in project.folder.rglob("*")
    }
    assert inside == {"recipes", "hparams", "results"}
    used = {row[1] for row in speechbrain_rows()}
    assert set(names_in(recipe.resolved_yaml)) <= used


def names_in(text):
    for part in text.split("!")[1:]:
        kind, colon, rest = part.partition(":")
        if colon and kind in ("new", "name", "apply"):
            yield rest.split()[0]


def test_no_list_holds_a_name_twice():
    for file in ("namespaces.txt", "exact.txt", "calls.txt"):
        lines = (FOLDER / file).read_text(encoding="utf-8").splitlines()
        seen, module = set(), ""
        for line in lines:
            if line and not line.startswith((" ", "#")):
                module = line
            elif line.startswith(" "):
                name = f"{module}.{line.split()[0]}"
                assert name not in seen, name
                seen.add(name)
    assert len(listed("!name")) > 1500
