"""Configurations of `accelerate launch`, one per way to use several GPUs; docs/scaling.md says which and how."""
