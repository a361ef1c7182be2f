"""A corpus as tokens of a trained codec, for a language model to learn from."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from speechbrain_ext.codec.tokens import CodeTokenizer
from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.manifest import split_hash
from speechbrain_ext.data.progress import progress_bar
from speechbrain_ext.data.token_files import (
    FOLDER,
    LINES,
    MODEL,
    RECORD,
    TokenLine,
    read_lines,
    write_lines,
)
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import atomic_folder, write_json
from speechbrain_ext.models.codec import NestedRates
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.tasks.codec.encoded import EncodedFile
from speechbrain_ext.tasks.codec.rates import check_rates
from speechbrain_ext.tasks.codec.vocabulary import (
    Encoded,
    learn_tokenizer,
    token_figures,
)
from speechbrain_ext.tasks.codec.weights import load_codec
from speechbrain_ext.tasks.conditions import now, own_command
from speechbrain_ext.tasks.experiment import usable_device
from speechbrain_ext.tasks.settings import manifest_at

ROLES = ("train", "valid", "test")

#: Codebooks where none are asked for: with one speech is hard to understand (STOI 0.63
#: and 0.47 on two corpora; with two 0.74 and 0.58), each more costs a token or less for
#: every frame.
CODEBOOKS = 2


@tells_own_commands
def tokenize(
    experiment: str | Path,
    data: str | Path,
    *,
    codebooks: int | None = None,
    kbps: float | None = None,
    pattern: str = "coarse_first",
    vocab_size: int | None = None,
    device: str | None = None,
    force: bool = False,
    skip_without_codes: bool = False,
) -> dict:
    """Write ``tokens/`` of a trained codec: a corpus as tokens, and their tokenizer.

    Every utterance is read back from what was written, turned into codes and into a
    waveform, and both are compared with the codec's own before anything is kept.

    Arguments
    ---------
    experiment : str or Path
        Folder that training wrote; the checkpoint with the best valid SNR is taken.
    data : str or Path
        Folder of train.json, valid.json and test.json. The vocabulary is learned from
        train, its size chosen by valid.
    codebooks : int or None
        The first so many codebooks are told; None: see ``kbps``.
    kbps : float or None
        The same by the highest nominal rate of the codes allowed; both None: 2.
    pattern : str
        See `speechbrain_ext.codec.interleaving.PATTERNS`.
    vocab_size : int or None
        Tokens in all; None: the size that tells the valid speech in the fewest bits.
    device : str or None
        Where the codec runs; None: on a GPU if there is one.
    force : bool
        Encode anew what an interrupted run encoded.
    skip_without_codes : bool
        Of a codec that has no codes say so in ``tokens.json``, and raise nothing.

    Returns
    -------
    dict
        What ``tokens.json`` holds.

    Raises
    ------
    UserError
        If there is no trained codec, it has no codes, or not so many codebooks.
    VocabularyError
        If there can be no vocabulary of that size.
    ManifestError
        If a manifest or one of its files is missing or changed.
    WorkError
        If an utterance does not come back as it was.
    """
    folder = Path(experiment)
    device = usable_device(device)
    codec, model = load_codec(folder, device, stage="tokenize")
    if not isinstance(codec, NestedRates):
        return _without_codes(codec, folder, skip_without_codes)
    number = _codebooks_of(codec, codebooks, kbps)
    paths = [Path(data) / f"{role}.json" for role in ROLES]
    sets = {p.stem: manifest_at(str(p), codec.sample_rate) for p in paths}
    identity = {
        "name": type(codec).__name__,
        "checkpoint": model["checkpoint"],
        "sha256": model["sha256"],
        "config_hash": model["recipe"].config_hash,
        "sample_rate": codec.sample_rate,
        "hop_samples": codec.hop_samples,
        "kbps": round(codec.bitrates[number - 1], 3),
    }
    if hasattr(codec, "digest"):
        identity["digest"] = codec.digest().hex()
    unfinished = folder / f".{FOLDER}" / "codes.jsonl"
    if force:
        unfinished.unlink(missing_ok=True)
    key = {"model": identity["sha256"], "config": identity["config_hash"]}
    with EncodedFile(unfinished, {**key, "codebooks": number}) as file:
        encoded = list(_encode(codec, sets, number, file))
    tokenizer, trials = learn_tokenizer(
        encoded, codec.quantizer.codebook_size, pattern, vocab_size
    )
    with atomic_folder(folder / FOLDER) as draft:
        tokenizer.save(draft / MODEL)
        digest = write_lines(draft / LINES, (_line(one, tokenizer) for one in encoded))
        tokens = _verify(draft, digest, encoded, tokenizer.facts(), codec)
        record = {
            "created": now(),
            "command": own_command(
                folder, f"python recipes/codec/tokenize.py {folder} --data={data}"
            ),
            "model": identity,
            "split_hash": split_hash(*paths),
            "tokens_sha256": digest,
            "tokenizer": tokenizer.facts(),
            "vocab_size_asked": vocab_size,
            "vocab_sizes_tried": trials,
            "splits": token_figures(encoded, tokens, tokenizer),
            "verified": {"utterances": len(encoded), "codes": True, "waveforms": True},
        }
        write_json(draft / RECORD, record)
    shutil.rmtree(unfinished.parent)
    return record


def _without_codes(codec: torch.nn.Module, folder: Path, skip: bool) -> dict:
    reason = (
        f"{type(codec).__name__} has no codes of fixed size: it writes files, of as "
        "many bits as they take"
    )
    if not skip:
        raise UserError(
            f"tokenize: {reason}\n  Tokens need a codec with codebooks: train "
            "transform.yaml or seanet.yaml"
        )
    with atomic_folder(folder / FOLDER) as draft:
        write_json(draft / RECORD, {"created": now(), "skipped": reason})
    return {"skipped": reason}


def _codebooks_of(codec, codebooks: int | None, kbps: float | None) -> int:
    """How many codebooks are told."""
    most = codec.quantizer.num_quantizers
    if codebooks is not None and kbps is not None:
        raise UserError("tokenize: --codebooks and --token_kbps: give one of them")
    if kbps is not None:
        check_rates(codec, [kbps], "token_kbps")
        return codec.kbps_to_quantizers(kbps)
    if codebooks is None:
        return min(CODEBOOKS, most)
    if not 1 <= codebooks <= most:
        raise UserError(
            f"tokenize: --codebooks must be 1 to {most}, which this codec has, got "
            f"{codebooks}"
        )
    return codebooks


@torch.no_grad()
def _encode(codec, sets, number: int, file: EncodedFile) -> Iterator[Encoded]:
    """Codes of all utterances; those that are in the file are not computed again."""
    device = next(codec.buffers()).device
    total = sum(map(len, sets.values()))
    if len(file):
        print(
            f"tokenize: goes on: {len(file)} of {total} utterances were encoded before",
            file=sys.stderr,
        )
    with progress_bar() as progress:
        task = progress.add_task("encode", total=total, unit="utterances")
        for role, utterances in sets.items():
            for utterance in utterances.values():
                codes = file.find(utterance)
                if codes is None:
                    wav = torch.from_numpy(read_samples(utterance))[None].to(device)
                    found = codec.encode(wav, codec.bitrates[number - 1])
                    codes = found[0].cpu().numpy().astype(np.int32)
                    file.append(utterance, codes)
                yield Encoded(utterance, role, codes)
                progress.advance(task)


def _line(one: Encoded, tokenizer: CodeTokenizer) -> TokenLine:
    utterance = one.utterance
    return TokenLine(
        utt_id=utterance.utt_id,
        split=one.role,
        spk_id=utterance.spk_id,
        duration=utterance.duration,
        num_samples=utterance.num_samples,
        num_codes=int(one.codes.size),
        tokens=tokenizer.encode(one.codes).tolist(),
    )


@torch.no_grad()
def _verify(
    draft: Path, digest: str, encoded: list[Encoded], facts: dict, codec
) -> dict[str, list[np.ndarray]]:
    """Compare what was written with the codec's own codes and waveforms.

    Returns
    -------
    dict
        Role -> tokens of its utterances, as they were read.

    Raises
    ------
    WorkError
        Naming the utterances that are not what they were.
    """
    tokenizer = CodeTokenizer.load(draft / MODEL, facts)
    device = next(codec.buffers()).device
    tokens: dict[str, list[np.ndarray]] = {role: [] for role in ROLES}
    faults = []
    with progress_bar() as progress:
        task = progress.add_task("verify", total=len(encoded), unit="utterances")
        lines = read_lines(draft / LINES, digest)
        for one, line in zip(encoded, lines, strict=True):
            tokens[one.role].append(np.array(line.tokens, np.int32))
            found = tokenizer.decode(line.tokens)
            if (line.utt_id, line.split) != (one.utterance.utt_id, one.role):
                faults.append(f"{one.utterance.utt_id}: {line.utt_id} is in its place")
            elif not np.array_equal(found, one.codes):
                faults.append(f"{line.utt_id}: other codes")
            else:
                again, own = (
                    codec.decode(
                        torch.from_numpy(codes)[None].long().to(device),
                        line.num_samples,
                    )
                    for codes in (found, one.codes)
                )
                if not torch.equal(again, own):
                    faults.append(f"{line.utt_id}: another waveform")
            progress.advance(task)
    if faults:
        raise WorkError(
            f"tokenize: {len(faults)} of {len(encoded)} utterances do not come back "
            "from their tokens; nothing was kept\n  " + "\n  ".join(faults[:20])
        )
    return tokens
