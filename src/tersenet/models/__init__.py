"""The zoo, and models built from a recipe's specification."""

from tersenet.core.discover import import_files
from tersenet.models.bnn import Sign
from tersenet.models.build import build, check_finite, load_weights, skeleton
from tersenet.models.zoo import MODELS, input_shape, register_model

import_files(__name__)

__all__ = ["MODELS", "Sign", "build", "check_finite", "input_shape", "load_weights", "register_model", "skeleton"]
