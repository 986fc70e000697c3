"""What a pod asks for, as a job. One reading for all who judge a pod: Berth's own scheduling, the extender that
kube-scheduler asks, and the admission check beside Kueue. Pure: the same pods give the same spec.

    requests, wishes, constraints --> translation (pods -> JobSpec);  groups (pod -> gang)
    beside (a pod that another scheduler places)
"""
