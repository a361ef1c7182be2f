"""Strict configuration: HyperPyYAML stays the language, one loader stands before it."""

from .faults import ConfigError, Fault
from .loader import Recipe, load_command_line, load_recipe
from .overrides import CommandLine, parse_command_line

__all__ = [
    "CommandLine",
    "ConfigError",
    "Fault",
    "Recipe",
    "load_command_line",
    "load_recipe",
    "parse_command_line",
]
