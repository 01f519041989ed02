"""One run, many nodes: observers of other hosts (leaves) send their journals to one, the root.

`root_address` says where the root is, `channel` authenticates both sides, `leaf` sends, `root`
receives, and `mirror` writes.
"""
