"""A job as a person writes it: YAML file, JSON on Kafka. `parse_document` turns it into a `JobSpec`.

    name: finetune-7b             # DNS label; unique in the tenant
    tenant: research              # default "default"
    queue: research               # default "default"
    priority: 10
    kind: training                # training | inference | batch
    replicas: 8                   # members of the gang, default 1
    min_replicas: 6               # fewest that will do; default: all of them
    devices: 4                    # whole devices a member
    max_devices: 8                # any number from `devices` to this, as the objective likes best
    device_fraction: 0.5          # or a share of one device
    device_memory_share: 20Gi     # or a share of one device, stated as its memory
    partition: 1g.10gb            # or a partition of one device (MIG)
    device_memory: 40Gi           # on each device
    cpu: 8                        # cores a member; "500m" is half a core
    memory: 64Gi                  # host memory a member
    members:                      # instead of the above: a gang of several shapes
      - {name: leader, cpu: 4}
      - {name: worker, replicas: 4, min_replicas: 2, devices: 8}
    accelerators: {models: [H100-SXM], classes: [GPU], stacks: [CUDA]}
    workload: llama-8b-finetune   # name in the profile store
    objective: cost               # cost | time | latency | energy
    deadline: 2026-12-01T18:00:00Z
    latency_target: 200ms
    topology: {level: block, required: true, preferred_level: rack, group_size: 4, group_level: node}
    nodes: {required: [{disk: ssd}], tolerations: [{key: team, value: vision}]}    # see `berth.jobs.nodes`
    preemptible: true
    expected_duration: 2h
    checkpoint_interval: 10m      # what a preemption loses at most; default: all of its work
    character: {operations: 1e18, bytes_moved: 2e15, dense_fraction: 0.9, precision: fp16}   # without a profile
    executor: simulated           # process | simulated | kubernetes | triton
    command: [python, train.py]   # or `kubernetes: {manifest: ...}`, or a model to serve:
    model: {uri: models/chat, name: chat, digest: ..., max_batch_size: 8, instances: 1, parameters: {...}}
    environment: {SEED: "1"}      # of the command
    working_directory: /srv/job   # of the command
    labels: {team: vision}
    pool: default
    idempotency_key: run-42       # default: the name

`validate` checks a JobSpec from wherever and fills in the defaults.
"""

from berth.jobs.document import FIELDS, parse_document, parse_text
from berth.jobs.quantities import parse_duration, parse_quantity
from berth.jobs.validation import spec_digest, validate

__all__ = ["FIELDS", "parse_document", "parse_duration", "parse_quantity", "parse_text", "spec_digest", "validate"]
