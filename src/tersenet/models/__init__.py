"""The zoo, and models built from a recipe's specification."""

from tersenet.models import lenet5, mlp, vgg  # noqa: F401  each registers its models
from tersenet.models.build import build, check_finite, load_weights, skeleton
from tersenet.models.zoo import MODELS, input_shape, register_model

__all__ = ["MODELS", "build", "check_finite", "input_shape", "load_weights", "register_model", "skeleton"]
