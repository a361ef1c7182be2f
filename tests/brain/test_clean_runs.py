"""Where nothing is wrong the guard changes nothing: ten seeds, no reject, same bits."""

import random

import numpy
import pytest
import speechbrain
import torch
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.quantization import ResidualVectorQuantizer
from tests.brain import stock_recipes as recipes
from tests.brain.same_bits import differences, files_of, state_of


class Codebook(nn.Module):
    """An EMA codebook as most repositories write it: buffers moved in forward."""

    def __init__(self, size=8, dim=4):
        super().__init__()
        self.register_buffer("codes", torch.randn(size, dim))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, latents):
        flat = latents.detach().float().reshape(-1, latents.shape[-1])
        chosen = nn.functional.one_hot(
            torch.cdist(flat, self.codes).argmin(1), len(self.codes)
        ).float()
        if self.training:
            self.counts.lerp_(chosen.sum(0), 0.1)
            sums = (chosen[:, :, None] * flat[:, None]).sum(0)
            self.sums.lerp_(sums, 0.1)
            self.codes.copy_(self.sums / self.counts.clamp(min=0.1)[:, None])
            dead = self.counts < 0.2  # random restarts draw from the global stream
            picked = torch.randint(len(flat), (len(self.codes),))
            self.codes.copy_(torch.where(dead[:, None], flat[picked], self.codes))
        quantized = self.codes[chosen.argmax(1)].view_as(latents)
        loss = (latents - quantized.detach()).square().mean()
        return latents + (quantized - latents).detach(), loss


class Library(nn.Module):
    """The quantizer of this project: commits its statistics with the step."""

    def __init__(self, dim=4):
        super().__init__()
        self.quantizer = ResidualVectorQuantizer(dim, 2, 8, init="normal")

    def forward(self, latents):
        result = self.quantizer(latents)
        return result.quantized, result.loss


def codec(base, folder, *, quantizer=Codebook, **options):
    """Convolutions with BatchNorm around a codebook; the bits of a step add up."""

    class Codec(base):
        def compute_forward(self, batch, stage):
            sig, _ = recipes.here(batch, self.device)["sig"]
            latents = self.modules.encoder(sig[:, None, :800]).transpose(1, 2)
            quantized, loss = self.modules.quantizer(latents)
            return self.modules.decoder(quantized.transpose(1, 2))[:, 0], loss

        def compute_objectives(self, predictions, batch, stage):
            decoded, commitment = predictions
            sig, _ = recipes.here(batch, self.device)["sig"]
            return (decoded - sig[:, :800]).abs().mean() + 0.25 * commitment

    modules = {
        "encoder": nn.Sequential(
            nn.Conv1d(1, 8, 8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 1)
        ),
        "quantizer": quantizer(),
        "decoder": nn.ConvTranspose1d(4, 1, 8, 8),
    }
    return recipes.make(Codec, modules, recipes.adam, **options)


def library_codec(base, folder):
    """As `codec`, with `ResidualVectorQuantizer`."""
    return codec(base, folder, quantizer=Library)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("recipe", [recipes.speaker, codec, library_codec])
def test_a_clean_run_has_the_bits_of_stock_and_no_reject(recipe, seed, tmp_path):
    def left_by(base, folder):
        for seeded in (torch.manual_seed, random.seed, numpy.random.seed):
            seeded(seed)
        brain = recipe(base, folder)
        items = recipes.utterances(5 * recipes.PER_BATCH, seed=seed)
        recipes.run(brain, items, kind="dict")
        return brain, state_of(brain) | files_of(brain, folder)

    _, reference = left_by(speechbrain.Brain, tmp_path / "stock")
    ours, left = left_by(NaNSafeBrain, tmp_path / "ours")
    assert (ours.health.committed, ours.health.rejected) == (10, 0)
    assert differences(reference, left) == []
