"""What held event loops, as messages: groups of timing/blocks.py."""

from __future__ import annotations

from glassbottom.wire.v1 import query_pb2

from ..timing.blocks import Block
from .heap_views import PATH_MAX, frame_message


def block_message(block: Block) -> query_pb2.Block:
    """One place."""
    nearest = block.application_frame
    return query_pb2.Block(
        path=[frame_message(frame) for frame in block.path[:PATH_MAX]],
        coroutine=block.coroutine,
        count=block.count,
        total_s=block.total_s,
        max_s=block.max_s,
        last_ns=block.last_ns,
        gil_held=block.gil_held,
        late=block.late,
        thread=block.thread,
        application_frame=None if nearest is None else frame_message(nearest),
        instance_ids=block.instance_ids,
    )
