"""Any number of images, on one machine or many."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.scale.finding import FoundCells as FoundCells
    from wbcprof.scale.finding import find_to_folder as find_to_folder
    from wbcprof.scale.shards import ShardedProfiles as ShardedProfiles
    from wbcprof.scale.shards import profile_to_shards as profile_to_shards

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "finding": ["FoundCells", "find_to_folder"],
        "shards": ["ShardedProfiles", "profile_to_shards"],
    },
)
