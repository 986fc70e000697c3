"""A tree of queues over a small fleet, without an engine."""

from placement_engine.domain.model import Accelerator, Device, Queue
from placement_engine.domain.models import Models
from placement_engine.domain.queues import Queues, Totals
from tests.unit.placement_engine.domain.builders import a_job

H100, L4, K80 = 1, 2, 3
NAMES = {H100: "H100", L4: "L4", K80: "K80"}


def a_tree(*queues: Queue, h100: int = 8, l4: int = 4, k80: int = 0, half_life: float = 0.0) -> Queues:
    """Model numbers are those of H100, L4 and K80 above."""
    models = Models()
    for number, count in ((H100, h100), (L4, l4), (K80, k80)):
        device = Device("", 0, model=NAMES[number], device_class="GPU", stack="CUDA")
        models.count(models.identify(device), count)
    tree = Queues(models, half_life)
    tree.set_queues(queues)
    tree.refresh()
    return tree


def with_peaks(tree: Queues, **peaks: float) -> Queues:
    tree.models.estimator.set_catalogue(Accelerator(name.upper(), dense_fp16_tflops=p) for name, p in peaks.items())
    tree.reprice()
    tree.refresh()
    return tree


def totals_of(tree: Queues) -> Totals:
    return Totals(devices=1000 * sum(tree.models.counts))


def hold(tree: Queues, queue: str, model: int = H100, devices: float = 1, workload: str = "", sign: int = 1) -> None:
    """Jobs of the queue take (or with -1 give back) devices."""
    job = a_job(queue=queue, workload=workload, devices=0, device_milli=int(devices * 1000))
    tree.charge(job, {NAMES[model]: int(devices * 1000)}, 0, 0, sign)


def rooms(tree: Queues, model: int = H100) -> dict[str, float | None]:
    """Devices that each queue may take now; None: no quota limits it."""
    return {
        name: None if (room := tree.quotas.room(name, NAMES[model].casefold())) is None else room / 1000
        for name in sorted(tree.known)
    }
