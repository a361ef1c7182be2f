"""Who learns, who chooses, who is scored: the three roles, by seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from speechbrain_ext.errors import UserError, WorkError

#: The roles in the order of the pipeline.
ROLES = ("train", "valid", "test")

# Part of the recordings that go to a role whose number was not given.
_FRACTIONS = {"valid": 0.05, "test": 0.10}


def draw_order(*names: object) -> str:
    """Return a sort key that shuffles by what is named, not by what is around it.

    Example
    -------
    >>> min(["a", "b", "c"], key=lambda name: draw_order("split", 1, name))
    'c'
    """
    return hashlib.sha256(repr(names).encode()).hexdigest()


@dataclass(frozen=True)
class Candidate:
    """What the split needs to know of an accepted utterance.

    Arguments
    ---------
    utt_id : str
        Its name.
    spk_id : str or None
        Its speaker where known.
    role : str or None
        ``train``, ``valid`` or ``test`` where the corpus itself decides.
    content : str
        Hash of the audio; equal means a copy.
    """

    utt_id: str
    spk_id: str | None
    role: str | None
    content: str


def find_copies(candidates: Iterable[Candidate]) -> dict[str, str]:
    """Find utterances whose audio another utterance already has.

    Only one of them may stay, or the same audio could be learned and scored. A
    copy with the role test is kept before valid before train, so that published test
    sets stay whole; then the first by name.

    Returns
    -------
    dict
        utt_id of the copy -> utt_id of the one that stays.
    """
    rank = {"test": 0, "valid": 1, "train": 2, None: 3}
    by_content = defaultdict(list)
    for candidate in candidates:
        by_content[candidate.content].append(candidate)
    copies = {}
    for same in by_content.values():
        same.sort(key=lambda candidate: (rank[candidate.role], candidate.utt_id))
        copies.update({copy.utt_id: same[0].utt_id for copy in same[1:]})
    return copies


def split_roles(
    candidates: Sequence[Candidate],
    seed: int,
    counts: Mapping[str, int | None],
    by: str = "auto",
) -> tuple[dict[str, list[str]], str]:
    """Give every utterance at most one role.

    Roles that the corpus fixes stay; a count takes their first utterances in the
    order given. The others are ordered by a hash of (seed, speaker or utt_id) and fill
    test, then valid, then train, so that one more file moves few others.

    Arguments
    ---------
    candidates : Sequence of Candidate
        Accepted utterances without copies, in the corpus' order.
    seed : int
        Redraws the split.
    counts : Mapping
        Role -> number of utterances; None means all that is left for train, 5 % for
        valid and 10 % for test (at least 3 where there are 12 or more, else 1).
    by : str
        ``speaker``: no speaker has two roles; the numbers are then met as nearly as
        whole speakers allow, and never exceeded if they were given. ``utterance``:
        exact numbers. ``auto``: by speaker where at least three are known.

    Returns
    -------
    dict
        Role -> utt_ids.
    str
        How it was split: ``corpus``, ``speaker`` or ``utterance``.

    Raises
    ------
    UserError
        If a count asks for more utterances, or ``speaker`` for more speakers, than
        there are.
    WorkError
        If a role would stay empty.
    """
    if all(candidate.role for candidate in candidates):
        roles, how = _fixed_roles(candidates, counts), "corpus"
    else:
        how = _choose_unit(candidates, by)
        roles = _drawn_roles(candidates, seed, counts, how)
    empty = [role for role in ROLES if not roles[role]]
    if empty:
        sizes = ", ".join(f"{role} {len(roles[role])}" for role in ROLES)
        raise WorkError(
            f"prepare: no utterance is left for {' and '.join(empty)} ({sizes}); "
            "train, valid and test need at least one each: give more recordings or "
            "smaller --num_train, --num_valid, --num_test"
        )
    for role in ROLES:
        wanted = counts.get(role)
        if wanted is not None and how != "speaker" and len(roles[role]) < wanted:
            raise UserError(
                f"prepare: --num_{role} {wanted}: only {len(roles[role])} utterances "
                "are there for it; ask for fewer or give more recordings"
            )
    return roles, how


def _fixed_roles(candidates, counts) -> dict[str, list[str]]:
    roles = {role: [] for role in ROLES}
    for candidate in candidates:
        roles[candidate.role].append(candidate.utt_id)
    return {role: utt_ids[: counts.get(role)] for role, utt_ids in roles.items()}


def _choose_unit(candidates, by: str) -> str:
    speakers = {candidate.spk_id for candidate in candidates}
    enough = None not in speakers and len(speakers) >= len(ROLES)
    if by == "speaker" and not enough:
        raise UserError(
            f"prepare: a split by speaker needs {len(ROLES)} or more known speakers, "
            f"found {len(speakers - {None})}; use --split_by utterance"
        )
    if by == "auto":
        return "speaker" if enough else "utterance"
    return by


def _drawn_roles(candidates, seed, counts, unit: str) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for candidate in candidates:
        key = candidate.spk_id if unit == "speaker" else candidate.utt_id
        groups[key].append(candidate.utt_id)

    def draw(name: str) -> str:
        return draw_order("split", seed, name)

    waiting = sorted(groups, key=draw)
    roles = {}
    for num_later_roles, role in ((2, "test"), (1, "valid")):
        wanted = counts.get(role)
        target = _default_count(role, len(candidates)) if wanted is None else wanted
        taken = _take(waiting, groups, target, keep=num_later_roles)
        waiting = [key for key in waiting if key not in taken]
        roles[role] = [utt_id for key in sorted(taken) for utt_id in groups[key]]
        roles[role] = sorted(roles[role], key=draw)[:wanted]
    rest = [utt_id for key in waiting for utt_id in groups[key]]
    roles["train"] = sorted(rest, key=draw)[: counts.get("train")]
    return roles


def _default_count(role: str, num_utterances: int) -> int:
    return max(
        round(_FRACTIONS[role] * num_utterances), 3 if num_utterances > 11 else 1
    )


def _take(waiting, groups, target: int, keep: int) -> set[str]:
    """Choose groups that sum to about ``target``, leaving ``keep`` groups."""
    taken, size = set(), 0
    for key in waiting:
        if len(waiting) - len(taken) <= keep or size >= target:
            break
        # Only if it brings the sum nearer to the target.
        if len(groups[key]) < 2 * (target - size):
            taken.add(key)
            size += len(groups[key])
    if not taken and target > 0 and len(waiting) > keep:
        taken.add(min(waiting, key=lambda key: len(groups[key])))
    return taken
