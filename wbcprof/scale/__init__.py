"""Any number of images, on one machine or many."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.scale.shards import ShardedProfiles as ShardedProfiles
    from wbcprof.scale.shards import profile_to_shards as profile_to_shards

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "shards": ["ShardedProfiles", "profile_to_shards"],
    },
)
