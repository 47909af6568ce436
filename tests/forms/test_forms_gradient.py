"""What the optimizer sees through a form."""

import torch

from tersenet.forms import Masked, Shared
from tersenet.forms.shared import sum_by_code

# Deep Compression (arXiv 1510.00149), figure 3.
WEIGHTS = torch.tensor(
    [[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12], [-0.91, 1.92, 0.0, -1.03], [1.87, 0.0, 1.53, 1.49]]
)
CLUSTERS = torch.tensor([[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]])
GRADIENT = torch.tensor(
    [[-0.03, -0.01, 0.03, 0.02], [-0.01, 0.01, -0.02, 0.12], [-0.01, 0.02, 0.04, 0.01], [-0.07, -0.02, 0.01, -0.02]]
)


def test_deep_compression_figure_3():
    form = Shared(CLUSTERS, 4, zero=False)
    codebook = form.right_inverse(WEIGHTS)
    torch.testing.assert_close(codebook, torch.tensor([-1.0, 0.0, 1.5, 2.0]))
    codebook.requires_grad_()
    form(codebook).backward(GRADIENT)
    torch.testing.assert_close(codebook.grad, torch.tensor([-0.03, 0.04, 0.02, 0.04]))
    torch.optim.SGD([codebook], lr=1.0).step()
    torch.testing.assert_close(codebook.detach(), torch.tensor([-0.97, -0.04, 1.48, 1.96]))


def test_codebook_gradient_is_autograd_through_an_index():
    index = torch.randint(0, 6, (20, 30), generator=torch.Generator().manual_seed(0))
    codebook = torch.randn(5, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(20, 30, dtype=torch.float64)
    (independent,) = torch.autograd.grad(torch.cat([torch.zeros(1), codebook])[index], codebook, gradient)
    (ours,) = torch.autograd.grad(Shared(index, 5, zero=True)(codebook), codebook, gradient)
    torch.testing.assert_close(ours, independent)


def test_codebook_gradient_passes_the_rounding_to_float16():
    codebook = torch.tensor([0.1, 0.2], requires_grad=True)
    weight = Shared(torch.tensor([0, 1, 1]), 2, zero=False, precision="float16")(codebook)
    assert not torch.equal(weight[:2], codebook)
    weight.sum().backward()
    assert torch.equal(codebook.grad, torch.tensor([1.0, 2.0]))


def test_codebook_gradient_is_the_same_for_any_number_of_threads():
    entries, code = torch.randn(300_000), torch.randint(0, 7, (300_000,)).int()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(sum_by_code(entries, code, None, 7))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_mean_of_equal_members_is_exactly_that_value():
    value = torch.tensor(0.1)
    form = Shared(torch.zeros(1_000_003, dtype=torch.int64), 1, zero=False)
    assert form.right_inverse(value.expand(1_000_003)).item() == value.item()


def test_pruned_weights_get_no_gradient():
    latent = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    Masked(torch.tensor([True, False, True]))(latent).backward(torch.tensor([5.0, 6.0, 7.0]))
    assert torch.equal(latent.grad, torch.tensor([5.0, 0.0, 7.0]))


def test_spliced_latents_get_the_gradient_of_the_weight_they_would_be():
    """Dynamic Network Surgery (arXiv 1608.04493), eq. 2: W ← W − β·∂L/∂(h ⊙ W), pruned entries included."""
    latent = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    weight = Masked(torch.tensor([True, False, True]), splice=True)(latent)
    assert torch.equal(weight, torch.tensor([1.0, 0.0, 3.0]))
    weight.backward(torch.tensor([5.0, 6.0, 7.0]))
    assert torch.equal(latent.grad, torch.tensor([5.0, 6.0, 7.0]))
