"""Vision transformers (Dosovitskiy et al. 2021), started as DeiT (Touvron et al. 2021) starts them.

The size of a head is the one constant of the attention; how many heads there are follows from the weights, so heads
can be removed by taking rows out of `qkv` and columns out of `proj`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.zoo import register_model


class Attention(nn.Module):
    """softmax(Q Kᵀ / √head_dim) V in each head (appendix A), Q, K and V from one product."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)  # rows: [Q, K, V] × [head] × [head_dim]
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, N, dim]
        x = self.qkv(x).unflatten(-1, (3, -1, self.head_dim))  # [B, N, 3, heads, head_dim]
        q, k, v = x.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, head_dim]
        x = F.scaled_dot_product_attention(q, k, v)  # [B, heads, N, head_dim]
        return self.proj(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with GELU between them; the hidden width is 4 · `dim`."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, N, dim]
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then the MLP; each on the normalised input and added to it (equations 2 and 3)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, N, dim]
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Each patch of the image as one vector."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, channels, image, image] → [B, patches, dim]
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Patches and a class token, positions added, `depth` blocks, and one linear layer on the class token.

    image, patch: height and width in pixels; N = (image / patch)² + 1 tokens. heads: must divide `dim`.
    """

    def __init__(
        self, image: int, patch: int, dim: int, depth: int, heads: int, classes: int, channels: int, dropout: float
    ) -> None:
        if dim % heads:
            raise ValueError(f"heads must divide dim, but {heads} does not divide {dim}")
        if image % patch:
            raise ValueError(f"patch must divide image, but {patch} does not divide {image}")
        super().__init__()
        self.patch_embed = PatchEmbed(channels, dim, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, (image // patch) ** 2 + 1, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        _initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, channels, image, image]
        x = self.patch_embed(x)  # [B, N − 1, dim]
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)  # [B, N, dim]
        x = self.norm(self.blocks(self.dropout(x + self.pos_embed)))  # [B, N, dim]
        return self.head(x[:, 0])  # type: ignore[no-any-return]


def _initialise(model: VisionTransformer) -> None:
    """Linear layers, class token and positions from N(0, 0.02²), cut at ±2; biases 0 (DeiT, §6)."""
    nn.init.trunc_normal_(model.cls_token, std=0.02)
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


@register_model("vit_cifar", input=(3, 32, 32))
def vit_cifar(
    classes: int = 10,
    channels: int = 3,
    image: int = 32,
    patch: int = 4,
    dim: int = 192,
    depth: int = 6,
    heads: int = 3,
    dropout: float = 0.0,
) -> VisionTransformer:
    """64 patches of a 32×32 image: 2,693,578 parameters, 182.8 M MACs."""
    return VisionTransformer(image, patch, dim, depth, heads, classes, channels, dropout)


@register_model("vit_tiny", input=(3, 224, 224))
def vit_tiny(
    classes: int = 1000,
    channels: int = 3,
    image: int = 224,
    patch: int = 16,
    dim: int = 192,
    depth: int = 12,
    heads: int = 3,
    dropout: float = 0.0,
) -> VisionTransformer:
    """196 patches of a 224×224 image: 5,717,416 parameters, 1.25 G MACs (DeiT-Ti without distillation).

    Tools that count layer norms as products too say 1.26 G.
    """
    return VisionTransformer(image, patch, dim, depth, heads, classes, channels, dropout)
