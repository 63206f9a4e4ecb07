"""Work queue: how the tests of a run with several workers are handed out: as `--dist loadgroup` does it, in time that grows with their number.

xdist's own looks through all that a worker has ever done after each test; with seven thousand, the process that only hands out was busy for
seconds that the workers lacked.
"""

from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController


class WorkQueue(LoadGroupScheduling):
    """Forgets what is done."""

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        nodeid = self.registered_collections[node][item_index]
        scope, work = self._split_scope(nodeid), self.assigned_work[node]
        work[scope][nodeid] = True
        if all(work[scope].values()):
            del work[scope]
        self._reschedule(node)
