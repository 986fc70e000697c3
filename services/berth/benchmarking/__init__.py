"""`berth profiles bench`: what a workload does on the machine at hand."""
