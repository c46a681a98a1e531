import torch
from transformers.activations import QuickGELUActivation

from m2ib_lightning.backbones.activation import quick_gelu


def test_quick_gelu_and_its_gradient_are_the_librarys():
    ours = torch.linspace(-30, 30, 1001, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.randn(1001)
    (quick_gelu(ours) * weight).sum().backward()
    (QuickGELUActivation()(theirs) * weight).sum().backward()
    torch.testing.assert_close(quick_gelu(ours), QuickGELUActivation()(theirs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_quick_gelu_passes_a_numerical_check_of_its_gradient():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quick_gelu, x)
