"""The training module as a program for several processes, with a check of how it ends."""

import gc
from typing import Any

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from difix3d_ns.cli.train import main

close_group = distributed.destroy_process_group


def close_group_last(*args: Any, **kwargs: Any) -> None:
    """Closes the process group, which nothing may hold any more: with torch 2.6, processes would sometimes hang."""
    exchanges = [each for each in gc.get_objects() if isinstance(each, DistributedDataParallel)]
    assert not exchanges, "what exchanges gradients still holds the process group"
    print("the process group is closed last")
    close_group(*args, **kwargs)


distributed.destroy_process_group = close_group_last
main()
