"""What runs the processes of a stage: torchrun on this machine, Slurm or Ray.

An engine starts an agent on each machine, which starts torchrun there. They share a folder: the order of the stage, the
messages of each attempt, `stop` when they have to end, and `alive`, which is touched while somebody waits for them.
"""
