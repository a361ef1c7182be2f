"""Strict configuration: HyperPyYAML stays the language, one loader stands before it."""

from .command_line import CommandLine, parse_command_line, take_flag
from .faults import ConfigError, Fault
from .loader import Recipe, load_command_line, load_recipe

__all__ = [
    "CommandLine",
    "ConfigError",
    "Fault",
    "Recipe",
    "load_command_line",
    "load_recipe",
    "parse_command_line",
    "take_flag",
]
