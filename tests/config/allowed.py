"""The loader for tests that build from names which no recipe may use by itself."""

import functools

from speechbrain_ext.config import loader
from speechbrain_ext.config.lint import check_recipe as check

NAMES = (
    "collections.Counter",
    "collections.Counter.total",
    "collections.OrderedDict",
    "fractions.Fraction",
    "int",
    "intt",
    "len",
    "os",
    "os.mkdir",
    "os.path.basename",
    "os.path.join",
    "a_library.*",
    "a_librry.*",
    "a_library.Base.__init__",
    "my_tasks.*",
)

load_recipe = functools.partial(loader.load_recipe, allow=NAMES)
plan_recipe = functools.partial(loader.plan_recipe, allow=NAMES)
check_recipe = functools.partial(check, allow=NAMES)
