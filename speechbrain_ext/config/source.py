"""HyperPyYAML text to a tree that remembers files and lines; nothing is constructed.

The text is composed by ruamel.yaml under YAML 1.2, as HyperPyYAML does, but no
constructor of objects is ever reached. Aliases become references and merge keys are
written out, so that what follows knows one way of sharing only.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import ruamel.yaml
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from .arithmetic import MAX_BITS
from .faults import Faults, Where, did_you_mean
from .flow import TOO_DEEP, TUPLE, parse_tuple
from .tree import (
    CORE,
    PLACEHOLDER_TYPES,
    PLAIN_TAGS,
    SCALAR_TAGS,
    TARGET_TAGS,
    Node,
    TreePath,
    addressable,
    bracketed,
    broken,
)

MAX_BYTES = 1 << 18
MAX_DEPTH = 60
MAX_NODES = 5_000
MAX_SCALAR = 20_000
MAX_MERGED = 20

#: characters that show a reader another text than the one that is loaded
_HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_YES_NO = re.compile(r"^(yes|no|on|off)$", re.I)


def read_source(path: Path, name: str, faults: Faults) -> Node | None:
    """Read one YAML file; faults are added to ``faults``, None if nothing is usable."""
    whole = Where(name)
    try:
        with path.open("rb") as stream:  # no more of it than that, whatever it is
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            faults.add(whole, f"larger than {MAX_BYTES} bytes: not a configuration")
            return None
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.yaml")]
        hint = did_you_mean(path.name, beside).replace("known", "beside it")
        faults.add(whole, f"no such file{hint}")
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        for inside in ("hyperparams.yaml", "recipe.yaml"):
            if (path / inside).is_file():
                reason = f"a folder; its recipe is {path / inside}"
                break
        faults.add(whole, f"cannot be read: {reason}")
        return None
    return parse(text, name, faults)


def parse(text: str, name: str, faults: Faults) -> Node | None:
    """Parse YAML text into a tree whose root is a mapping.

    Arguments
    ---------
    text : str
        HyperPyYAML.
    name : str
        File name for messages.
    faults : Faults
        Grows by what is wrong.

    Returns
    -------
    Node or None
        None if there is no mapping to go on with.

    Example
    -------
    >>> root = parse("rate: 5e-4", "a.yaml", Faults())
    >>> root.value["rate"].value, root.value["rate"].where.line
    (0.0005, 1)
    """
    # Lines end at all of these for YAML, and at the first for Python's re.
    if directive := re.search(r"(?:\A|[\n\r\x85\u2028\u2029])%(YAML|TAG)\b", text):
        line = text.count("\n", 0, directive.start(1)) + 1
        faults.add(Where(name, line), f"%{directive[1]} directives are not accepted")
        return None
    if deep := TOO_DEEP.search(text):
        line = text.count("\n", 0, deep.start()) + 1
        faults.add(Where(name, line), "nested too deeply")
        return None
    if hidden := _HIDDEN.search(text):
        line = text.count("\n", 0, hidden.start()) + 1
        faults.add(
            Where(name, line),
            f"holds the invisible character U+{ord(hidden[0]):04X}, which can make it "
            "look other than it is",
        )
        return None
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.Composer = _Bounded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            composed = yaml.compose(text)
    except ReusedAnchorWarning as error:
        first = str(error).strip().splitlines()[0]
        faults.add(Where(name), f"{first}: a second one would change what it means")
        return None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        problem = error.problem or error.context
        if odd := re.search(r"found '([^\x00-\x7f])'", problem or ""):
            problem += f": {_odd(odd[1])}"
        elif "'['" in problem or "'{'" in problem:
            problem += "; in [...] and {...} write a reference as !ref '<a[b]>'"
        faults.add(Where(name, line), f"not YAML: {problem}")
        return None
    except (YAMLError, ValueError, AssertionError, RecursionError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        faults.add(Where(name), f"not YAML: {reason}")
        return None
    if composed is None:
        faults.add(Where(name), "empty: a configuration is a mapping of keys to values")
        return None
    if not isinstance(composed, MappingNode):
        faults.add(Where(name, 1), "must be a mapping of keys to values at the top")
        return None
    root = _Converter(name, faults).convert(composed, (), Where(name, 1))
    for key, node in root.children():
        if not isinstance(key, str):
            faults.add(node.where, f"{key}: a key at the top must be a text")
    return root


def _bounded(value: Any) -> Any:
    """Refuse a number that is written short, as 0xfff..., and could not be shown."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError(f"a whole number of more than {MAX_BITS} bits")
    return value


