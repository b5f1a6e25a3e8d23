"""Where releases live, and the protocol by which they are written and read back.

    names          what models and channels may be called, and where objects lie
    store          what a place must be able to do: the `Store` protocol
    signing        envelopes: sealed, signed, opened and verified
    signing_keys   which key signs and which are trusted, as data; kms_signer is the one in Cloud KMS
    reading        from a channel to verified bytes
    channel        the one way in which a channel changes: compare-and-swap, and knowing one's own writes
    new_channel    what a channel's first statement has to mind
    publishing     making a model the release that a channel names, at one place
    delivery       the same at several destinations, in an order that any later run can finish
    operations/    rollback, promote, pin, prune, and looking
    destinations/  where to publish, as data
    firebase_ml/   a service that follows a channel, until it ends
    *_store        the places the protocol works on

MobilePusher and the command line write here; QuantizationEvaluator reads the model that is in production. Nothing here
knows TFX.
"""
