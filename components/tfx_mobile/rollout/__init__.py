"""Which share of the users follows a new channel, decided by Firebase Remote Config.

    spec           the rollout as data, and the names that follow from it
    json_text      changes one place of a JSON document and keeps every other byte
    template       what a Remote Config template says about a rollout, and the template that would say what is wanted
    remote_config  reads the template, writes it back if nobody else has, and looks whether it is there

A release store says what a channel serves; Remote Config only says which channel an app follows. Nothing here knows TFX
or a release store's content.
"""
