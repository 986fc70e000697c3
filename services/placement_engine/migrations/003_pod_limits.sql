-- How many pods a node takes at once; without a capacity there is no limit. Each host claim is one pod.

ALTER TABLE node
    ADD COLUMN pod_capacity bigint,
    ADD COLUMN pods_used    bigint NOT NULL DEFAULT 0;
UPDATE node SET pods_used = (SELECT count(*) FROM host_claim h WHERE h.node = node.name);
ALTER TABLE node
    ADD CONSTRAINT node_pods_within_capacity CHECK (0 <= pods_used AND (pod_capacity IS NULL OR pods_used <= pod_capacity));
