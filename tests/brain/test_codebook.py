"""EMA codebooks under the guard: bits of stock when clean, no trace of a bad batch."""

import pytest
import speechbrain
import torch
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.quantization import ResidualVectorQuantizer
from tests.brain.test_transaction import assert_same_bits, deliver


def trained(base, data, init):
    class Codec(base):
        def compute_forward(self, batch, stage):
            latents = self.modules.encoder(batch["x"])
            return self.modules.quantizer(latents)

        def compute_objectives(self, predictions, batch, stage):
            decoded = self.modules.decoder(predictions.quantized)
            return (decoded - batch["x"]).square().mean() + predictions.loss

    torch.manual_seed(3)
    brain = Codec(
        {
            "encoder": nn.Linear(6, 8),
            "quantizer": ResidualVectorQuantizer(
                8, 3, 8, init=init, init_frames=64, quantizer_dropout=0.5
            ),
            "decoder": nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 6)),
        },
        lambda p: torch.optim.Adam(p, 1e-2),
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    brain.fit(range(2), deliver(data))
    state = brain.modules.state_dict()
    # Staging is empty and of no consequence between steps: compare what is kept.
    return brain, state | {"random": torch.get_rng_state()}


def batches(count):
    generator = torch.Generator().manual_seed(5)
    return [{"x": torch.randn(4, 10, 6, generator=generator)} for _ in range(count)]


@pytest.mark.parametrize("init", ["normal", "kmeans"])
def test_clean_run_has_the_bits_of_stock(init):
    stock = trained(speechbrain.Brain, batches(6), init)[1]
    assert_same_bits(stock, trained(NaNSafeBrain, batches(6), init)[1])


@pytest.mark.parametrize("init", ["normal", "kmeans"])
@pytest.mark.parametrize("place", [0, 1, 4, 6])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_bad_batch_leaves_no_trace_in_the_codebooks(init, place, value):
    data = batches(6)
    reference = trained(speechbrain.Brain, data, init)[1]
    bad = {"x": batches(1)[0]["x"].clone()}
    bad["x"][2, 3, 1] = value
    brain, state = trained(NaNSafeBrain, data[:place] + [bad] + data[place:], init)
    assert brain.health.rejected == 2
    assert_same_bits(reference, state)
