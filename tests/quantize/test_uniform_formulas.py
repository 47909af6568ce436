"""Formulas of uniform grids entry by entry: gradients at the ends, what is stored, ranges by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from tersenet.forms import Uniform, decode
from tersenet.forms.inputs import InputGrid
from tersenet.quantize.ranges import BINS, FRACTIONS, grid

LOW, LEVELS = -4, 8
HIGH = LOW + LEVELS - 1


def gradients(ratio, step, low=LOW, levels=LEVELS):
    """(∂L/∂v, ∂L/∂s) of L = Σ v̂ for a single entry v = ratio·s, as Esser et al. print them (eq. 3 and 5)."""
    high = low + levels - 1
    if ratio < low:
        return 0.0, float(low)
    if ratio > high:
        return 0.0, float(high)
    return 1.0, float(np.round(ratio)) - ratio


@pytest.mark.parametrize("ratio", [-9.0, -4.4, -4.01, -4.0, -3.6, -0.3, 0.0, 1.7, 2.9, 3.0, 3.01, 3.4, 3.6, 8.0])
def test_gradients_change_at_the_ends_of_the_range_themselves(ratio):
    """Also less than half a step beyond, where rounding alone still gives the last number."""
    step = 0.5
    form = Uniform(torch.tensor([step]), torch.tensor([LOW]), LEVELS, learned=True)
    latent = torch.tensor([ratio * step], requires_grad=True)
    form(latent).sum().backward()
    of_latent, of_step = gradients(ratio, step)
    assert float(latent.grad) == of_latent
    assert float(form.step.grad) == pytest.approx(of_step / HIGH**0.5, abs=1e-5)


def test_a_grid_without_positive_numbers_has_a_gradient_all_the_same():
    form = Uniform(torch.tensor([0.5]), torch.tensor([-7]), 8, learned=True)
    form(torch.tensor([-1.1, -9.0])).sum().backward()
    expected = (-2 + 2.2 - 7) / 2**0.5  # two entries; a range that ends at 0 counts as if it ended at 1
    assert float(form.step.grad) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch", [1, 5])
def test_inputs_count_the_entries_of_one_example(batch):
    """Esser et al., §2.2: N is the number of features, whatever the batch."""
    layer, x = InputGrid(0.5, LOW, LEVELS, learned=True), torch.full((batch, 6), 0.6)
    layer(x).sum().backward()
    assert float(layer.step.grad) == pytest.approx(batch * 6 * (1 - 1.2) / (6 * HIGH) ** 0.5, rel=1e-4)


def test_a_step_below_zero_counts_by_its_size():
    latent = torch.randn(20, generator=torch.Generator().manual_seed(0))
    below, above = (Uniform(torch.tensor([step]), torch.tensor([LOW]), LEVELS) for step in (-0.3, 0.3))
    assert torch.equal(below(latent), above(latent)) and bool(below(latent).any())


def test_zero_is_never_negative_zero():
    """A file holds whole numbers, which have one zero; the forward has the same bits."""
    form, latent = Uniform(torch.tensor([0.5]), torch.tensor([LOW]), LEVELS), torch.tensor([-0.1, -0.0, 0.1])
    assert torch.signbit(form(latent)).tolist() == [False] * 3
    assert form(latent).numpy().tobytes() == decode(form.encode(latent)).numpy().tobytes()


def test_symbols_put_zero_first_then_negative_then_positive_numbers():
    form = Uniform(torch.tensor([1.0]), torch.tensor([-3]), 8)
    latent = torch.arange(-3.0, 5.0)
    code = form.encode(latent)
    assert code.streams["index"].values.tolist() == [1, 2, 3, 0, 4, 5, 6, 7] and code.streams["index"].alphabet == 8
    assert torch.equal(decode(code), latent)


@pytest.mark.parametrize("low", [-8, 1, 3])
def test_grids_without_zero_are_refused(low):
    with pytest.raises(ValueError, match="8 levels must hold zero"):
        Uniform(torch.tensor([1.0]), torch.tensor([low]), 8)
    Uniform(torch.tensor([1.0]), torch.tensor([-7]), 8)


def test_how_many_values_there_are_at_most():
    """Rows share zero and nothing else."""
    form = Uniform(torch.tensor([1.0, 1.1, 1.3]), torch.tensor([-1, -2, 0]), 4, axis=0)
    latent = torch.arange(-9.0, 10.0).repeat(3, 1) / 2
    assert form(latent).unique().numel() == form.distinct == 10


def extremes(entries, scheme, bits=4):
    """The grid of these two ends."""
    low, high = (float(end) for end in entries)
    return grid(torch.tensor([[low, high]]), bits, scheme, "minmax")


@pytest.mark.parametrize("percentile", [90, 97.5, 100])
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_affine_percentiles_cut_both_ends(percentile, shift):
    """Nearest ranks, counted from either end; a range on one side of zero ends there."""
    entries = torch.randn(1, 400, generator=torch.Generator().manual_seed(0)) + shift
    ordered = np.sort(entries.numpy()[0])
    kept = round(percentile / 100 * 400)
    wanted = extremes((min(ordered[400 - kept], 0), max(ordered[kept - 1], 0)), "affine")
    found = grid(entries, 4, "affine", "percentile", percentile)
    torch.testing.assert_close(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_affine_zero_points_are_rounded_to_the_nearest():
    """Low ends of −0.4, −0.6 and −2.5 steps (halves to even), with 2^b − 1 steps over the whole range."""
    for low, zero in ((-0.4, 0), (-0.6, -1), (-2.5, -2), (-3.5, -4)):
        step, found = grid(torch.tensor([[low, 15 + low]]), 4, "affine", "minmax")
        assert float(step) == pytest.approx(1.0) and int(found) == zero


def divergence(counts, kept, levels):
    """Migacz's Kullback–Leibler divergence by loops, and what mass q cannot express."""
    p = counts[:kept].astype(float)
    p[-1] += counts[kept:].sum()
    q, level_of = np.zeros(kept), np.arange(kept) * levels // kept
    for level in range(levels):
        bins = np.flatnonzero((level_of == level) & (counts[:kept] > 0))
        if len(bins):
            q[bins] = counts[bins].mean()
    p, q = p / p.sum(), q / q.sum()
    both = (p > 0) & (q > 0)
    proper = entropy(p[both] / p[both].sum(), q[both] / q[both].sum())
    exact = p[both].sum() * (proper + np.log(p[both].sum() / q[both].sum()))
    return exact + 1e3 * p[(p > 0) & (q == 0)].sum()


