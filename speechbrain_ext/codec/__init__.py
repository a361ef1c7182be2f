"""The transform coder: spectra as bits, each coefficient from what lies around it.

Bottom up: `exact` (tables), `arithmetic` (bits to bytes), `unary_net` and `symbols`
(how likely each symbol is), `bands` (steps), `envelope` and `coefficients` (what is
sent), `signal` (in which order), `synthesis` (what is made of it), `learn`.

Beside it: `tokens`, the codes of a codec that has some for a language model.
"""
