"""The other end of the wire: what an app does to run what a channel names.

    sources   where releases are read from: a web address or a folder
    state     what a device remembers, and how that survives a crash
    client    the rules: what to ask, what to refuse, what to keep

It needs neither TensorFlow nor TFX, so that it can be read, and rewritten, as a specification.
"""

from tfx_mobile.device_client.client import DeviceClient, UpdateResult

__all__ = ["DeviceClient", "UpdateResult"]
