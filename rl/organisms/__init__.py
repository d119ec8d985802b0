"""Model organisms: small transformers trained from scratch on data we state, so that what they could do is known."""
