"""Speech recipes that train through anything.

The package holds *how* things are computed and knows no corpus and no shell; see
``docs/architecture.md`` for the other rooms of the house.
"""

__version__ = "0.1.0"
