"""Samples to frames of a transform and back, block by block.

Frames are transformed one at a time, so that they do not depend on how many samples
come at a time: a product of one row is another sum than that of many.
"""

from __future__ import annotations

import numpy as np
import torch

from speechbrain_ext.models.mdct import MDCT


class FrameAnalyser:
    """Cuts a signal into blocks, and returns a frame for each two of them.

    Arguments
    ---------
    mdct : MDCT

    Example
    -------
    >>> mdct = MDCT(4).double()
    >>> wave = np.random.default_rng(0).standard_normal(10).astype(np.float32)
    >>> analyser = FrameAnalyser(mdct)
    >>> frames = [*analyser.push(wave[:7]), *analyser.push(wave[7:])]
    >>> frames += analyser.finish()
    >>> np.allclose(frames, mdct(torch.from_numpy(wave)[None])[0])
    True
    """

    def __init__(self, mdct: MDCT):
        self._mdct = mdct
        self._hop = mdct.hop_samples
        self._blocks = mdct.dct.new_zeros(1, 2, self._hop)
        self._rest = np.zeros(0, np.float32)
        self.num_samples = 0

    def push(self, samples: np.ndarray) -> list[np.ndarray]:
        """Return the frames that are complete now, [hop] each."""
        self.num_samples += len(samples)
        rest = np.concatenate([self._rest, samples])
        count = len(rest) // self._hop
        frames = [self._frame(block) for block in _cut(rest, count, self._hop)]
        self._rest = rest[count * self._hop :]
        return frames

    def finish(self) -> list[np.ndarray]:
        """Return the frames that the silence behind the signal completes."""
        if not self.num_samples:
            return []
        frames = []
        if len(self._rest):
            missing = self._hop - len(self._rest)
            frames.append(self._frame(np.pad(self._rest, (0, missing))))
        return [*frames, self._frame(np.zeros(self._hop, np.float32))]

    @torch.no_grad()
    def _frame(self, block: np.ndarray) -> np.ndarray:
        self._blocks[0, 0] = self._blocks[0, 1]
        self._blocks[0, 1] = torch.from_numpy(block)
        return self._mdct.transform(self._blocks)[0, 0].cpu().numpy()


class FrameSynthesiser:
    """Overlaps frames to samples.

    Arguments
    ---------
    mdct : MDCT
    """

    def __init__(self, mdct: MDCT):
        self._mdct = mdct
        self._half: np.ndarray | None = None

    @torch.no_grad()
    def push(self, frames: np.ndarray) -> np.ndarray:
        """Return the blocks that are complete now.

        Arguments
        ---------
        frames : np.ndarray
            [frames, hop].

        Returns
        -------
        np.ndarray
            float32, a block for each frame but the first of the stream, [time].
        """
        blocks = []
        for frame in frames:
            given = torch.from_numpy(frame).to(self._mdct.dct)[None, None]
            left, right = (
                half[0, 0].cpu().numpy() for half in self._mdct.unfold(given)
            )
            if self._half is not None:
                blocks.append(self._half + left)
            self._half = right
        return np.concatenate([np.zeros(0), *blocks]).astype(np.float32)


def _cut(samples: np.ndarray, count: int, hop: int) -> np.ndarray:
    return samples[: count * hop].reshape(count, hop)
