"""Why groups of channels stay whole, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tersenet.graph.channels import Group
from tersenet.graph.flow import INPUT, OUTPUT


def formed(group: Group) -> str | None:
    """Why a group stays that a form has been put on; None if there is none."""
    found = next((member.tensor for member in group.members if "parametrizations." in member.tensor), None)
    if found is None:
        return None
    return f"'{layer_of(found)}' has a form already; channels are removed before weights are masked or quantized"


def told(reasons: Mapping[str, str], *, ends: bool = False) -> Iterator[str]:
    """Sentences on groups that stay whole, those of one reason together; on inputs and outputs of the model only with
    `ends`, since every model has them."""
    for reason in dict.fromkeys(reasons.values()):
        if reason in (INPUT, OUTPUT) and not ends:
            continue
        names = [name for name, why in reasons.items() if why == reason]
        listed = ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        yield f"{listed} stay{'s' * (len(names) == 1)} whole: {reason}"


def layer_of(tensor: str) -> str:
    """The layer that holds a tensor of this name, with a form or without."""
    return tensor.partition(".parametrizations.")[0].rpartition(".")[0] if "." in tensor else tensor
