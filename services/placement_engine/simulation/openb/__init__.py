"""The openb trace (Alibaba cluster-trace-gpu-v2023) under the protocol of FGD (USENIX ATC'23)."""
