"""Carries out a rollout on Firebase Remote Config.

The template is read with its ETag, changed as text, and written back on the condition that it is still the one that was
read; whoever loses that race reads again and decides anew. Nothing is ever forced (`If-Match: *`) and the service's own
`:rollback` is never called: both would undo what other people published in between.
"""

from __future__ import annotations

import json
import logging
import urllib.parse
from dataclasses import dataclass
from typing import Literal

import tenacity

from tfx_mobile.errors import ConflictError, DestinationUnavailableError, PushError, RolloutRefusedError
from tfx_mobile.google_rest import Answer, AnswerLostError, Patience, RestClient
from tfx_mobile.records.base import Record
from tfx_mobile.rollout import template
from tfx_mobile.rollout.spec import RemoteConfigRollout, percent_text

_log = logging.getLogger(__name__)

ENDPOINT = "https://firebaseremoteconfig.googleapis.com"
ENDPOINT_VARIABLE = "TFX_MOBILE_REMOTE_CONFIG_ENDPOINT"
SCOPES = ("https://www.googleapis.com/auth/firebase.remoteconfig",)

_PATIENCE = Patience()
_MAX_WRITES = 30
_CONFLICTS = (409, 412)
#: The longest wait between two of them, in multiples of the first.
_LONGEST_WAIT = 15.0


class RolloutResult(Record):
    """What became of a rollout.

    Attributes:
        status: `changed`: this call wrote it. `unchanged`: Remote Config said so already, nothing was written.
            `dry_run`: everything was checked, by the service, too, and nothing was written.
        would_be: What the status would have been without `dry_run`; None if it was none.
        percent: Share of the users that follow the channel, or would.
        channel: The channel they follow.
        stable_channel: What all others follow.
        parameter: Key of the parameter that says so.
        condition: Name of the condition that draws the users.
        version_number: Version of the template this was last seen in; None if none was ever published.
        etag: Of that template.
    """

    status: Literal["changed", "unchanged", "dry_run"]
    would_be: Literal["changed", "unchanged"] | None = None
    percent: float
    channel: str
    stable_channel: str
    parameter: str
    condition: str
    version_number: str | None
    etag: str


class RolloutState(Record):
    """What Remote Config says about one channel of a model now.

    Attributes:
        percent: Share of the users that follow the channel.
        channel: The channel.
        stable_channel: What all others follow; None while nobody set the parameter up.
        parameter: Key of the parameter.
        condition: Name of the condition.
        seed: What users are drawn by; None without a condition.
        version_number: Version of the template; None if none was ever published.
        etag: Of that template.
    """

    percent: float
    channel: str
    stable_channel: str | None
    parameter: str
    condition: str
    seed: str | None
    version_number: str | None
    etag: str


def apply(
    spec: RemoteConfigRollout,
    model_name: str,
    channel: str,
    dry_run: bool = False,
    *,
    patience: Patience = _PATIENCE,
) -> RolloutResult:
    """Makes Remote Config say what the rollout says, if it does not already.

    Safe to repeat, to kill at any moment and to run beside others.

    Args:
        spec: The rollout.
        model_name: The model.
        channel: The channel that a share of the users is to follow.
        dry_run: Have the service check the new template (`validateOnly`) and write nothing.
        patience: How long to wait for the service.

    Raises:
        ValueError: A name is not valid, or the channel is the rollout's stable one.
        RolloutRefusedError: The parameter or condition is not ours to change, Firebase manages a value of it, or the
            service does not accept the template.
        ConflictError: Others published each time this tried to, or the service shows something else than was written.
        DestinationUnavailableError: It cannot be reached, the project does not exist, or a right is missing.
    """
    first_wait = patience.first_wait_seconds
    act = _Act(spec, model_name, channel, dry_run, patience)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_DecideAgainError),
        wait=tenacity.wait_random_exponential(first_wait, max=_LONGEST_WAIT * first_wait),
        stop=tenacity.stop_after_attempt(_MAX_WRITES) | tenacity.stop_after_delay(patience.total_seconds),
        reraise=True,
    )
    try:
        result: RolloutResult = retrying(act.attempt)
    except _DecideAgainError as again:
        raise again.otherwise from None
    return result


