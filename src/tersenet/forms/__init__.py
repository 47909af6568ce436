"""How weights are represented, which weights a stage means, and a model as codes."""

from tersenet.core.discover import import_files
from tersenet.forms.attach import attach, detach, form_of, latent_of, weight_of
from tersenet.forms.binary import Binary
from tersenet.forms.codes import ModelCodes, aliases, encode_model, load_codes, plain_state
from tersenet.forms.dense import Dense
from tersenet.forms.form import FORMS, Form, decode, register_form
from tersenet.forms.hashed import Hashed
from tersenet.forms.masked import Masked
from tersenet.forms.nm import NM
from tersenet.forms.order import check_order
from tersenet.forms.product import Product
from tersenet.forms.shared import Shared
from tersenet.forms.targets import Target, match, per_target, weights
from tersenet.forms.ternary import Ternary
from tersenet.forms.uniform import Uniform

import_files(__name__)  # each registers its form

__all__ = [
    "FORMS",
    "NM",
    "Binary",
    "Dense",
    "Form",
    "Hashed",
    "Masked",
    "ModelCodes",
    "Product",
    "Shared",
    "Target",
    "Ternary",
    "Uniform",
    "aliases",
    "attach",
    "check_order",
    "decode",
    "detach",
    "encode_model",
    "form_of",
    "latent_of",
    "load_codes",
    "match",
    "per_target",
    "plain_state",
    "register_form",
    "weight_of",
    "weights",
]
