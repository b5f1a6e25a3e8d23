"""From the bytes on a device back to the examples they were made of.

    target         the bytes asked about: a SHA-256, a release id, or a file to hash
    metadata       opens an ML Metadata store without changing it
    walking        from the bytes upstream, through ML Metadata
    releases       the lineage that a release's manifest repeats, for where ML Metadata cannot be reached

Nothing here knows TFX or TensorFlow, so that it runs wherever an incident is looked at. ML Metadata's `filter_query` is
not used: it does not exist any more in version 1.21.
"""
