"""One module per syntax in which models write tool calls; `palestra.envs.toolcalls` reads any of them."""