@pytest.mark.parametrize(
    ("scheme", "side", "levels"), [("symmetric", "both", 4), ("affine", "both", 4), ("affine", "positive", 8)]
)
@pytest.mark.parametrize("freedom", [2.0, 5.0])
def test_entropy_takes_the_least_divergence_of_all_fractions(scheme, side, levels, freedom):
    """Of numbers on one side of zero all 2^b levels are there for their magnitudes, else half of them; for these rows
    that makes a difference."""
    torch.manual_seed(2)
    row, bits = torch.distributions.StudentT(freedom).sample((3000,)), 3
    row = row.abs() if side == "positive" else row
    magnitudes = row.abs().numpy()
    counts, _ = np.histogram(magnitudes, BINS, (0, magnitudes.max()))
    cuts = [BINS * count // FRACTIONS for count in range(FRACTIONS, 0, -1)]
    best = min((kept for kept in cuts if kept >= levels), key=lambda kept: divergence(counts, kept, levels))
    assert best < BINS
    low, high = min(float(row.min()), 0) * best / BINS, max(float(row.max()), 0) * best / BINS
    found, wanted = grid(row[None], bits, scheme, "entropy"), extremes((low, high), scheme, bits)
    torch.testing.assert_close(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


ROWS = {
    "tails": (lambda: torch.distributions.StudentT(5.0).sample((3000,)), 2, 614),
    "two boxes": (lambda: torch.cat([torch.rand(300), 3 * torch.rand(30)]), 3, BINS),
    "one far away": (lambda: torch.cat([0.01 * torch.randn(3000), torch.ones(1)]), 8, BINS),
}
"""Rows, bits, and the bins that are kept of them. Which bins make a level decides in the first, that its mass is shared
out in the second, and that no fewer bins than levels are kept in the third."""


@pytest.mark.parametrize("name", ROWS)
def test_entropy_of_rows_that_one_term_decides(name):
    build, bits, kept = ROWS[name]
    torch.manual_seed(2)
    row, levels = build(), 2 ** (bits - 1)
    counts, _ = np.histogram(row.abs().numpy(), BINS, (0, float(row.abs().max())))
    cuts = [BINS * count // FRACTIONS for count in range(FRACTIONS, 0, -1)]
    assert min((cut for cut in cuts if cut >= levels), key=lambda cut: divergence(counts, cut, levels)) == kept
    ends = (min(float(row.min()), 0) * kept / BINS, float(row.max()) * kept / BINS)
    torch.testing.assert_close(grid(row[None], bits, "symmetric", "entropy")[0], extremes(ends, "symmetric", bits)[0])


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("bits", [3, 8])
def test_entropy_does_not_count_zeros(scheme, bits):
    """Every grid holds them. The many that ReLU and pruning make would else outweigh all that is cut off."""
    torch.manual_seed(3)
    row = torch.distributions.StudentT(5.0).sample((3000,)).abs()
    found, wanted = (grid(x[None], bits, scheme, "entropy") for x in (torch.cat([row, torch.zeros(9000)]), row))
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    assert float(wanted[0]) * (2**bits - 1) > 0.25 * float(row.max())


def test_steps_are_never_shorter_than_float32():
    """Else numbers beyond what the short type counts to would be lost: 11 bits of float16."""
    form = Uniform(torch.tensor([1.0], dtype=torch.float16), torch.tensor([-(2**15)]), 2**16)
    latent = torch.tensor([-32767.0, 4097.0, 32767.0])
    assert form.step.dtype == torch.float32 and torch.equal(form(latent), latent)


def test_entropy_of_a_row_of_zeros_and_of_few_numbers():
    step, _ = grid(torch.zeros(1, 5), 4, "symmetric", "entropy")
    assert float(step) == 1.0
    step, _ = grid(torch.tensor([[0.0, 0.0, 1.4]]), 4, "symmetric", "entropy")
    assert float(step) == pytest.approx(0.2)


def test_the_least_error_is_that_of_all_fractions_where_it_goes_up_and_down():
    """As it does for rows of few entries."""
    rows = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    ends = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    errors = []
    for count in range(1, FRACTIONS + 1):
        step, low = grid(torch.stack(ends, 1) * (count / FRACTIONS), 3, "affine", "minmax")
        numbers = np.clip(np.round(rows.numpy() / step.numpy()[:, None]), low[:, None], low[:, None] + 7)
        errors.append(np.square(numbers * step.numpy()[:, None] - rows.numpy()).sum(1))
    step, low = grid(rows, 3, "affine", "mse")
    found = (Uniform(step, low, 8, axis=0)(rows) - rows).square().sum(1)
    np.testing.assert_allclose(found.numpy(), np.min(errors, 0), rtol=1e-4, atol=1e-6)


def test_of_equal_errors_the_widest_range_is_taken():
    """Entries on the full grid already: no narrower range errs less."""
    step, _ = grid(torch.arange(-8.0, 8.0)[None], 4, "symmetric", "mse")
    assert float(step) == 1.0


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_lsq_starts_from_twice_the_mean_over_the_root_of_the_highest_number(bits):
    entries = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    step, low = grid(entries, bits, "symmetric", "lsq")
    wanted = 2 * np.abs(entries.numpy()).mean(1) / np.sqrt(max(2 ** (bits - 1) - 1, 1))
    np.testing.assert_allclose(step.numpy(), wanted, rtol=1e-6)
    assert low.tolist() == [-(2 ** (bits - 1))] * 2
