"""The commands of `tfx-mobile`, one module per group; `tfx_mobile.cli` has the table.

A module imports at its top what its options need and nothing heavier: `tfx-mobile --help` imports all of them.

    destination_option   --at: where the releases are
    keyring_option       whom to trust, and who signs
    output               errors, JSON and tables, the same for all
"""
