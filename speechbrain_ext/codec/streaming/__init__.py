"""Speech coded as it comes: samples in, bytes out, and the other way round.

`StreamEncoder` and `StreamDecoder` tie together: `packets` (what the bytes are),
`datagrams` (where some get lost), `frames` (samples to spectra and back, block by
block), `wave_packets` and `code_packets` (spectra to packets, for `WaveCodec` and for
codecs of codes), `overlap` (networks that look at frames around), `rate` (a step per
packet for a rate), `sides` (which of these code which codec).
"""

from speechbrain_ext.codec.streaming.decoder import StreamDecoder
from speechbrain_ext.codec.streaming.encoder import StreamEncoder

__all__ = ["StreamDecoder", "StreamEncoder"]