def _odd(letter: str) -> str:
    """Describe a letter that may look like another one."""
    name = unicodedata.name(letter, "nameless")
    return f"{letter} (U+{ord(letter):04X}, {name}); tags are of ASCII letters"


class _Bounded(Composer):
    """Gives up on a text of too many nodes before it is read to its end."""

    def __init__(self, loader=None):
        super().__init__(loader)
        self.nodes = self.depth = 0

    def compose_node(self, parent, index):
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH + 1:
            mark = self.loader.parser.peek_event().start_mark
            problem = f"nested more than {MAX_DEPTH} deep"
            if self.nodes > MAX_NODES:
                problem = f"more than {MAX_NODES} values: not a configuration"
            raise MarkedYAMLError(problem=problem, problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Converter:
    """Turns ruamel's nodes into ours, and refuses what no recipe needs."""

    def __init__(self, name: str, faults: Faults):
        self.name = name
        self.faults = faults
        self.paths: dict[int, TreePath] = {}
        self.count = 0
        self.construct = ruamel.yaml.YAML(typ="safe", pure=True).constructor

    def where(self, raw) -> Where:
        return Where(self.name, raw.start_mark.line + 1)

    def convert(self, raw, path: TreePath, where: Where) -> Node:
        """Convert one node; a refused one becomes null so that checking goes on."""
        self.count += 1
        if len(path) > MAX_DEPTH or self.count > MAX_NODES:
            if self.count <= MAX_NODES + 1:
                self.faults.add(where, "nested too deeply or too large")
            self.count = max(self.count, MAX_NODES + 1)
            return broken(where)
        if id(raw) in self.paths and not self._plain_scalar(raw):
            return self._alias(raw, where)
        self.paths.setdefault(id(raw), path)
        tag = self._tag(raw, where)
        if tag is None:
            return broken(where)
        if isinstance(raw, ScalarNode):
            return self._scalar(raw, tag, where)
        self._check_flow(raw)
        if tag in PLAIN_TAGS:
            self.faults.add(where, f"{tag}: takes a text, not a list or mapping")
            return broken(where)
        if isinstance(raw, SequenceNode):
            if tag.startswith("!include:"):
                self.faults.add(where, f"{tag}: inputs are given as a mapping")
            items = [
                self.convert(item, (*path, i), self.where(item))
                for i, item in enumerate(raw.value)
            ]
            return Node("list", tag, items, where)
        return Node("map", tag, self._mapping(raw, path), where)

    def _check_flow(self, raw) -> None:
        """Report ``{shape: (3, 4)}``: YAML cuts the tuple at its comma."""
        if not raw.flow_style:
            return
        items = raw.value
        if isinstance(raw, MappingNode):
            items = [value for _, value in raw.value]
        for item in items:
            if isinstance(item, ScalarNode) and item.style is None:
                if item.value.startswith("(") and not item.value.endswith(")"):
                    self.faults.add(
                        self.where(item),
                        f"{item.value}: in {{...}} and [...] a tuple ends at its "
                        "comma; write !tuple '(1, 2)' there",
                    )

    @staticmethod
    def _plain_scalar(raw) -> bool:
        return isinstance(raw, ScalarNode) and not raw.tag.startswith(TARGET_TAGS)

    def _alias(self, raw, where: Where) -> Node:
        """Return a reference to the anchored node: HyperPyYAML shares it likewise."""
        path = self.paths[id(raw)]
        if not addressable(path):
            self.faults.add(
                where, f"*{raw.anchor}: give the shared value a key and use !ref <key>"
            )
            return broken(where)
        text = f"<{bracketed(path)}>"
        return Node("scalar", "!ref", text, where, text)

    def _tag(self, raw, where: Where) -> str | None:
        """Return "" for plain data, the tag if known, else None with a fault."""
        tag = str(raw.tag or "")
        if tag in SCALAR_TAGS | {CORE + "timestamp", CORE + "map", CORE + "seq"}:
            return ""
        if tag == CORE + "merge":
            return ""
        if tag.startswith(CORE + "python/") or "python/" in tag:
            short = tag.replace(CORE, "!!")
            self.faults.add(where, f"{short}: Python tags are refused; use !new: ...")
        elif tag in PLAIN_TAGS:
            return tag
        elif tag.startswith((*TARGET_TAGS, "!include:")):
            target = tag.split(":", 1)[1]
            if tag.startswith("!include:") and target:
                return tag
            if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", target):
                if target.isascii():
                    return tag
                odd = next(c for c in target if not c.isascii())
                self.faults.add(where, f"{tag}: holds {_odd(odd)}")
                return None
            self.faults.add(where, f"{tag}: needs a dotted name after the colon")
        elif tag.startswith(CORE):
            self.faults.add(where, f"{tag.replace(CORE, '!!')}: tag is not accepted")
        else:
            known = [*TARGET_TAGS, "!include:", *PLAIN_TAGS]
            head = re.match(r"![^:]*:?", tag)
            hint = did_you_mean(head[0] if head else tag, known)
            self.faults.add(where, f"{tag}: unknown tag{hint}")
        return None

    def _scalar(self, raw: ScalarNode, tag: str, where: Where) -> Node:
        text = raw.value
        if len(text) > MAX_SCALAR or (tag in ("!ref", "!copy") and len(text) > 2_000):
            self.faults.add(where, f"{text[:40]}...: too long for one value")
            return broken(where)
        quoted = raw.style is not None
        node = Node("scalar", tag, text, where, text, quoted=quoted)
        if tag == "!tuple" or (not tag and not quoted and TUPLE.match(text)):
            node.tag = "!tuple"
            node.value = self._tuple(text, where)
        elif tag.startswith((*TARGET_TAGS, "!include:")) and text:
            self.faults.add(
                where, f"{tag} {text}: arguments are given as a mapping or a list"
            )
        elif tag == "!PLACEHOLDER" and text and text not in PLACEHOLDER_TYPES:
            self.faults.add(
                where,
                f"!PLACEHOLDER {text}: unknown type" + _types_hint(text),
            )
        elif not tag:
            if not quoted and _YES_NO.match(text):
                self.faults.add(
                    where, f"{text} is a text in YAML 1.2; write true, false or quotes"
                )
            try:
                node.value = _bounded(self.construct.construct_object(raw))
            except (YAMLError, ValueError, OverflowError) as error:
                self.faults.add(where, f"{text[:40]}: {str(error).splitlines()[0]}")
                return broken(where)
        return node

    def _tuple(self, text: str, where: Where) -> tuple:
        """``(1, 2)`` as a tuple of plain scalars, without HyperPyYAML's re-parse."""
        values = parse_tuple(text)
        if values is None:
            self.faults.add(where, f"{text[:60]}: a tuple holds plain scalars only")
        return values or ()

    def _mapping(self, raw: MappingNode, path: TreePath) -> dict[Any, Node]:
        entries: dict[Any, Node] = {}
        lines: dict[Any, int] = {}
        merged: list[tuple[Any, TreePath]] = []
        for raw_key, raw_value in raw.value:
            where = self.where(raw_key)
            if str(raw_key.tag) == CORE + "merge" and raw_key.style is None:
                merged += self._merge_sources(raw_value, where)
                continue
            key = self._key(raw_key, where)
            if key is None:
                continue
            if key in entries:
                self.faults.add(where, f"{key}: key also on line {lines[key]}")
                continue
            lines[key] = where.line
            entries[key] = self.convert(raw_value, (*path, key), where)
        for source, base in merged:  # grows below: a merged mapping may merge too
            for raw_key, raw_value in source.value:
                where = self.where(raw_key)
                if str(raw_key.tag) == CORE + "merge" and raw_key.style is None:
                    if len(merged) < MAX_MERGED:
                        merged += self._merge_sources(raw_value, where)
                    else:
                        text = f"<<: merges more than {MAX_MERGED} mappings into one"
                        self.faults.add(self.where(raw), text)
                        return entries
                    continue
                key = self._key(raw_key, where)
                if key is not None and key not in entries:
                    self.paths.setdefault(id(raw_value), (*base, key))
                    entries[key] = self.convert(raw_value, (*path, key), where)
        return entries

    def _key(self, raw, where: Where) -> Any:
        if isinstance(raw, ScalarNode) and str(raw.tag) in (CORE + "str", CORE + "int"):
            try:
                return _bounded(self.construct.construct_object(raw))
            except ValueError as error:
                self.faults.add(
                    where, f"{raw.value[:40]}: {str(error).splitlines()[0]}"
                )
                return None
        self.faults.add(where, "a key must be a text or a whole number")
        return None

    def _merge_sources(self, raw, where: Where) -> list[tuple[MappingNode, TreePath]]:
        sources = raw.value if isinstance(raw, SequenceNode) else [raw]
        usable = []
        for source in sources:
            if isinstance(source, MappingNode) and id(source) in self.paths:
                usable.append((source, self.paths[id(source)]))
            else:
                self.faults.add(where, "<<: merges anchored mappings only (<<: *name)")
        return usable


def _types_hint(text: str) -> str:
    return did_you_mean(text, PLACEHOLDER_TYPES)