def current(
    spec: RemoteConfigRollout, model_name: str, channel: str, *, patience: Patience = _PATIENCE
) -> RolloutState:
    """What Remote Config says now; `spec.percent` does not matter.

    Raises:
        ValueError: See `apply`.
        RolloutRefusedError: See `apply`.
        DestinationUnavailableError: See `apply`.
    """
    aim = spec.aim(model_name, channel)
    now = _Service(spec.project_id, patience).get()
    found = template.read(now.text, aim)
    return RolloutState(
        percent=found.percent_of(channel),
        channel=channel,
        stable_channel=found.stable_channel,
        parameter=aim.parameter,
        condition=aim.condition,
        seed=found.seed,
        version_number=template.version_number(now.text),
        etag=now.etag,
    )


class _DecideAgainError(Exception):
    """A write did not go through, or nobody knows: read again.

    Attributes:
        otherwise: What to raise when it is time to give up.
    """

    def __init__(self, otherwise: PushError) -> None:
        super().__init__(str(otherwise))
        self.otherwise = otherwise


@dataclass(frozen=True)
class _Template:
    """A template as text, and what it takes to replace it."""

    text: str
    etag: str


class _Act:
    """One rollout with all its attempts."""

    def __init__(
        self, spec: RemoteConfigRollout, model_name: str, channel: str, dry_run: bool, patience: Patience
    ) -> None:
        self._aim = spec.aim(model_name, channel)
        self._dry_run = dry_run
        self._service = _Service(spec.project_id, patience)
        self._said_at_first: tuple[object, ...] | None = None
        self._lost_write_over: str | None = None  # ETag of the template that a write without an answer was to replace

    def attempt(self) -> RolloutResult:
        now = self._service.get()
        wanted = template.changed(now.text, self._aim)
        if wanted == now.text:
            # A write can be carried out and yet be answered with an error, or not at all; this is how that shows.
            return self._result("changed" if self._lost_write_over else "unchanged", now)
        self._check_undisputed(now)
        if self._dry_run:
            self._service.put(wanted, now.etag, validate_only=True)
            return self._result("changed", now)
        try:
            etag = self._service.put(wanted, now.etag)
        except AnswerLostError as lost:
            self._lost_write_over = now.etag
            raise _DecideAgainError(lost) from None
        return self._result("changed", self._verified(wanted, etag))

    def _check_undisputed(self, now: _Template) -> None:
        """Leaves alone what somebody else has decided on this very rollout since it was first read.

        Raises:
            ConflictError: Somebody has, or may have.
        """
        found = template.read(now.text, self._aim)
        percent = found.percent_of(self._aim.channel)
        said = (found.stable_channel, (percent, found.seed if percent else None))
        wanted = (self._aim.stable_channel, (self._aim.percent, self._aim.seed if self._aim.percent else None))
        self._said_at_first = self._said_at_first or said
        disputed = any(one not in known for one, *known in zip(said, self._said_at_first, wanted, strict=True))
        # Behind a write that may have been carried out, what is there now may be somebody's answer to it.
        overruled = self._lost_write_over not in (None, now.etag)
        if disputed or overruled:
            raise ConflictError(
                f"While {percent_text(self._aim.percent)} % of the users were to follow {self._aim.channel!r}, "
                f"somebody else published. Remote Config now says {percent_text(percent)} %, all others follow "
                f"{found.stable_channel!r}, in version {template.version_number(now.text)}. That was left as it is. "
                "Look at the version history in the Firebase console, agree on who sets it, and do it again."
            )

    def _verified(self, written: str, etag: str | None) -> _Template:
        """The template after the write, which says what is wanted.

        Raises:
            ConflictError: It does not.
        """
        shown = self._service.get()
        if template.changed(shown.text, self._aim) != shown.text:
            found = template.read(shown.text, self._aim)
            why = "the service does not keep it" if shown.etag == etag else "somebody published something else since"
            raise ConflictError(
                f"Remote Config accepted that {percent_text(self._aim.percent)} % follow {self._aim.channel!r} and now "
                f"shows {percent_text(found.percent_of(self._aim.channel))} % in version "
                f"{template.version_number(shown.text)}: {why}. Look at the version history in the Firebase console, "
                "agree on who sets it, and do it again."
            )
        if shown.etag == etag and template.strangers_differ(written, shown.text, self._aim):
            _log.warning(
                "Remote Config version %s differs from the one before in more than parameter %r and condition %r, "
                "although nothing else was changed. Compare the two in the Firebase console.",
                template.version_number(shown.text),
                self._aim.parameter,
                self._aim.condition,
            )
        return shown

    def _result(self, status: Literal["changed", "unchanged"], seen: _Template) -> RolloutResult:
        aim = self._aim
        return RolloutResult(
            status="dry_run" if self._dry_run else status,
            would_be=status if self._dry_run else None,
            percent=aim.percent,
            channel=aim.channel,
            stable_channel=aim.stable_channel,
            parameter=aim.parameter,
            condition=aim.condition,
            version_number=template.version_number(seen.text),
            etag=seen.etag,
        )


