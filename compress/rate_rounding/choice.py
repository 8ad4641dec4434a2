"""Steps and integers of a layer at a price: what loses least for the bits that it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np

from compress.post_training.feedback import Feedback
from compress.rate_rounding.by_price import cheapest, round_by_price
from compress.rate_rounding.code_lengths import CodeLengths, entropy_bits
from compress.rate_rounding.descent import descend
from compress.rate_rounding.layer import STEPS_AN_OCTAVE, Layer, Rounded, exponents_of, steps_of

_DAMPING = 0.03  # of feedback
_COARSENING = (0, 2, 4, 6, 8)  # exponents by which all steps of a layer are raised, tried in this order
_FINER, _COARSER = 4.0, 16.0  # how far a step may go from the one that a row has
_SWEEPS = 4  # of descent where the steps are settled
_FEW_SWEEPS = 1  # where steps are compared
_EXACT = 1e-6  # of an exponent: rounding
_SETTLED = 0.002  # of loss and bits; a sweep that wins less is the last


class LayerChooser:
    """Rounds one layer at any price; what does not depend on the price is computed once."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    @cached_property
    def feedback(self) -> Feedback:
        """Return how errors are made up for."""
        return Feedback.of(self.layer.spread, self.layer.order, damping=_DAMPING)

    def choose(self, price: float, start: Rounded | None = None) -> Rounded:
        """Return the layer with the least loss + price * bits that was found.

        Args:
            price: loss that a bit is worth.
            start: found at a similar price: its steps, one finer and one coarser are tried; default: a wide search.
        """
        if start is None:
            tried = self._widely(price)
        else:
            shifts = (start.exponents + shift for shift in (-1, 1))
            tried = [self._refine(start, price, _FEW_SWEEPS), *(self._at(e, price, _FEW_SWEEPS) for e in shifts)]
        best = min(tried, key=lambda one: cost_of(one, price))
        return replace(self._finish(self._refine(best, price, _SWEEPS)), price=price)

    def rough_bits(self, price: float) -> float:
        """Return about how many bits the layer takes at a price: some more, and hundreds of times sooner."""
        return entropy_bits(self.alone(price)[0])

    def alone(self, price: float, *, by_bits: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return codes (out, columns) and exponents (out,), each weight chosen by itself: nothing is made up for.

        Args:
            price: loss that a bit is worth; the steps follow from it.
            by_bits: choose by error and bits, else the nearest.
        """
        layer = self.layer
        widest = np.ceil(STEPS_AN_OCTAVE * np.log2(layer.steps) - _EXACT).astype(np.int64)  # that cut nothing off
        exponents = np.maximum(self._ideal_exponents(price), widest)
        steps = steps_of(exponents).astype(np.float64)
        in_steps = layer.to_blocks(layer.weights / steps[:, None])
        codes = np.clip(np.rint(in_steps), -layer.largest_code, layer.largest_code)
        if by_bits:
            squares = np.diagonal(layer.spread, axis1=1, axis2=2)[:, None, :]
            worth = self._row_weights(steps, price)[:, :, None] * squares
            for _ in range(2):
                codes = cheapest(in_steps, worth, CodeLengths.fitted(codes, layer.largest_code))
        return layer.from_blocks(codes), exponents

    def row_losses(self, rounded: Rounded) -> np.ndarray:
        """Return what each row loses, (out,)."""
        return self.layer.row_losses(rounded.codes, rounded.steps)

    def row_bits(self, rounded: Rounded) -> np.ndarray:
        """Return what an ideal code of the layer's integers takes for each row, (out,)."""
        bits: np.ndarray = CodeLengths.fitted(rounded.codes, self.layer.largest_code).of(rounded.codes).sum(axis=1)
        return bits

    def _widely(self, price: float) -> list[Rounded]:
        """Try the rows' own steps, those that are best where nothing is rounded to zero, and those between."""
        own, ideal = exponents_of(self.layer.steps), self._ideal_exponents(price)
        tried: list[Rounded] = []
        for base in (own, np.rint((own + ideal) / 2).astype(np.int64), ideal):
            tried += self._while_better((base + shift for shift in _COARSENING), price)
        return tried

    def _while_better(self, bases: Iterable[np.ndarray], price: float) -> list[Rounded]:
        """Round with each of these steps until the cost rises."""
        tried: list[Rounded] = []
        for exponents in bases:
            tried.append(self._at(exponents, price, _FEW_SWEEPS))
            if len(tried) > 1 and cost_of(tried[-1], price) > cost_of(tried[-2], price):
                break
        return tried

    def _ideal_exponents(self, price: float) -> np.ndarray:
        """Return the steps at which the last bit of each row wins the same, near those that it has.

        Source:
            High-rate theory: an error of step^2 / 12 a weight, a bit for halving it; Gish and Pierce 1968.
        """
        layer = self.layer
        rows = layer.rows_to_blocks(layer.importance).shape[1]
        lost = layer.from_blocks(np.repeat(self.feedback.losses[:, None, :], rows, axis=1)).mean(axis=1)
        with np.errstate(over="ignore"):  # rows that lose nothing: as coarse as they may be
            steps = np.sqrt(6 * price / np.log(2) / np.maximum(layer.importance * lost, np.finfo(np.float64).tiny))
        return exponents_of(np.clip(steps, layer.steps / _FINER, layer.steps * _COARSER))

    def _at(self, exponents: np.ndarray, price: float, sweeps: int) -> Rounded:
        """Round with given steps."""
        layer, steps = self.layer, steps_of(exponents).astype(np.float64)
        in_steps = layer.to_blocks(layer.weights / steps[:, None])
        lengths = CodeLengths.fitted(
            np.clip(np.rint(in_steps), -layer.largest_code, layer.largest_code), layer.largest_code
        )
        codes = round_by_price(in_steps, self._row_weights(steps, price), self.feedback, lengths)
        codes = layer.from_blocks(codes)
        return self._refine(Rounded(codes, exponents, layer.loss(codes, steps)), price, sweeps)

    def _refine(self, rounded: Rounded, price: float, sweeps: int) -> Rounded:
        """Descend until little is won, the code lengths fitted anew each time."""
        layer, steps = self.layer, rounded.steps.astype(np.float64)
        in_steps = layer.to_blocks(layer.weights / steps[:, None])
        row_weights = self._row_weights(steps, price)
        for _ in range(sweeps):
            lengths = CodeLengths.fitted(rounded.codes, layer.largest_code)
            blocks = descend(in_steps, layer.to_blocks(rounded.codes), row_weights, layer.spread, lengths)
            codes = layer.from_blocks(blocks)
            better = Rounded(codes, rounded.exponents, layer.loss(codes, steps))
            won = cost_of(rounded, price) - cost_of(better, price)
            rounded = better if won > 0 else rounded
            if won < _SETTLED * cost_of(rounded, price):
                break
        return rounded

    def _row_weights(self, steps: np.ndarray, price: float) -> np.ndarray:
        """Return the bits that a squared error of one step is worth, (blocks, rows)."""
        return self.layer.rows_to_blocks(self.layer.importance * steps**2 / price)

    def _finish(self, rounded: Rounded) -> Rounded:
        """Give rows of zeros the step that most others have: it computes nothing and costs least."""
        dead = ~rounded.codes.any(axis=1)
        if not dead.any():
            return rounded
        values, counts = np.unique(rounded.exponents[dead if dead.all() else ~dead], return_counts=True)
        exponents = np.where(dead, values[counts.argmax()], rounded.exponents)
        return Rounded(rounded.codes, exponents, rounded.loss)


def cost_of(rounded: Rounded, price: float) -> float:
    """Return loss + price * bits."""
    return rounded.loss + price * rounded.bits
