"""A Kubernetes cluster as a fleet: what its nodes, pods and exporters mean to the inventory. Pure."""
