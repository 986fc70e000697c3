"""Pods of `schedulerName: berth` become jobs, and hear of Berth what becomes of them.

    pods, groups --informers--> source --plan--> engine (PlaceJob, CancelJob)
    engine --WatchJobs--> source;  engine --ExplainJob--> notices --> conditions and events of the pods

Pure: `berth.kubernetes.pods` (pods -> gang and JobSpec), `plan` (what is to be submitted and cancelled), `messages`.
Effects: `engine`, `notices`, `telling`, `source`. Binding is the executor's.

Guarantee: whatever is lost on the way, what is in the API server and what the engine holds are compared again, and a
submission is idempotent by the pods' uids: a pod is in one live job at most, and in one at all as long as it waits.
"""
