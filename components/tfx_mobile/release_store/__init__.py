"""Where releases live, and the protocol by which they are written and read back.

`destinations` says where, as data. `releases` is the protocol, `filesystem_store` the first place it works on.
MobilePusher writes here; QuantizationEvaluator reads the model that is in production.
"""
