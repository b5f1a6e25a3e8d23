"""Publishing exactly the bytes that were blessed.

`destinations` says where to, as data. `releases` is the protocol, `filesystem_store` the first place it works on.
`executor` and `component` are the TFX side.
"""
