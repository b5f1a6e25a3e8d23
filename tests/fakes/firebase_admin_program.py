"""What the genuine `firebase_admin.ml` does at a Firebase ML server; runs in the environment .tools/firebase.

Reads `{endpoint, project, bucket, service_account}` from stdin and prints what it saw as JSON.
"""

import datetime
import json
import sys
import warnings

sys.modules["tensorflow"] = None  # type: ignore[assignment]  # firebase_admin.ml would import it, for conversions
warnings.simplefilter("ignore")

import firebase_admin  # noqa: E402
from firebase_admin import credentials, exceptions, ml  # noqa: E402
from google.auth.credentials import AnonymousCredentials  # noqa: E402
from google.cloud import storage  # noqa: E402
from google.oauth2 import service_account  # noqa: E402


class Anonymous(credentials.Base):
    """Sends no token anywhere."""

    def get_credential(self):
        return AnonymousCredentials()


def main() -> None:
    given = json.load(sys.stdin)
    signer = service_account.Credentials.from_service_account_info(given["service_account"])
    client = storage.Client(project=given["project"], credentials=AnonymousCredentials())

    def sign_uri(uri, app):
        blob = storage.Blob.from_string(uri, client=client)
        return blob.generate_signed_url(
            version="v4", expiration=datetime.timedelta(minutes=10), method="GET", credentials=signer
        )

    ml._MLService.PROJECT_URL = given["endpoint"] + "/v1beta2/projects/{0}/"
    ml._MLService.OPERATION_URL = given["endpoint"] + "/v1beta2/"
    ml._MLService.POLL_BASE_WAIT_TIME_SECONDS = 0.01
    ml._CloudStorageClient.sign_uri = staticmethod(sign_uri)
    firebase_admin.initialize_app(Anonymous(), {"projectId": given["project"]})
    seen = {}

    def file(name):
        source = ml.TFLiteGCSModelSource(f"gs://{given['bucket']}/{name}")
        return ml.TFLiteFormat(model_source=source)

    def refused(act):
        try:
            act()
        except exceptions.FirebaseError as error:
            return [error.code, str(error)]
        return None

    def looks(model):
        return {
            "name": model.display_name,
            "tags": model.tags,
            "published": model.published,
            "locked": model.locked,
            "hash": model.model_hash,
            "size": model.model_format.size_bytes if model.model_format else None,
            "uri": model.model_format.model_source.gcs_tflite_uri if model.model_format else None,
            "error": model.validation_error,
            "times": model.create_time is not None and model.update_time >= model.create_time,
        }

    created = ml.create_model(ml.Model(display_name="digits", tags=["one"], model_format=file("one.tflite")))
    created.wait_for_unlocked(max_time_seconds=20)
    seen["created"] = looks(created)
    published = ml.publish_model(created.model_id)
    seen["published"] = looks(published)
    seen["duplicate"] = refused(lambda: ml.create_model(ml.Model(display_name="digits")))
    seen["hyphen"] = refused(lambda: ml.create_model(ml.Model(display_name="with-hyphen")))

    published.tags = ["one", "two"]
    published.model_format = file("two.tflite")
    updated = ml.update_model(published)
    updated.wait_for_unlocked(max_time_seconds=20)
    seen["updated"] = looks(updated)
    updated.display_name = "renamed"
    renamed = ml.update_model(updated)
    renamed.wait_for_unlocked(max_time_seconds=20)
    seen["renamed"] = looks(ml.get_model(renamed.model_id))

    bad = ml.create_model(ml.Model(display_name="bad", model_format=file("bad.tflite")))
    bad.wait_for_unlocked(max_time_seconds=20)
    seen["bad"] = looks(bad)
    seen["publish_bad"] = refused(lambda: ml.publish_model(bad.model_id))
    empty = ml.create_model(ml.Model(display_name="empty", tags=["two"]))
    seen["empty"] = looks(empty)

    def names(**options):
        return [model.display_name for model in ml.list_models(**options).iterate_all()]

    seen["all"] = names(page_size=1)
    seen["filtered"] = names(list_filter="displayName=bad OR tags:two")
    seen["bad_filter"] = refused(lambda: names(list_filter="colour=red"))
    seen["unpublished"] = looks(ml.unpublish_model(renamed.model_id))
    for model in (renamed, bad, empty):
        ml.delete_model(model.model_id)
    seen["deleted"] = names()
    seen["delete_again"] = refused(lambda: ml.delete_model(bad.model_id))
    seen["get_missing"] = refused(lambda: ml.get_model(bad.model_id))
    seen["publish_missing"] = refused(lambda: ml.publish_model(bad.model_id))
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
