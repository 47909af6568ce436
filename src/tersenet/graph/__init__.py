"""Which channels of a model hang together, and their removal."""

from tersenet.graph import factors  # noqa: F401  registers its changes
from tersenet.graph.channels import ChannelGraph, Group, Member
from tersenet.graph.remove import Removal, remove, try_out

__all__ = ["ChannelGraph", "Group", "Member", "Removal", "remove", "try_out"]
