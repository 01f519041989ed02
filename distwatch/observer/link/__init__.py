"""One run, many nodes: observers of other hosts send their journals to one, the root.

`place` says who is root, `channel` proves both sides, `leaf` sends, `root` takes, `mirror` keeps.
"""
