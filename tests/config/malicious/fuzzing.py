"""Recipes out of thin air, and a watch over what loading one does."""

import contextlib
import os
import random
import sys
import time
from pathlib import Path

import ruamel.yaml
from hypothesis import strategies as st

from speechbrain_ext.config import load_recipe
from speechbrain_ext.errors import UserError

HERE = Path(__file__).parent
#: of the processor; importing what a recipe names for the first time is in it
MAX_SECONDS = 10.0
#: what Python itself says happens: running, connecting, unpickling, removing
HARM = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
    "socket.connect", "socket.bind", "urllib.Request", "pickle.find_class",
    "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link", "os.symlink",
    "shutil.rmtree", "shutil.copyfile", "ctypes.dlopen", "code.__new__",
)  # fmt: skip


class Watch:
    """An audit hook that notes harm while it is on; a hook can't be taken away."""

    def __init__(self):
        self.on = False
        self.inside = ""
        self.there: set[str] = set()
        self.harm: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event in HARM:
            self.harm.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path, mode = os.fsdecode(arguments[0]), str(arguments[1] or "r")
            writes = set(mode) & set("wax+") and "__pycache__" not in path
            if writes and not self._may_make(path):
                self.harm.append(f"open {path} {mode}")
        elif event == "os.mkdir":
            if not self._may_make(arguments[0]):
                self.harm.append(f"mkdir {arguments[0]}")
        elif event == "import" and arguments[0] in ("evil", "library"):
            self.harm.append(f"import {arguments[0]}")

    def _may_make(self, path: str) -> bool:
        """A recipe may name any new folder below the current one as its experiment."""
        path = os.path.realpath(path)
        return path.startswith(self.inside) and path not in self.there

    @contextlib.contextmanager
    def over(self, inside: Path):
        """Watch; what was there before must stay, new files only below ``inside``."""
        self.inside, self.harm = os.path.realpath(inside) + "/", []
        self.there = {os.path.realpath(path) for path in inside.iterdir()}
        self.on = True
        try:
            yield self
        finally:
            self.on = False


def try_recipe(watch: Watch, folder: Path, text: str) -> str:
    """Load a text as a recipe; raise AssertionError if it does any harm.

    Returns
    -------
    str
        "loaded" or "refused".
    """
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    started = time.process_time()
    with watch.over(folder):
        try:
            load_recipe(path, ["--given=1"] if "given:" in text else [])
            outcome = "loaded"
        except UserError:
            outcome = "refused"
    assert not watch.harm, watch.harm
    assert time.process_time() - started < MAX_SECONDS, "too slow"
    assert not (folder.parent / "canary").exists()
    return outcome


def corpus(canary: Path) -> list[str]:
    """Return the recipes of the tables, with the canary in them."""
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    tables = [yaml.load(HERE / f"{name}.yaml") for name in ("names", "texts", "places")]
    rows = [row for table in tables for row in table]
    return [row["recipe"].replace("CANARY", str(canary)) for row in rows]


KEYS = (
    "a",
    "b",
    "c",
    "output_folder",
    "given",
    "<<",
    "task",
    "save_folder",
    "__x",
    "1",
)
TAGS = (
    "", "", "", "!ref ", "!ref ", "!copy ", "!PLACEHOLDER ", "!tuple ", "!!str ",
    "!new:torch.nn.Identity ", "!new:torch.nn.Sequential ", "!name:torch.nn.ReLU ",
    "!new:speechbrain.utils.epoch_loop.EpochCounter ", "!apply:operator.not_ ",
    "!new:speechbrain.utils.checkpoints.Checkpointer ", "!include:fragment.yaml ",
    "!new:speechbrain.utils.train_logger.FileTrainLogger ", "!module:os ",
    "!applyref:speechbrain.utils.hparams.choice ", "!apply:os.system ",
    "!applyref:os.system ", "!new:subprocess.Popen ", "!name:os.remove ",
    "!!python/object/apply:os.system ", "!apply:logging.os.system ", "!new:evil.Model ",
    "!apply:eval ", "!new:pathlib.Path ", "!include:../../outside.yaml ",
    "!new:speechbrain.nnet.containers.Sequential ", "!apply:torch.load ", "&x ", "*x ",
)  # fmt: skip
SCALARS = (
    "1", "2.5", "true", "null", "text", "'touch CANARY'", "CANARY", "exp", "exp/a",
    "/etc/x", "https://a.b/c", "../x", "<a>", "<b>", "<a.b>", "<a.__class__>",
    "<a> * <b>", "<a>**<b>**<c>", "<a>/<b>", "(<a>)", "(1, 2)", "'<c>'", "<a[b]>",
    "(!!python/object/apply:os.system [touch CANARY])", "9999999999", "-", "''",
    "<c><c><c><c>", "~", "speechbrain_ext.tasks.codec", "evil",
    "{value: 1, choices: {1: CANARY}}", "{checkpoints_dir: CANARY}",
    "{save_file: !ref <a>}", "[!ref <a>, !ref <b>]",
)  # fmt: skip


@st.composite
def grown(draw) -> str:
    """Recipes that are YAML nearly always."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=6))

    def value(depth: int) -> str:
        tag = draw(st.sampled_from(TAGS))
        shape = draw(st.integers(0, 5 if depth else 2))
        if tag == "*x ":
            return "*x"
        if shape < 3:
            return tag + draw(st.sampled_from(SCALARS))
        if shape < 5:
            items = [value(depth - 1) for _ in range(draw(st.integers(0, 3)))]
            return f"{tag}[{', '.join(items)}]"
        names = draw(st.lists(st.sampled_from(KEYS[:5]), max_size=3))
        return tag + "{" + ", ".join(f"{n}: {value(depth - 1)}" for n in names) + "}"

    return "".join(f"{key}: {value(2)}\n" for key in keys)


def mutated(texts: list[str]):
    """Recipes of the corpus with some characters lost, doubled, swapped or new."""
    pieces = (*SCALARS, *TAGS, *"\n: [{<>!%\x00", "&x ", "*x")

    def change(arguments) -> str:
        text, seed, count = arguments
        rng = random.Random(seed)
        for _ in range(count):
            at, to = sorted(rng.choices(range(len(text) + 1), k=2))
            text = rng.choice(
                (
                    text[:at] + text[to:],
                    text[:to] + text[at:to] + text[to:],
                    text[:at] + rng.choice(pieces) + text[at:],
                    text[:at] + rng.choice(texts) + text[to:],
                )
            )[:5000]
        return text

    return st.tuples(
        st.sampled_from(texts), st.integers(0, 2**32), st.integers(1, 6)
    ).map(change)


def recipes(canary: Path):
    """Return a strategy of texts, most of them harmful."""
    told = grown().map(lambda text: text.replace("CANARY", str(canary)))
    return st.one_of(told, mutated(corpus(canary)), st.text(max_size=200))
