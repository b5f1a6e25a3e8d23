"""Firebase ML, which hands models to devices itself and ends on 2027-06-15.

    shutdown      the end of the service, and telling of it
    client        the part of its REST interface that is needed
    signed_urls   addresses from which the service fetches a file, signed without a key file
    follower      making it serve what a release store's channel names
    importing     copying what it serves into release stores

Google publishes a description of the interface (`firebaseml.v1beta2`); the tests hold every request against it.
"""
