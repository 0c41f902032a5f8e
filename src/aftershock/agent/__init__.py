"""What runs on the target: carries plans out, holds the lease, reverts.

Written for Python 3.9 and the standard library; pyroute2 and pynvml travel along and are imported
only where an answer needs them. `aftershock.hosts.zipapp` packs this folder into one file.
"""