class _Service:
    """The two calls that are made."""

    def __init__(self, project_id: str, patience: Patience) -> None:
        self._project_id = project_id
        self._client = RestClient(ENDPOINT, ENDPOINT_VARIABLE, SCOPES, patience)
        self._path = f"/v1/projects/{urllib.parse.quote(project_id, safe=':')}/remoteConfig"

    def get(self) -> _Template:
        answer = self._client.call("GET", self._path, headers={"Accept-Encoding": "gzip"})
        self._check(answer)
        etag = answer.headers.get("ETag", "")
        if not etag or etag == "*":
            raise DestinationUnavailableError(
                f"Remote Config sent the template of project {self._project_id!r} without an ETag, so it cannot be "
                "replaced safely. Nothing was written. A proxy in between may have taken it away; let "
                f"{ENDPOINT} be reached directly."
            )
        try:
            return _Template(answer.body.decode(), etag)
        except UnicodeDecodeError:
            raise DestinationUnavailableError(
                "Remote Config sent a template that is not UTF-8. Nothing was written. Try again later."
            ) from None

    def put(self, text: str, etag: str, *, validate_only: bool = False) -> str | None:
        """Replaces the template that has this ETag; returns the new one's.

        Raises:
            _DecideAgainError: It is no longer the current one.
            AnswerLostError: Nobody knows whether it was replaced.
        """
        answer = self._client.call(
            "PUT",
            self._path,
            query={"validateOnly": "true"} if validate_only else None,
            body=text.encode(),
            headers={"Accept-Encoding": "gzip", "If-Match": etag},
            repeatable=validate_only,
        )
        if answer.status in _CONFLICTS:
            raise _DecideAgainError(
                ConflictError(
                    f"Others published to Remote Config of project {self._project_id!r} each time this rollout tried "
                    "to. Nothing of theirs is lost. Try again when fewer publish at a time."
                )
            )
        self._check(answer)
        return answer.headers.get("ETag")

    def _check(self, answer: Answer) -> None:
        if answer.status == 200:
            return
        said = f"{answer.status} {json.dumps(answer.message[:1_000])}"
        if answer.status == 400:
            raise RolloutRefusedError(
                f"Remote Config does not accept the new template: {said}. Nothing was written. If the reason lies in a "
                "parameter or condition of somebody else, it has to be set right in the Firebase console first."
            )
        if answer.status in (401, 403):
            raise DestinationUnavailableError(
                f"Remote Config of project {self._project_id!r} refused the caller: {said}. Give the pipeline's "
                "identity a role with cloudconfig.configs.get and cloudconfig.configs.update, and enable the Firebase "
                "Remote Config API in the project."
            )
        if answer.status == 404:
            raise DestinationUnavailableError(
                f"There is no Remote Config of project {self._project_id!r}: {said}. Set RemoteConfigRollout("
                "project_id=...) to a project that Firebase was added to."
            )
        raise DestinationUnavailableError(
            f"Remote Config of project {self._project_id!r} answered {said}. Try again later."
        )
