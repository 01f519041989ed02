"""One run, many nodes: observers of other hosts (leaves) send their journals to one, the root.

`root_address` says where the root is, `carrier` authenticates both sides, `leaf` sends, `root` takes
leaves, `leaf_session` receives from one, and `mirror` writes. With very many hosts `racks` says which of
them is the root of which others; such a root passes on a `digest`.
"""
