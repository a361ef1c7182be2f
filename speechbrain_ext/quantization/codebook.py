"""The codebooks of all quantizers: EMA statistics, revival of dead codes.

The state of all stages lies in one set of tensors, so that a commit is a handful of
operations whatever the number of stages, and one collective across ranks.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from speechbrain_ext.quantization.ranks import is_distributed

#: A code with less than this share of its stage's mean count is called dead in logs,
#: also where none is revived.
_HARDLY_USED = 0.01
#: Most codes of one stage that are revived at a time. It bounds the candidate rows
#: kept per stage, hence memory and the cost of a transaction's copy.
MAX_REVIVED = 256


class CodebookBank(nn.Module):
    r"""EMA codebooks of several stages, moved only by `commit`.

    van den Oord et al., 2017, app. A.1 (https://arxiv.org/abs/1711.00937): with
    :math:`n` vectors of sum :math:`s` assigned to a code,
    :math:`N \leftarrow \gamma N + (1-\gamma) n`,
    :math:`W \leftarrow \gamma W + (1-\gamma) s`, :math:`c = W / N`.

    Departures, and why:

    - N and W start at zero, so a code jumps to the mean of the first vectors it wins
      instead of creeping there over :math:`1/(1-\gamma)` steps from its random start.
    - A code that won nothing keeps its bits (W/N is unchanged then, apart from
      rounding), so N needs no smoothing constant.
    - At the first commit after k-means, N is scaled to add up to a batch: with the
      counts of k-means the codes would hardly follow the encoder at first.
    - Nothing moves in the ``stage_*`` methods: counts, sums and candidate rows wait
      in buffers for `commit` or `discard`, so that a rejected batch leaves no trace.
    - Dead codes are told by a threshold relative to the stage's mean usage. EnCodec's
      absolute 2.0 redraws most of a 1024-entry codebook at every step when a batch
      has 600 frames.

    Staging, `commit` and `discard` never synchronise with the host. Random choices
    come from torch's global generator of the tensors' device.

    Arguments
    ---------
    num_stages : int
        Number of codebooks.
    codebook_size : int
        Codes per codebook.
    width : int
        Dimensions of a code vector; the widest, where stages differ: narrower stages
        use the first columns.
    decay : float
        EMA factor :math:`\gamma`, in [0, 1).
    dead_threshold : float
        A code is dead when N falls below this fraction of its stage's mean N;
        0 switches revival off.
    revive_every : int
        Dead codes are looked for at a stage's first commit and every so many commits
        of that stage after it.

    Example
    -------
    >>> bank = CodebookBank(num_stages=1, codebook_size=2, width=3)
    >>> rows, codes = torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
    >>> bank.stage_counts(torch.tensor([[4.0, 0.0]]))
    >>> bank.stage_sums(0, codes, rows)
    >>> bank.commit()
    >>> bank.book(0)[0]
    tensor([1., 1., 1.])
    """

    def __init__(
        self,
        num_stages: int,
        codebook_size: int,
        width: int,
        *,
        decay: float = 0.99,
        dead_threshold: float = 0.1,
        revive_every: int = 5,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.dead_threshold = dead_threshold
        self.revive_every = revive_every
        num_slots = min(codebook_size, MAX_REVIVED) if dead_threshold > 0 else 0
        shape = (num_stages, codebook_size, width)
        self.register_buffer("codebooks", torch.randn(shape) * 0.01)
        self.register_buffer("ema_counts", torch.zeros(shape[:2]))
        self.register_buffer("ema_sums", torch.zeros(shape))
        self.register_buffer("commits", torch.zeros(num_stages, dtype=torch.int64))
        staging = {
            "staged_counts": torch.zeros(shape[:2]),
            "staged_sums": torch.zeros(shape),
            "candidates": torch.zeros(num_stages, num_slots, width),
            "candidate_filled": torch.zeros(num_stages, num_slots),
            # Codes revived since construction, per stage: for the log only.
            "revived": torch.zeros(num_stages, dtype=torch.int64),
        }
        for name, value in staging.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def num_slots(self) -> int:
        """Candidate rows kept per stage."""
        return self.candidates.shape[1]

    def book(self, stage: int, width: int | None = None) -> torch.Tensor:
        """Code vectors of one stage, [codebook_size, width], as a view."""
        return self.codebooks[stage, :, :width]

    def blank(self, stage: int, width: int) -> None:
        """Zero the columns a narrower stage doesn't use, so that norms ignore them."""
        for buffer in (self.codebooks, self.ema_sums):
            buffer[stage, :, width:] = 0

    def fill(self, stage: int, centroids: torch.Tensor, counts: torch.Tensor) -> None:
        """Start one stage from centroids and the counts they are means of."""
        width = centroids.shape[1]
        self.blank(stage, width)
        self.codebooks[stage, :, :width] = centroids
        self.ema_sums[stage, :, :width] = centroids * counts[:, None]
        self.ema_counts[stage] = counts
        self.commits[stage] = 0

    def count(self, codes: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Count how often each code was chosen.

        Arguments
        ---------
        codes : torch.Tensor
            Of the first stages, [num_stages, n].
        valid : torch.Tensor
            1.0 for the frames that count, else 0.0, [n].

        Returns
        -------
        torch.Tensor
            [num_stages, codebook_size], float32.
        """
        num_stages, size = codes.shape[0], self.codebooks.shape[1]
        offsets = torch.arange(0, num_stages * size, size, device=codes.device)
        counts = valid.new_zeros(num_stages * size)
        flat = (codes + offsets[:, None]).flatten()
        counts.index_add_(0, flat, valid.repeat(num_stages))
        return counts.view(num_stages, size)

    def stage_counts(self, counts: torch.Tensor) -> None:
        """Add a batch's code counts, [n, codebook_size], of the first n stages."""
        self.staged_counts[: counts.shape[0]].add_(counts)

    def stage_sums(self, stage: int, codes: torch.Tensor, rows: torch.Tensor) -> None:
        """Add rows, [n, width], to the sums of the codes, [n], they belong to."""
        self.staged_sums[stage, :, : rows.shape[1]].index_add_(
            0,
            codes,
            rows.contiguous(),  # a strided source takes a slower kernel
        )

    def draw_candidates(
        self, valid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw which rows of this batch dead codes may be revived to.

        A random order of the rows with the finite ones in front; each stage takes
        another part of it, so that stages are not revived from the same frames.

        Arguments
        ---------
        valid : torch.Tensor
            1.0 for finite rows, else 0.0, [n].

        Returns
        -------
        tuple or None
            Row numbers, [num_stages, num_slots] int64, and whether a slot gets a row,
            [num_slots, 1] bool; for `stage_candidates`.
        """
        if not self.num_slots or not valid.numel():
            return None
        keys = torch.rand_like(valid) + (1 - valid)  # in [1, 2) where not finite
        order = keys.argsort()
        num_valid = valid.sum().long()
        slots = torch.arange(self.num_slots, device=valid.device)
        offsets = torch.arange(self.codebooks.shape[0], device=valid.device)
        picks = (slots + offsets[:, None] * self.num_slots) % num_valid.clamp(min=1)
        # A slot past the number of finite rows would only repeat one.
        return order[picks], (slots < num_valid)[:, None]

    def stage_candidates(
        self,
        stage: int,
        rows: torch.Tensor,
        drawn: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Keep the rows drawn, of the vectors [n, width] that a stage quantizes.

        Slots for which nothing was drawn keep what an earlier forward put there.
        """
        if drawn is None:
            return
        picks, gets_row = drawn
        slots = self.candidates[stage, :, : rows.shape[1]]
        chosen = rows.index_select(0, picks[stage])
        torch.where(gets_row, chosen, slots, out=slots)
        filled = self.candidate_filled[stage]
        torch.maximum(filled, gets_row[:, 0].to(filled.dtype), out=filled)

    def discard(self) -> None:
        """Forget what was staged."""
        self.staged_counts.zero_()
        self.staged_sums.zero_()
        self.candidates.zero_()
        self.candidate_filled.zero_()

    @torch.no_grad()
    def commit(self) -> None:
        """Move the codebooks by what was staged on all ranks, and clear it.

        Stages for which nothing was staged (quantizer dropout, no finite frame) keep
        every bit: neither their counts decay nor are their codes revived.

        With torch.distributed this is a collective: every rank calls it, equally
        often.
        """
        if is_distributed():
            self._reduce()
        total = self.staged_counts.sum(1)
        active = total > 0
        self._settle(total, active)
        weight = active * (1.0 - self.decay)
        self.ema_counts.lerp_(self.staged_counts, weight[:, None])
        self.ema_sums.lerp_(self.staged_sums, weight[:, None, None])
        won = self.staged_counts[..., None] > 0
        # The staged sums have done their work: reuse their memory for the means.
        means = self.staged_sums
        torch.div(self.ema_sums, self.ema_counts[..., None], out=means)
        torch.where(won, means, self.codebooks, out=self.codebooks)
        if self.num_slots:
            self._revive(active)
        self.commits.add_(active)
        self.discard()

    def _settle(self, total: torch.Tensor, active: torch.Tensor) -> None:
        """At the first commit after `fill`, let N add up to a batch, not to k-means.

        k-means saw many batches' worth of frames; with its counts the codes would
        hardly follow the encoder for as many steps. W / N stays what it was.
        """
        held = self.ema_counts.sum(1)
        first = active & (self.commits == 0) & (held > 0)
        if known_empty(first):
            return
        scale = torch.where(first, total / held, 1.0)
        self.ema_counts.mul_(scale[:, None])
        self.ema_sums.mul_(scale[:, None, None])

    def health_counts(self) -> dict[str, int]:
        """Return how many codes are hardly used, and how many were revived so far."""
        least = max(self.dead_threshold, _HARDLY_USED)
        mean = self.ema_counts.mean(1, keepdim=True)
        return {
            "dead_codes": int((self.ema_counts < least * mean).sum()),
            "revived": int(self.revived.sum()),
        }

    def _revive(self, active: torch.Tensor) -> None:
        """Give dead codes a row of the batch: codebook, count and sum alike."""
        due = active & (self.commits % self.revive_every == 0)
        mean = self.ema_counts.mean(1, keepdim=True)
        dead = due[:, None] & (self.ema_counts < self.dead_threshold * mean)
        if known_empty(dead):
            return
        # The dead codes in front; the m-th of a stage takes slot m, no row is used
        # twice, and only as many codes are touched as there are slots.
        order = dead.byte().sort(dim=1, descending=True, stable=True).indices
        target = order[:, : self.num_slots]
        revived = dead.gather(1, target) & (self.candidate_filled > 0)
        # Neither a newborn that one empty batch kills again, nor as settled as a code
        # of average use: it may move quickly and has about 70 commits to be used.
        restart = 2 * self.dead_threshold * mean
        counts = torch.where(revived, restart, self.ema_counts.gather(1, target))
        self.ema_counts.scatter_(1, target, counts)
        place = target[..., None].expand_as(self.candidates)
        for buffer, rows in (
            (self.codebooks, self.candidates),
            (self.ema_sums, self.candidates * restart[..., None]),
        ):
            kept = buffer.gather(1, place)
            buffer.scatter_(1, place, torch.where(revived[..., None], rows, kept))
        self.revived.add_(revived.sum(1))

    def _reduce(self) -> None:
        """Sum the staged statistics over ranks, in one collective.

        Slot j of the candidates comes from rank j modulo world size: the others send
        zeros, so the same sum hands every rank the same rows.
        """
        slots = torch.arange(self.num_slots, device=self.candidates.device)
        mine = (slots % dist.get_world_size() == dist.get_rank()).float()
        self.candidate_filled.mul_(mine)
        self.candidates.mul_(self.candidate_filled[..., None])
        parts = [
            self.staged_counts,
            self.staged_sums,
            self.candidates,
            self.candidate_filled,
        ]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        for part, summed in zip(
            parts, flat.split([part.numel() for part in parts]), strict=True
        ):
            part.copy_(summed.view_as(part))


def known_empty(mask: torch.Tensor) -> bool:
    """Whether nothing is set, where asking costs nothing; elsewhere False."""
    return mask.device.type == "cpu" and not mask.numpy().any()
