"""Recordings to coded files and back: ``encode``, ``decode``, ``info``.

`plan` says which file becomes which, `work` makes one, `pool` many at once, `sound`
writes audio; `commands` and `info` are what a person types.
"""
