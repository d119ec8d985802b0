"""What runs beside or around untrusted code: standard library only, imported by nothing heavy.

`supervisor.py` starts, feeds, limits and ends executions; it runs in a thread of the host process (`local`,
`unsafe-process`) or as the first process of a container (`docker`). `zygote.py` is a process that has the
usual packages loaded and forks a child for every execution; it never sees code, input, output or keys, so
that nothing of one episode is left in the memory of another one's child. `child.py` is what that child does.
The host sends these files along (`bundle.py`), so that host and worker are always of the same version.
"""
