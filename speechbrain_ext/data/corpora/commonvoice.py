"""Mozilla Common Voice, scripted speech, one locale (CC0).

Ardila et al., 2020, "Common Voice: A Massively-Multilingual Speech Corpus",
https://commonvoice.mozilla.org. A locale's folder holds ``clips/*.mp3`` and tables with
a header: ``client_id``, ``path``, ``sentence``, ... The tables ``train.tsv``,
``dev.tsv`` and ``test.tsv`` are the published split, in which no speaker has two roles;
``validated.tsv`` is taken only where they are missing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from speechbrain_ext.data.corpora import Item, require_folder
from speechbrain_ext.data.corpora.facts import Facts, iso_language
from speechbrain_ext.data.corpora.folder import clean_name
from speechbrain_ext.errors import UserError

# In this order: a clip that is in two tables stays in the test set.
_ROLE_OF = {"test.tsv": "test", "dev.tsv": "valid", "train.tsv": "train"}
_COLUMNS = ("client_id", "path", "sentence")


class CommonVoiceCorpus:
    """One locale of a Common Voice release.

    Arguments
    ---------
    locale : str
        The language's folder and the value of the column ``locale``.
    """

    def __init__(self, locale: str = "te"):
        self.locale = locale
        self._hint = (
            f"get the {locale!r} archive from https://commonvoice.mozilla.org, unpack "
            f"it, and give the folder {locale}/ that holds clips/ and validated.tsv, "
            "or one above it"
        )

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Look whether the release is there; nothing is copied."""
        self._find(data_folder)

    def _find(self, data_folder: Path | None) -> Path:
        folder = require_folder(data_folder, "commonvoice", self._hint)
        tables = [
            table
            for name in ("validated.tsv", "train.tsv")
            for table in [folder / name, *sorted(folder.glob(f"**/{name}"))]
            if table.is_file() and (table.parent / "clips").is_dir()
        ]
        # A download may hold several languages side by side.
        tables.sort(key=lambda table: table.parent.name != self.locale)
        if not tables:
            raise UserError(
                f"data: --data_folder {folder}: no clips/ beside a validated.tsv or "
                f"train.tsv below it\n{self._hint}"
            )
        return tables[0].parent

    def facts(self, raw: Path, data_folder: Path | None) -> Facts:
        """Tell title, licence and language."""
        return Facts(
            f"Mozilla Common Voice, locale {self.locale}",
            licence="CC0-1.0",
            language=(iso_language(self.locale),),
            synthetic=False,
            url="https://commonvoice.mozilla.org",
        )

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List the clips of the published split, or the validated ones."""
        folder = self._find(data_folder)
        published = [name for name in _ROLE_OF if (folder / name).is_file()]
        if len(published) == len(_ROLE_OF):
            tables = {name: _ROLE_OF[name] for name in published}
        else:
            tables = {"validated.tsv": None}
        seen: dict[str, str] = {}
        for name, role in tables.items():
            for row in _rows(folder / name):
                yield self._item(folder, name, role, row, seen)

    def _item(self, folder: Path, table: str, role: str | None, row, seen) -> Item:
        clip, text = row["path"].strip(), row["sentence"].strip()
        spk_id = row["client_id"].strip()
        # Early releases leave the extension out.
        path = folder / "clips" / (clip if Path(clip).suffix else f"{clip}.mp3")
        locale = (row.get("locale") or self.locale).strip()
        fault = None
        if clip in seen:
            fault = f"wrongly labelled: in {seen[clip]} and again in {table}"
        elif not clip or Path(clip).name != clip:
            fault = f"wrongly labelled: path {clip!r} is not a name in clips/"
        elif not spk_id or not text:
            fault = f"wrongly labelled: no client_id or no sentence in {table}"
        elif locale != self.locale:
            fault = f"wrongly labelled: locale {locale!r} is not {self.locale!r}"
        seen.setdefault(clip, table)
        utt_id = clean_name(Path(clip).stem)
        return Item(utt_id, path, spk_id or None, text or None, role, fault)


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """Read a table; quotes are ordinary characters in these files."""
    with open(table, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(
            stream, delimiter="\t", quoting=csv.QUOTE_NONE, restval=""
        )
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"data: {table}: no column {', '.join(missing)}; is this a table of "
                "Common Voice?"
            )
        yield from reader
