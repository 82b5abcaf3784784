"""The simulated network: a backend of torch.distributed that is a judge.

The target's code runs unchanged in its processes; one scheduler decides which transfer completes when, under three
delivery models. A deadlock is known at the instant it happens, buffers that are used too early or too late show as
wrong numbers, every byte is counted, and the same schedule gives the same run.
"""
