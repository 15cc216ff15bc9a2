"""Replicas that average their parameters with each other, over ``torch.distributed``.

If devices reach each other directly (NCCL between GPUs, gloo between hosts), replicas need no
store. Every rank trains its own model with any torch optimizer and exchanges parameters with the
others every `every` steps; the exchange overlaps the next steps::

    from asyncopt.distributed import LocalSteps

    torch.distributed.init_process_group("nccl")     # under torchrun
    model = Net().to(device)
    local = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = LocalSteps(local, every=8, model=model)
    for x, y in batches:                             # as many on every rank
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    optimizer.pull()                                 # from here on all ranks have one model

``every=1, overlap=0`` is synchronous data parallelism, of which
``torch.nn.parallel.DistributedDataParallel`` is the faster form. :class:`asyncopt.LocalSteps` and
:class:`asyncopt.ElasticAveraging` are the same methods through a store. With a store, no worker
waits for another and any may die; here all ranks take part in every exchange, in the same order.

Worker processes of :func:`asyncopt.launch` may form a group as well: make the optimizer in ``fn``,
after ``init_process_group("gloo", f"file://{path}", rank=worker.rank,
world_size=worker.world_size)`` with the ``path`` of a new file. A worker cannot be replaced then.
"""

from asyncopt.distributed.averaging import PeerAveraging
from asyncopt.distributed.methods import ElasticAveraging, LocalSteps

__all__ = ["ElasticAveraging", "LocalSteps", "PeerAveraging"]
