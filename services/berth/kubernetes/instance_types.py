"""Which accelerator a cloud's machine type has, where its name tells.

From the clouds' own pages on machine types: Amazon EC2 accelerated instances, Google Compute Engine GPU machines and
Cloud TPU machine types in GKE, Azure ND and NC series. A type of several forms, or with a model that the catalogue
does not have (A10G, P4), is not here: no answer is better than a wrong one.
"""

__all__ = ["model_of_instance"]

# The beginning of the machine type, in small letters: the catalogue's name.
MODELS = {
    "p3dn.": "V100-32",
    "p3.": "V100-16",
    "p4d.": "A100-40-SXM",
    "p4de.": "A100-80-SXM",
    "p5.": "H100-SXM",
    "p5e.": "H200",
    "p5en.": "H200",
    "p6-b200.": "B200",
    "g4dn.": "T4",
    "g6.": "L4",
    "g6e.": "L40S",
    "inf2.": "Inferentia2",
    "trn2.": "Trainium2",
    "trn2u.": "Trainium2",
    "a2-highgpu-": "A100-40-SXM",
    "a2-megagpu-": "A100-40-SXM",
    "a2-ultragpu-": "A100-80-SXM",
    "a3-highgpu-": "H100-SXM",
    "a3-edgegpu-": "H100-SXM",
    "a3-megagpu-": "H100-SXM",
    "a3-ultragpu-": "H200",
    "a4-highgpu-": "B200",
    "g2-standard-": "L4",
    "ct5lp-": "TPU-v5e",
    "ct5p-": "TPU-v5p",
    "ct6e-": "TPU-v6e",
    "tpu7x-": "TPU7x",
    "standard_nd96asr_v4": "A100-40-SXM",
    "standard_nd96amsr_a100_v4": "A100-80-SXM",
    "standard_nd96isr_h100_v5": "H100-SXM",
    "standard_nd96isr_h200_v5": "H200",
    "standard_nd96isr_mi300x_v5": "MI300X",
}


def model_of_instance(machine_type: str) -> str:
    """The catalogue's name; "" where the type does not tell."""
    wanted = machine_type.casefold()
    return next((model for beginning, model in MODELS.items() if wanted.startswith(beginning)), "")
