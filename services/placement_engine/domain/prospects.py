"""What a waiting job may hope for: the changes that would admit it now, and when it will start without any."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from placement_engine.domain.explaining import Explainer
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.forecast import Ends, Start, earliest_start
from placement_engine.domain.model import Claim, Decision, Job, Reason, Rejection, Remedy, RemedyKind
from placement_engine.domain.queue_forecast import Expected, QueueForecast, jobs_ahead
from placement_engine.domain.queues import Queues, Totals
from placement_engine.domain.remedies import after_job_ends, changes_for
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask
from placement_engine.domain.supposition import Supposition
from placement_engine.domain.tables import Tables

__all__ = ["Prospects"]


@dataclass(frozen=True, slots=True)
class Prospects:
    """Asks the engine's parts and changes nothing. `name_of`, `dry_run`, `ask_of`, `blocked` and
    `charge` are the engine's own."""

    fleet: Fleet
    tables: Tables
    reserver: Reserver
    ends: Ends
    queues: Queues
    totals: Totals
    explainer: Explainer
    name_of: Callable[[str], str]
    dry_run: Callable[[Job, float], Decision | Rejection]
    ask_of: Callable[[Job, float], Ask]
    blocked: Callable[[Job, float], bool]
    charge: Callable[[Claim, int], None]

    def of(
        self,
        rejection: Rejection,
        job: Job,
        ask: Ask,
        now: float,
        *,
        limits: tuple[Sequence[Reason], Sequence[str]] | None,
        booked: Start | None,
        advice: Sequence[str] = (),
    ) -> Rejection:
        """The rejection with `changes`, its remedies as sentences, and the expected start.

        `limits`: what keeps the job from any place, with its remedies. `booked`: a start that is kept for the job.
        `advice`: remedies that are no change of what is asked.
        """
        alone = earliest_start(self.fleet, self.tables, self.reserver, self.ends, job=job, ask=ask, now=now)
        changes: list[Remedy] = self._changes(rejection.reasons, job, ask, now) if rejection.reasons else []
        if limits is not None:
            numbers = limits[0][0].numbers if limits[0] else {}
            changes += [Remedy(RemedyKind.QUOTA, text, numbers, (job.queue,)) for text in limits[1]]
        elif rejection.reasons and alone is not None and alone.after:
            changes.append(after_job_ends(alone.at - now, alone.after, self.name_of))
        start: Expected | None = None
        if booked is not None:
            start = Expected(max(now, booked.at), False, booked.after)
        elif alone is not None:
            start = self._expected(job, alone, now)
        return replace(
            rejection,
            changes=tuple(changes),
            remedies=tuple(dict.fromkeys((*(change.message for change in changes), *advice))),
            expected_start=start.at if start is not None else None,
            expected_start_at_least=start is not None and start.at_least,
            expected_start_after=start.after if start is not None else (),
        )

    def _changes(self, reasons: Sequence[Reason], job: Job, ask: Ask, now: float) -> list[Remedy]:
        def fits(varied: Job) -> Decision | None:
            answer = self.dry_run(varied, now)
            return answer if isinstance(answer, Decision) else None

        levels = self.explainer.levels() if job.topology_required or job.group_size else []
        kinds = self.explainer.other_kinds(ask)
        changes = changes_for(
            job,
            fits,
            reasons=reasons,
            levels=levels,
            kinds=kinds,
            taints=self.explainer.barring(ask),
            excluded=self.explainer.excluded(ask),
        )
        heat = self.explainer.heat_remedy(ask)
        return changes if heat is None else [*changes, heat]

    def _expected(self, job: Job, alone: Start, now: float) -> Expected | None:
        ahead, cut = jobs_ahead(self.queues, self.totals, job)
        forecast = QueueForecast(
            Supposition(self.fleet, self.tables, self.reserver),
            self.ends,
            ask_of=self.ask_of,
            blocked=self.blocked,
            charge=self.charge,
        )
        return forecast.expected(ahead, job, alone, now, cut=cut)
