"""SVD, plain and on data, against Eckart–Young, brute-force regression and numpy; ranks; the formulas; EVBMF."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from tersenet.factorize import break_even, cp_compression, svd_compression, tucker_compression
from tersenet.factorize import ranks as choose
from tersenet.factorize.svd import aware, balanced, square_root, truncated
from tersenet.factorize.vbmf import _energy, limit, marchenko_pastur_edge, noise_variance, rank_of

SIZES = st.integers(1, 12)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(SIZES, SIZES, st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_error_of_truncation_is_the_tail_of_the_spectrum(n: int, m: int, rank: int, seed: int) -> None:
    matrix, rank = random(n, m, seed=seed), min(rank, n, m)
    a, b = truncated(matrix, rank)
    tail = np.linalg.svd(matrix.numpy(), compute_uv=False)[rank:]
    assert a.shape == (n, rank)
    assert b.shape == (rank, m)
    assert float((matrix - a @ b).norm()) == pytest.approx(float(np.sqrt((tail**2).sum())), abs=1e-9)


def test_both_factors_are_of_one_size() -> None:
    matrix = random(9, 5)
    for a, b in (truncated(matrix, 3), balanced(torch.linalg.qr(random(9, 3))[0], random(3, 5))):
        torch.testing.assert_close(a.mT @ a, b @ b.mT)


def by_regression(w: torch.Tensor, x: torch.Tensor, rank: int) -> torch.Tensor:
    """Reduced-rank regression of Y = X Wᵀ on X by its textbook form (Reinsel & Velu, eq. 2.17): the least-squares
    coefficients times V Vᵀ, V the first eigenvectors of Ŷᵀ Ŷ."""
    y = x.numpy() @ w.numpy().T
    least_squares = np.linalg.lstsq(x.numpy(), y, rcond=None)[0]
    fitted = x.numpy() @ least_squares
    v = np.linalg.eigh(fitted.T @ fitted)[1][:, ::-1][:, :rank]
    return torch.from_numpy((least_squares @ v @ v.T).T.copy())


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_on_data_it_is_reduced_rank_regression(rank: int) -> None:
    w, x = random(6, 8), random(50, 8, seed=1) @ random(8, 8, seed=2)
    a, b = aware(w, rank, square_root(x.mT @ x / len(x)))
    torch.testing.assert_close(a @ b, by_regression(w, x, rank))


def test_on_data_no_other_matrix_of_the_rank_is_nearer() -> None:
    """Found by descent from several places, knowing nothing of the closed form."""
    w, x = random(4, 5), random(40, 5, seed=1) @ random(5, 5, seed=2)
    moment = x.mT @ x / len(x)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.tensor(flat, requires_grad=True)
        off = w - values[:8].view(4, 2) @ values[8:].view(2, 5)
        value = torch.trace(off @ moment @ off.mT)
        value.backward()
        assert values.grad is not None
        return float(value.detach()), values.grad.numpy()

    found = min(minimize(loss, random(18, seed=s).numpy(), jac=True, method="BFGS").fun for s in range(4))
    a, b = aware(w, 2, square_root(moment))
    off = w - a @ b
    assert float(torch.trace(off @ moment @ off.mT)) == pytest.approx(found, rel=1e-5)


@given(SIZES, SIZES, st.integers(1, 12), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_on_data_outputs_are_never_worse_than_by_weights(n: int, m: int, rank: int, rows: int, seed: int) -> None:
    """Also with fewer rows than inputs, where the moment is singular."""
    w, x, rank = random(n, m, seed=seed), random(rows, m, seed=seed + 1), min(rank, n, m)
    errors = []
    for a, b in (aware(w, rank, square_root(x.mT @ x / rows)), truncated(w, rank)):
        errors.append(float((x @ (w - a @ b).mT).norm()))
    assert errors[0] <= errors[1] * (1 + 1e-6) + 1e-6
    if rank == min(n, m):
        assert max(errors) < 1e-6


def test_inputs_that_never_vary_leave_the_rest_a_projection_of_the_weight() -> None:
    w, x = random(6, 8), random(50, 8, seed=1)
    x[:, 5:] = 0
    a, b = aware(w, 2, square_root(x.mT @ x / 50))
    p = a @ torch.linalg.pinv(a)
    torch.testing.assert_close(a @ b, p @ w)
    assert bool((a @ b)[:, 5:].any())


# ---- ranks -----------------------------------------------------------------------------------------------------------


def test_ranks_by_share_energy_and_error() -> None:
    spectrum = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1 of 14
    assert choose.by_share(0.05, (512,)) == (26,)
    assert choose.by_share(0.001, (512, 30)) == (1, 1)
    assert choose.by_energy(9 / 14, [spectrum]) == (1,)
    assert choose.by_energy(0.65, [spectrum]) == (2,)
    assert choose.by_energy(1, [spectrum]) == (3,)
    assert choose.by_error(math.sqrt(1 / 14), [spectrum]) == (2,)
    assert choose.by_error(0, [spectrum]) == (3,)
    assert choose.by_error(math.sqrt(2 / 14), [spectrum, spectrum]) == (2, 2)
    assert choose.by_energy(0.5, [torch.zeros(4)]) == (1,)


@given(st.integers(2, 40), st.integers(2, 40), st.floats(0.05, 1))
@settings(deadline=None)
def test_ranks_by_parameters_are_the_largest_that_fit(n: int, m: int, share: float) -> None:
    found = choose.by_parameters(share, (min(n, m),), lambda ranks: ranks[0] * (n + m), n * m)
    brute = max((k for k in range(min(n, m) + 1) if k * (n + m) <= share * n * m), default=0)
    assert found == ((brute,) if brute else None)


# ---- formulas --------------------------------------------------------------------------------------------------------


def test_compression_formulas() -> None:
    """5 % of 512 singular values are said to be about ten times fewer parameters; a 3×3 kernel of Lebedev et al."""
    assert svd_compression(512, 512, 26) == pytest.approx(9.846, abs=1e-3)
    assert cp_compression((48, 128, 9, 9), 64) == pytest.approx(48 * 128 * 81 / (64 * (48 + 128 + 18)))
    assert tucker_compression(8, 4, 9, (8, 4)) == pytest.approx(288 / (64 + 288 + 16))
    with pytest.raises(ValueError, match="1 or more"):
        svd_compression(2, 2, 0)


@given(st.integers(1, 60), st.integers(1, 60))
def test_break_even_is_the_last_rank_that_saves(n: int, m: int) -> None:
    even = break_even(n, m)
    assert even == 0 or svd_compression(n, m, even) > 1
    assert svd_compression(n, m, even + 1) <= 1


# ---- EVBMF -----------------------------------------------------------------------------------------------------------

PUBLISHED = {0.1: 2.0205, 0.5: 3.5583, 1.0: 4.9109}
"""(1 + τ̲)(1 + α/τ̲) with τ̲ = 2.5129·√α, which the paper gives as an approximation."""


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5, 1.0])
def test_the_limit_is_near_the_paper_s_approximation(alpha: float) -> None:
    assert limit(alpha) > marchenko_pastur_edge(1000, round(1000 / alpha))
    assert limit(alpha) == pytest.approx(PUBLISHED.get(alpha, limit(alpha)), rel=0.02)
    if alpha == 1:
        assert limit(1) == pytest.approx(PUBLISHED[1], abs=1e-3)


@pytest.mark.parametrize("shape", [(64, 64), (40, 400), (300, 60)])
@pytest.mark.parametrize("seed", range(3))
def test_noise_has_no_rank_and_a_planted_one_is_found(shape: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=shape)
    values = np.linalg.svd(noise, compute_uv=False)
    assert rank_of(values, *shape) == 0
    assert noise_variance(values, *sorted(shape)) == pytest.approx(1, rel=0.05)
    planted = rng.normal(size=(shape[0], 7)) @ rng.normal(size=(7, shape[1])) + 0.3 * noise
    values = np.linalg.svd(planted, compute_uv=False)
    assert rank_of(values, *shape) == 7
    assert noise_variance(values, *sorted(shape)) == pytest.approx(0.09, rel=0.1)
    assert rank_of(values, *shape, noise=0.09) == 7


def test_without_noise_all_of_the_rank_is_signal() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 30))
    assert rank_of(np.linalg.svd(exact, compute_uv=False), 20, 30) == 3


def component(gamma: float, short: int, long: int) -> float:
    """Least 2·F of one component at σ² = 1, beyond that of the empty one: the free energy of variational Bayes itself
    (Nakajima et al., eq. 8), with prior variances at their optimum, by descent over means and variances."""

    def energy(v: np.ndarray) -> float:
        a, b, s, t = np.exp(np.clip(v, -30, 30))  # means and variances of the two sides
        both = (a * a + long * s) * (b * b + short * t)
        return float(
            long * np.log1p(a * a / (long * s)) + short * np.log1p(b * b / (short * t)) - 2 * gamma * a * b + both
        )

    starts = [np.array([m, m, -m, -m]) for m in (0.3, 0.7, 1.2)]
    return float(min(minimize(energy, start, method="Nelder-Mead", options={"maxiter": 4000}).fun for start in starts))


@pytest.mark.parametrize("sizes", [(10, 10), (8, 30)])
def test_a_component_pays_where_its_free_energy_falls_below_that_of_none(sizes: tuple[int, int]) -> None:
    short, long = sizes
    edge = math.sqrt(long * limit(short / long))
    assert component(0.98 * edge, short, long) > 0 > component(1.02 * edge, short, long)
    assert component(1.5 * edge, short, long) == pytest.approx(gain(1.5 * edge, short, long), rel=1e-3)


def gain(gamma: float, short: int, long: int) -> float:
    """What one singular value changes in the energy that the search for the noise minimises."""
    x, alpha = np.array([gamma**2 / long]), short / long
    return long * (_energy(x, alpha, limit(alpha)) - _energy(x, alpha, np.inf))
