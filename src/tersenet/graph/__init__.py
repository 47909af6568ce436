"""Which channels of a model hang together, and their removal."""

from tersenet.graph import factors, fold_norm  # noqa: F401  register their changes, so that files that have them load
from tersenet.graph.channels import ChannelGraph, Group, Member
from tersenet.graph.remove import Removal, remove, try_out

__all__ = ["ChannelGraph", "Group", "Member", "Removal", "remove", "try_out"]
