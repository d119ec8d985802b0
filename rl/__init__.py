"""Training: model organisms, supervised fine-tuning, and reinforcement learning on TRL."""
