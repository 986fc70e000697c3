-- {"bf16": 9.6e11, "fp32": 3.5e9}; '' where all are of the profile's precision.
ALTER TABLE profile ADD COLUMN operations_by_precision text NOT NULL DEFAULT '';
