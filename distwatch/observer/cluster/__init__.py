"""Observers on every node of a cluster and one merged view: what `distwatch up` places.

`roots` has a root observer for each run on one node, in the folder that `launches` names; `keeping`
links each other node's observers to them and goes on doing so, `cards` tells viewers of a node where
the roots are. `ray_actors` carries the questions in a Ray cluster, into which `ray_placing` brings
the actors, `host_keeper` on hosts that are named. The runs' own events never pass here: they go over
the link.
"""
