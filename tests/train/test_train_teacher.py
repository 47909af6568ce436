"""Distillation: the loss by its formula, its gradient in closed form, and a student that is given no labels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersenet.core.training import Teacher
from tersenet.train.teacher import Teachers


def teacher(*seeds, classes=4):
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(nn.Linear(3, classes).requires_grad_(False))
    return found


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3)])
def test_the_loss_is_that_of_the_paper(shape):
    """Σ q·(log q − log p) by hand, mean over examples; for (N, L, C) outputs transposed to (N, C, L)."""
    models = teacher(0, 1)
    if len(shape) == 3:
        models = [nn.Sequential(m, Transposed()) for m in models]
    x, settings = torch.randn(shape), Teacher(temperature=3.0, weight=0.7)
    output = torch.randn(models[0](x).shape)
    probabilities = [torch.exp(m(x) / 3) / torch.exp(m(x) / 3).sum(1, keepdim=True) for m in models]
    q = sum(probabilities) / 2
    p = torch.exp(output / 3) / torch.exp(output / 3).sum(1, keepdim=True)
    apart = (q * (q.log() - p.log())).sum(1).mean()
    found = Teachers(models, settings).loss(torch.tensor(2.0), output, (x,))
    assert float(found) == pytest.approx(0.3 * 2.0 + 0.7 * 9 * float(apart), rel=1e-5)


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_gradient_in_closed_form_and_its_limit_at_high_temperature():
    """∂/∂z = T·(p − q) / N for each logit (eq. 2 of the paper times T²), which tends to (z − v) / C for centred logits
    (its eq. 4)."""
    (model,), x = teacher(0), torch.randn(6, 3)
    for temperature in (1.0, 4.0, 100.0):
        logits = torch.randn(6, 4, requires_grad=True)
        Teachers([model], Teacher(temperature=temperature, weight=1.0)).loss(torch.zeros(()), logits, (x,)).backward()
        p, q = (logits.detach() / temperature).softmax(1), (model(x) / temperature).softmax(1)
        torch.testing.assert_close(logits.grad, temperature * (p - q) / 6, rtol=1e-3, atol=1e-5)
    centred = [t - t.mean(1, keepdim=True) for t in (logits.detach(), model(x))]
    torch.testing.assert_close(logits.grad, (centred[0] - centred[1]) / 4 / 6, rtol=0.05, atol=2e-3)


def test_a_student_learns_its_teacher_from_inputs_alone():
    (model,) = teacher(0)
    torch.manual_seed(5)
    student = nn.Linear(3, 4)
    optimizer, taught = torch.optim.Adam(student.parameters(), lr=0.05), Teachers([model], Teacher(weight=1.0))
    for _ in range(300):
        x = torch.randn(64, 3)
        optimizer.zero_grad()
        taught.loss(torch.zeros(()), student(x), (x,)).backward()
        optimizer.step()
    x = torch.randn(100, 3)
    with torch.no_grad():
        assert float(F.kl_div(student(x).log_softmax(1), model(x).softmax(1), reduction="batchmean")) < 1e-3
    assert all(parameter.grad is None for parameter in model.parameters())
