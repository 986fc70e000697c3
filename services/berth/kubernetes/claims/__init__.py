"""Dynamic Resource Allocation (resource.k8s.io/v1): what slices offer, what claims ask for, and which devices they get.

Pure: objects of the API as dictionaries in, plain values out. `selectors` is CEL, `slices` the devices of the pools,
`matching` the exact choice of devices on one node, `allocation` what is written into a claim's status, `needs` what a
pod's claims mean to the engine.
"""
