"""Agents: from chat turns to tokens, engines that sample, policies without a model, and the rollout loop."""
