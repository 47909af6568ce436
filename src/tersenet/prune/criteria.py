"""Criteria: a score for every entry of a weight, or for every filter. The highest scores are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from pydantic import AfterValidator

from tersenet.core.registry import Registry, nearest
from tersenet.prune.evidence import Evidence
from tersenet.prune.granularity import Granularity
from tersenet.prune.scoring import Scoring

Score = Callable[[torch.Tensor, torch.Generator, Evidence], torch.Tensor]

DATA = ("split", "batches", "batch_size")


@dataclass(frozen=True)
class Criterion:
    """(weight of any shape, CPU generator, evidence) → scores; it does not change the weight.

    Scores have the weight's shape, or with `per_filter` they are [filters], in the order of `groups.by_role`.
    options: of `Scoring`, those that it looks at. One without any needs no evidence.
    lots: scores are lots, which mean nothing together: that of a granule is the first of its entries', so that large
        granules are no likelier than small ones.
    """

    score: Score
    per_filter: bool = False
    options: tuple[str, ...] = ()
    lots: bool = False

    def __call__(
        self, weight: torch.Tensor, generator: torch.Generator, evidence: Evidence | None = None
    ) -> torch.Tensor:
        return self.score(weight, generator, cast(Evidence, evidence))


CRITERIA: Registry[Criterion] = Registry("criterion")


def register_criterion(
    *names: str, per_filter: bool = False, options: tuple[str, ...] = (), lots: bool = False
) -> Callable[[Score], Criterion]:
    def add(score: Score) -> Criterion:
        criterion = Criterion(score, per_filter, options, lots)
        for name in names:
            CRITERIA.register(name)(criterion)
        return criterion

    return add


@register_criterion("magnitude", "l1")
def magnitude(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """|w| (Han et al. 2015, arXiv 1506.02626, §3); summed over a filter, its L1 norm (Li et al. 2017, arXiv
    1608.08710, §3.1)."""
    return weight.abs()


@register_criterion("square", "l2")
def square(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """w², in float64 so that no small weight becomes zero; ranks like |w|, splices with margins on the square. Summed
    over a filter, its squared L2 norm, which ranks like the norm."""
    return weight.double().square()


@register_criterion("lp", options=("p",))
def lp(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """|w|^p, in float64; summed over a granule, the p-th power of its Lp norm, which ranks like the norm."""
    return weight.double().abs().pow(evidence.scoring.p)


@register_criterion("random", lots=True)
def random(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """Uniform noise: a control that knows nothing of the weight."""
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)


@register_criterion("smallest_kept")
def smallest_kept(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """−|w|: a control that must do worse than `random` if magnitude means anything."""
    return -weight.abs()


@register_criterion("taylor", options=DATA)
def taylor(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """|g·w|, with the gradient g of the mean loss over all batches: how much the loss changes without the weight, to
    first order (Molchanov et al. 2017, arXiv 1611.06440, eq. 5 to 7, there for activations)."""
    return (evidence.gradient.double() * weight.double()).abs()


@register_criterion("taylor_squared", options=DATA)
def taylor_squared(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """(g·w)², mean over batches (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", arXiv
    1906.10771, eq. 5 and §3.2). For single weights twice `obd_fisher`."""
    return evidence.fisher.double() * weight.double().square()


@register_criterion("obd_fisher", options=DATA)
def obd_fisher(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """½h·w², with h the diagonal of the empirical Fisher matrix (LeCun et al. 1989, "Optimal Brain Damage", eq. 5;
    Theis et al. 2018, arXiv 1801.05787, eq. 5)."""
    return 0.5 * evidence.fisher.double() * weight.double().square()


@register_criterion("obd_hutchinson", options=(*DATA, "probes"))
def obd_hutchinson(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """½h·w², with h the diagonal of the Hessian, estimated as E[z ⊙ Hz] over z of ±1 (LeCun et al. 1989, eq. 5;
    Bekas et al. 2007, "An estimator for the diagonal of a matrix"). Where h is negative, so is the score."""
    return 0.5 * evidence.hessian.double() * weight.double().square()


@register_criterion("obs", options=(*DATA, "block", "damping", "compensate"))
def obs(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """w² / (2·[F⁻¹]_qq), with the empirical Fisher matrix F in blocks along the weight (Hassibi & Stork 1992; Singh &
    Alistarh 2020, "WoodFisher", arXiv 2004.14340, eq. 5)."""
    return weight.double().square() / (2 * evidence.inverse.diagonal(weight.shape).double())


@register_criterion("ewc", options=DATA)
def ewc(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """b_i of elastic weight consolidation: the Fisher diagonal (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3)."""
    return evidence.fisher


@register_criterion("mas", options=DATA)
def mas(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """b_i of memory-aware synapses: mean |∂‖F(x)‖²/∂w| (Aljundi et al. 2018, arXiv 1711.09601, eq. 3 and §4.1). It
    needs no labels."""
    return evidence.output_sensitivity


@register_criterion("movement", options=("initial",))
def movement(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """|w − w₀|: how far training has moved it (Zhou et al. 2019, "Deconstructing Lottery Tickets", arXiv 1905.01067,
    §2, 'movement')."""
    return (weight - evidence.initial).abs()


@register_criterion("apoz", per_filter=True, options=DATA)
def apoz(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """1 − the share of zeros in a filter's activations over all batches (Hu et al. 2016, "Network Trimming", arXiv
    1607.03250, eq. 1)."""
    return 1 - evidence.zeros


@register_criterion("mean_activation", per_filter=True, options=DATA)
def mean_activation(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """Mean |a| over a filter's activations; after ReLU their mean (Molchanov et al. 2017, arXiv 1611.06440, §2.2)."""
    return evidence.mean_activation


@register_criterion("bn_scale", per_filter=True, options=DATA)
def bn_scale(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """|γ| of each filter in the batch norm after it (Liu et al. 2017, "Network Slimming", arXiv 1708.06519, §3). Data
    only tells which norm that is. Of a vector, which is such a γ itself, |γ|."""
    return weight.abs() if weight.ndim < 2 else evidence.gamma.abs()


@register_criterion("fpgm", per_filter=True)
def fpgm(weight: torch.Tensor, generator: torch.Generator, evidence: Evidence) -> torch.Tensor:
    """Sum of a filter's distances to all others: what is nearest to the geometric median, the others can stand in for
    (He et al. 2019, arXiv 1811.00250, eq. 6 to 8)."""
    filters = Granularity("filter").granules(evidence.target).entries(weight.double())
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def _known(name: str) -> str:
    if name not in CRITERIA:
        raise ValueError(f"unknown criterion '{name}'{nearest(name, CRITERIA)}")
    return name


CriterionName = Annotated[str, AfterValidator(_known)]
"""An option that names a criterion."""


def foreign_options(name: str, scoring: Scoring) -> str | None:
    """A sentence on options that belong to other criteria than the one called `name`; None if there are none."""
    foreign = sorted(scoring.model_fields_set - set(CRITERIA[name].options))
    if not foreign:
        return None
    known = [other for other in CRITERIA if foreign[0] in CRITERIA[other].options]
    return f"scoring.{foreign[0]} belongs to criterion {', '.join(known)}"
