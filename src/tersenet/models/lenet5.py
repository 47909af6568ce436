"""LeNet-5 as Caffe has it, which is the net that the compression papers call LeNet-5."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.zoo import register_model


@register_model("lenet5", input=(1, 28, 28))
class LeNet5(nn.Module):
    """20-50-500-`classes`, 431,080 parameters (Caffe's `lenet.prototxt`; Han et al. 2015, table 4).

    As in Caffe, the convolutions are followed by max pooling and by nothing else; the one ReLU comes after `fc1`.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 1, 28, 28]
        x = F.max_pool2d(self.conv1(x), 2)  # [B, 20, 24, 24] → [B, 20, 12, 12]
        x = F.max_pool2d(self.conv2(x), 2)  # [B, 50, 8, 8] → [B, 50, 4, 4]
        x = F.relu(self.fc1(x.flatten(1)))  # [B, 800] → [B, 500]
        return self.fc2(self.dropout(x))  # type: ignore[no-any-return]
