"""Adapters on several processes: shard the model, save and load its adapters whole, and notice a downgrade."""

from __future__ import annotations

from ttlib_peft.distributed.adapter_files import gather_adapter, load_adapter, save_adapter
from ttlib_peft.distributed.lockstep import PeerError
from ttlib_peft.distributed.sharding import ShardingError, ShardingGuard, assert_same_start, assert_sharded, shard

__all__ = [
    "PeerError",
    "ShardingError",
    "ShardingGuard",
    "assert_same_start",
    "assert_sharded",
    "gather_adapter",
    "load_adapter",
    "save_adapter",
    "shard",
]
