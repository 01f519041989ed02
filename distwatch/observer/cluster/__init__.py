"""`distwatch up`: observers on every node of a cluster, and one merged view.

`roots` keeps a root observer for each run on one node, in the folder that `run_generations` chooses.
`node_keeper` keeps every other node's observers linked to the roots, and `root_registry` tells a node's
viewers where the roots are. In a Ray cluster, `ray_placing` places the actors of `ray_actors`; on named
hosts, `host_keeper` does their work. The runs' events do not pass here: they go over the link.
"""
